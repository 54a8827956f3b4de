"""The official ONNX operator tests, through the importer and the reference interpreter.

What a graph cannot hold so far (sequences and optionals at its ends, results whose shape depends on
data, most operators on strings) must be refused with one clear error.
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

_PREFIX = f"{suite.__name__}."
MODULES = [
    m.name.removeprefix(_PREFIX)
    for m in pkgutil.walk_packages(suite.__path__, _PREFIX)
    if not m.ispkg and not m.name.removeprefix(_PREFIX).startswith("_")
]

# Operators whose result has a shape that depends on data, or that are no arithmetic.
HOST_OPERATORS = {
    *("NonMaxSuppression", "NonZero", "Unique", "TfIdfVectorizer", "ImageDecoder"),
    *("StringNormalizer", "StringSplit", "StringConcat", "RegexFullMatch"),
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
        importlib.import_module(_PREFIX + module)
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
    return any(p.container for p in ends) or any(
        node.op_type in HOST_OPERATORS or _casts_strings(node, ends)
        for node in case.model.graph.node
    )


def _casts_strings(node, ends) -> bool:
    return node.op_type.startswith("Cast") and any(p.dtype.kind == "string" for p in ends)


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
