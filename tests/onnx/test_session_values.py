"""OrtValues, and inputs and outputs bound to memory."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from onnx_helpers import model

import tilth.onnx.session as ort

TEXT = """agraph (float[n,3] x, float[n,3] q) => (float[n,3] y, float[n,3] r)
          { y = Neg(x) r = Add(q, q) }"""


@pytest.fixture
def x() -> np.ndarray:
    return np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def session() -> ort.InferenceSession:
    return ort.InferenceSession(model(TEXT))


@pytest.fixture
def value(x) -> ort.OrtValue:
    return ort.OrtValue.ortvalue_from_numpy(x)


def test_an_ort_value_tells_what_it_holds(value, x):
    assert value.shape() == [2, 3]
    assert (value.data_type(), value.element_type()) == ("tensor(float)", 1)
    assert (value.device_name(), value.data_ptr()) == ("cpu", x.ctypes.data)
    assert value.tensor_size_in_bytes() == 24
    assert (value.has_value(), value.is_tensor()) == (True, True)
    assert not value.is_sparse_tensor()
    assert not value.is_tensor_sequence()


def test_an_ort_value_shares_the_memory_of_its_array(value, x):
    assert value.numpy() is x
    assert np.shares_memory(np.from_dlpack(value), x)
    assert np.shares_memory(ort.OrtValue.from_dlpack(x).numpy(), x)
    assert np.array_equal(np.asarray(value), x)


def test_an_ort_value_of_a_shape_and_a_type_can_be_written():
    value = ort.OrtValue.ortvalue_from_shape_and_type([2], np.int64)
    value.update_inplace(np.array([3, 4]))
    assert value.numpy().tolist() == [3, 4]
    other = ort.OrtValue.ortvalue_from_shape_and_type([2], 7)
    ort.copy_tensors([value], [other])
    assert other.numpy().tolist() == [3, 4]
    with pytest.raises(ort.InvalidArgument, match="cannot write"):
        value.update_inplace(np.zeros(3, np.int64))


def test_bytes_may_be_of_a_type_that_numpy_has_not():
    bits = np.array([0x3F80, 0x4000], np.uint16)
    value = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, 16)
    assert (value.data_type(), value.numpy().dtype) == ("tensor(bfloat16)", ml_dtypes.bfloat16)
    assert value.numpy().astype(np.float32).tolist() == [1, 2]


@pytest.mark.parametrize("wrong", [[1, 2], np.array(["a"])])
def test_an_ort_value_is_made_of_arrays_of_numbers(wrong):
    with pytest.raises(ort.InvalidArgument):
        ort.OrtValue.ortvalue_from_numpy(wrong)


def test_there_is_no_memory_but_the_hosts(x):
    for name, number in (("cuda", 0), ("cpu", 1)):
        with pytest.raises(ort.EPFail):
            ort.OrtValue.ortvalue_from_numpy(x, name, number)
    device = ort.OrtDevice.make("cpu", 0)
    assert ort.OrtValue.ortvalue_from_numpy(x, device).numpy() is x


def test_ort_values_are_fed_and_given(session, value, x):
    y, r = session.run_with_ort_values(None, {"x": value, "q": value})
    assert np.array_equal(y.numpy(), -x)
    assert np.array_equal(r.numpy(), x + x)
    assert np.array_equal(session.run(["y"], {"x": value, "q": x})[0], -x)


def test_bound_outputs_go_where_they_are_wanted(session, value, x):
    binding = session.io_binding()
    binding.bind_cpu_input("x", x)
    binding.bind_ortvalue_input("q", value)
    kept = ort.OrtValue.ortvalue_from_shape_and_type([2, 3], np.float32)
    binding.bind_ortvalue_output("r", kept)
    binding.bind_output("y")
    session.run_with_iobinding(binding)
    r, y = binding.get_outputs()
    assert np.array_equal(kept.numpy(), x + x)
    assert r.data_ptr() == kept.data_ptr()
    assert np.array_equal(y.numpy(), -x)
    assert [a.shape for a in binding.copy_outputs_to_cpu()] == [(2, 3)] * 2


def test_memory_is_bound_by_its_address(session, x):
    binding, result = session.io_binding(), np.zeros((2, 3), np.float32)
    for name in ("x", "q"):
        binding.bind_input(name, "cpu", 0, np.float32, x.shape, x.ctypes.data)
    binding.bind_output("y", "cpu", 0, np.float32, result.shape, result.ctypes.data)
    binding.synchronize_inputs()
    session.run_with_iobinding(binding)
    binding.synchronize_outputs()
    assert np.array_equal(result, -x)


def test_bound_memory_must_fit_the_output(session, x):
    binding = session.io_binding()
    binding.bind_cpu_input("x", x)
    binding.bind_cpu_input("q", x)
    binding.bind_ortvalue_output("y", ort.OrtValue.ortvalue_from_shape_and_type([3], np.float32))
    with pytest.raises(ort.InvalidArgument, match="output 'y': cannot write"):
        session.run_with_iobinding(binding)


def test_only_ends_of_the_model_are_bound(session, x):
    binding = session.io_binding()
    with pytest.raises(ort.InvalidArgument, match="no input 'z'"):
        binding.bind_cpu_input("z", x)
    with pytest.raises(ort.InvalidArgument, match="no output 'z'"):
        binding.bind_output("z")
    with pytest.raises(ort.InvalidArgument, match="a type and a shape"):
        binding.bind_output("y", buffer_ptr=x.ctypes.data)


def test_bindings_are_cleared(session, x):
    binding = session.io_binding()
    binding.bind_cpu_input("x", x)
    binding.bind_output("y")
    binding.clear_binding_inputs()
    with pytest.raises(ort.InvalidArgument, match="not fed"):
        session.run_with_iobinding(binding)
    binding.clear_binding_outputs()
    with pytest.raises(ort.InvalidArgument, match="no output is bound"):
        session.run_with_iobinding(binding)
