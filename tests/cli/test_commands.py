"""The commands print what the library says; what a user can mend is one line and exit code 2."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.helper as oh
import pytest

from tilth.cli import main

FLOAT = onnx.TensorProto.FLOAT


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """scores = Flatten(image) W, for a grey picture of 2 x 3 pixels; W picks pixels 0, 2, 4."""
    weights = np.zeros((6, 3), np.float32)
    weights[[0, 2, 4], [0, 1, 2]] = 1
    nodes = [oh.make_node("Flatten", ["image"], ["f"]), oh.make_node("MatMul", ["f", "w"], ["s"])]
    ends = [
        [oh.make_tensor_value_info("image", FLOAT, ["n", 1, 2, 3])],
        [oh.make_tensor_value_info("s", FLOAT, ["n", 3])],
    ]
    weight = onnx.numpy_helper.from_array(weights, "w")
    graph = oh.make_graph(nodes, "scores", *ends, [weight])
    path = tmp_path / "scores.onnx"
    opset = [oh.make_opsetid("", 20)]
    onnx.save(oh.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path


@pytest.fixture
def tilth(capsys: pytest.CaptureFixture[str]):
    """Run the command in this process; gives (exit code, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main([str(a) for a in arguments])
        shown = capsys.readouterr()
        return int(end.value.code or 0), shown.out, shown.err

    return run


@pytest.fixture(params=["reference", "cpu"])
def device(request: pytest.FixtureRequest) -> str:
    return request.param


def test_run_shows_the_outputs_and_says_that_inputs_are_random(tilth, model: Path, device: str):
    code, out, err = tilth("run", model, "--device", device)
    assert code == 0
    assert "random values (seed 0) for input image" in err
    assert "float32" in out
    assert "[1, 3]" in out


def test_run_takes_arrays(tilth, model: Path, tmp_path: Path):
    np.save(tmp_path / "x.npy", np.arange(6, dtype=np.float32).reshape(1, 1, 2, 3))
    arguments = ("--device", "reference", "--top", 2, "--input", f"image={tmp_path / 'x.npy'}")
    code, out, err = tilth("run", model, *arguments)
    assert (code, "random" in err) == (0, False)
    assert "s: 2 (4), 1 (2)" in out


def test_run_takes_json_in_the_dtype_of_the_input(tilth, model: Path, tmp_path: Path):
    (tmp_path / "x.json").write_text("[[[[0, 1, 2], [3, 4, 5]]]]")
    arguments = ("--device", "reference", "--top", 1, "--input", tmp_path / "x.json")
    assert "s: 2 (4)" in tilth("run", model, *arguments)[1]


def test_run_takes_pictures_scaled_to_0_1(tilth, model: Path, tmp_path: Path):
    image = pytest.importorskip("PIL.Image")
    pixels = np.array([[0, 10, 51], [30, 255, 50]], np.uint8)
    image.fromarray(pixels).save(tmp_path / "x.png")
    arguments = ("--device", "reference", "--top", 3, "--input", tmp_path / "x.png")
    assert "s: 2 (1), 1 (0.2), 0 (0)" in tilth("run", model, *arguments)[1]


def test_a_picture_of_another_size_is_resized_only_if_asked(tilth, model: Path, tmp_path: Path):
    image = pytest.importorskip("PIL.Image")
    image.fromarray(np.full((8, 8), 255, np.uint8)).save(tmp_path / "x.png")
    arguments = ("run", model, "--device", "reference", "--input", tmp_path / "x.png")
    code, _, err = tilth(*arguments)
    assert code == 2
    assert "8x8, the input takes 3x2: resize it, or pass --resize" in err
    assert tilth(*arguments, "--resize")[0] == 0


def test_run_saves_outputs(tilth, model: Path, tmp_path: Path):
    tilth("run", model, "--device", "reference", "--save", tmp_path / "out.npz", "--shape", "n=2")
    assert np.load(tmp_path / "out.npz")["s"].shape == (2, 3)


def test_run_compares_with_onnxruntime(tilth, model: Path, device: str):
    pytest.importorskip("onnxruntime")
    code, out, _ = tilth("run", model, "--device", device, "--against", "onnxruntime")
    assert code == 0
    assert "largest relative error against onnxruntime" in out


def test_inspect_counts(tilth, model: Path):
    code, out, _ = tilth("inspect", model)
    assert code == 0
    for told in ("opset ai.onnx 20", "image: f32[n,1,2,3]", "parameters: 18", "MatMul", "n=1"):
        assert told in out


def test_inspect_as_json(tilth, model: Path):
    found = json.loads(tilth("inspect", model, "--json", "--shape", "n=5")[1])
    assert found["operators"] == {"Flatten": 1, "MatMul": 1}
    assert found["flops"] == 2 * 5 * 6 * 3
    assert found["problem"] == ""


def test_inspect_tells_what_is_unsupported(tilth, tmp_path: Path):
    ends = [[oh.make_tensor_value_info(name, FLOAT, [1])] for name in "xy"]
    node = oh.make_node("Frobnicate", ["x"], ["y"], name="frob")
    opset = [oh.make_opsetid("", 20)]
    proto = oh.make_model(oh.make_graph([node], "g", *ends), opset_imports=opset)
    (tmp_path / "odd.onnx").write_bytes(proto.SerializeToString())
    code, out, _ = tilth("inspect", tmp_path / "odd.onnx")
    assert code == 0
    assert "cannot be compiled" in out
    assert "Frobnicate" in out


def test_profile_shows_kernels_and_writes_a_trace(tilth, model: Path, device: str, tmp_path: Path):
    trace = tmp_path / "t.json"
    code, out, _ = tilth("profile", model, "--device", device, "--trace", trace, "--report")
    assert code == 0
    assert "GFLOP/s" in out
    assert "1 compiled region" in out
    assert json.loads(trace.read_text())["traceEvents"]


def test_profile_writes_a_page_and_figures(tilth, model: Path, device: str, tmp_path: Path):
    arguments = ("--html", tmp_path / "p.html", "--json", tmp_path / "p.json", "--runs", 2)
    assert tilth("profile", model, "--device", device, *arguments)[0] == 0
    assert "<svg" in (tmp_path / "p.html").read_text()
    figures = json.loads((tmp_path / "p.json").read_text())
    assert figures["model"] == "scores"
    assert (figures["peak_bytes_per_second"] is None) == (device == "reference")
    assert len(figures["kernels"]) >= 1


def test_bench_measures_in_a_process_of_its_own(tilth, model: Path):
    arguments = ("--device", "reference", "--turns", 1, "--seconds", 0.01)
    code, out, _ = tilth("bench", model, *arguments)
    assert code == 0
    assert "median ms" in out
    assert "tilth" in out


def test_bench_writes_what_it_measured_against_a_rival(tilth, model: Path, tmp_path: Path):
    pytest.importorskip("onnxruntime")
    arguments = ("--against", "onnxruntime", "--turns", 1, "--seconds", 0.01, "--shape", "n=4")
    assert tilth("bench", model, *arguments, "--json", tmp_path / "b.json")[0] == 0
    found = json.loads((tmp_path / "b.json").read_text())
    assert found["inputs"] == {"image": {"dtype": "float32", "shape": [4, 1, 2, 3]}}
    ours, theirs = found["engines"]
    assert (ours["engine"], theirs["engine"]) == ("tilth", "onnxruntime")
    assert ours["facts"]["regions"] == 1
    assert theirs["error"] < 1e-6


def test_bench_tells_which_engine_failed(tilth, model: Path):
    code, _, err = tilth("bench", model, "--against", "nonesuch")
    assert code == 2
    assert "unknown engine 'nonesuch'; known: tilth, onnxruntime, openvino" in err


@pytest.mark.parametrize("shape", ["n=4", "image=4,1,2,3"])
def test_a_shape_may_be_that_of_a_symbol_or_of_an_input(tilth, model: Path, shape: str):
    assert "[4, 3]" in tilth("run", model, "--device", "reference", "--shape", shape)[1]


def test_the_shape_of_a_file_decides_about_symbols(tilth, model: Path, tmp_path: Path):
    np.save(tmp_path / "x.npy", np.zeros((5, 1, 2, 3), np.float32))
    assert (
        "[5, 3]" in tilth("run", model, "--device", "reference", "--input", tmp_path / "x.npy")[1]
    )


def test_devices_are_listed(tilth):
    out = tilth("devices")[1]
    assert "cpu" in out
    assert "reference" in out


def test_doctor_finds_everything_in_order(tilth):
    code, out, _ = tilth("doctor")
    assert "FAILED" not in out
    assert code == 0


def test_the_cache_is_shown_and_cleared(tilth, model: Path, monkeypatch, tmp_path: Path):
    monkeypatch.setenv("TILTH_CACHE_DIR", str(tmp_path / "cache"))
    tilth("run", model, "--device", "reference")
    assert "1 entry" in tilth("cache")[1]
    assert "deleted 1 entry" in tilth("cache", "clear")[1]
    assert "0 entries" in tilth("cache", "info")[1]


def test_the_version_is_shown(tilth):
    assert tilth("--version") == (0, "tilth 0.1.0\n", "")


@pytest.mark.parametrize("command", ["run", "bench", "inspect", "profile"])
@pytest.mark.parametrize("content", [None, b"", b"\x08" * 40, b"not a model at all"])
def test_a_bad_file_is_one_line_and_exit_code_2(tilth, tmp_path: Path, command, content):
    path = tmp_path / "bad.onnx"
    if content is not None:
        path.write_bytes(content)
    code, _, err = tilth(command, path)
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--device", "tpu"], "no device kind 'tpu'"),
        (["--threads", "-1"], "threads must be"),
        (["--shape", "n"], "--shape takes INPUT=N,N,... or SYMBOL=N, not 'n'"),
        (["--shape", "m=2"], "no symbol 'm'"),
        (["--input", "other=x.npy"], "write NAME=FILE; inputs: image"),
        (["--input", "image=missing.npy"], "cannot read 'missing.npy'"),
        (["--input", "image=x.txt"], "is none of .npy, .json, .png"),
        (["--against", "nonesuch"], "unknown engine"),
    ],
)
def test_a_wish_that_cannot_be_met_is_one_line_and_exit_code_2(tilth, model, arguments, told):
    if "--device" not in arguments:
        arguments = [*arguments, "--device", "reference"]
    code, _, err = tilth("run", model, *arguments)
    assert code == 2
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert told in line


