"""Fusion: what goes into one kernel, and the form of the bodies."""

import os
from pathlib import Path

import numpy as np
import pytest
from graph_samples import assert_same, graph, ops, tensor, weights

from tilth.compiler.decompose import decompose
from tilth.compiler.fuse import fuse
from tilth.compiler.pipeline import run_pipeline
from tilth.ir.graph import Graph, make_constant
from tilth.ir.ops.helpers import mean
from tilth.ir.ops.table import op
from tilth.runtime.target import Options, Traits

GOLDEN = Path(__file__).parent / "golden"
NATIVE = Traits(layout="channels_last", explicit_padding=True, fuses=True)


def fused(*outputs) -> Graph:
    before = decompose(graph(*outputs), ())
    after, _ = fuse(before)
    assert_same(before, after)
    for node in after.nodes:
        if node.op == "fusion":
            assert_canonical(node)
    return after


def kernels(g: Graph) -> list[str]:
    return [o for o in ops(g) if o != "reshape"]


def assert_canonical(node):
    """What every kernel may rely on."""
    kind, body = node.attrs["kind"], node.attrs["body"]
    read = {v for n in body.nodes for v in n.inputs} | set(body.outputs)
    assert set(body.inputs) <= read
    for inner in body.nodes:
        if inner.op == "constant":
            assert inner.types[0].rank == 0
    (result,) = body.outputs
    if kind in ("contraction", "window"):
        hero = next(n for n in body.nodes if n.op != "constant")
        assert hero.inputs == body.inputs[: len(hero.inputs)]
    if kind == "row":
        full = next(n for n in body.nodes if n.op == "reduce").inputs[0].shape
        assert all(v.tensor.rank == len(full) for v in body.inputs)
        axes = {n.attrs["axes"] for n in body.nodes if n.op == "reduce"}
        assert len(axes) == 1 and result.shape in (full, full[: -len(*axes)])


