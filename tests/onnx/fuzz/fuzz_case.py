"""What one case does to the library: read it, import it, and for some compile and run it.

Anything but a result or a `TilthError` is a failure; the caller watches over time and memory.
"""

from __future__ import annotations

import os
import traceback
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import tilth
from tilth.interface import bind_shapes
from tilth.onnx.context import DataDependentError
from tilth.onnx.specialise import specialise
from tilth.tools.inputs import random_feeds

_EXTENT = 2  # of open dimensions
_FED_BYTES = 1 << 24  # inputs that are bigger are not fed
_WEIGHTS = np.arange(64, dtype=np.float32)


@dataclass(frozen=True)
class Outcome:
    """What became of a case: "accepted", the class of a TilthError, or a failure.

    A failure has `where`: the class and place of an exception that is none of ours.
    """

    kind: str
    message: str = ""
    where: str = ""


def prepare_directory(directory: Path) -> None:
    """The surroundings of a case: a file with weights, a pipe, a link that leads out."""
    _WEIGHTS.tofile(directory / "weights.bin")
    os.mkfifo(directory / "fifo")
    (directory / "link").symlink_to("/etc/hostname")


def judge(data: bytes, directory: Path, run: bool) -> Outcome:
    """Read a file of these bytes in `directory` and import it; `run` also compiles and calls it."""
    path = directory / "model.onnx"
    path.write_bytes(data)
    try:
        return Outcome(_use(path, run))
    except tilth.TilthError as e:
        return Outcome(type(e).__name__, str(e))
    except Exception as e:  # what is looked for
        frames = traceback.extract_tb(e.__traceback__)
        own = [f for f in frames if "/tilth/" in f.filename] or frames
        place = f"{Path(own[-1].filename).name}:{own[-1].name}"
        return Outcome(type(e).__name__, str(e), f"{type(e).__name__} at {place}")


def _use(path: Path, run: bool) -> str:
    model = tilth.load(path)
    shapes = bind_shapes(model.inputs, _extents(model))
    sizes = [np.prod(s, dtype=float) * 8 for s in shapes.values()]
    if sum(sizes) > _FED_BYTES:
        model.graph(shapes)
        return "accepted"
    feeds = random_feeds(model.inputs, shapes)
    try:
        model.graph(shapes)
    except DataDependentError:
        specialise(model.source, feeds)
    else:
        if run:
            model.compile(threads=1, shapes=shapes, cache=False)(feeds)
            return "accepted and run"
    return "accepted"


def _extents(model: tilth.Model) -> dict[str, tuple[int, ...]]:
    """A shape for each input: its own, with open dimensions filled in."""
    return {
        p.name: tuple(d if isinstance(d, int) else _EXTENT for d in p.shape or ())
        for p in model.inputs
    }
