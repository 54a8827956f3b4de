"""The commands on a model that is no static graph: they say what runs on the host, and why."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from tilth.cli import main

# The rows of x whose sum is over one half, doubled; and a list of the rows of s, which are strings.
ROWS = """<ir_version: 10, opset_import: ["" : 20]>
g (float[n,4] x) => (float[k,4] y) {
    axes = Constant<value_ints=[1]>()
    first = Constant<value_ints=[0]>()
    half = Constant<value=float {0.5}>()
    sum = ReduceSum<keepdims=0>(x, axes)
    over = Greater(sum, half)
    found = NonZero(over)
    rows = Squeeze(found, first)
    kept = Gather(x, rows)
    y = Add(kept, kept)
}"""
WHY = "how many elements it gives depends on data"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    onnx.save(onnx.parser.parse_model(ROWS), tmp_path / "rows.onnx")
    return tmp_path / "rows.onnx"


@pytest.fixture
def sequence_model(tmp_path: Path) -> Path:
    """The items of a sequence, joined; and the sequence without its last item."""
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 20]>
        g (seq(float[n]) items) => (float[m] all, seq(float[n]) rest) {
            all = ConcatFromSequence<axis=0>(items)
            rest = SequenceErase(items)
        }"""
    )
    onnx.save(proto, tmp_path / "items.onnx")
    return tmp_path / "items.onnx"


@pytest.fixture
def tilth(capsys: pytest.CaptureFixture[str]):
    """Run the command in this process; gives (stdout, stderr)."""

    def run(*arguments: object, code: int = 0) -> tuple[str, str]:
        with pytest.raises(SystemExit) as end:
            main([str(a) for a in arguments])
        shown = capsys.readouterr()
        assert int(end.value.code or 0) == code, shown.err
        return shown.out, shown.err

    return run


def test_run(tilth, model: Path):
    out, err = tilth("run", model, "--shape", "n=3", "--device", "reference")
    assert "[3, 4]" in out
    assert "rows ran in stages: 2 compiled regions, and on the host:" in err
    assert f"NonZero NonZero_found: {WHY}" in err


def test_run_takes_and_saves_sequences(tilth, sequence_model: Path, tmp_path: Path):
    np.savez(tmp_path / "x.npz", np.ones(2, np.float32), np.zeros(3, np.float32))
    arguments = ("--device", "reference", "--save", tmp_path / "y.npz")
    out, _ = tilth("run", sequence_model, "--input", tmp_path / "x.npz", *arguments)
    assert "rest.0" in out
    saved = np.load(tmp_path / "y.npz")
    assert [saved[n].tolist() for n in ("all", "rest.0")] == [[1, 1, 0, 0, 0], [1, 1]]


def test_a_sequence_in_json_has_the_dtype_of_the_input(tilth, sequence_model, tmp_path: Path):
    (tmp_path / "x.json").write_text("[[1, 2], [3]]")
    arguments = ("--device", "reference", "--input", tmp_path / "x.json")
    assert "[3]" in tilth("run", sequence_model, *arguments)[0]


def test_no_random_sequences_are_made_up(tilth, sequence_model: Path):
    _, err = tilth("run", sequence_model, code=2)
    assert "no random values for input items" in err


def test_inspect(tilth, model: Path):
    out, _ = tilth("inspect", model)
    assert "all operators are supported" in out
    assert "it is no static graph and runs in stages" in out
    assert f"NonZero NonZero_found: {WHY}" in out
    told = json.loads(tilth("inspect", model, "--json")[0])
    assert (told["problem"], told["host_ops"]) == (
        "",
        [{"node": "NonZero_found", "op": "NonZero", "why": WHY}],
    )


def test_profile(tilth, model: Path, tmp_path: Path):
    arguments = ("--shape", "n=3", "--device", "reference", "--runs", 2, "--report")
    out, _ = tilth("profile", model, *arguments, "--trace", tmp_path / "t.json")
    assert "host operator" in out
    assert "2 compiled regions" in out
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    assert {e["args"]["name"] for e in events if e["name"] == "process_name"} == {
        "reference",
        "host",
    }
    assert "NonZero" in {e["name"] for e in events}


@pytest.mark.parametrize("fused", [False, True])
def test_compare(tilth, model: Path, fused: bool):
    out, _ = tilth("compare", model, "--shape", "n=3", *(["--fused"] if fused else []))
    assert ("values between stages" in out) == fused
    assert "Add" in out
    assert ("Gather" in out) != fused
    assert "0 of" in out


def test_bench(tilth, model: Path, tmp_path: Path):
    arguments = ("--device", "reference", "--turns", 1, "--seconds", 0.01, "--shape", "n=3")
    _, err = tilth("bench", model, *arguments, "--json", tmp_path / "b.json")
    assert "1 nodes run on the host" in err
    found = json.loads((tmp_path / "b.json").read_text())
    assert found["engines"][0]["facts"]["host_ops"] == 1


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A model that may be padded along n."""
    text = '<ir_version: 10, opset_import: ["" : 20]> g (float[n,4] x) => (float[n,4] y) '
    onnx.save(onnx.parser.parse_model(text + "{ y = Exp(x) }"), tmp_path / "exp.onnx")
    return tmp_path / "exp.onnx"


BUCKET = ("--shape", "n=3", "--device", "reference", "--bucket", "n=4,8")


def test_run_in_a_bucket(tilth, rows: Path):
    out, _ = tilth("run", rows, *BUCKET)
    assert "[3, 4]" in out
    _, err = tilth("run", rows, "--bucket", "n=x", code=2)
    assert "--bucket takes SYMBOL=N,N,..., not 'n=x'" in err
    _, err = tilth("run", rows, "--bucket", "m=4", code=2)
    assert "no 'm' to pad" in err


def test_bench_in_a_bucket(tilth, rows: Path):
    out, _ = tilth("bench", rows, *BUCKET, "--turns", 1, "--seconds", 0.01)
    assert "tilth" in out
    _, err = tilth("bench", rows, "--bucket", "m=4", code=2)
    assert "no 'm' to pad" in err
