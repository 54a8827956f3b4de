"""How tables and text look, in the terminal (rich) and as plain text; knows none of our types."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


def to_text(renderable: Any, width: int = 140) -> str:
    """What rich would print, without colours."""
    file = io.StringIO()
    Console(file=file, width=width, color_system=None).print(renderable)
    return file.getvalue().rstrip()


def bytes_text(count: int) -> str:
    """A size a person can read: 12.3 MiB."""
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"


def number_table(names: Sequence[str], numbers: Sequence[str], title: str | None = None) -> Table:
    """A plain table, one line a row: columns of names, which are cut short, then of numbers."""
    table = Table(box=None, pad_edge=False, title_justify="left", title=title)
    for name in names:
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    for number in numbers:
        table.add_column(number, justify="right", no_wrap=True)
    return table


def titled_lines(title: str, lines: Iterable[str]) -> Text:
    """A title and the lines below it, set in."""
    return Text(f"{title}:\n" + "\n".join(f"  {line}" for line in lines))
