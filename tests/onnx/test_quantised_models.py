"""Whole models as ONNX Runtime's own tools quantise them, against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

import tilth
from tilth.cpu.isa import host_isa

onnxruntime = pytest.importorskip("onnxruntime")
quantization = pytest.importorskip("onnxruntime.quantization")

DIGITS = Path(__file__).parents[2] / "examples" / "digits" / "digits.onnx"
U8, S8 = quantization.QuantType.QUInt8, quantization.QuantType.QInt8
QDQ, QOPERATOR = quantization.QuantFormat.QDQ, quantization.QuantFormat.QOperator
QUANTUM = 1 / 256  # of probabilities


class Images(quantization.CalibrationDataReader):
    """A few images of noise, from the range of pixels."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.images = [rng.random((1, 1, 8, 8)).astype(np.float32) for _ in range(4)]
        self._left: Iterator[np.ndarray] = iter(self.images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self._left, None)
        return None if image is None else {"image": image}


def static(path: Path, form, activations, weights, per_channel: bool) -> None:
    quantization.quantize_static(
        DIGITS, path, Images(), quant_format=form, activation_type=activations,
        weight_type=weights, per_channel=per_channel,
        reduce_range=not host_isa().byte_dot,  # or ONNX Runtime's sums saturate
    )  # fmt: skip


def compared(path: Path) -> tuple[np.ndarray, np.ndarray, tilth.Executable]:
    """Our probabilities, ONNX Runtime's and the executable, which is one region."""
    images = Images().images
    exe = tilth.load(path).compile(shapes={"image": (1, 1, 8, 8)}, threads=2)
    assert len(exe.report.regions) == 1 and not exe.report.host_ops
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    ours = [next(iter(exe({"image": x}).values())) for x in images]
    return np.stack(ours), np.stack([session.run(None, {"image": x})[0] for x in images]), exe


@pytest.mark.parametrize(
    "form, activations, weights, per_channel",
    [
        (QDQ, U8, S8, True),
        (QDQ, S8, S8, False),
        (QOPERATOR, U8, U8, False),
        (QOPERATOR, U8, S8, True),
    ],
    ids=["QDQ u8 s8", "QDQ s8 s8", "QOperator u8 u8", "QOperator u8 s8"],
)
def test_statically_quantised_models(tmp_path, form, activations, weights, per_channel):
    static(tmp_path / "q.onnx", form, activations, weights, per_channel)
    ours, theirs, exe = compared(tmp_path / "q.onnx")
    assert abs(ours - theirs).max() <= QUANTUM * 1.01
    if host_isa().byte_dot:
        bytewise = [k for k in exe.report.kernels if "four bytes" in k.algorithm]
        # Three convolutions and the dense layer; u8 weights may be summed in two parts.
        assert len(bytewise) >= 4


def test_dynamically_quantised_models(tmp_path):
    model = onnx.load(DIGITS)
    del model.graph.value_info[:]  # the quantiser turns weights around, but not their types
    quantization.quantize_dynamic(model, tmp_path / "q.onnx", weight_type=U8)
    ours, theirs, _ = compared(tmp_path / "q.onnx")
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
