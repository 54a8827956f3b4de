"""One node as a test case: its operands, what a plain formula says, and who computes it.

Operands are random; quantised ones stand for (q - z) s.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import tilth

_NUMBERS = {
    np.dtype(ml_dtypes.int4): TensorProto.INT4,
    np.dtype(ml_dtypes.uint4): TensorProto.UINT4,
    np.dtype(ml_dtypes.bfloat16): TensorProto.BFLOAT16,
}


def _number(dtype: np.dtype) -> int:
    return _NUMBERS.get(dtype) or helper.np_dtype_to_tensor_dtype(dtype)


@dataclass(frozen=True)
class Case:
    """A node of com.microsoft on arrays (None: left out); `constants` are its weights' positions.

    `want` are the results of a plain formula; `quanta` (units in the last place of integers) and
    `close` (of floats) say how far results may be from them. `peer`: ONNX Runtime has a kernel.
    """

    op_type: str
    operands: Sequence[np.ndarray | None]
    want: Sequence[np.ndarray]
    attrs: dict[str, Any] = field(default_factory=dict)
    constants: Sequence[int] = ()
    quanta: int = 0
    close: float = 1e-5
    peer: bool = True

    def model(self) -> onnx.ModelProto:
        names = ["" if x is None else f"x{i}" for i, x in enumerate(self.operands)]
        outputs = [f"y{i}" for i in range(len(self.want))]
        node = helper.make_node(self.op_type, names, outputs, domain="com.microsoft", **self.attrs)
        known = [(n, x) for n, x in zip(names, self.operands, strict=True) if x is not None]
        graph = helper.make_graph(
            [node],
            "case",
            [_info(n, x) for n, x in known if int(n[1:]) not in self.constants],
            [_info(n, y) for n, y in zip(outputs, self.want, strict=True)],
            [_tensor(n, x) for n, x in known if int(n[1:]) in self.constants],
        )
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    @property
    def feeds(self) -> dict[str, np.ndarray]:
        return {
            f"x{i}": x
            for i, x in enumerate(self.operands)
            if x is not None and i not in self.constants
        }

    def ours(self) -> list[np.ndarray]:
        """The results of compiled code: one region, nothing on the host."""
        exe = tilth.load(self.model()).compile(device="cpu", threads=2)
        assert len(exe.report.regions) <= 1 and not exe.report.host_ops, exe.report
        return list(exe(self.feeds).values())

    def onnx_runtime(self) -> list[np.ndarray]:
        import onnxruntime

        session = onnxruntime.InferenceSession(
            self.model().SerializeToString(), providers=["CPUExecutionProvider"]
        )
        return session.run(None, self.feeds)

    def assert_close(
        self, got: Sequence[np.ndarray], want: Sequence[np.ndarray], quanta: int | None = None
    ) -> None:
        quanta = self.quanta if quanta is None else quanta
        for g, w in zip(got, want, strict=True):
            assert (g.shape, g.dtype) == (w.shape, w.dtype)
            if np.issubdtype(g.dtype, np.floating):
                np.testing.assert_allclose(g, w, self.close, self.close * abs(w).max())
            else:
                off = abs(g.astype(np.int64) - w.astype(np.int64))
                assert off.max(initial=0) <= quanta, f"{off.max()} quanta away"


def _info(name: str, x: np.ndarray) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, _number(x.dtype), x.shape)


def _tensor(name: str, x: np.ndarray) -> onnx.TensorProto:
    if x.dtype in _NUMBERS:
        return helper.make_tensor(name, _number(x.dtype), x.shape, x.astype(np.float32).ravel())
    return onnx.numpy_helper.from_array(x, name)


def by_case(cases: Mapping[str, Case], peer: bool = False) -> pytest.MarkDecorator:
    """Runs a test on each `case`; with `peer`, on those that ONNX Runtime has a kernel for."""
    here = importlib.util.find_spec("onnxruntime")
    marks = [pytest.mark.skipif(not here, reason="needs ONNX Runtime")] if peer else []
    chosen = {name: case for name, case in cases.items() if case.peer or not peer}
    return pytest.mark.parametrize(
        "case", [pytest.param(case, id=name, marks=marks) for name, case in chosen.items()]
    )


def reals(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def integers(rng: np.random.Generator, dtype: Any, *shape: int) -> np.ndarray:
    """Any values of the type."""
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, endpoint=True).astype(dtype)


def dequantised(q: np.ndarray, s: np.ndarray, z: np.ndarray) -> np.ndarray:
    """(q - z) s in float32, as the specification writes it."""
    return (q.astype(np.float32) - z.astype(np.float32)) * s
