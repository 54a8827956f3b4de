"""Models that are no static graph: what is compiled, what runs on the host, and that both agree."""

from __future__ import annotations

import numpy as np
import onnx.helper
import pytest
from onnx_helpers import model

import tilth
from tilth.onnx.dynamic import DynamicModel
from tilth.runtime.executable import VARIANTS_KEPT

# Rows of x with a sum over one half, times w: NonZero decides the shape.
ROWS = """g (float[n,4] x, float[4,3] w) => (float[a,3] y) {
    axes = Constant<value_ints=[1]>()
    first = Constant<value_ints=[0]>()
    half = Constant<value=float {0.5}>()
    h = Relu(x)
    sum = ReduceSum<keepdims=0>(h, axes)
    over = Greater(sum, half)
    found = NonZero(over)
    rows = Squeeze(found, first)
    kept = Gather(h, rows)
    y = MatMul(kept, w)
}"""

# 1 + 2 + ... until the sum is over the limit; gives every sum on the way.
SUMS = """g (float limit) => (float last, float[k] sums) {
    true = Constant<value=bool {1}>()
    zero = Constant<value=float {0.0}>()
    none = Constant<value=float {1.0}>()
    last, sums = Loop<body = b (int64 i, bool on, float sum) => (bool more, float new, float out) {
        step = Cast<to=1>(i)
        next = Add(step, none)
        new = Add(sum, next)
        more = Less(new, limit)
        out = Identity(new)
    }>("", true, zero)
}"""


def prepared(text: str) -> DynamicModel:
    return tilth.load(model(text)).prepare()


