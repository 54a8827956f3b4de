"""What the passes have to say to the user: entries that end up in an executable's report."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One thing a pass did ("fused", "rewrote") or could not do ("missed"), and to which nodes."""

    pass_name: str
    event: str
    nodes: tuple[str, ...]
    detail: str

    def __str__(self) -> str:
        where = f" [{', '.join(self.nodes)}]" if self.nodes else ""
        return f"{self.pass_name}: {self.event} {self.detail}{where}"
