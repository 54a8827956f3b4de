"""An executable: a plan over compiled regions, ready to be called from any thread.

The common case, one compiled region for the whole model, takes a path of its own that does nothing
per call but look at the feeds and name the outputs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tilth.runtime.feeds import C_CONTIGUOUS_AND_ALIGNED, Port, check_feeds
from tilth.runtime.plan import Copy, Plan, RunRegion, Step, plan_from_state
from tilth.runtime.report import Report
from tilth.runtime.target import CompiledRegion, KernelRecord, target

if TYPE_CHECKING:
    from tilth.runtime.profile import Profile
    from tilth.runtime.trace import TracedRecord

VARIANTS_KEPT = 16  # for different shapes of one model, unless the caller says otherwise
_HINT = "; an executable is for exact shapes: compile the model for these, or call the model itself"


class Compiled(Protocol):
    """What compiling a model gives: an `Executable` for exact shapes, or a model for any."""

    @property
    def inputs(self) -> Sequence[Any]:
        """Named, typed ends: `name`, `dtype`, `shape`."""

    @property
    def outputs(self) -> Sequence[Any]: ...

    @property
    def report(self) -> Report:
        """How it was made, and what became of each node."""

    def __call__(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Run on `feeds` (input name to value); output name to value, in the model's order."""

    def profile(self, feeds: Mapping[str, Any], runs: int = 10) -> Profile:
        """Time each kernel over `runs` instrumented calls."""

    def trace(self, feeds: Mapping[str, Any]) -> list[TracedRecord]:
        """The kernel records of one instrumented call, times counted from its start."""


