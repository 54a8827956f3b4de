"""The modules of a program: how many there are is a matter of compile time only."""

from pathlib import Path

import numpy as np
import pytest

import tilth
from tilth.compiler.pipeline import run_pipeline
from tilth.cpu import program
from tilth.cpu.isa import host_isa
from tilth.cpu.memory import assign
from tilth.cpu.plan import plan
from tilth.cpu.target import CpuTarget
from tilth.ir.interpreter import interpret
from tilth.runtime.target import Options

DIGITS = Path(__file__).parents[2] / "examples" / "digits" / "digits.onnx"


@pytest.mark.parametrize("most", [0, 1 << 30], ids=["a kernel each", "all in one"])
def test_kernels_in_any_number_of_modules_give_the_same_results(most, monkeypatch, rng):
    monkeypatch.setattr(program, "_MODULE", most)
    model = tilth.load(DIGITS)
    x = rng.random((1, 1, 8, 8), dtype=np.float32)
    (found,) = model.compile(shapes={"image": x.shape}, threads=2, cache=False)(
        {"image": x}
    ).values()
    (expected,) = interpret(model.graph({"batch": 1}), [x])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_last_module_exports_the_program_and_the_others_their_kernels(monkeypatch):
    monkeypatch.setattr(program, "_MODULE", 0)
    isa = host_isa()
    graph = tilth.load(DIGITS).graph({"batch": 1})
    steps = plan(run_pipeline(graph, CpuTarget().traits, Options()).graph, isa, 2)
    *others, last = program.emit_program(steps, assign(steps), 1, isa, 2)
    kernels = {step.kernel.key for step in steps}
    exported = [_exported(module) for module in (*others, last)]
    assert [len(names) for names in exported[:-1]] == [1] * (len(kernels) - 1)
    assert set(exported[-1]) == set(program.EXPORTS)


def _exported(module):
    return [f.name for f in module.functions if not f.is_declaration and f.linkage != "internal"]
