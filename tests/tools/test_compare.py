"""Comparing layer by layer: each value of the model, found in one run, against the right one."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import pytest

import tilth
from tilth.cli import main
from tilth.ir.errors import TilthError
from tilth.ir.ops.table import REFERENCE
from tilth.tools.compare import compare_layers
from tilth.tools.compare_html import comparison_page
from tilth.tools.difference import difference, relative_error, roundoff

IMAGE = """<ir_version: 10, opset_import: ["" : 20]>
g (float[1,2,6,6] x) => (float[1,5] y) <float[4,2,3,3] w, float[4] b, float[64,5] v> {
  [conv] a = Conv <pads = [0,0,0,0]> (x, w, b)
  [relu] r = Relu(a)
  [tanh] t = Tanh(r)
  [flat] f = Flatten(t)
  [head] y = MatMul(f, v)
}"""
SHAPES = {"w": (4, 2, 3, 3), "b": (4,), "v": (64, 5)}


@pytest.fixture
def proto(rng: np.random.Generator) -> onnx.ModelProto:
    model = onnx.parser.parse_model(IMAGE)
    del model.graph.initializer[:]
    for name, shape in SHAPES.items():
        array = rng.standard_normal(shape, np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    trace = 'File "net.py", line 7, in forward\n    x = torch.relu(x)\n'
    model.graph.node[1].metadata_props.add(key="pkg.torch.onnx.stack_trace", value=trace)
    return model


@pytest.fixture
def feeds(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"x": rng.standard_normal((1, 2, 6, 6), np.float32)}


@pytest.fixture
def wrong_tanh(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reference that is a thousandth off for tanh, so that something diverges."""
    right = REFERENCE["tanh"]
    monkeypatch.setitem(REFERENCE, "tanh", lambda x: (right(x) * 1.001).astype(x.dtype))


# Measures


def test_errors_are_over_elements_and_relative_to_the_largest():
    far = difference(np.array([1.0, 2.5, 4.0]), np.array([1.0, 2.0, 5.0]))
    assert (far.max_error, far.mean_error, far.relative_error) == (1.0, 0.5, 0.2)
    assert far.cosine == pytest.approx(26 / np.sqrt(23.25 * 30))


def test_nan_and_infinity_must_be_in_the_same_places():
    odd = np.array([np.nan, np.inf, 1.0])
    assert difference(odd, odd).relative_error == 0
    far = difference(np.array([np.nan, -np.inf, 1.0]), odd)
    assert (far.relative_error, far.nans, far.infinities) == (np.inf, (1, 1), (1, 1))
    assert difference(np.zeros(3), odd).nans == (0, 1)


def test_other_shapes_are_infinitely_far():
    assert difference(np.zeros(3), np.zeros(4)).max_error == np.inf


def test_zeros_and_empty_tensors_are_equal_to_themselves():
    for array in (np.zeros(3), np.zeros(0)):
        assert difference(array, array).relative_error == 0
        assert difference(array, array).cosine == 1
    assert difference(np.ones(3), np.zeros(3)).relative_error == np.inf


def test_the_tolerance_knows_the_roundoff_of_narrow_floats():
    assert roundoff(np.dtype(np.float16)) == 2**-10
    assert roundoff(np.dtype(ml_dtypes.bfloat16)) == 2**-7
    assert roundoff(np.dtype(np.int8)) == roundoff(np.dtype(ml_dtypes.int4)) == 0


# Models


@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_every_value_is_compared_in_the_order_of_the_graph(proto, feeds, device):
    found = compare_layers(tilth.load(proto), feeds, device)
    assert [(r.value, r.node, r.operator) for r in found.rows] == [
        ("a", "conv", "Conv"),
        ("r", "relu", "Relu"),
        ("t", "tanh", "Tanh"),
        ("f", "flat", "Flatten"),
        ("y", "head", "MatMul"),
    ]
    assert found.first_divergence is None
    assert found.rows[0].type == "f32[1,4,4,4]"


def test_a_row_carries_the_source_line(proto, feeds):
    rows = compare_layers(tilth.load(proto), feeds).rows
    assert rows[1].source == "net.py:7: x = torch.relu(x)"


