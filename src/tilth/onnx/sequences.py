"""Sequences whose length is known while importing: tuples of values that never enter the graph."""

from __future__ import annotations

from dataclasses import dataclass

from tilth.ir.graph import Value


@dataclass(frozen=True, slots=True)
class SequenceValue:
    """An ONNX sequence of tensors, as the values it holds."""

    items: tuple[Value, ...] = ()

    @property
    def type(self) -> str:
        """For messages."""
        return f"seq<{', '.join(str(v.type) for v in self.items)}>"
