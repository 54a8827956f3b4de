"""Engines are measured in processes of their own, in turns, and a failing one spoils no other."""

import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.helper as oh
import pytest

import tilth
from tilth.tools import engines
from tilth.tools.engines import Job, latencies, peak_bytes, run_once
from tilth.tools.machine import describe_machine
from tilth.tools.side_by_side import Worker, side_by_side, take_turns


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """y = exp(x) for three numbers."""
    ends = [[oh.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [3])] for n in "xy"]
    graph = oh.make_graph([oh.make_node("Exp", ["x"], ["y"])], "g", *ends)
    proto = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 20)], ir_version=10)
    onnx.save(proto, tmp_path / "exp.onnx")
    return Job(tmp_path / "exp.onnx", {"x": np.arange(3, dtype=np.float32)}, threads=1)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes workers run a program of the test's instead of the engines."""

    def use(code: str) -> None:
        head = "import os, sys\nfrom multiprocessing.connection import Connection\n"
        (tmp_path / "worker.py").write_text(f"{head}pipe = Connection(int(sys.argv[1]))\n{code}\n")
        monkeypatch.setattr(engines, "__file__", str(tmp_path / "worker.py"))

    return use


def test_a_worker_tells_its_first_result_and_then_takes_turns(job: Job):
    with Worker("tilth", job) as worker:
        np.testing.assert_allclose(worker.outputs[0], np.exp(job.feeds["x"]), rtol=1e-6)
        take_turns([worker], rounds=2, seconds=0.001)
        timing = worker.timing
    assert timing.problem == ""
    assert len(timing.calls) >= 2 * engines.LEAST_CALLS
    assert 0 < timing.minimum <= timing.median <= timing.p99
    assert timing.first_result > timing.median
    assert timing.peak_bytes > 10 << 20
    assert timing.facts == {"regions": 1, "host_ops": 0, "from_cache": timing.facts["from_cache"]}


def test_a_worker_may_keep_bytecode(job: Job, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path / "bytecode"))
    with Worker("tilth", job) as worker:
        assert not worker.timing.problem
    assert list((tmp_path / "bytecode").rglob("tilth/__init__.*.pyc"))


def test_a_worker_has_an_environment_of_its_own(job: Job, tmp_path: Path):
    with Worker("tilth", job, {"TILTH_CACHE_DIR": str(tmp_path / "cache")}) as cold:
        assert cold.timing.facts["from_cache"] == 0
    with Worker("tilth", job, {"TILTH_CACHE_DIR": str(tmp_path / "cache")}) as warm:
        assert warm.timing.facts["from_cache"] == 1


def test_a_worker_is_confined_to_as_many_cores_as_it_has_threads(job: Job, program):
    program(
        f"sys.path.insert(0, {str(Path(engines.__file__).parent)!r})\nimport engines\n"
        "pipe.recv(), engines.use_cores(1)\n"
        "pipe.send(((0.1, [], {'cores': len(os.sched_getaffinity(0))}), ''))"
    )
    with Worker("tilth", job) as worker:
        assert worker.timing.facts == {"cores": 1}


def test_what_an_engine_raises_is_its_problem(tmp_path: Path):
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    timings = side_by_side(["tilth"], Job(tmp_path / "bad.onnx", {}, 1), 1, 0.001)
    assert timings[0].problem.startswith("ModelError: ")
    assert timings[0].as_json() == {"engine": "tilth", "problem": timings[0].problem}


def test_a_process_that_dies_is_told_with_its_last_words(job: Job, program):
    program("pipe.recv(); print('out of luck', file=sys.stderr); os._exit(3)")
    with Worker("tilth", job) as worker:
        worker.turn(0.001)
        assert worker.timing.problem == "the process died (exit code 3: out of luck)"


def test_a_process_that_dies_later_is_told_too(job: Job, program):
    program("pipe.recv(); pipe.send(((0.1, [], {}), '')); pipe.recv(); os._exit(4)")
    with Worker("tilth", job) as worker:
        assert worker.timing.problem == ""
        worker.turn(0.001)
        assert worker.timing.problem == "the process died (exit code 4)"


def test_a_process_that_hangs_is_killed(job: Job, program, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tilth.tools.side_by_side.PATIENCE", 0.2)
    program("import time; time.sleep(60)")
    with Worker("tilth", job) as worker:
        assert worker.timing.problem == "no answer within 0 s"


def test_engines_are_compared_with_the_first(job: Job):
    pytest.importorskip("onnxruntime")
    ours, theirs = side_by_side(["tilth", "onnxruntime"], job, 1, 0.001)
    assert (ours.problem, theirs.problem) == ("", "")
    assert ours.error == 0
    assert theirs.error < 1e-6
    assert set(theirs.as_json()) >= {"median", "minimum", "p99", "first_result", "peak_bytes"}


def test_an_unknown_engine_is_refused_before_anything_starts(job: Job):
    with pytest.raises(tilth.InputError, match="'nonesuch'; known: tilth, onnxruntime, openvino"):
        side_by_side(["tilth", "nonesuch"], job)


def test_torch_is_refused_with_the_reason(job: Job):
    with pytest.raises(tilth.InputError, match="PyTorch cannot read ONNX files"):
        run_once("torch", job)


def test_an_engine_that_is_not_installed_is_told(job: Job, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(tilth.InputError, match="openvino is not installed: pip install openvino"):
        run_once("openvino", job)


def test_latencies_leave_out_the_call_that_wakes_the_threads():
    calls = []
    found = latencies(lambda: calls.append(1), seconds=0)
    assert len(found) == len(calls) - 1 == engines.LEAST_CALLS


def test_the_memory_peak_is_that_of_this_process():
    block = np.ones(64 << 20, np.uint8)
    assert peak_bytes() > block.nbytes


def test_a_measurement_says_what_it_ran_on():
    machine = describe_machine(threads=2)
    assert machine["threads"] == 2
    assert machine["versions"]["tilth"] == tilth.__version__