def test_the_first_divergence_is_where_the_trouble_starts(proto, feeds, wrong_tanh):
    found = compare_layers(tilth.load(proto), feeds)
    first = found.first_divergence
    assert first is not None
    assert first.node == "tanh"
    assert first.difference.relative_error == pytest.approx(1e-3, rel=0.1)
    assert first.operands_error < 1e-5
    head = found.rows[-1]
    assert head.exceeds and head.operands_error > 1e-4
    assert found.worst_first[0].exceeds and not found.worst_first[-1].exceeds


def test_fused_compares_what_kernels_write(proto, feeds, wrong_tanh):
    found = compare_layers(tilth.load(proto), feeds, fused=True)
    assert [r.value for r in found.rows] == ["t", "y"]
    assert found.rows[0].node == "conv + relu + tanh"
    assert found.first_divergence is found.rows[0]


def test_comparing_with_onnxruntime(proto, feeds, wrong_tanh):
    pytest.importorskip("onnxruntime")
    for fused in (False, True):
        found = compare_layers(tilth.load(proto), feeds, against="onnxruntime", fused=fused)
        assert found.first_divergence is None
        assert found.rows[-1].value == "y"


def test_an_unknown_side_is_refused(proto, feeds):
    with pytest.raises(TilthError, match="cannot compare with 'luck'"):
        compare_layers(tilth.load(proto), feeds, against="luck")


# The page


class _Page(HTMLParser):
    """Collects ids, links, and checks that tags close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.ids += [named["id"]] if "id" in named else []
        self.links += [named["href"]] if "href" in named else []
        if tag not in ("meta", "line"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        pass


def test_the_page_is_one_file_with_a_point_and_a_row_for_each_value(proto, feeds, wrong_tanh):
    proto.graph.node[2].name = "<b>&tanh"
    text = comparison_page(compare_layers(tilth.load(proto), feeds))
    page = _Page(text)
    assert page.open == []
    assert page.ids == [f"row{i}" for i in range(5)]
    assert all(link.startswith("#row") for link in page.links)
    assert "http" not in text and "<b>" not in text
    assert "&lt;b&gt;&amp;tanh" in text
    assert text.count('class="beyond"') == 3


# The command


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    return int(end.value.code or 0)


def test_the_command_shows_a_table_and_writes_files(proto, tmp_path, capsys):
    onnx.save(proto, tmp_path / "m.onnx")
    page, data = tmp_path / "m.html", tmp_path / "m.json"
    assert run("compare", tmp_path / "m.onnx", "--html", page, "--json", data, "--rows", 2) == 0
    shown = capsys.readouterr().out
    for told in ("every value of every node", "... and 3 more", "0 of 5 values beyond"):
        assert told in shown
    assert page.read_text().startswith("<!doctype html>")
    found = json.loads(data.read_text())
    assert found["mode"] == "per node"
    assert [row["value"] for row in found["rows"]] == ["a", "r", "t", "f", "y"]


def test_the_command_ends_with_1_when_something_diverges(proto, tmp_path, capsys, wrong_tanh):
    onnx.save(proto, tmp_path / "m.onnx")
    assert run("compare", tmp_path / "m.onnx", "--fused", "--order", "graph") == 1
    shown = capsys.readouterr().out
    assert "code as users run it" in shown
    assert "the first is 't', of node 'conv + relu + tanh' (contraction)" in shown


@pytest.mark.parametrize(
    ("found", "expected", "error"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 2.2], [1.0, 2.0], 0.1),
        ([1.0], [1.0, 2.0], np.inf),
        ([np.nan], [1.0], np.inf),
        ([], [], 0.0),
        (["a"], ["a"], 0.0),
        (["a"], ["b"], np.inf),
    ],
)
def test_the_relative_error_is_that_of_the_largest_value(found, expected, error: float):
    assert relative_error([np.array(found)], [np.array(expected)]) == pytest.approx(error)


def test_the_worst_output_counts_and_their_number_must_agree():
    one, two = np.ones(1), np.full(1, 2.0)
    assert relative_error([one, two], [one, one]) == pytest.approx(1)
    assert relative_error([one], [one, one]) == np.inf