def rows(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    h = np.maximum(x, 0)
    return h[h.sum(1) > 0.5] @ w


@pytest.mark.parametrize("n", [0, 1, 5, 40])
def test_shapes_that_depend_on_data(n: int):
    random = np.random.default_rng(n)
    x, w = (random.normal(size=s).astype(np.float32) for s in ((n, 4), (4, 3)))
    result = tilth.load(model(ROWS))({"x": x, "w": w})["y"]
    np.testing.assert_allclose(result, rows(x, w), rtol=1e-5)


def test_only_what_must_run_on_the_host_does_and_the_report_says_why():
    run = prepared(ROWS)
    run({"x": np.ones((2, 4), np.float32), "w": np.ones((4, 3), np.float32)})
    assert [(h.op, h.why) for h in run.report.host_ops] == [
        ("NonZero", "how many elements it gives depends on data")
    ]
    assert [r.device for r in run.report.regions] == ["cpu", "cpu"]


def test_segments_are_compiled_once_for_the_same_shapes():
    run = prepared(ROWS)
    for value in (1, 2, 3):
        run({"x": np.full((2, 4), value, np.float32), "w": np.ones((4, 3), np.float32)})
    assert len(run.report.regions) == 2


def test_after_many_shapes_new_ones_are_interpreted_and_still_right(caplog):
    run = prepared(ROWS)
    w = np.ones((4, 3), np.float32)
    for n in range(1, VARIANTS_KEPT + 3):
        x = np.ones((n, 4), np.float32)
        np.testing.assert_allclose(run({"x": x, "w": w})["y"], rows(x, w))
    assert {r.device for r in run.report.regions} == {"cpu", "reference"}
    assert "it is interpreted from now on" in caplog.text


def test_what_comes_often_is_compiled_after_all():
    run = tilth.load(model(ROWS)).prepare(variants=1)
    w = np.ones((4, 3), np.float32)

    def devices(n: int) -> list[str]:
        x = np.ones((n, 4), np.float32)
        np.testing.assert_allclose(run({"x": x, "w": w})["y"], rows(x, w))
        return sorted(r.device for r in run.report.regions)

    assert devices(1) == ["cpu", "cpu"]
    for _ in range(8):
        assert devices(2) == ["cpu", "cpu", "reference", "reference"]
    assert devices(2) == ["cpu", "cpu"]  # the one variant there may be is now that for two rows
    assert "it comes often" in run.report.variants[0]


def test_a_loop_of_unknown_length_stacks_its_results():
    last, sums = tilth.load(model(SUMS))({"limit": np.float32(9)}).values()
    assert last == 10
    np.testing.assert_array_equal(sums, np.array([1, 3, 6, 10], np.float32))


def test_a_constant_selection_is_computed_while_compiling():
    text = """g (float[3] x) => (float[2] y) {
        mask = Constant<value=int64[3] {1, 0, 7}>()
        first = Constant<value_ints=[0]>()
        found = NonZero(mask)
        rows = Squeeze(found, first)
        y = Gather(x, rows)
    }"""
    executable = tilth.load(model(text)).compile()
    assert executable({"x": np.array([1, 2, 3], np.float32)})["y"].tolist() == [1, 3]


def test_branches_of_different_shapes():
    text = """g (bool c, float[n] x) => (float[k] y) {
        y = If (c) <
            then_branch = t () => (float[n] a) { a = Add(x, x) },
            else_branch = e () => (float[m] b) { b = Concat<axis=0>(x, x) }>
    }"""
    run = tilth.load(model(text))
    x = np.arange(20, dtype=np.float32)
    assert run({"c": np.True_, "x": x})["y"].shape == (20,)
    assert run({"c": np.False_, "x": x})["y"].shape == (40,)


def test_strings_come_and_go_as_object_arrays():
    text = """g (string[n] x) => (string[n] y, bool[n] z) {
        y = StringConcat(x, x)
        z = RegexFullMatch<pattern="a+">(x)
    }"""
    fed = np.array(["a", "ab"], object)
    y, z = tilth.load(model(text))({"x": fed}).values()
    assert (y.tolist(), z.tolist()) == (["aa", "abab"], [True, False])


def test_sequences_are_lists_and_empty_optionals_none():
    tensor = onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, [None])
    sequence = onnx.helper.make_sequence_type_proto(tensor)
    optional = onnx.helper.make_optional_type_proto(sequence)
    nodes = [
        onnx.helper.make_node("OptionalHasElement", ["maybe"], ["there"]),
        onnx.helper.make_node("SequenceInsert", ["items", "x"], ["longer"]),
    ]
    info = onnx.helper.make_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [info("maybe", optional), info("items", sequence), info("x", tensor)],
        [
            info("there", onnx.helper.make_tensor_type_proto(onnx.TensorProto.BOOL, [])),
            info("longer", sequence),
        ],
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    run = tilth.load(proto)
    x = np.ones(2, np.float32)
    there, longer = run({"maybe": None, "items": [x], "x": x}).values()
    assert not there
    assert [a.tolist() for a in longer] == [[1, 1], [1, 1]]
    assert longer[0] is not x
    with pytest.raises(tilth.InputError, match="items"):
        run({"maybe": None, "items": [np.ones(2)], "x": x})


def test_an_operator_without_meaning_is_refused_before_anything_runs():
    text = "g (float[2] x) => (float[2] y) { a = NonZero(x) y = my.domain.Strange(x) }"
    with pytest.raises(tilth.UnsupportedError, match="Strange"):
        tilth.load(model(text, **{"my.domain": 1})).compile(shapes={})


def test_a_loop_without_end_is_ended(monkeypatch):
    endless = tilth.load(model(SUMS)), {"limit": np.float32(np.inf)}
    monkeypatch.setenv("TILTH_LOOP_LIMIT", "9")
    with pytest.raises(tilth.LimitError, match=r"Loop.* 9 turns .*TILTH_LOOP_LIMIT"):
        endless[0](endless[1])
    monkeypatch.setenv("TILTH_LOOP_LIMIT", "many")
    with pytest.raises(tilth.TilthError, match="number of turns, not 'many'"):
        endless[0](endless[1])
