"""Values that belong to a session's caller: OrtValue and the binding of inputs and outputs.

There is one memory here, the host's, so an OrtValue is a NumPy array (or a list of them) with the
methods of ONNX Runtime's class.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from tilth.ir.types import dtype_of
from tilth.onnx.session_errors import EPFail, InvalidArgument
from tilth.onnx.session_types import element_text
from tilth.onnx.tensors import ELEMENT_TYPES

_NUMBERS = {dtype: number for number, dtype in ELEMENT_TYPES.items()}


class OrtDevice:
    """Where memory lies: always the host."""

    def __init__(self, name: str = "cpu", device_id: int = 0):
        require_host(name, device_id)
        self._name, self._id = name, device_id

    @staticmethod
    def make(name: str, device_id: int, vendor_id: int = -1) -> OrtDevice:
        return OrtDevice(name, device_id)

    def device_id(self) -> int:
        return self._id

    def device_type(self) -> int:
        """0 is the host, as in ONNX Runtime."""
        return 0


class OrtValue:
    """A tensor, or a sequence of tensors or dictionaries, in the host's memory."""

    def __init__(self, value: Any):
        self._value = value

    @classmethod
    def ortvalue_from_numpy(
        cls, array: np.ndarray, device_type: str | OrtDevice = "cpu", device_id: int = 0
    ) -> OrtValue:
        """The array itself if it is contiguous, else a copy. No strings, as in ONNX Runtime."""
        require_host(device_type, device_id)
        if not isinstance(array, np.ndarray) or array.dtype.kind in "OSU":
            raise InvalidArgument("an OrtValue is made from a NumPy array of numbers")
        return cls(np.require(array, requirements=["C", "A"]))

    @classmethod
    def ortvalue_from_numpy_with_onnx_type(
        cls, array: np.ndarray, /, onnx_element_type: int
    ) -> OrtValue:
        """The array's bytes as another element type of the same size, such as bfloat16."""
        return cls(np.ascontiguousarray(array).view(_numpy_type(onnx_element_type)))

    @classmethod
    def ortvalue_from_shape_and_type(
        cls,
        shape: Sequence[int],
        element_type: DTypeLike | int,
        device_type: str | OrtDevice = "cpu",
        device_id: int = 0,
    ) -> OrtValue:
        """Memory for a tensor, not initialised."""
        require_host(device_type, device_id)
        return cls(np.empty(tuple(shape), _numpy_type(element_type)))

    @classmethod
    def from_dlpack(cls, tensor: Any, /) -> OrtValue:
        return cls(np.from_dlpack(tensor))

    def numpy(self) -> np.ndarray:
        """The tensor; it is the OrtValue's own memory."""
        return self._tensor

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self._tensor, dtype, copy=copy)

    def __dlpack__(self, **options: Any) -> Any:
        return self._tensor.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[Any, Any]:
        return self._tensor.__dlpack_device__()

    def update_inplace(self, array: np.ndarray) -> None:
        """Overwrite the elements with those of an array of the same type and shape."""
        own = self._tensor
        if (array.dtype, array.shape) != (own.dtype, own.shape):
            raise InvalidArgument(
                f"cannot write {array.dtype}{list(array.shape)} to {own.dtype}{list(own.shape)}"
            )
        np.copyto(own, array)

    def shape(self) -> list[int]:
        return list(self._tensor.shape)

    def element_type(self) -> int:
        """The TensorProto.DataType."""
        return _NUMBERS[dtype_of(self._tensor.dtype)]

    def data_type(self) -> str:
        """The type as text, such as `tensor(float)`."""
        if self.is_tensor():
            return f"tensor({element_text(self.element_type())})"
        return "seq"

    def data_ptr(self) -> int:
        return self._tensor.ctypes.data

    def tensor_size_in_bytes(self) -> int:
        return self._tensor.nbytes

    def device_name(self) -> str:
        return "cpu"

    def has_value(self) -> bool:
        return self._value is not None

    def is_tensor(self) -> bool:
        return isinstance(self._value, np.ndarray)

    def is_sparse_tensor(self) -> bool:
        return False

    def is_tensor_sequence(self) -> bool:
        return isinstance(self._value, list)

    def value(self) -> Any:
        """What it holds: an array, or a list."""
        return self._value

    @property
    def _tensor(self) -> np.ndarray:
        if not isinstance(self._value, np.ndarray):
            raise InvalidArgument(f"the OrtValue holds a {type(self._value).__name__}, no tensor")
        return self._value


def copy_tensors(
    source: Sequence[OrtValue], destination: Sequence[OrtValue], stream: Any = None
) -> None:
    """Copy each tensor to the one at the same place."""
    for one, other in zip(source, destination, strict=True):
        other.update_inplace(one.numpy())