def test_an_array_that_does_not_fit_is_told_with_what_was_expected(tilth, model, tmp_path: Path):
    np.save(tmp_path / "x.npy", np.zeros((1, 1, 2, 3)))
    code, _, err = tilth("run", model, "--device", "reference", "--input", tmp_path / "x.npy")
    assert code == 2
    assert "expected dtype f32, got f64" in err


def test_a_pickle_is_not_loaded(tilth, model, tmp_path: Path):
    np.save(tmp_path / "x.npy", np.array([object()]), allow_pickle=True)
    code, _, err = tilth("run", model, "--input", tmp_path / "x.npy")
    assert code == 2
    assert "cannot read" in err


def test_a_bug_is_told_in_one_line_too(tilth, model, monkeypatch):
    monkeypatch.setattr("tilth.load", lambda path: {}["lost"])
    code, _, err = tilth("run", model)
    assert (code, err) == (
        1,
        "error: internal error: KeyError: 'lost' (TILTH_DEBUG=1 shows where)\n",
    )


def test_the_installed_command_shows_no_traceback(tmp_path: Path):
    command = [sys.executable, "-m", "tilth", "run", "no-such.onnx"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 2
    assert run.stderr == "error: cannot read 'no-such.onnx': No such file or directory\n"


def test_the_traceback_can_be_asked_for(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("TILTH_DEBUG", "1")
    command = [sys.executable, "-m", "tilth", "run", "no-such.onnx"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert "Traceback" in run.stderr
