"""How far the cost model's choices are from the best of those a tuner could make.

    python benchmarks/tuning.py FOLDER [--models NAME,...] [--candidates N] [--json FILE]

Every distinct contraction of the models is timed with the plan that compiling takes without timing
anything, and with up to N other candidates, in turns on all threads. Prints, for each kernel where
it matters, both plans and the ratio of their times; then the share of kernels within 5 % of the
best, and the geometric mean of the ratios, plain and weighted with the time that kernels take.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from command_line import write_json
from tilth.compiler.pipeline import run_pipeline
from tilth.cpu.choices import candidates, lower
from tilth.cpu.kernel import Kernel, Task
from tilth.cpu.plan import plan
from tilth.cpu.target import CpuTarget
from tilth.cpu.tuner import TIMED, Trial, timed
from tilth.interface import bind_shapes, complete
from tilth.onnx import import_graph, load_model
from tilth.runtime.devices import usable_cores
from tilth.runtime.target import Options
from tilth.tools.machine import describe_machine

CLOSE = 1.05


@dataclass(frozen=True)
class Found:
    """One kernel: seconds with the estimated plan, the tuner's and the best of all candidates."""

    model: str
    kernel: str
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


def measured(path: Path, threads: int, most: int, seen: set[object]) -> list[Found]:
    """All kernels of a model that were not `seen` in another one."""
    tasks = {lower(task).key: task for task in tasks_of(path, threads)}
    new = [task for key, task in tasks.items() if key not in seen]
    seen |= tasks.keys()
    batch = [[Trial(task, choice) for choice in candidates(task)[:most]] for task in new]
    found = []
    for task, trials, seconds in zip(new, batch, time_all(batch), strict=True):
        best = seconds.index(min(seconds))
        plans = trials[0].kernel.algorithm, trials[best].kernel.algorithm
        few = min(seconds[:TIMED])
        found.append(
            Found(path.stem, describe(task), *plans, seconds[0], few, seconds[best], len(trials))
        )
    return found


def show(f: Found) -> None:
    better = f" -> {f.best}" if f.ratio > CLOSE else ""
    times = f"{f.ratio:5.3f} {f.estimated_seconds * 1e6:8.0f} us"
    print(f"{f.model:14s} {times} {f.kernel}: {f.estimated}{better}", flush=True)


def summary(found: list[Found]) -> dict[str, float]:
    """Figures over all kernels."""
    logs = [math.log(f.ratio) for f in found]
    total = sum(f.estimated_seconds for f in found)
    return {
        "kernels": len(found),
        "within 5 %": sum(f.ratio <= CLOSE for f in found) / len(found),
        "geometric mean": math.exp(sum(logs) / len(found)),
        "tuned": math.exp(
            sum(math.log(f.tuned_seconds / f.best_seconds) for f in found) / len(found)
        ),
        "weighted by time": total / sum(f.best_seconds for f in found),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", default="", help="names, by commas; otherwise all")
    parser.add_argument("--candidates", type=int, default=30)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    wanted = args.models.split(",") if args.models else None
    paths = [p for p in sorted(args.folder.glob("*.onnx")) if wanted is None or p.stem in wanted]
    found: list[Found] = []
    seen: set[object] = set()
    for path in paths:
        new = measured(path, args.threads, args.candidates, seen)
        for f in new:
            show(f)
        found += new
    figures = summary(found)
    print(", ".join(f"{k} {v:.3g}" for k, v in figures.items()))
    kernels, machine = [asdict(f) for f in found], describe_machine(args.threads)
    write_json(args.json, {"machine": machine, "summary": figures, "kernels": kernels})


if __name__ == "__main__":
    main()
