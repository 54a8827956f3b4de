"""A model ready for whatever is fed: the executables it needs are made when they are needed.

There is one of three ways for a call. Where shapes decide everything, or with them the values of
small inputs that shapes follow from, it runs one executable; these are kept for the next call with
the same shapes. What no such graph can express runs in stages. Buckets, where the caller wants
them, bring inputs to a few shapes first.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tilth.ir.errors import InputError, UnsupportedError
from tilth.ir.types import Shape
from tilth.onnx.compile import Compiler
from tilth.onnx.values import check_values
from tilth.onnx.variants import Variant, Variants
from tilth.runtime.executable import VARIANTS_KEPT, Executable
from tilth.runtime.ports import Port
from tilth.runtime.report import Report

if TYPE_CHECKING:
    from tilth.onnx.buckets import Buckets, Cuts, Extents
    from tilth.onnx.staged import StagedModel
    from tilth.runtime.profile import Profile
    from tilth.runtime.trace import TracedRecord


class DynamicModel:
    """A model on one device, for any shapes; thread-safe. It has the interface of an `Executable`.

    `inputs` are the model's, perhaps with some symbols fixed; `most` bounds the executables that
    are kept, for a model in stages those of each stage. Raises InputError for a bound below 1.
    """

    def __init__(
        self,
        compiler: Compiler,
        inputs: Sequence[Port] | None = None,
        most: int = VARIANTS_KEPT,
        buckets: Buckets | None = None,
    ) -> None:
        if most < 1:
            raise InputError(f"at least 1 variant must be kept, not {most}")
        self._compiler, self._origin = compiler, compiler.origin
        self.inputs = tuple(inputs or self._origin.inputs)
        self._most, self._buckets = most, buckets
        self._cuts: Cuts | None = None
        self._variants = Variants(self._origin.name, self.inputs, most)
        self._latest: Executable | None = None
        self._staged: StagedModel | None = None
        self._lock = threading.RLock()
        if any(p.container for p in (*self.inputs, *self.outputs)):
            self._staged = self._in_stages()

    @property
    def outputs(self) -> tuple[Port, ...]:
        return self._origin.outputs

    @property
    def report(self) -> Report:
        """What the latest call ran, and what was made for others."""
        with self._lock:
            latest = self._variants.latest
            if self._staged is not None:
                return self._staged.report
            if latest is not None:
                return replace(latest.executable.report, variants=self._variants.told)
        options = self._compiler.options
        device = str(self._compiler.device)
        return Report(self._origin.name, device, options.threads, options.precision)

    def __call__(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Run on `feeds` (input name to value); output name to value, in the model's order.

        Values are arrays (of `str` objects for strings), lists for sequences, dictionaries for
        maps, None for an empty optional. Compiles when shapes are new. Raises InputError for wrong
        feeds.
        """
        latest = self._latest
        if latest is not None:
            arrays = latest.match(feeds)
            if arrays is not None:
                return latest.run(arrays)
        values, true = self._padded(check_values(self.inputs, feeds))
        results = self._serving(values)(values)
        return self._cut(results, values, true) if true else results

    def match(self, feeds: Any) -> tuple[Executable, list[np.ndarray]] | None:
        """The latest executable and its inputs, if these feeds fit it as they are."""
        latest = self._latest
        arrays = latest.match(feeds) if latest is not None else None
        return (latest, arrays) if latest is not None and arrays is not None else None

    def profile(self, feeds: Mapping[str, Any], runs: int = 10) -> Profile:
        """Time each kernel, and each host operator, over `runs` instrumented calls."""
        values, _ = self._padded(check_values(self.inputs, feeds))
        return self._serving(values).profile(values, runs)

    def trace(self, feeds: Mapping[str, Any]) -> list[TracedRecord]:
        """The records of one instrumented call, times counted from its start."""
        values, _ = self._padded(check_values(self.inputs, feeds))
        return self._serving(values).trace(values)

    def check(self) -> None:
        """Raises UnsupportedError, listing every operator that has no meaning here."""
        from tilth.onnx.resolve import Resolver  # it imports all operators

        Resolver(self._origin.model).require_supported()

    def start(self, shapes: Mapping[str, Shape]) -> Executable | None:
        """Compile now what these shapes of all inputs decide.

        Gives the executable when there is one for all values. Raises what compiling raises.
        """
        with self._lock:
            if self._staged is None:
                try:
                    return self._keep(shapes, {}, self._compiler.exact(shapes)).executable
                except UnsupportedError as e:
                    if _follows_values(e):
                        return None
                    self._staged = self._in_stages()
            self._staged.prepare(shapes)
            return None

    def _serving(self, values: Mapping[str, Any]) -> Executable | StagedModel:
        """What runs on these values, kept or new."""
        with self._lock:
            if self._staged is not None:
                return self._staged
            try:
                variant = self._variants.find(values) or self._new_variant(values)
            except UnsupportedError:
                variant = None
            if variant is None:
                self._staged = self._in_stages()
                return self._staged
            self._latest = None if variant.fixed else variant.executable
            return variant.executable

    def _new_variant(self, values: Mapping[str, np.ndarray]) -> Variant | None:
        """None where values have changed so often that no code should be made for them any more."""
        shapes = {name: array.shape for name, array in values.items()}
        if self._variants.follow_data():
            return None
        why = self._variants.reason(shapes)
        if not any(variant.fixed for variant in self._variants):
            try:
                return self._keep(shapes, {}, self._compiler.exact(shapes), why)
            except UnsupportedError as e:
                if not _follows_values(e):
                    raise
        executable, fixed = self._compiler.special(values)
        return self._keep(shapes, fixed, executable, why)

    def _keep(
        self,
        shapes: Mapping[str, Shape],
        fixed: Mapping[str, np.ndarray],
        executable: Executable,
        why: str = "these shapes were asked for",
    ) -> Variant:
        return self._variants.add(Variant(dict(shapes), fixed, executable, why))

    def _in_stages(self) -> StagedModel:
        from tilth.onnx.staged import StagedModel  # it imports the whole compiler

        if self._buckets is not None:
            raise UnsupportedError(
                f"buckets are for models that are one graph; {self._origin.name} runs in stages, "
                f"because of values or shapes that depend on data: leave the buckets out"
            )
        return StagedModel(self._compiler, self._most)

    def _padded(self, values: dict[str, Any]) -> tuple[dict[str, Any], Extents]:
        """The values in their buckets, and true extents."""
        return (values, {}) if self._buckets is None else self._buckets.pad(values)

    def _cut(
        self, results: Mapping[str, np.ndarray], values: Mapping[str, np.ndarray], true: Extents
    ) -> dict[str, np.ndarray]:
        assert self._buckets is not None, "only buckets give true extents"
        with self._lock:
            if self._cuts is None:
                shapes = {name: array.shape for name, array in values.items()}
                self._cuts = self._buckets.cuts(self._origin.model, shapes)
        return self._buckets.cut(results, self._cuts, true)


def _follows_values(error: UnsupportedError) -> bool:
    """Whether shapes follow from values of inputs, so that a graph can be made for such values."""
    from tilth.onnx.context import DataDependentError

    return isinstance(error, DataDependentError) and error.fixable
