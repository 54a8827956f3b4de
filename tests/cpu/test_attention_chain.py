"""Attention depth first: scores of a block of rows stay in scratch until they are used up."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_check import BOTH_ISAS, check
from program_check import check_program

from tilth.compiler.pipeline import run_target
from tilth.cpu.attention import join_attention
from tilth.cpu.isa import ISAS, host_isa
from tilth.cpu.kernel import Task, dense
from tilth.cpu.kernels import attention, attention_products
from tilth.cpu.plan import plan
from tilth.cpu.target import CpuTarget
from tilth.ir.errors import CompileError
from tilth.ir.graph import Graph, Node, Value, make_constant, make_input
from tilth.ir.ops import op
from tilth.ir.ops.helpers import scalar
from tilth.ir.types import TensorType, f32
from tilth.runtime.target import Options

TILES = replace(ISAS["avx512"], cpu="sapphirerapids", features="-prefer-256-bit", bf16_tiles=True)
SMALL_CACHE = replace(host_isa(), l2=1 << 16)  # many blocks of few rows
TOLERANCE = 2e-6  # of the largest result
here = pytest.mark.skipif(
    not host_isa().bf16_tiles, reason="this processor has no bf16 tiles (AMX)"
)


def attend(q: Value, k: Value, v: Value, *masks: Value) -> Value:
    """softmax(q k' / sqrt(d) + masks) v."""
    rank = q.tensor.rank
    batch = {"lhs_batch": tuple(range(rank - 2)), "rhs_batch": tuple(range(rank - 2))}
    scores = op.dot_general(q, k, lhs_contract=(rank - 1,), rhs_contract=(rank - 1,), **batch)
    scores = op.multiply(scores, scalar(1 / math.sqrt(q.shape[-1]), scores))
    for mask in masks:
        scores = op.add(scores, mask)
    shares = op.softmax(scores, axis=rank - 1)
    return op.dot_general(shares, v, lhs_contract=(rank - 1,), rhs_contract=(rank - 2,), **batch)


def target_graph(build, *shapes: tuple[int, ...], precision: str = "default") -> Graph:
    """A model of these inputs as a machine with a matrix unit gets it."""
    inputs = tuple(make_input(TensorType(f32, s), f"x{i}") for i, s in enumerate(shapes))
    graph = Graph(inputs, (build(*inputs),))
    return run_target(graph, CpuTarget(TILES).traits, Options(precision=precision)).graph


def fused(build, *shapes: tuple[int, ...]) -> Graph:
    """Such a model with attention joined."""
    return join_attention(target_graph(build, *shapes))


def joined(build, *shapes: tuple[int, ...]) -> Node:
    return fused(build, *shapes).outputs[0].node


def kinds(graph: Graph) -> list[str]:
    return [n.attrs["kind"] for n in graph.nodes if n.op == "fusion"]


def arrays(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(len(shapes))
    return [rng.standard_normal(s, np.float32) for s in shapes]


@st.composite
def attentions(draw):
    """The fusion of some attention, and the layouts of its operands."""
    batch = tuple(draw(st.lists(st.integers(1, 3), max_size=2), "batch"))
    rows, keys = draw(st.integers(2, 150), "rows"), draw(st.integers(33, 130), "keys")
    depth, columns = (draw(st.sampled_from([16, 24, 32, 64]), "size") for _ in range(2))
    masks = draw(st.lists(st.sampled_from(["full", "rows", "keys", "heads"]), max_size=2), "masks")
    ones = (1,) * len(batch)
    shapes = {
        "full": (*batch, rows, keys),
        "rows": (*ones, rows, 1),
        "keys": (*ones, 1, keys),
        "heads": (*batch, 1, 1),
    }
    given_ = [(*batch, rows, depth), (*batch, keys, depth), (*batch, keys, columns)]
    node = joined(attend, *given_, *(shapes[m] for m in masks))
    layout = ["dense"] * len(node.inputs)
    layout[1] = draw(st.sampled_from(["dense", "pitched", "swapped"]), "layout of the keys")
    return node, layout


@here
@settings(max_examples=10, deadline=None)
@given(case=attentions())
def test_any_attention_on_a_matrix_unit(case):
    node, layout = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention.split_bf16, "pays", lambda _: True)
        check(
            *(attention.lower, node.attrs["body"], arrays(*(v.shape for v in node.inputs))),
            layout=layout,
            tolerance=TOLERANCE,
            isas=[SMALL_CACHE],
        )


@settings(max_examples=15, deadline=None)
@given(case=attentions())
def test_any_attention_without_one(case):
    node, layout = case
    small = [replace(isa, l2=1 << 16, bf16_tiles=False) for isa in BOTH_ISAS]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention_products, "FEWEST_TILES", 1)
        check(
            *(attention.lower, node.attrs["body"], arrays(*(v.shape for v in node.inputs))),
            layout=layout,
            isas=small,
        )


@here
def test_a_causal_mask_leaves_no_trace_of_later_keys():
    def model(q, k, v):
        later = np.triu(np.full((256, 256), -np.inf, np.float32), 1)
        return attend(q, k, v, make_constant(later))

    report = check_program(model, *arrays(*[(2, 3, 256, 64)] * 3), tolerance=TOLERANCE)
    assert [k.name for k in report.regions[0].kernels] == ["attention"]


