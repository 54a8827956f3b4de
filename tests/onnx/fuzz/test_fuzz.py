"""Hostile files end in a result or in a TilthError, soon, and without much memory.

The long run is `make fuzz`; here its corpus is replayed, models written by hand to ask for too much
are refused with the right words, and a few hundred mutations are tried.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx.parser
import pytest
from fuzz_case import Outcome
from fuzz_minimise import minimised
from fuzz_mutate import mutated
from fuzz_run import CORPUS, Summary, source
from fuzz_seeds import HEADER, Seed, official_seeds, own_seeds
from fuzz_workers import Result, judge_all

import tilth
from tilth.ir.errors import TilthError

SECONDS = 10.0
MUTATIONS = 300
KEPT = sorted(CORPUS.glob("*.onnx"))


def judged(files: list[bytes], run: bool = True) -> list[Result]:
    """The files in order, each judged in a process that may die."""
    found = list(judge_all(lambda i: (files[i], run), range(len(files))))
    return sorted(found, key=lambda result: result.number)


def require_harmless(results: list[Result]) -> None:
    assert [(r.number, r.failure, r.outcome.message) for r in results if r.failure] == []
    assert max(r.seconds for r in results) < SECONDS


def test_every_file_that_ever_failed_is_harmless_now():
    results = judged([path.read_bytes() for path in KEPT])
    require_harmless(results)
    assert len(results) == len(KEPT) > 0


def hostile_models() -> list[tuple[str, str, bytes]]:
    """(error class, word of its message, file) of each model in `hostile.txt`."""
    models = []
    for paragraph in Path(__file__).with_name("hostile.txt").read_text().split("\n\n")[1:]:
        told, _, text = paragraph.partition("\n")
        kind, word = told.split()
        proto = onnx.parser.parse_model(HEADER.format(opset=20) + text)
        models.append((kind, word, proto.SerializeToString()))
    return models


def test_what_asks_for_too_much_is_refused_with_a_reason():
    models = hostile_models()
    results = judged([data for _, _, data in models], run=False)
    require_harmless(results)
    for (kind, word, _), result in zip(models, results, strict=True):
        assert result.outcome.kind == kind, result
        assert word in result.outcome.message


@pytest.mark.parametrize("seed", [0, 1])
def test_mutated_models_are_accepted_or_refused(seed: int):
    cases = source([*own_seeds(), *official_seeds(modules=12)], seed, run_every=30)
    results = list(judge_all(cases, range(MUTATIONS // 2)))
    require_harmless(results)
    kinds = {r.outcome.kind for r in results}
    assert {"accepted", "accepted and run", "ModelError"} <= kinds


# The machinery


def test_the_seeds_are_valid():
    for seed in own_seeds():
        tilth.load(seed.model)


def test_a_case_is_its_number():
    seeds = own_seeds()
    assert [mutated(seeds, i) for i in range(20)] == [mutated(seeds, i) for i in range(20)]


def _explode(data: bytes) -> tuple[bytes, bool]:
    raise KeyError(data)


def test_a_foreign_exception_is_a_failure(monkeypatch):
    monkeypatch.setattr(tilth, "load", _explode)
    (result,) = judged([b"anything"])
    assert result.failure == "KeyError at test_fuzz.py:_explode"


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import os; os.abort()", "crash: SIGABRT"),
        ("import os; os._exit(3)", "crash: exit code 3"),
        ("while True: pass", "hang: SIGXCPU"),
        ("import time; time.sleep(60)", "hang: it waits for something"),
        ("held = b'x' * (1 << 30)", "too much memory"),
    ],
)
def test_a_process_that_dies_costs_one_case(monkeypatch, code: str, told: str):
    def load(path: Path) -> None:
        if path.read_bytes() == b"bad":
            exec(code, {})
        raise TilthError("fine")

    monkeypatch.setattr(tilth, "load", load)
    monkeypatch.setattr("fuzz_workers.SECONDS", 3.0)  # a GiB may take one to be filled
    monkeypatch.setattr("fuzz_workers.STILL_SECONDS", 1.5)
    monkeypatch.setattr("fuzz_workers.MEMORY", 1 << 30)
    results = judged([b"good", b"bad", b"good"])
    assert [r.failure for r in results] == ["", told, ""]


def test_a_failing_file_is_made_small():
    proto = own_seeds()[1].proto()
    for i in range(8):
        proto.graph.node.add(op_type="Relu", input=["x"], output=[f"unused{i}"])

    def fails(data: bytes) -> bool:
        nodes = onnx.ModelProto.FromString(data).graph.node
        return any(node.op_type == "MatMul" for node in nodes)

    small = onnx.ModelProto.FromString(minimised(proto.SerializeToString(), fails))
    assert len(small.graph.node) == 1
    assert small.ByteSize() < 20


def test_bytes_that_are_no_protobuf_are_made_small_too():
    assert minimised(b"\xff" * 40 + b"needle" + b"\xff" * 40, lambda d: b"needle" in d) == b"needle"


def test_the_summary_is_one_line():
    summary = Summary()
    for outcome in (Outcome("accepted"), Outcome("ModelError", "no"), Outcome("hang", "", "hang")):
        summary.add(Result(0, outcome, 1.5, 1 << 20))
    assert str(summary) == (
        "3 files: 1 accepted, 1 ModelError, 0 crash, 1 hang, 0 too much memory, 0 other exception; "
        "at most 1.5 s and 1 MiB"
    )


def test_a_seed_has_the_values_of_its_inputs():
    seeds = {s.name: s for s in official_seeds(modules=3)}
    some: Seed = next(s for s in seeds.values() if s.values)
    names = [i.name for i in some.proto().graph.input]
    assert [v.name for v in some.values] == names[: len(some.values)]
