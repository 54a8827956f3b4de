"""The official ONNX operator tests: through the importer and the reference interpreter, and what is
no static graph (sequences and optionals, strings, shapes that depend on data) in stages.
"""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import warnings

import ml_dtypes
import numpy as np
import onnx
import onnx.backend.test.case.node as suite
import onnx.numpy_helper
import pytest
from onnx_helpers import run

from tilth.ir.errors import UnsupportedError
from tilth.onnx.backend import Prepared

_PREFIX = f"{suite.__name__}."
MODULES = [
    m.name.removeprefix(_PREFIX)
    for m in pkgutil.walk_packages(suite.__path__, _PREFIX)
    if not m.ispkg and not m.name.removeprefix(_PREFIX).startswith("_")
]


def cases_of(module: str) -> list:
    """The test cases that one module of the suite makes."""
    before = len(suite._NodeTestCases)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module(_PREFIX + module)
    return suite._NodeTestCases[before:]


@pytest.mark.parametrize("module", MODULES)
def test_official_cases(module: str):
    for case in cases_of(module):
        if case.name.startswith("test_bernoulli"):  # one random draw is stored
            continue
        (inputs, outputs), *_ = case.data_sets
        inputs = [value_of(x) for x in inputs]
        outputs = [value_of(x) for x in outputs]
        check(case, results_of(case.model, inputs), outputs)


def results_of(model: onnx.ModelProto, inputs: list) -> list:
    """By the interpreter where there is a static graph, else in stages."""
    if all(isinstance(x, np.ndarray) for x in inputs):
        with contextlib.suppress(UnsupportedError):
            return run(model, *inputs)
    return Prepared(model).run(inputs)


def value_of(value):
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    return value if value is None or isinstance(value, list) else np.asarray(value)


def check(case, got, want) -> None:
    if want is None or isinstance(want, list):
        assert type(got) is type(want), case.name
        assert want is None or len(got) == len(want), case.name
        for one, other in zip(got or (), want or (), strict=True):
            check(case, one, other)
        return
    want = np.asarray(want)
    assert got.shape == want.shape, case.name
    if want.dtype.kind in "OU":
        assert got.astype(str).tolist() == want.astype(str).tolist(), case.name
        return
    assert got.dtype == want.dtype, case.name
    rtol = max(case.rtol, 2**-6) if want.dtype == ml_dtypes.bfloat16 else case.rtol
    if want.dtype.kind == "V":  # ml_dtypes
        got, want = got.astype(np.float32), want.astype(np.float32)
    np.testing.assert_allclose(got, want, rtol, case.atol, err_msg=case.name)