@here
def test_results_may_lie_between_those_of_other_heads():
    def model(x):
        q, k, v = (op.transpose(op.slice(x, **part), permutation=(0, 2, 1, 3)) for part in thirds)
        return op.reshape(
            op.transpose(attend(q, k, v), permutation=(0, 2, 1, 3)), shape=(1, 256, 192)
        )

    whole = {"limit": (1, 256, 9, 64), "strides": (1,) * 4}
    thirds = [
        whole | {"start": (0, 0, 3 * i, 0), "limit": (1, 256, 3 * i + 3, 64)} for i in range(3)
    ]
    report = check_program(model, *arrays((1, 256, 9, 64)), tolerance=TOLERANCE)
    assert [k.name for k in report.regions[0].kernels] == ["attention"]


QKV = [(3, 256, 64)] * 3


def test_three_fusions_become_one():
    assert kinds(fused(attend, *QKV)) == ["attention"]


def test_scores_that_are_read_elsewhere_stay():
    def model(q, k, v):
        shares = attend(q, k, v).node.inputs[0]
        values = op.dot_general(
            *(shares, v),
            **{"lhs_batch": (0,), "rhs_batch": (0,), "lhs_contract": (2,), "rhs_contract": (1,)},
        )
        return op.concatenate(values, shares, axis=2)

    assert "attention" not in kinds(fused(model, *QKV))


def test_shares_that_do_not_sum_up_over_keys_stay():
    def model(q, k, v):
        batch = {"lhs_batch": (0,), "rhs_batch": (0,)}
        scores = op.dot_general(q, k, lhs_contract=(2,), rhs_contract=(2,), **batch)
        shares = op.softmax(scores, axis=1)
        return op.dot_general(shares, v, lhs_contract=(2,), rhs_contract=(1,), **batch)

    assert "attention" not in kinds(fused(model, *QKV))


@pytest.mark.parametrize(
    "model",
    [lambda q, k, v: attend(q, k, v, k), lambda q, k, v: attend(k, k, k)],
    ids=["mask", "everything"],
)
def test_keys_may_be_other_operands_too(model):
    check_program(model, *arrays(*[(3, 64, 64)] * 3), tolerance=TOLERANCE)


def kernels_for(isa, build=attend, shapes=QKV, precision: str = "default") -> list[str]:
    graph = target_graph(build, *shapes, precision=precision)
    return [step.kernel.name for step in plan(graph, isa, 2, precision == "exact")]


def test_a_matrix_unit_takes_all_of_it():
    assert kernels_for(TILES) == ["attention"]


@pytest.mark.parametrize("name", ISAS)
def test_so_do_fused_multiply_adds(name):
    assert kernels_for(ISAS[name]) == ["attention"]


def test_members_are_planned_one_by_one_where_few_rows_read_the_keys():
    few = [(3, 5, 64), (3, 256, 64), (3, 256, 64)]
    assert kernels_for(ISAS["avx512"], shapes=few) == ["dot_general", "row", "dot_general"]
    with pytest.raises(CompileError, match="does not pay"):
        body = joined(attend, *few).attrs["body"]
        views = [dense(v.tensor) for v in (*body.inputs, *body.outputs)]
        attention.lower(Task(body, tuple(views[:-1]), tuple(views[-1:]), ISAS["avx2"], 2))


@pytest.mark.parametrize("heads", [(1, 4), (3, 1), (1, 1)])
def test_heads_may_share_keys_and_values(heads):
    """As in grouped and multi-query attention: they are split once for all of these heads."""
    whole = (3, 4, 70, 64)

    def model(q, k, v):
        return attend(q, *(op.broadcast_in_dim(x, shape=whole, dims=(0, 1, 2, 3)) for x in (k, v)))

    shared = (*heads, 70, 64)
    if host_isa().bf16_tiles:
        check_program(model, *arrays(whole, shared, shared), tolerance=TOLERANCE)
    prefix = heads != (1, 4)  # the heads that share are neighbours
    names = kernels_for(replace(TILES, l2=1 << 16), build=model, shapes=[whole, shared, shared])
    assert ("attention" in names) == prefix


def test_many_scores_are_kept_in_a_cache_even_where_products_alone_would_not_be_split():
    shapes = [(8, 850, 32)] * 3
    assert kernels_for(TILES, shapes=shapes) == ["attention"]


def test_threads_get_as_many_blocks_each():
    assert joined_kernel(heads=4).items == 4
    assert joined_kernel(heads=3).items == 6


def joined_kernel(heads: int):
    body = joined(attend, *[(heads, 192, 64)] * 3).attrs["body"]
    views = [dense(v.tensor) for v in (*body.inputs, *body.outputs)]
    return attention.lower(Task(body, tuple(views[:-1]), tuple(views[-1:]), TILES, 2))


def test_exact_products_stay_alone_and_long_ones_are_cut_in_the_graph():
    assert kernels_for(TILES, precision="exact") == ["dot_general", "row", "dot_general"]
    long = kernels_for(TILES, shapes=[(4, 850, 64)] * 3, precision="exact")
    assert "attention" not in long and long.count("row") > 1


def test_empty_results_are_left_to_the_members():
    assert "attention" not in kernels_for(TILES, shapes=[(3, 0, 64), (3, 9, 64), (3, 9, 64)])