def convolution(x, channels, **attrs):
    w = weights(3, 3, x.shape[-1] // attrs.get("groups", 1), channels)
    return op.convolution(x, w, layout="channels_last", **attrs)


def dense(x, columns):
    last = x.tensor.rank - 1
    return op.dot_general(x, weights(x.shape[-1], columns), lhs_contract=(last,), rhs_contract=(0,))


x = tensor(4, 6)


def test_contraction_takes_bias_residual_and_activation():
    y = op.relu(op.add(op.add(dense(x, 6), weights(6)), x))
    assert ops(fused(y)) == ["contraction"]


def test_activation_that_reads_its_operand_twice_is_one_epilogue():
    assert ops(fused(op.gelu(dense(x, 8)))) == ["contraction"]
    assert ops(fused(op.gelu(dense(x, 8), approximate="tanh"))) == ["contraction"]


def test_result_that_is_read_elsewhere_ends_the_epilogue():
    y = op.add(dense(x, 6), weights(6))
    assert ops(fused(op.tanh(y), op.sine(y))) == ["contraction", "elementwise", "elementwise"]


def test_result_of_the_graph_ends_the_epilogue():
    y = dense(x, 6)
    assert ops(fused(op.tanh(y), y)) == ["contraction", "elementwise"]


def test_residual_that_depends_on_the_contraction_makes_no_cycle():
    y = dense(x, 6)
    gate = op.reduce(y, kind="sum", axes=(0,))
    assert kernels(fused(op.multiply(y, gate))) == ["contraction", "reduce", "elementwise"]


def test_sum_of_two_contractions_is_the_epilogue_of_one():
    assert ops(fused(op.relu(op.add(dense(x, 5), dense(x, 5))))) == ["contraction", "contraction"]


def test_operands_of_an_epilogue_are_aligned_outside():
    g = fused(op.add(dense(tensor(2, 3, 4), 5), tensor(5, name="bias")))
    (node,) = [n for n in g.nodes if n.op == "fusion"]
    assert node.inputs[-1].shape == (1, 1, 5)


def test_depthwise_convolution_and_pooling_are_windows():
    image = tensor(1, 6, 6, 8)
    assert ops(fused(op.relu(convolution(image, 8, groups=8)))) == ["window"]
    assert ops(fused(op.relu(convolution(image, 8, groups=2)))) == ["contraction"]
    pooled = op.reduce_window(image, kind="sum", window=(1, 2, 2, 1))
    assert ops(fused(op.divide(pooled, make_constant(np.float32(4))))) == ["window"]


@pytest.mark.parametrize(
    "rows",
    [
        op.softmax(x, axis=1),
        op.log_softmax(op.multiply(x, weights(4, 1)), axis=1),
        op.layer_norm(x, weights(6), weights(6), axis=1),
        op.rms_norm(op.add(x, tensor(4, 6, name="y")), weights(6), axis=1),
        op.layer_norm(tensor(2, 3, 4), weights(3, 4), weights(3, 4), axis=1),
        op.softmax(op.select(op.compare(x, weights(6), direction="LT"), x, weights(1)), axis=1),
    ],
    ids=["softmax", "log_softmax", "layer_norm", "rms_norm", "two axes", "mask"],
)
def test_normalisation_over_rows_is_one_kernel(rows):
    assert kernels(fused(rows)) == ["row"]


def test_row_result_per_row():
    assert kernels(fused(op.sqrt(op.abs(mean(x, (1,)))))) == ["row"]


def test_reduction_that_broadcasts_along_the_rows_is_not_a_row_fusion():
    square = tensor(4, 4)
    columns = op.reduce(square, kind="sum", axes=(1,))  # [4], broadcast along the last axis
    assert kernels(fused(op.subtract(square, columns))) == ["row", "elementwise"]


def test_reduction_over_leading_axes_takes_prologue_and_epilogue():
    image = tensor(1, 6, 6, 8)
    total = op.reduce(op.multiply(image, image), kind="sum", axes=(1, 2))
    assert ops(fused(op.sqrt(op.divide(total, make_constant(np.float32(36)))))) == ["reduce"]


def test_normalisation_over_leading_axes_needs_a_kernel_for_each_pass():
    image = tensor(2, 5, 5, 3)
    centered = op.subtract(image, mean(image, (1, 2)))
    variance = mean(op.multiply(centered, centered), (1, 2))
    y = op.multiply(centered, op.rsqrt(variance))
    assert kernels(fused(y)) == ["reduce", "elementwise", "reduce", "elementwise"]


def test_elementwise_ops_of_one_shape_are_one_kernel():
    y = op.tanh(op.add(x, weights(6)))
    assert ops(fused(op.multiply(y, op.abs(y)))) == ["elementwise"]


def test_smaller_operand_is_computed_once_by_a_kernel_of_its_own():
    gate = op.exponential(tensor(6, name="g"))
    assert kernels(fused(op.multiply(x, gate))) == ["elementwise", "elementwise"]


def test_scalars_live_in_the_body_and_bigger_constants_outside():
    g = fused(op.add(op.multiply(x, make_constant(np.full((1, 1), 2, np.float32))), weights(6)))
    (node,) = [n for n in g.nodes if n.op == "fusion"]
    assert [v.op for v in node.inputs] == ["input", "constant"]


def test_body_that_only_broadcasts_gives_the_full_shape():
    y = op.multiply(op.broadcast_in_dim(tensor(6), shape=(4, 6), dims=(1,)), weights(6))
    assert fused(y).outputs[0].shape == (4, 6)


def test_log_tells_what_was_fused_and_what_was_missed():
    y = dense(x, 6)
    turned = op.transpose(y, permutation=(1, 0))
    _, log = fuse(graph(op.add(turned, tensor(6, 4, name="other"))))
    assert [(e.event, e.detail) for e in log if e.event == "missed"] == [
        ("missed", "epilogue: a transpose stands between")
    ]
    assert sum(e.event == "fused" for e in log) == 2


# --- golden schedules: the kernels of well-known blocks, one line each ---


def schedule(g: Graph) -> str:
    return "".join(f"{_line(n)}\n" for n in g.nodes if n.op != "constant")


def _line(node) -> str:
    what = node.op
    if node.op == "fusion":
        body = [n.op for n in node.attrs["body"].nodes if n.op != "constant"]
        what = f"{node.attrs['kind']}: {' '.join(body)}"
    operands = ", ".join(f"{v.type}{' constant' * (v.op == 'constant')}" for v in node.inputs)
    return f"{what} ({operands}) -> {node.types[0]}"


def channels_first(x, channels, window=1, stride=1, groups=1):
    w = weights(channels, x.shape[1] // groups, window, window)
    pad = ((window // 2, window // 2),) * 2
    y = op.convolution(x, w, strides=(stride, stride), padding=pad, groups=groups)
    ones = make_constant(np.ones(channels, np.float32))
    return op.batch_norm(y, weights(channels), weights(channels), weights(channels), ones)


def bottleneck():
    x = op.relu(channels_first(tensor(1, 3, 16, 16), 64))
    y = op.relu(channels_first(x, 16))
    y = op.relu(channels_first(y, 16, 3, stride=2))
    return op.relu(op.add(channels_first(y, 64), channels_first(x, 64, stride=2)))


def inverted_residual():
    def clipped(y):
        return op.clamp(make_constant(np.float32(0)), y, make_constant(np.float32(6)))

    x = clipped(channels_first(tensor(1, 3, 16, 16), 16))
    y = clipped(channels_first(x, 96))
    y = clipped(channels_first(y, 96, 3, groups=96))
    return op.add(channels_first(y, 16), x)


def transformer_block():
    x = tensor(1, 8, 32)
    h = op.layer_norm(x, weights(32), weights(32), axis=2)
    q, k, v = (
        op.transpose(
            op.reshape(op.add(dense(h, 32), weights(32)), shape=(1, 8, 4, 8)),
            permutation=(0, 2, 1, 3),
        )
        for _ in range(3)
    )
    y = op.transpose(op.attention(q, k, v, causal=True), permutation=(0, 2, 1, 3))
    x = op.add(x, op.add(dense(op.reshape(y, shape=(1, 8, 32)), 32), weights(32)))
    h = op.layer_norm(x, weights(32), weights(32), axis=2)
    return op.add(x, dense(op.gelu(op.add(dense(h, 64), weights(64))), 32))


@pytest.mark.parametrize("block", [bottleneck, inverted_residual, transformer_block])
def test_schedule_of_a_block(block):
    before = graph(block())
    after = run_pipeline(before, NATIVE, Options()).graph
    assert_same(before, after)
    golden = GOLDEN / f"{block.__name__}.txt"
    if os.environ.get("TILTH_UPDATE_GOLDEN") == "1":
        golden.write_text(schedule(after))
    assert schedule(after) == golden.read_text()
