"""The official ONNX operator tests, through the importer and the reference interpreter.

What a compiled graph cannot hold so far (strings, sequences and optionals at its ends, results
whose shape depends on data, host operators) must be refused with one clear error.
"""

from __future__ import annotations

import importlib
import pkgutil
import warnings

import ml_dtypes
import numpy as np
import onnx.backend.test.case.node as suite
import onnx.numpy_helper
import pytest
from onnx_helpers import run

from tilth.ir.errors import UnsupportedError
from tilth.onnx import import_graph, load_model

MODULES = [m.name for m in pkgutil.iter_modules(suite.__path__) if m.name[0] != "_"]

# Operators whose result has a shape that depends on data, or that are no arithmetic.
HOST_OPERATORS = {
    *("NonMaxSuppression", "NonZero", "Unique", "TfIdfVectorizer", "ImageDecoder"),
    *("LabelEncoder", "TreeEnsemble"),
}
# One random draw is stored, or noise that only the same order of roundings gives.
LUCK = {
    *("test_bernoulli", "test_bernoulli_double", "test_bernoulli_seed"),
    *("test_dft_inverse", "test_dft_inverse_opset19"),
    *("test_attention_4d_causal_fp16", "test_attention_4d_causal_fp16_expanded"),
    *("test_training_dropout", "test_training_dropout_default"),
    *("test_training_dropout_mask", "test_training_dropout_default_mask"),
}


def cases_of(module: str) -> list:
    """The test cases that one module of the suite makes."""
    before = len(suite._NodeTestCases)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module(f"{suite.__name__}.{module}")
    return suite._NodeTestCases[before:]


@pytest.mark.parametrize("module", MODULES)
def test_official_cases(module: str):
    for case in cases_of(module):
        if case.name in LUCK or case.name.startswith("test_bernoulli"):
            continue
        (inputs, outputs), *_ = case.data_sets
        if is_refused(case):
            with pytest.raises(UnsupportedError):
                import_graph(case.model)
        else:
            check_outputs(case, [array_of(x) for x in inputs], [array_of(x) for x in outputs])


def is_refused(case) -> bool:
    model = load_model(case.model)
    ends = (*model.inputs, *model.outputs)
    return any(p.container or p.dtype.kind == "string" for p in ends) or any(
        node.op_type in HOST_OPERATORS for node in case.model.graph.node
    )


def array_of(value) -> np.ndarray:
    is_proto = isinstance(value, onnx.TensorProto)
    return onnx.numpy_helper.to_array(value) if is_proto else np.asarray(value)


def check_outputs(case, inputs, outputs) -> None:
    results = run(case.model, *inputs)
    assert len(results) == len(outputs), case.name
    for got, want in zip(results, outputs, strict=True):
        assert (got.dtype, got.shape) == (want.dtype, want.shape), case.name
        rtol = max(case.rtol, 2**-6) if want.dtype == ml_dtypes.bfloat16 else case.rtol
        if want.dtype.kind == "V":  # ml_dtypes
            got, want = got.astype(np.float32), want.astype(np.float32)
        np.testing.assert_allclose(got, want, rtol, case.atol, err_msg=case.name)
