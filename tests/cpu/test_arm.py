"""Kernels and a whole model as AArch64 code, run under an emulator, against the interpreter."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from emulator import ARM, MISSING, EmulatedKernel, Emulator
from kernel_check import check
from kernel_samples import SAMPLES

import tilth
from tilth.compiler.pipeline import run_pipeline
from tilth.cpu.jit import compile_objects
from tilth.cpu.memory import assign
from tilth.cpu.plan import plan
from tilth.cpu.program import emit_program, scratch_bytes
from tilth.cpu.target import CpuTarget
from tilth.ir.interpreter import interpret
from tilth.runtime.memory import aligned, aligned_bytes
from tilth.runtime.target import Options

DIGITS = Path(__file__).parents[2] / "examples" / "digits" / "digits.onnx"

pytestmark = pytest.mark.skipif(
    bool(MISSING),
    reason=f"no {' and no '.join(MISSING)}: apt-get install qemu-user gcc-aarch64-linux-gnu",
)


@pytest.fixture(scope="module")
def emulator(tmp_path_factory):
    return Emulator(tmp_path_factory.mktemp("arm"))


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: s.name)
def test_kernels(sample, emulator):
    check(
        *(sample.lower, sample.body, sample.inputs),
        isas=[ARM],
        constants=sample.constants,
        compiled=partial(EmulatedKernel, emulator),
    )


@pytest.mark.parametrize("threads", [1, 2])
def test_a_whole_model(threads, emulator, rng):
    graph = tilth.load(DIGITS).graph({"batch": 1})
    feeds = [rng.random(v.shape, dtype=np.float32) for v in graph.inputs]
    expected = interpret(graph, feeds)
    steps = plan(run_pipeline(graph, CpuTarget(ARM).traits, Options()).graph, ARM, threads)
    memory = assign(steps)
    code = compile_objects(emit_program(steps, memory, len(feeds), ARM, threads), ARM)
    arena = aligned_bytes(aligned(memory.arena_bytes) + threads * scratch_bytes(steps))
    results = [np.empty_like(e) for e in expected]
    emulator.run(code, [arena, memory.pack_weights(), None, *feeds, *results], threads)
    for found, right in zip(results, expected, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-5)
