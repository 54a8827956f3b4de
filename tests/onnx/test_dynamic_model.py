"""What compiling gives where shapes are open: bounded variants with reasons, buckets, profiles."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from onnx_helpers import model

import tilth
from tilth.runtime.cache import default_cache

EXP = "g (float[batch,4] x) => (float[batch,4] y) { y = Exp(x) }"
# The mean over the places that the mask keeps, and all places scaled by it.
MASKED = """g (float[batch,sequence] x, float[batch,sequence] mask)
    => (float[batch] mean, float[batch,sequence] scaled) {
    axes = Constant<value_ints=[1]>()
    kept = Mul(x, mask)
    sum = ReduceSum<keepdims=0>(kept, axes)
    count = ReduceSum<keepdims=0>(mask, axes)
    mean = Div(sum, count)
    column = Unsqueeze(mean, axes)
    scaled = Mul(x, column)
}"""
NONZERO = """g (float[n] x) => (int64[1,k] y) {
    r = Relu(x)
    i = NonZero(r)
    y = Neg(i)
}"""
RANGE = "g (int64 n) => (int64[k] y) { z = Constant<value=int64 {0}>() o = Constant<value=int64 {1}>() y = Range(z, n, o) }"  # noqa: E501
# Collects the positive entries of x, n times over, each time one more.
COLLECT = """g (float[m] x, int64 n) => (seq(float[k]) y) {
    on = Constant<value=bool {1}>()
    none = SequenceEmpty()
    y = Loop<body = b (int64 i, bool c, seq(float[k]) s) => (bool d, seq(float[k]) t) {
        d = Identity(c)
        f = Cast<to=1>(i)
        v = Add(x, f)
        keep = NonZero(v)
        first = Constant<value_ints=[0]>()
        rows = Squeeze(keep, first)
        picked = Gather(v, rows)
        t = SequenceInsert(s, picked)
    }>(n, on, none)
}"""


def rows(n: int) -> np.ndarray:
    return np.linspace(-1, 1, 4 * n, dtype=np.float32).reshape(n, 4)


@pytest.fixture(autouse=True)
def cache_of_this_test(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TILTH_CACHE_DIR", str(tmp_path / "cache"))


# One face


@pytest.mark.parametrize(
    ("text", "feeds"),
    [
        (EXP, {"x": rows(2)}),
        (NONZERO, {"x": np.array([1, -1, 2], np.float32)}),
        (RANGE, {"n": np.array(3)}),
    ],
)
def test_whatever_the_model_the_same_things_can_be_done_with_it(text: str, feeds: dict, tmp_path):
    compiled = tilth.load(model(text)).compile()
    assert [p.name for p in compiled.inputs] == list(feeds)
    assert [p.name for p in compiled.outputs] == ["y"]
    assert compiled(feeds)["y"].size
    assert compiled.report.regions
    assert compiled.trace(feeds)
    profile = compiled.profile(feeds, runs=2)
    assert profile.kernels
    profile.save_trace(tmp_path / "t.json")
    assert json.loads((tmp_path / "t.json").read_text())["traceEvents"]


def test_all_shapes_known_give_an_executable():
    compiled = tilth.load(model(EXP)).compile("reference", shapes={"batch": 2})
    assert isinstance(compiled, tilth.Executable)


def test_some_symbols_may_be_fixed():
    compiled = tilth.load(model(MASKED)).compile("reference", shapes={"sequence": 3})
    assert str(compiled.inputs[0]) == "x: f32[batch,3]"
    with pytest.raises(tilth.InputError, match="dimension 1 must be 3, not 2"):
        compiled({"x": np.ones((1, 2), np.float32), "mask": np.ones((1, 2), np.float32)})


def test_an_operator_without_meaning_is_refused_even_when_shapes_are_open():
    text = "g (float[n] x) => (float[n] y) { y = my.domain.Strange(x) }"
    with pytest.raises(tilth.UnsupportedError, match="Strange"):
        tilth.load(model(text, **{"my.domain": 1})).compile()


def test_a_model_in_stages_is_compiled_as_far_as_shapes_tell():
    compiled = tilth.load(model(NONZERO)).compile("reference", shapes={"n": 3})
    assert [h.op for h in compiled.report.host_ops] == ["NonZero"]
    assert len(compiled.report.regions) == 1


def test_a_shape_that_no_array_has_is_refused():
    with pytest.raises(tilth.TilthError):
        tilth.load(model(NONZERO)).compile("reference", shapes={"n": 2**62})


# Variants


def test_each_variant_has_a_reason(caplog):
    compiled = tilth.load(model(EXP)).compile("reference")
    assert compiled.report.variants == ()
    for n in (1, 4, 1):
        compiled({"x": rows(n)})
    told = "batch 1 -> 4: input 'x' is now [4, 4], was [1, 4]"
    assert caplog.text.count("compiling g again") == 1
    assert told in caplog.text
    later, first = compiled.report.variants  # the one used last is last
    assert first.startswith("x [1, 4]: the first shapes; compiled in")
    assert told in later
    assert told in str(compiled.report)


def test_variants_are_bounded():
    compiled = tilth.load(model(EXP)).compile("reference", variants=2)
    for n in range(1, 6):
        np.testing.assert_allclose(compiled({"x": rows(n)})["y"], np.exp(rows(n)), rtol=1e-6)
    *kept, dropped = compiled.report.variants
    assert [line.split(":")[0] for line in kept] == ["x [4, 4]", "x [5, 4]"]
    assert dropped == "3 dropped, of 5 made"
    with pytest.raises(tilth.InputError, match="at least 1 variant"):
        tilth.load(model(EXP)).compile(variants=0)


def test_values_that_shapes_follow_from_have_variants_until_they_turn_out_to_be_data(caplog):
    compiled = tilth.load(model(RANGE)).compile("reference", variants=2)
    for n in (2, 3, 2):
        assert compiled({"n": np.array(n)})["y"].tolist() == list(range(n))
    assert "values, which are new" in "\n".join(compiled.report.variants)
    for n in (5, 0, 7):
        assert compiled({"n": np.array(n)})["y"].tolist() == list(range(n))
    assert "values of input 'n' changed over 2 times; it runs in stages" in caplog.text
    assert [h.op for h in compiled.report.host_ops] == ["Range"]


def test_a_mask_is_data_from_the_start():
    text = "g (float[n] x, bool[n] m) => (float[k] y) { y = Compress<axis=0>(x, m) }"
    compiled = tilth.load(model(text)).compile("reference")
    mask = np.array([True, False, True])
    assert compiled({"x": rows(1)[0, :3], "m": mask})["y"].shape == (2,)
    assert [h.op for h in compiled.report.host_ops] == ["Compress"]


# On disk


def test_segments_come_from_the_cache():
    fed = {"x": np.array([1, -1, 2], np.float32)}
    for from_cache in (False, True):
        compiled = tilth.load(model(NONZERO)).compile()
        compiled(fed)
        assert compiled.report.from_cache == from_cache
    assert default_cache().info().entries == 2


def test_variants_for_values_come_from_the_cache():
    for from_cache in (False, True):
        compiled = tilth.load(model(RANGE)).compile()
        compiled({"n": np.array(3)})
        assert compiled.report.from_cache == from_cache


# Profiles


def test_a_profile_of_stages_has_kernels_and_host_operators(tmp_path: Path):
    compiled = tilth.load(model(COLLECT)).compile()
    feeds = {"x": np.array([0, 1, -1], np.float32), "n": np.array(3)}
    profile = compiled.profile(feeds, runs=2)
    calls = {k.name: k.calls for k in profile.kernels if k.device == "host"}
    assert calls == {"NonZero": 3, "SequenceInsert": 3, "Loop": 1}
    assert {k.device for k in profile.kernels} == {"cpu", "host"}
    assert 0 <= profile.waiting <= 1
    assert "NonZero x3" in str(profile)
    starts = [r.kernel.start for r in profile.runs[-1]]
    assert starts == sorted(starts)


# Buckets


def test_a_bucket_serves_many_sizes():
    compiled = tilth.load(model(EXP)).compile("reference", buckets={"batch": (2, 4)})
    for n in range(6):
        np.testing.assert_allclose(compiled({"x": rows(n)})["y"], np.exp(rows(n)), rtol=1e-6)
    made = [line.split(":")[0] for line in compiled.report.variants]
    assert made == ["x [2, 4]", "x [4, 4]", "x [5, 4]"]


def test_a_masked_sequence_may_be_padded():
    buckets = {"sequence": (4, 8), "batch": (2,)}
    compiled = tilth.load(model(MASKED)).compile(buckets=buckets)
    exact = tilth.load(model(MASKED))
    for b, s in ((1, 1), (2, 3), (1, 8), (3, 5)):
        feeds = {"x": np.ones((b, s), np.float32) * 2, "mask": np.ones((b, s), np.float32)}
        found = compiled(feeds)
        for name, array in exact(feeds).items():
            np.testing.assert_allclose(found[name], array, rtol=1e-6)
    assert len(compiled.report.variants) == 3


def test_what_to_pad_with_can_be_said():
    text = "g (float[n] x) => (float m) { m = ReduceMax<keepdims=0>(x) }"
    compiled = tilth.load(model(text)).compile(
        "reference", buckets={"n": (4,)}, padding={"x": -np.inf}
    )
    assert compiled({"x": np.array([-3, -5], np.float32)})["m"] == -3


def test_an_output_that_cannot_be_cut_back_is_refused():
    text = "g (float[n] x) => (float[m] y) { y = Concat<axis=0>(x, x) }"
    compiled = tilth.load(model(text)).compile("reference", buckets={"n": (4,)})
    assert compiled({"x": rows(1)[0]})["y"].shape == (8,)  # nothing was added
    with pytest.raises(tilth.UnsupportedError, match="'n' cannot have buckets"):
        compiled({"x": rows(1)[0, :3]})


def test_an_open_dimension_that_follows_the_symbol_is_cut_whatever_its_name():
    text = "g (float[n] x) => (float[unknown] y) { y = Neg(x) }"
    compiled = tilth.load(model(text)).compile("reference", buckets={"n": (4,)})
    assert compiled({"x": rows(1)[0, :3]})["y"].shape == (3,)


def test_a_model_in_stages_has_no_buckets():
    compiled = tilth.load(model(NONZERO)).compile("reference", buckets={"n": (4,)})
    with pytest.raises(tilth.UnsupportedError, match="buckets are for models that are one graph"):
        compiled({"x": rows(1)[0, :3]})


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ({"buckets": {"m": (1,)}}, "no 'm' to pad; the inputs are x"),
        ({"buckets": {"batch": ()}}, "must be sizes of 1 or more"),
        ({"buckets": {"batch": (0,)}}, "must be sizes of 1 or more"),
        ({"buckets": {"batch": (2,)}, "padding": {"z": 1}}, "no 'z' to pad"),
    ],
)
def test_buckets_that_make_no_sense_are_refused(wanted: dict, told: str):
    with pytest.raises(tilth.InputError, match=told):
        tilth.load(model(EXP)).compile(**wanted)


# Bodies on the host


def test_a_sequence_grows_in_a_loop_whose_body_depends_on_data():
    x = np.array([0, 1, -1], np.float32)
    for n in (0, 1, 3):
        found = tilth.load(model(COLLECT))({"x": x, "n": np.array(n)})["y"]
        assert [a.tolist() for a in found] == [[v for v in (x + i).tolist() if v] for i in range(n)]


def test_a_loop_of_no_turns_has_the_types_of_a_body_that_could_not_run():
    text = """g (int64[k] at, float[m] x) => (float[k] y) {
        on = Constant<value=bool {1}>()
        turns = Size(at)
        y = Loop<body = b (int64 i, bool c) => (bool d, float v) {
            d = Identity(c)
            j = Gather(at, i)
            v = Gather(x, j)
        }>(turns, on)
    }"""
    run = tilth.load(model(text))
    x = rows(1)[0]
    for at in ([], [2], [0, 3]):
        found = run({"at": np.array(at, np.int64), "x": x})["y"]
        np.testing.assert_array_equal(found, x[np.array(at, int)])