@dataclass
class _Output:
    """A bound output: where the caller wants it, and what the last run gave."""

    destination: np.ndarray | None = None
    value: OrtValue | None = None


class IOBinding:
    """Inputs and outputs of a session by name, for `run_with_iobinding`.

    An output bound to memory of the caller is copied there, which must have its type and shape.
    """

    def __init__(self, session: Any):
        self._inputs_known = {i.name for i in session.get_inputs()}
        self._outputs_known = {o.name for o in session.get_outputs()}
        self._inputs: dict[str, Any] = {}
        self._outputs: dict[str, _Output] = {}

    def bind_cpu_input(self, name: str, array: Any) -> None:
        self._inputs[self._known(name, self._inputs_known, "input")] = array

    def bind_ortvalue_input(self, name: str, value: OrtValue) -> None:
        self.bind_cpu_input(name, value.value())

    def bind_input(
        self,
        name: str,
        device_type: str | OrtDevice,
        device_id: int,
        element_type: DTypeLike | int,
        shape: Sequence[int],
        buffer_ptr: int,
    ) -> None:
        """Read the input from an address, which the caller keeps valid."""
        require_host(device_type, device_id)
        self.bind_cpu_input(name, _array_at(buffer_ptr, element_type, shape))

    def bind_output(
        self,
        name: str,
        device_type: str | OrtDevice = "cpu",
        device_id: int = 0,
        element_type: DTypeLike | int | None = None,
        shape: Sequence[int] | None = None,
        buffer_ptr: int | None = None,
    ) -> None:
        """Ask for an output: in new memory, or at an address that the caller keeps valid."""
        require_host(device_type, device_id)
        destination = None
        if buffer_ptr is not None:
            if element_type is None or shape is None:
                raise InvalidArgument(f"output '{name}': an address needs a type and a shape")
            destination = _array_at(buffer_ptr, element_type, shape)
        self._bind(name, destination)

    def bind_ortvalue_output(self, name: str, value: OrtValue) -> None:
        """Ask for an output in the memory of an OrtValue."""
        self._bind(name, value.numpy())

    def get_outputs(self) -> list[OrtValue]:
        """What the last run gave, in the order of binding."""
        return [o.value for o in self._outputs.values() if o.value is not None]

    def copy_outputs_to_cpu(self) -> list[Any]:
        return [v.value() for v in self.get_outputs()]

    def clear_binding_inputs(self) -> None:
        self._inputs.clear()

    def clear_binding_outputs(self) -> None:
        self._outputs.clear()

    def synchronize_inputs(self) -> None:
        """Without effect: nothing happens in the background."""

    def synchronize_outputs(self) -> None:
        """Without effect: nothing happens in the background."""

    @property
    def feeds(self) -> Mapping[str, Any]:
        """The bound inputs."""
        return self._inputs

    @property
    def output_names(self) -> list[str]:
        """The bound outputs."""
        return list(self._outputs)

    def deliver(self, results: Sequence[Any]) -> None:
        """Put the results of a run where they are wanted, in the order of `output_names`."""
        for (name, output), result in zip(self._outputs.items(), results, strict=True):
            output.value = OrtValue(result)
            if output.destination is not None:
                bound = OrtValue(output.destination)
                try:
                    bound.update_inplace(result)
                except InvalidArgument as e:
                    raise InvalidArgument(f"output '{name}': {e}") from e
                output.value = bound

    def _bind(self, name: str, destination: np.ndarray | None) -> None:
        self._outputs[self._known(name, self._outputs_known, "output")] = _Output(destination)

    def _known(self, name: str, known: set[str], what: str) -> str:
        if name not in known:
            raise InvalidArgument(f"the model has no {what} '{name}'; it has {sorted(known)}")
        return name


def require_host(device: str | OrtDevice, device_id: int = 0) -> None:
    """Raise EPFail for memory that is not the host's."""
    if not isinstance(device, OrtDevice) and (device.lower() != "cpu" or device_id != 0):
        raise EPFail(f"there is no memory of '{device}' number {device_id}; there is 'cpu', 0")


def _numpy_type(element_type: DTypeLike | int) -> np.dtype:
    """A NumPy type, or the one of a TensorProto.DataType."""
    if isinstance(element_type, int):
        if element_type not in ELEMENT_TYPES:
            raise InvalidArgument(f"unknown element type {element_type}")
        return ELEMENT_TYPES[element_type].numpy
    return np.dtype(element_type)


def _array_at(address: int, element_type: DTypeLike | int, shape: Sequence[int]) -> np.ndarray:
    """The memory at an address as an array; nothing keeps it alive."""
    dtype = _numpy_type(element_type)
    size = math.prod(shape) * dtype.itemsize
    buffer = memoryview((ctypes.c_uint8 * size).from_address(address))
    return np.frombuffer(buffer, dtype).reshape(tuple(shape))
