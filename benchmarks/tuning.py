"""How far the cost model's choices are from the best of those a tuner could make.

    python benchmarks/tuning.py FOLDER [--models NAME,...] [--candidates N] [--json FILE [--add]]

Every distinct contraction of the models is timed with the plan that compiling takes without timing
anything, and with up to N other candidates, in turns on all threads. Prints, for each kernel where
it matters, both plans and the ratio of their times; then the share of kernels within 5 % of the
best, and the geometric mean of the ratios, plain and weighted with the time that kernels take. The
file is written after each model; with `--add` the kernels of other models stay there, and what was
timed in one of them is not timed again.
"""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from command_line import options, results_file
from tilth.compiler.pipeline import run_pipeline
from tilth.cpu.choices import candidates, lower
from tilth.cpu.kernel import Kernel, Task
from tilth.cpu.plan import plan
from tilth.cpu.target import CpuTarget
from tilth.cpu.tuner import TIMED, Trial, timed
from tilth.interface import bind_shapes, complete
from tilth.onnx import import_graph, load_model
from tilth.runtime.target import Options

CLOSE = 1.05


@dataclass(frozen=True)
class Found:
    """One kernel: seconds with the estimated plan, the tuner's and the best of all candidates."""

    model: str
    kernel: str
    digest: str  # equal for kernels that are computed by the same code
    estimated: str
    best: str
    estimated_seconds: float
    tuned_seconds: float
    best_seconds: float
    tried: int

    @property
    def ratio(self) -> float:
        return self.estimated_seconds / self.best_seconds


def tasks_of(path: Path, threads: int) -> list[Task]:
    """The contractions of a model, each kind once."""
    model = load_model(path)
    shapes = bind_shapes(model.inputs, complete(model.inputs, {}))
    target = CpuTarget()
    graph = run_pipeline(import_graph(model, shapes), target.traits, Options(threads)).graph
    found: dict[object, Task] = {}

    def record(task: Task) -> Kernel:
        kernel = lower(task)
        if kernel.items:
            found.setdefault(kernel.key, task)
        return kernel

    plan(graph, target.isa, threads, lower=record)
    return list(found.values())


def describe(task: Task) -> str:
    """The operation and the shapes of its operands and result."""
    hero = next(n for n in task.body.nodes if n.op in ("dot_general", "convolution"))
    x, w = ("x".join(map(str, task.operands[task.body.inputs.index(v)].shape)) for v in hero.inputs)
    strides = f"/{max(hero.attrs['strides'])}" if hero.op == "convolution" else ""
    return f"{hero.op}{strides} {x} * {w}"


def time_all(batch: list[list[Trial]]) -> list[list[float]]:
    """Seconds of each trial; those of a list take turns."""
    return [timed(trials) for trials in batch]


def digest_of(key: Hashable) -> str:
    """Of a kernel's key, the same in every process."""
    return hashlib.sha256(repr(key).encode()).hexdigest()[:16]


def measured(path: Path, threads: int, most: int, seen: set[str]) -> list[Found]:
    """All kernels of a model that were not `seen` in another one."""
    tasks = {digest_of(lower(task).key): task for task in tasks_of(path, threads)}
    new = {digest: task for digest, task in tasks.items() if digest not in seen}
    batch = [[Trial(task, choice) for choice in candidates(task)[:most]] for task in new.values()]
    found = []
    for (digest, task), trials, seconds in zip(new.items(), batch, time_all(batch), strict=True):
        best = seconds.index(min(seconds))
        plans = trials[0].kernel.algorithm, trials[best].kernel.algorithm
        few = min(seconds[:TIMED])
        times = seconds[0], few, seconds[best]
        found.append(Found(path.stem, describe(task), digest, *plans, *times, len(trials)))
    return found


def show(f: Found) -> None:
    better = f" -> {f.best}" if f.ratio > CLOSE else ""
    times = f"{f.ratio:5.3f} {f.estimated_seconds * 1e6:8.0f} us"
    print(f"{f.model:14s} {times} {f.kernel}: {f.estimated}{better}", flush=True)


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Figures over all kernels."""
    if not rows:
        return {"summary": {"kernels": 0}}
    estimated, tuned, best = (
        [row[f"{plan}_seconds"] for row in rows] for plan in ("estimated", "tuned", "best")
    )
    ratios = [e / b for e, b in zip(estimated, best, strict=True)]
    figures = {
        "kernels": len(rows),
        "within 5 %": sum(ratio <= CLOSE for ratio in ratios) / len(rows),
        "geometric mean": statistics.geometric_mean(ratios),
        "tuned": statistics.geometric_mean(t / b for t, b in zip(tuned, best, strict=True)),
        "weighted by time": sum(estimated) / sum(best),
    }
    return {"summary": figures}


def main() -> None:
    parser = options("How far the cost model's choices are from the best.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", default="", help="names, by commas; otherwise all")
    parser.add_argument("--candidates", type=int, default=30)
    arguments = parser.parse_args()
    wanted = arguments.models.split(",") if arguments.models else None
    paths = [p for p in sorted(arguments.folder.glob("*.onnx")) if not wanted or p.stem in wanted]
    file = results_file(arguments, rows="kernels", summary=summary)
    for path in paths:
        seen = {row.get("digest", "") for row in file.rows if row["model"] != path.stem}
        found = measured(path, arguments.threads, arguments.candidates, seen)
        for f in found:
            show(f)
        file.put([asdict(f) for f in found], model=path.stem)
    print(", ".join(f"{k} {v:.3g}" for k, v in summary(file.rows)["summary"].items()))


if __name__ == "__main__":
    main()
