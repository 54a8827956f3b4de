"""The benchmarks' own judgement, on the demo's model: what they would catch, and that they run."""

from __future__ import annotations

import importlib
import io
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from rich.console import Console

import tilth

ROOT = Path(__file__).parent.parent
DIGITS = ROOT / "examples" / "digits"


@pytest.fixture
def latency(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("latency")


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("models")


@pytest.fixture
def call():
    executable = tilth.load(DIGITS / "digits.onnx").compile(threads=1, shapes={"batch": 1})
    feeds = {"image": np.zeros((1, 1, 8, 8), np.float32)}
    return lambda: executable(feeds)


def test_a_call_takes_no_memory_but_for_its_outputs(latency: ModuleType, call):
    assert latency.call_bytes(call) <= latency.ALLOWED_CALL_BYTES


def test_a_call_that_takes_memory_is_caught(latency: ModuleType, call):
    def wasteful():
        waste = np.ones(1 << 16)
        return call() if waste.size else {}

    assert latency.call_bytes(wasteful) > 1 << 18


def test_memory_that_grows_is_caught(latency: ModuleType, call):
    kept = []
    large = 1 << 20  # mapped anew each time, never carved out of memory that was freed before
    assert latency.growth(lambda: kept.append(np.ones(large)), 20) > latency.ALLOWED_GROWTH


def test_idling_that_costs_is_caught(latency: ModuleType, monkeypatch: pytest.MonkeyPatch):
    def spin(seconds: float) -> None:
        end = time.process_time() + seconds / 2
        while time.process_time() < end:
            pass

    monkeypatch.setattr(latency.time, "sleep", spin)
    monkeypatch.setattr(latency, "IDLE_SECONDS", 0.05)
    assert latency.idle_share(dict) > latency.ALLOWED_IDLE_SHARE


def test_each_failed_check_is_told(latency: ModuleType):
    row = latency_row(latency, "m", 1.5)
    assert latency.failures_of(row) == [
        "p99 is 1.50 of the median",
        "a call takes 10000 bytes",
        "memory grew by 976 KiB",
        "idle costs 50.0% of a core",
    ]


def latency_row(latency: ModuleType, model: str, p99: float):
    return latency.Row(
        *(model, 400, 1.0, p99, 2.0, 1.1, 1.2, 0.25),
        call_bytes=10**4,
        growth=10**6,
        idle_share=0.5,
    )


def test_latencies_are_shown_next_to_what_the_machine_itself_does(latency: ModuleType):
    text = io.StringIO()
    latency.print_table([latency_row(latency, "m", 1.5)], Console(width=180, file=text))
    head, row = text.getvalue().splitlines()
    assert "p99/median  machine p99/median  undelayed p99/median  delay" in head
    assert row.split()[:8] == ["m", "400", "1000.000", "1500.000", "1.50", "1.10", "1.20", "25.0%"]


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="Linux tells delays")
def test_waiting_for_a_core_that_others_have_is_told_apart(latency: ModuleType):
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})  # for the other process, too
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        try:
            time.sleep(0.2)
            times, delays = latency.turn(lambda: sum(range(3_000_000)), 8)
        finally:
            os.sched_setaffinity(0, cores)
            other.kill()
    assert np.all(delays <= times)
    assert delays.sum() > 0.2 * times.sum()


def test_calls_of_a_model_are_measured_in_a_process_of_their_own(tmp_path: Path):
    json_file = tmp_path / "latency.json"
    command = [sys.executable, ROOT / "benchmarks" / "latency.py", DIGITS / "digits.onnx"]
    options = ["--threads", "1", "--seconds", "0.1", "--json", json_file]
    subprocess.run([*command, *options], capture_output=True, check=False)  # 1 if machines are busy
    (row,) = json.loads(json_file.read_text())["models"]
    assert row["model"] == "digits"
    assert row["calls"] >= 400
    assert row["machine_spread"] >= 1
    assert row["call_bytes"] < 2048


@pytest.fixture
def results_file(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("results_file")


MACHINE = {"cores": 2, "date": "today"}


def test_results_measured_in_parts_are_added_up(results_file: ModuleType, tmp_path: Path):
    path = tmp_path / "results.json"
    total = lambda rows: {"total": sum(row["ratio"] for row in rows)}  # noqa: E731
    for date, model, ratio in (("1st", "b", 1), ("2nd", "a", 3), ("3rd", "b", 5)):
        machine = {**MACHINE, "date": date}
        file = results_file.ResultsFile(path, machine, add=True, summary=total)
        file.put([{"model": model, "ratio": ratio}], model=model)
    assert json.loads(path.read_text()) == {
        "machine": {"cores": 2, "date": "3rd"},
        "total": 8,
        "models": [
            {"model": "a", "ratio": 3, "date": "2nd"},
            {"model": "b", "ratio": 5, "date": "3rd"},
        ],
    }


def test_results_are_replaced_unless_they_are_to_be_added(results_file: ModuleType, tmp_path: Path):
    for model in "ab":
        file = results_file.ResultsFile(tmp_path / "results.json", MACHINE)
        file.put([{"model": model}], model=model)
    document = json.loads((tmp_path / "results.json").read_text())
    assert [row["model"] for row in document["models"]] == ["b"]


def test_only_what_was_measured_again_is_replaced(results_file: ModuleType, tmp_path: Path):
    file = results_file.ResultsFile(tmp_path / "results.json", MACHINE)
    for batch, ratio in ((32, 1), (8, 2), (32, 3)):
        file.put([{"model": "m", "batch": batch, "ratio": ratio}], model="m", batch=batch)
    assert [(row["batch"], row["ratio"]) for row in file.rows] == [(8, 2), (32, 3)]
    file.put([], model="m")
    assert not file.rows


def test_each_model_is_written_at_once(results_file: ModuleType, tmp_path: Path):
    file = results_file.ResultsFile(tmp_path / "results.json", MACHINE)
    for count, model in enumerate("abc", 1):
        file.put([{"model": model}], model=model)
        assert len(json.loads((tmp_path / "results.json").read_text())["models"]) == count


def test_rows_of_a_file_without_days_have_that_of_the_file(results_file, tmp_path: Path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"machine": MACHINE, "models": [{"model": "a"}]}))
    file = results_file.ResultsFile(path, {**MACHINE, "date": "later"}, add=True)
    assert file.rows == [{"model": "a", "date": "today"}]


