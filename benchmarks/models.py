"""Check and time whole models: correct, compiled as one region, and how fast next to the best.

usage: models.py DIRECTORY [--check] [--only NAME] [--threads 2] [--json FILE]

For every .onnx file of the directory: compile with Tilth into an empty cache (cold), again in a
new process (warm), compare the outputs on random inputs with ONNX Runtime's, and take interleaved
turns with ONNX Runtime and OpenVINO (see `workers`; `--check` leaves the turns out). A model
fails when it is not exactly one compiled region, needs a host operation, is not found in the cache,
or differs by more than 1e-4 of the largest output. Prints a table, writes it as JSON; the exit code
is 1 when a model failed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from machine import describe_machine
from workers import EngineError, Timing, Worker, take_turns

RIVALS = ("onnxruntime", "openvino")
LIMIT = 1e-4  # max |a - b| / max |b|


@dataclass
class Result:
    """One model's row. Times are seconds; `error` is relative to ONNX Runtime."""

    model: str
    failures: list[str] = field(default_factory=list)
    regions: int = 0
    host_ops: int = 0
    from_cache: bool = False  # whether the second process found the first one's code
    error: float = math.nan
    cold: float = math.nan
    warm: float = math.nan
    timings: dict[str, Timing] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """Tilth's median latency over the best rival's: below 1 is faster."""
        rivals = [t.median for name, t in self.timings.items() if name != "tilth"]
        if "tilth" not in self.timings or not rivals:
            return math.nan
        return self.timings["tilth"].median / min(rivals)


def largest_error(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> float:
    """max |a - b| / max |b| over all outputs; NaN or infinity where they do not compare."""
    if [o.shape for o in ours] != [t.shape for t in theirs]:
        return math.inf
    errors = []
    for a, b in zip(ours, theirs, strict=True):
        difference = np.abs(a.astype(np.float64) - b.astype(np.float64)).max(initial=0.0)
        largest = np.abs(b.astype(np.float64)).max(initial=0.0)
        errors.append(difference / largest if largest else difference)
    return float(np.max(errors))


def measure(path: Path, arguments: argparse.Namespace) -> Result:
    """Check one model and, unless only checking, time it."""
    result = Result(path.stem)
    try:
        with ExitStack() as stack:
            _measure(path, arguments, result, stack)
    except EngineError as error:
        result.failures.append(str(error))
    return result


def _measure(path: Path, arguments: argparse.Namespace, result: Result, stack: ExitStack) -> None:
    cache = stack.enter_context(tempfile.TemporaryDirectory(prefix="tilth-bench-"))

    def worker(engine: str) -> Worker:
        environment = {"TILTH_CACHE_DIR": cache}
        return stack.enter_context(Worker(engine, path, arguments.threads, environment))

    with Worker("tilth", path, arguments.threads, {"TILTH_CACHE_DIR": cache}) as first:
        result.cold = first.started.seconds
    tilth, reference = worker("tilth"), worker("onnxruntime")
    result.warm = tilth.started.seconds
    result.regions = tilth.started.facts["regions"]
    result.host_ops = tilth.started.facts["host_ops"]
    result.from_cache = bool(tilth.started.facts["from_cache"])
    result.error = largest_error(tilth.started.outputs, reference.started.outputs)
    result.failures += _failures(result)
    if not arguments.check:
        workers = [tilth, reference, worker("openvino")]
        take_turns(workers, arguments.rounds, arguments.turn)
        result.timings = {w.engine: w.timing() for w in workers}


def _failures(result: Result) -> Iterator[str]:
    if (result.regions, result.host_ops) != (1, 0):
        yield f"{result.regions} regions and {result.host_ops} host operations, not 1 and 0"
    if not result.from_cache:
        yield "compiled again in the second process"
    if not result.error <= LIMIT:  # also true for NaN
        yield f"differs from ONNX Runtime by {result.error:.1e}"


def geometric_mean(values: Sequence[float]) -> float:
    """The mean that ratios want; NaN for none."""
    return math.exp(sum(map(math.log, values)) / len(values)) if values else math.nan


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
    yield f"{result.regions}+{result.host_ops}" if result.host_ops else f"{result.regions}"
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


def as_json(results: Sequence[Result], threads: int) -> dict[str, object]:
    """Everything measured, with the machine and the versions it was measured on."""
    ratios = [r.ratio for r in results if not math.isnan(r.ratio)]
    return {
        "machine": describe_machine(threads),
        "geometric_mean": geometric_mean(ratios) if ratios else None,
        "models": [asdict(r) | {"ratio": r.ratio if r.timings else None} for r in results],
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Check and time whole models.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--check", action="store_true", help="compare outputs only, no timing")
    parser.add_argument("--only", default="", help="models whose name contains this")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--turn", type=float, default=0.7, help="seconds per engine and round")
    parser.add_argument("--json", type=Path, help="where to write the results")
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    console = Console(width=120)
    paths = [p for p in sorted(arguments.directory.glob("*.onnx")) if arguments.only in p.stem]
    if not paths:
        console.print(f"no .onnx file in {arguments.directory} has '{arguments.only}' in its name")
        return 1
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])
    results = []
    for path in paths:
        result = measure(path, arguments)
        results.append(result)
        right = "right" if arguments.check else f"right, ratio {result.ratio:.2f}"
        console.print(f"{path.stem}: {'; '.join(result.failures) or right}", markup=False)
    print_table(results, console)
    document = as_json(results, arguments.threads)
    if document["geometric_mean"]:
        console.print(f"geometric mean of tilth / best rival: {document['geometric_mean']:.3f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    return 1 if any(result.failures for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
