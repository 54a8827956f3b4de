"""Chains: convolutions around a depthwise one, computed depth first in strips of rows."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_check import BOTH_ISAS, check
from program_check import check_program

from tilth.compiler.pipeline import run_target
from tilth.cpu import chains
from tilth.cpu.isa import ISAS, host_isa
from tilth.cpu.kernel import Task, dense
from tilth.cpu.kernels import chain
from tilth.cpu.plan import plan
from tilth.cpu.target import CpuTarget
from tilth.ir.errors import CompileError
from tilth.ir.graph import Graph, Node, Value, make_constant, make_input
from tilth.ir.ops import op
from tilth.ir.ops.helpers import scalar
from tilth.ir.types import TensorType, f16, f32
from tilth.runtime.target import Options

SMALL_CACHE = [replace(isa, l2=1 << 14) for isa in BOTH_ISAS]  # many strips of few rows


def convolution(x: Value, size, filters, stride=1, pad=(0, 0), dilation=1, groups=1) -> Value:
    """With weights, bias and clamp; `pad` is (before, after) in both directions."""
    rng = np.random.default_rng(filters)
    w = rng.standard_normal((size, size, x.shape[-1] // groups, filters), dtype=np.float32)
    y = op.convolution(
        *(x, make_constant(w / np.float32(size * w.shape[2] ** 0.5))),
        strides=(stride,) * 2,
        padding=(pad,) * 2,
        lhs_dilation=(1, 1),
        rhs_dilation=(dilation,) * 2,
        groups=groups,
        layout="channels_last",
    )
    y = op.add(y, make_constant(rng.standard_normal(filters, dtype=np.float32)))
    return op.clamp(scalar(-1, y), y, scalar(1, y))


def depthwise(x: Value, size=3, **attrs) -> Value:
    return convolution(x, size, x.shape[-1], groups=x.shape[-1], **attrs)


def joined(build, shape, threads=2, isa=None) -> list[Node]:
    """The nodes of a model of one input, constants left out, with chains joined.

    If not said, for this processor without a matrix unit, which does better alone.
    """
    isa = isa or replace(host_isa(), bf16_tiles=False)
    x = make_input(TensorType(f32, shape), "x")
    fused = run_target(Graph((x,), (build(x),)), CpuTarget().traits, Options()).graph
    nodes = chains.join_chains(fused, isa, threads).nodes
    return [n for n in nodes if n.op not in ("constant", "reshape")]


def kinds(nodes: list[Node]) -> list[str]:
    return [n.attrs["kind"] if n.op == "fusion" else n.op for n in nodes]


def check_chain(node: Node, isas) -> None:
    rng = np.random.default_rng(0)
    constants = [i for i, v in enumerate(node.inputs) if v.op == "constant"]
    arrays = [
        v.node.attrs["value"] if i in constants else rng.standard_normal(v.shape, np.float32)
        for i, v in enumerate(node.inputs)
    ]
    check(chain.lower, node.attrs["body"], arrays, constants=constants, isas=isas)


@settings(max_examples=15)
@given(data=st.data())
def test_any_chain(data):
    draw = data.draw
    first = draw(st.sampled_from(["pointwise", "strided", "none"]), "first")
    size, stride = draw(st.sampled_from([1, 2, 3, 5]), "size"), draw(st.integers(1, 2), "stride")
    pad = draw(st.sampled_from([(0, 0), (1, 1), (0, 1), (2, 2)]), "pad")
    dilation = draw(st.integers(1, 2), "dilation")
    last = first == "none" or draw(st.booleans(), "last")
    height = draw(st.integers(10, 17), "height")
    shape = (draw(st.integers(1, 3), "batch"), height, draw(st.integers(10, 15), "width"), 5)

    def model(x):
        y = x
        if first == "pointwise":
            y = convolution(x, 1, 20)
        elif first == "strided":
            y = convolution(x, 3, 16, stride=2, pad=(1, 1))
        y = depthwise(y, size, stride=stride, pad=pad, dilation=dilation)
        return convolution(y, 1, 24) if last else y

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chains, "_pays", lambda *_: True)
        node = joined(model, shape)[-1]
    if node.attrs["kind"] == "chain":  # maps of one row or column stay as they are
        check_chain(node, SMALL_CACHE)


def test_a_residual_is_added_by_the_last_member():
    def block(x):
        return op.add(convolution(depthwise(convolution(x, 1, 48), pad=(1, 1)), 1, 8), x)

    (node,) = joined(block, (1, 28, 28, 8))
    assert node.attrs["kind"] == "chain"
    check_chain(node, BOTH_ISAS)


def test_a_whole_model_of_chains():
    def model(x):
        x = convolution(x, 3, 16, stride=2, pad=(1, 1))
        x = convolution(depthwise(x, pad=(1, 1)), 1, 8)
        for stride in (2, 1, 1):
            y = depthwise(convolution(x, 1, 48), stride=stride, pad=(1, 1))
            y = convolution(y, 1, 8)
            x = op.add(x, y) if stride == 1 else y
        return x

    x = np.random.default_rng(1).standard_normal((1, 56, 56, 3), np.float32)
    report = check_program(model, x)
    assert [k.name for k in report.regions[0].kernels].count("chain") == 4


def test_values_read_elsewhere_are_written_down():
    def model(x):
        wide = convolution(x, 1, 48)
        return op.add(depthwise(wide, pad=(1, 1)), wide)

    assert kinds(joined(model, (1, 28, 28, 8))) == ["contraction", "pad", "window"]


def test_each_convolution_has_one_chain():
    def model(x):
        for _ in range(2):
            x = convolution(depthwise(x, pad=(1, 1)), 1, 16)
        return x

    assert kinds(joined(model, (1, 28, 28, 16))) == ["pad", "chain", "pad", "chain"]


def test_low_maps_are_not_computed_twice():
    def block(x):
        return convolution(depthwise(convolution(x, 1, 192), pad=(1, 1)), 1, 64)

    assert "chain" not in kinds(joined(block, (1, 7, 7, 64), threads=2))
    assert "chain" in kinds(joined(block, (1, 7, 7, 64), threads=1))
    assert "chain" in kinds(joined(block, (2, 7, 7, 64), threads=2))


@pytest.mark.parametrize("matrix_unit", [False, True])
def test_members_that_a_matrix_unit_computes_faster_stay_alone(matrix_unit):
    def block(x):
        return convolution(depthwise(convolution(x, 1, 576), pad=(1, 1)), 1, 96)

    isa = replace(ISAS["avx512"], bf16_tiles=matrix_unit)
    assert ("chain" in kinds(joined(block, (1, 14, 14, 96), isa=isa))) != matrix_unit


def test_exact_sums_are_left_to_the_kernel_that_makes_them():
    def block(x):
        return convolution(depthwise(x, pad=(1, 1)), 1, 16)

    x = make_input(TensorType(f32, (1, 28, 28, 16)), "x")
    fused = run_target(Graph((x,), (block(x),)), CpuTarget().traits, Options()).graph
    names = [[step.kernel.name for step in plan(fused, host_isa(), 2, e)] for e in (False, True)]
    assert "chain" in names[0] and "chain" not in names[1]


def test_a_3x3_convolution_is_left_to_winograd():
    def model(x):
        return depthwise(convolution(x, 3, 32), pad=(1, 1))

    assert "chain" not in kinds(joined(model, (1, 30, 30, 32)))


def test_what_is_no_chain_is_refused():
    x = make_input(TensorType(f32, (1, 4, 4, 8)), "x")
    with pytest.raises(CompileError, match="one window"):
        chain.chain_of(Graph((x,), (x,)))
    (_, node) = joined(lambda x: convolution(depthwise(x, pad=(1, 1)), 1, 8), (1, 28, 28, 8))
    halves = tuple(dense(TensorType(f16, v.shape)) for v in node.inputs)
    with pytest.raises(CompileError, match="f32"):
        chain.lower(Task(node.attrs["body"], halves, halves[:1], host_isa(), 2))