def test_results_of_different_machines_are_not_mixed(results_file: ModuleType, tmp_path: Path):
    path = tmp_path / "results.json"
    results_file.ResultsFile(path, MACHINE).put([{"model": "a"}], model="a")
    before = path.read_text()
    with pytest.raises(results_file.MixedResultsError, match="another machine"):
        results_file.ResultsFile(path, {**MACHINE, "cores": 4}, add=True)
    assert path.read_text() == before


def committed(name: str) -> list[Path]:
    """Results of this name, of all machines; there are some."""
    paths = list((ROOT / "benchmarks" / "results").glob(f"*/{name}.json"))
    assert paths
    return paths


def test_all_committed_results_can_be_added_to(results_file: ModuleType):
    for path in committed("*"):
        document = json.loads(path.read_text())
        rows = "kernels" if path.stem == "tuning" else "models"
        if rows in document:
            file = results_file.ResultsFile(path, document["machine"], add=True, rows=rows)
            assert len(file.rows) == len(document[rows]) > 0


@pytest.mark.parametrize("script", ["models", "batches", "tuning"])
def test_the_summary_of_committed_results_is_that_of_their_rows(script: str, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    for path in committed(script):
        document = json.loads(path.read_text())
        rows = document["kernels" if script == "tuning" else "models"]
        summary = importlib.import_module(script).summary(rows)
        for name, figures in json.loads(json.dumps(summary)).items():
            assert document[name] == pytest.approx(figures)


def test_results_lie_with_those_of_machines_like_theirs(results_file: ModuleType):
    for path in committed("*"):
        assert results_file.folder(json.loads(path.read_text())["machine"]) == path.parent


def test_a_model_is_right_only_as_one_region_from_the_cache_and_near_the_standard(models):
    facts = {"regions": 1, "host_ops": 0, "from_cache": 1}
    assert not list(models.failures_of(models.Result("m", error=1e-6, facts=facts)))
    assert list(models.failures_of(models.Result("m", error=1e-3, facts=facts)))
    for other in ({"regions": 2}, {"host_ops": 1}, {"from_cache": 0}):
        assert list(models.failures_of(models.Result("m", error=0.0, facts=facts | other)))


def test_the_ratio_is_to_the_better_rival(models):
    from tilth.tools.side_by_side import Timing

    timings = {
        name: Timing(name, calls=[seconds])
        for name, seconds in (("tilth", 1.0), ("onnxruntime", 2.0), ("openvino", 4.0))
    }
    assert models.Result("m", timings=timings).ratio == 0.5
    assert math.isnan(models.Result("m").ratio)


def test_checking_a_folder_of_models_tells_that_they_are_right(tmp_path: Path):
    pytest.importorskip("onnxruntime")
    (tmp_path / "digits.onnx").symlink_to(DIGITS / "digits.onnx")
    command = [sys.executable, ROOT / "benchmarks" / "models.py", tmp_path, "--check"]
    json_file = tmp_path / "results.json"
    for name in ("digits", "twin"):
        (tmp_path / "digits.onnx").rename(tmp_path / f"{name}.onnx")
        run = subprocess.run(
            [*command, "--json", json_file, "--add"], capture_output=True, text=True
        )
        assert f"{name}: right" in run.stdout, run.stdout + run.stderr
        assert run.returncode == 0
        (tmp_path / f"{name}.onnx").rename(tmp_path / "digits.onnx")
    rows = json.loads(json_file.read_text())["models"]
    assert [row["model"] for row in rows] == ["digits", "twin"]
    assert all(row["regions"] == 1 and row["error"] < 1e-4 for row in rows)


def test_a_broken_model_fails_and_is_told(tmp_path: Path):
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    command = [sys.executable, ROOT / "benchmarks" / "models.py", tmp_path, "--check"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 1
    assert "is not an ONNX model" in run.stdout.replace("\n", "")


def test_the_page_of_contributed_operators_is_current(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    contributed = importlib.import_module("contributed")
    current = contributed.PAGE.read_text() == contributed.page()
    assert current, "run `python benchmarks/contributed.py --write`"


def test_the_memory_of_a_big_model_is_measured_step_by_step(monkeypatch, tmp_path: Path):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    big_model = importlib.import_module("big_model")
    monkeypatch.setattr(big_model, "WIDTH", 512)
    path, size = big_model.make_model(tmp_path, 4 / 1024)
    assert size == 4 << 20
    monkeypatch.setenv("TILTH_CACHE_DIR", str(tmp_path / "cache"))
    peaks = [big_model.measure(step, path) for step in big_model.STEPS]
    assert [p.step for p in peaks] == ["load", "compile", "keep", "reuse"]
    assert all(p.resident >= p.anonymous > size and p.files > 0 for p in peaks)


def test_a_big_model_took_less_than_its_bound():
    for path in committed("big_model"):
        results = json.loads(path.read_text())
        assert results["weights"] >= 3 << 30
        assert all(step["ratio"] < 1.3 for step in results["steps"])
