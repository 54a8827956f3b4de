"""The choice of register tiles, and what LLVM makes of a micro-kernel."""

import re

import numpy as np
import pytest
from assembly import loops_of
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_check import body_of

from tilth.cpu.harness import operand
from tilth.cpu.isa import ISAS
from tilth.cpu.jit import compile_assembly, new_module
from tilth.cpu.kernel import Task
from tilth.cpu.kernels import contraction, tiles
from tilth.ir.ops import op

FMA = {"avx2": "vfmadd", "avx512": "vfmadd", "neon": "fmla"}
STACK = {"avx2": r"\(%r[sb]p", "avx512": r"\(%r[sb]p", "neon": r"\[sp"}


@settings(max_examples=100)
@given(extent=st.integers(1, 300), most=st.integers(1, 30))
def test_a_cover_is_exact_and_balanced(extent, most):
    sizes = tiles.cover(extent, most).sizes()
    assert sum(size * count for size, count in sizes.items()) == extent
    assert max(sizes) <= most and max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("isa", ISAS.values(), ids=lambda isa: isa.name)
@settings(max_examples=20)
@given(height=st.integers(1, 60), width=st.integers(1, 60), vectors=st.integers(1, 40))
def test_a_chosen_tile_fits_the_registers_and_wastes_little(isa, height, width, vectors):
    tiling = tiles.choose(isa, height, width, vectors, depth=256)
    rows = tiling.height.size * tiling.width.size
    assert tiles.fits(isa, rows, tiling.panels.width)
    ideal = height * width * vectors * 256 / 2
    if height * width >= 12 and vectors >= 6:
        assert tiles.cost(isa, tiling, 256) < 1.8 * ideal


@pytest.mark.parametrize("name", FMA)
def test_inner_loop_is_fmas_without_spills(name):
    """Accumulators stay in registers: the loop over the depth never touches the stack."""
    isa = ISAS[name]
    columns = 12 * isa.lanes
    assembly = _assembly(isa, _product, (96, 256), (256, columns), (96, columns))
    loops = [block for block in loops_of(assembly) if FMA[name] in block]
    assert loops
    for block in loops:
        fmas = len(re.findall(FMA[name], block))
        rest = len(block.strip().splitlines()) - fmas
        assert not re.search(STACK[name], block)
        assert fmas >= 2 * 12 and rest <= fmas  # at most a load per FMA


@pytest.mark.parametrize("name", FMA)
def test_windows_that_overlap_cause_no_spills(name):
    """What one row of a tile reads in a step, another reads in a later one."""
    isa = ISAS[name]

    def convolve(x, w):
        return op.convolution(
            *(x, w),
            strides=(1, 1),
            padding=((0, 0), (0, 0)),
            lhs_dilation=(1, 1),
            rhs_dilation=(1, 1),
            groups=1,
            layout="channels_last",
        )

    assembly = _assembly(isa, convolve, (1, 34, 34, 3), (3, 3, 3, 64), (1, 32, 32, 64))
    loops = [block for block in loops_of(assembly) if FMA[name] in block]
    assert loops
    for block in loops:
        assert not re.search(STACK[name], block)


def _product(x, w):
    return op.dot_general(x, w, lhs_contract=(1,), rhs_contract=(0,))


def _assembly(isa, build, *shapes) -> str:
    body = body_of(build, *shapes[:2])
    x, w, y = (np.zeros(s, np.float32) for s in shapes)
    operands = (operand(x), operand(w, constant=True))
    kernel = contraction.lower(Task(body, operands, (operand(y),), isa, 1))
    module = new_module(isa, "test")
    kernel.emit(module, isa, "kernel")
    return compile_assembly(module, isa)
