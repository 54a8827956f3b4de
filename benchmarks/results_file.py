"""The file of a benchmark's results: written after each model, so that a run cut off loses none.

Machines of one kind have a folder in `results/`; run as a program, this prints this machine's.
A row is what was measured of one model (and, say, one batch size), with the day. With `--add`, rows
of other models stay in the file, if they are from the same machine and the same versions.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tilth.tools.machine import describe_machine

RESULTS = Path(__file__).parent / "results"
_WIDEST = {"amx_tile": "amx", "avx512f": "avx512", "avx2": "avx2", "asimd": "neon"}

Row = Mapping[str, Any]
Summary = Callable[[Sequence[Row]], Mapping[str, Any]]


def folder(machine: Mapping[str, Any]) -> Path:
    """Where results of machines like this one lie: one for each maker and widest vector unit."""
    maker = str(machine["processor"]).replace("(", " ").split()[0].lower()
    units = (unit for feature, unit in _WIDEST.items() if feature in machine["features"])
    return RESULTS / f"{maker}-{next(units, 'other')}"


class MixedResultsError(ValueError):
    """What is in the file cannot stand next to what would be added."""


class ResultsFile:
    """Rows, sorted. `path` None: nothing is written.

    `rows` is the key that they stand under; `summary` gives what stands beside them. Raises
    MixedResultsError if `add` finds rows of another machine, version or number of threads.
    """

    def __init__(
        self,
        path: Path | None,
        machine: Mapping[str, Any],
        add: bool = False,
        rows: str = "models",
        summary: Summary = lambda rows: {},
    ) -> None:
        self._path, self._machine = path, machine
        self._name, self._summary = rows, summary
        self._rows: list[Row] = []
        if add and path is not None and path.exists():
            self._rows = self._kept(json.loads(path.read_text()))

    @property
    def rows(self) -> Sequence[Row]:
        return self._rows

    def put(self, rows: Sequence[Row], **identity: Any) -> None:
        """Take in what was measured today of, say, `model="m"`, in the place of what was there of
        it, and write."""
        kept = [row for row in self._rows if any(row[k] != v for k, v in identity.items())]
        new = [{**row, "date": self._machine["date"]} for row in rows]
        self._rows = sorted([*kept, *new], key=lambda row: [row[name] for name in identity])
        self._write()

    def document(self) -> dict[str, Any]:
        """All of it: the machine, the summary of all rows, and these."""
        return {"machine": self._machine, **self._summary(self._rows), self._name: self._rows}

    def _kept(self, document: Mapping[str, Any]) -> list[Row]:
        machine = document["machine"]
        if {**machine, "date": ""} != {**self._machine, "date": ""}:
            raise MixedResultsError(
                f"{self._path} is from another machine or other versions: leave --add out"
            )
        return [{"date": machine["date"], **row} for row in document[self._name]]

    def _write(self) -> None:
        if self._path is None:
            return
        draft = self._path.with_suffix(".part")
        draft.write_text(json.dumps(self.document(), indent=1) + "\n")
        os.replace(draft, self._path)


if __name__ == "__main__":
    place = folder(describe_machine(threads=1))
    place.mkdir(parents=True, exist_ok=True)
    print(place)
