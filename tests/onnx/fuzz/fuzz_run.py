"""The long run: `python tests/onnx/fuzz/fuzz_run.py [CASES] [--seed S] [--workers W]`.

Prints a line with what became of all cases. Failures are minimised and kept in `corpus/`, which the
tests replay; the exit code is 1 if there were any.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fuzz_minimise import minimised
from fuzz_mutate import mutated
from fuzz_seeds import Seed, official_seeds, own_seeds
from fuzz_workers import Result, Source, judge_all

CORPUS = Path(__file__).parent / "corpus"
_BAD = ("crash", "hang", "too much memory", "other exception")
RUN_EVERY = 20  # one case in so many is also compiled and run


@dataclass
class Summary:
    """Counts over a run, printed as one line."""

    kinds: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    peak: int = 0
    failures: dict[str, list[int]] = field(default_factory=dict)

    def add(self, result: Result) -> None:
        kind = result.outcome.kind
        if result.failure and kind not in ("crash", "hang"):
            kind = "other exception" if result.outcome.where else "too much memory"
        self.kinds[kind] += 1
        self.seconds = max(self.seconds, result.seconds)
        self.peak = max(self.peak, result.peak)
        if result.failure:
            self.failures.setdefault(result.failure, []).append(result.number)

    def __str__(self) -> str:
        bad = [f"{self.kinds[kind]} {kind}" for kind in _BAD]
        counts = [f"{n} {kind}" for kind, n in self.kinds.most_common() if kind not in _BAD]
        most = f"at most {self.seconds:.1f} s and {self.peak / 2**20:.0f} MiB"
        return f"{self.kinds.total()} files: {', '.join(counts + bad)}; {most}"


def source(seeds: Sequence[Seed], base: int, run_every: int = RUN_EVERY) -> Source:
    """Cases by number: mutations of the seeds."""
    return lambda number: (mutated(seeds, number, base), number % run_every == 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", type=int, nargs="?", default=100_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--keep", action="store_true", help="minimise failures into the corpus")
    options = parser.parse_args()
    cases = source([*own_seeds(), *official_seeds()], options.seed)
    summary, start = Summary(), time.monotonic()
    numbers = range(options.first, options.first + options.cases)
    for done, result in enumerate(judge_all(cases, numbers, options.workers), 1):
        if result.failure and result.failure not in summary.failures:
            print(f"case {result.number}: {result.failure}: {result.outcome.message[:200]}")
        summary.add(result)
        if done % 5000 == 0:
            print(f"after {time.monotonic() - start:.0f} s: {summary}", flush=True)
    for where, found in summary.failures.items():
        print(f"{len(found)} x {where}: cases {found[:5]}")
        if options.keep:
            keep(where, *cases(found[0]))
    print(summary)
    return 1 if summary.failures else 0


def keep(where: str, data: bytes, run: bool) -> None:
    """Store the smallest file that fails in this way."""

    def fails(candidate: bytes) -> bool:
        results = judge_all(lambda _: (candidate, run), [0])
        return any(r.failure == where for r in results)

    small = minimised(data, fails, rounds=20 if where.startswith("hang") else 400)
    name = hashlib.sha256(small).hexdigest()[:12]
    (CORPUS / f"{name}.onnx").write_bytes(small)
    print(f"kept {name}.onnx ({len(small)} bytes): {where}")


if __name__ == "__main__":
    sys.exit(main())