class Executable:
    """A model compiled for exact shapes on given devices. Calls are thread-safe.

    `report` tells how it was made. `inputs` and `outputs` are its named, static ends.
    """

    def __init__(self, plan: Plan, regions: Sequence[CompiledRegion], report: Report):
        self.plan = plan
        self.regions = tuple(regions)
        self.report = report
        self._specs = tuple((p.name, p.dtype.numpy, p.shape) for p in plan.inputs)
        self._output_names = tuple(p.name for p in plan.outputs)
        single = plan.single_region
        self._single = self.regions[single.region] if single else None
        self._selection = _reordering(single.inputs, len(plan.inputs)) if single else None

    @property
    def inputs(self) -> tuple[Port, ...]:
        return self.plan.inputs

    @property
    def outputs(self) -> tuple[Port, ...]:
        return self.plan.outputs

    def __call__(self, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Run on `feeds` (input name to array); output name to array, in the model's order.

        Arrays must have exactly the dtype and shape of `inputs`. Raises InputError otherwise.
        """
        arrays = self.match(feeds)
        return self.run(self._checked(feeds) if arrays is None else arrays)

    def match(self, feeds: Mapping[str, Any]) -> list[np.ndarray] | None:
        """The fed arrays in order if they can be used as they are, else None. Never raises."""
        specs = self._specs
        if type(feeds) is not dict or len(feeds) != len(specs):
            return None
        arrays = []
        for name, dtype, shape in specs:
            array = feeds.get(name)
            if (
                type(array) is not np.ndarray
                or array.shape != shape
                or array.dtype != dtype
                or array.flags.num & C_CONTIGUOUS_AND_ALIGNED != C_CONTIGUOUS_AND_ALIGNED
            ):
                return None
            arrays.append(array)
        return arrays

    def run(self, arrays: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Run on arrays that were checked before, in the order of `inputs`."""
        if self._single is not None:
            if self._selection is not None:
                arrays = [arrays[i] for i in self._selection]
            return dict(zip(self._output_names, self._single(arrays), strict=True))
        values = self._slots(arrays)
        for step in self.plan.steps:
            self._execute(step, values)
        return dict(zip(self._output_names, self._results(values), strict=True))

    def profile(self, feeds: Mapping[str, Any], runs: int = 10) -> Profile:
        """Time each kernel over `runs` instrumented calls, after one call to warm up."""
        from tilth.runtime.profile import measured

        arrays = self._checked(feeds)
        kinds = set(self._kinds())
        kind = kinds.pop() if len(kinds) == 1 else ""
        model = self.report.model
        return measured(model, kind, lambda: self.run(arrays), lambda: self._trace(arrays), runs)

    def trace(self, feeds: Mapping[str, Any]) -> list[TracedRecord]:
        """The kernel records of one instrumented call, times counted from its start."""
        return self._trace(self._checked(feeds))

    def state(self) -> dict[str, Any]:
        """Everything needed to build it again elsewhere: JSON-able values, bytes and arrays."""
        return {
            "plan": self.plan.state(),
            "regions": [
                {"kind": kind, "state": region.state()}
                for kind, region in zip(self._kinds(), self.regions, strict=True)
            ],
            "report": self.report.state(),
        }

    @staticmethod
    def from_state(state: Mapping[str, Any]) -> Executable:
        """The executable back from `state()`, without compiling."""
        regions = [target(r["kind"]).restore(r["state"]) for r in state["regions"]]
        report = Report.from_state(state["report"])
        return Executable(plan_from_state(state["plan"]), regions, report)

    def _checked(self, feeds: Mapping[str, Any]) -> list[np.ndarray]:
        return check_feeds(self.inputs, feeds, _HINT)

    def _slots(self, arrays: Sequence[np.ndarray]) -> list[Any]:
        values: list[Any] = [None] * self.plan.slots
        values[: len(arrays)] = arrays
        return values

    def _execute(self, step: Step, values: list[Any]) -> None:
        match step:
            case RunRegion(_, region, inputs, outputs):
                results = self.regions[region]([values[i] for i in inputs])
            case Copy(_, _, input, output):
                outputs, results = (output,), [values[input].copy()]
        for slot, array in zip(outputs, results, strict=True):
            values[slot] = array

    def _results(self, values: Sequence[Any]) -> list[np.ndarray]:
        """The outputs; never memory that the caller or another output owns."""
        owned = set(range(len(self.inputs)))
        results = []
        for slot in self.plan.output_slots:
            results.append(values[slot].copy() if slot in owned else values[slot])
            owned.add(slot)
        return results

    def _trace(self, arrays: Sequence[np.ndarray]) -> list[TracedRecord]:
        """The kernel records of one call, times counted from its start."""
        from tilth.runtime.trace import shifted

        records: list[TracedRecord] = []
        values = self._slots(arrays)
        elapsed = 0.0
        for step in self.plan.steps:
            found, seconds = self._trace_step(step, values)
            records += [shifted(r, elapsed) for r in found]
            elapsed += seconds
        return records

    def _trace_step(self, step: Step, values: list[Any]) -> tuple[list[TracedRecord], float]:
        """Execute a step; its records, times counted from its start, and its seconds."""
        from tilth.runtime.trace import HOST, TracedRecord

        seconds = _timed(self._execute, step, values)
        match step:
            case RunRegion(device, region, inputs, _):
                found = self.regions[region].profile([values[i] for i in inputs])
                last = max((r.start + r.seconds for r in found), default=0.0)
                return [TracedRecord(str(device), r) for r in found], last
            case Copy(source, destination, input, _):
                size = 2 * values[input].nbytes
                where = f"{source} to {destination}"
                record = KernelRecord("copy", where, "memory copy", 0, 0.0, seconds, 0, size)
                return [TracedRecord(HOST, record)], seconds

    def _kinds(self) -> list[str]:
        """The device kind of each region."""
        runs = [s for s in self.plan.steps if isinstance(s, RunRegion)]
        return [s.device.kind for s in sorted(runs, key=lambda s: s.region)]


def _reordering(selected: Sequence[int], count: int) -> tuple[int, ...] | None:
    """Which of `count` arrays to pass on, or None when it is all of them in order."""
    return None if list(selected) == list(range(count)) else tuple(selected)


def _timed(function: Any, *arguments: Any) -> float:
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start
