"""Check and time whole models: correct, compiled as one region, and how fast next to the best.

usage: models.py DIRECTORY [--check] [--only NAME] [--threads 2] [--json FILE [--add]]

For every .onnx file of the directory: compile with Tilth into an empty cache (cold), again in a
new process (warm), compare the outputs on random inputs with ONNX Runtime's, and take interleaved
turns with ONNX Runtime and OpenVINO (`--check` leaves the turns out). A model fails when it is not
exactly one compiled region, needs a host operation, is not found in the cache, or differs by more
than 1e-4 of the largest output. Prints a table, writes it as JSON, after each model anew; with
`--add` the rows of other models stay there. The exit code is 1 when a model failed.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import tilth
from command_line import chosen_models, model_options, results_file
from tilth.interface import bind_shapes, complete
from tilth.tools.difference import relative_error
from tilth.tools.engines import Job
from tilth.tools.inputs import random_feeds
from tilth.tools.side_by_side import Timing, Worker, take_turns

RIVALS = ("onnxruntime", "openvino")
LIMIT = 1e-4  # max |a - b| / max |b|


@dataclass
class Result:
    """One model's row. Times are seconds; `error` is relative to ONNX Runtime."""

    model: str
    failures: list[str] = field(default_factory=list)
    error: float = math.nan
    cold: float = math.nan
    warm: float = math.nan
    facts: dict[str, int] = field(default_factory=dict)
    timings: dict[str, Timing] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """Tilth's median latency over the best rival's: below 1 is faster."""
        if not self.timings:
            return math.nan
        return self.timings["tilth"].median / min(self.timings[r].median for r in RIVALS)

    def as_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "failures": self.failures,
            "error": self.error,
            "cold": self.cold,
            "warm": self.warm,
            **self.facts,
            "timings": {name: timing.as_json() for name, timing in self.timings.items()},
            "ratio": self.ratio if self.timings else None,
        }


def measure(path: Path, arguments: argparse.Namespace) -> Result:
    """Check one model and, unless only checking, time it."""
    result = Result(path.stem)
    with ExitStack() as stack:
        cache = stack.enter_context(tempfile.TemporaryDirectory(prefix="tilth-bench-"))
        try:
            job = job_for(path, arguments.threads)
        except tilth.TilthError as e:
            result.failures.append(str(e))
            return result
        with Worker("tilth", job, {"TILTH_CACHE_DIR": cache}) as first:
            result.cold = first.timing.first_result
        workers = [
            stack.enter_context(Worker(engine, job, {"TILTH_CACHE_DIR": cache}))
            for engine in ("tilth", *(RIVALS[:1] if arguments.check else RIVALS))
        ]
        check(result, workers)
        if not arguments.check:
            take_turns(workers, arguments.rounds, arguments.turn)
            if not problems(workers):
                result.timings = {w.timing.engine: w.timing for w in workers}
        result.failures = problems([first, *workers]) or result.failures
    return result


def job_for(path: Path, threads: int) -> Job:
    """Random feeds for a model, its open dimensions 1."""
    inputs = tilth.load(path).inputs
    return Job(path, random_feeds(inputs, bind_shapes(inputs, complete(inputs, {}))), threads)


def problems(workers: Sequence[Worker]) -> list[str]:
    return [f"{w.timing.engine}: {w.timing.problem}" for w in workers if w.timing.problem]


def check(result: Result, workers: Sequence[Worker]) -> None:
    """Tilth's answers and how they came about, the second process's."""
    ours, standard = workers[:2]
    result.warm, result.facts = ours.timing.first_result, ours.timing.facts
    result.error = relative_error(ours.outputs, standard.outputs)
    result.failures += failures_of(result)


def failures_of(result: Result) -> Iterator[str]:
    facts = result.facts
    if facts and (facts["regions"], facts["host_ops"]) != (1, 0):
        yield f"{facts['regions']} regions and {facts['host_ops']} host operations, not 1 and 0"
    if facts and not facts["from_cache"]:
        yield "compiled again in the second process"
    if result.error > LIMIT:
        yield f"differs from ONNX Runtime by {result.error:.1e}"


def print_table(results: Sequence[Result], console: Console) -> None:
    """All results, one row a model."""
    headings = [
        *("model", "regions", "error", "cold s", "warm s"),
        *("tilth ms", "onnxruntime ms", "openvino ms", "ratio", "tilth MiB", "rival MiB"),
    ]
    table = Table(*headings, box=None)
    for column in table.columns:
        column.no_wrap = True
    for column in table.columns[1:]:
        column.justify = "right"
    for result in results:
        table.add_row(*_cells(result), style="red" if result.failures else "")
    console.print(table)


def _cells(result: Result) -> Iterator[str]:
    yield result.model
    regions, host_ops = (result.facts.get(name, 0) for name in ("regions", "host_ops"))
    yield f"{regions}+{host_ops}" if host_ops else f"{regions}"
    yield f"{result.error:.0e}"
    yield f"{result.cold:.2f}"
    yield f"{result.warm:.2f}"
    for name in ("tilth", *RIVALS):
        timing = result.timings.get(name)
        yield f"{timing.median * 1e3:.2f}" if timing else ""
    yield f"{result.ratio:.2f}" if result.timings else ""
    memory = {name: t.peak_bytes >> 20 for name, t in result.timings.items()}
    yield str(memory.pop("tilth", ""))
    yield str(min(memory.values(), default=""))


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """The mean of the ratios of all rows that have one."""
    ratios = [row["ratio"] for row in rows if row["ratio"] is not None]
    return {"geometric_mean": statistics.geometric_mean(ratios) if ratios else None}


def parse_arguments() -> argparse.Namespace:
    parser = model_options("Check and time whole models.")
    parser.add_argument("--check", action="store_true", help="compare outputs only, no timing")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--turn", type=float, default=0.7, help="seconds per engine and round")
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    console = Console(width=120)
    paths = chosen_models(arguments)
    if not paths:
        console.print(f"no .onnx file in {arguments.directory} has '{arguments.only}' in its name")
        return 1
    file = results_file(arguments, summary=summary)
    results = []
    for path in paths:
        result = measure(path, arguments)
        results.append(result)
        file.put([result.as_json()], model=path.stem)
        right = "right" if arguments.check else f"right, ratio {result.ratio:.2f}"
        console.print(f"{path.stem}: {'; '.join(result.failures) or right}", markup=False)
    print_table(results, console)
    mean = summary(file.rows)["geometric_mean"]
    if mean:
        console.print(f"geometric mean of tilth / best rival, {len(file.rows)} models: {mean:.3f}")
    return 1 if any(result.failures for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
