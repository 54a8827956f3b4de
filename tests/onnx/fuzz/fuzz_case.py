"""What one case does to the library: read it, import it, and for some compile and run it.

Anything but a result or a `TilthError` is a failure; the caller watches over time and memory.
"""

from __future__ import annotations

import os
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import tilth
from tilth.interface import bind_shapes
from tilth.onnx.context import DataDependentError
from tilth.onnx.load import Port
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
    shapes = _shapes(model)
    static = not any(_is_odd(p) for p in (*model.inputs, *model.outputs))
    try:
        if static:
            model.graph(shapes)
    except DataDependentError:
        static = False
    sizes = [np.prod(s, dtype=float) * 8 for s in shapes.values()]
    if not run or sum(sizes) > _FED_BYTES:
        return "accepted"
    feeds = _feeds(model, shapes)
    if static:
        model.compile(threads=1, shapes=shapes, cache=False)(feeds)
    else:
        model.prepare(threads=1)(feeds)
    return "accepted and run"


def _is_odd(port: Port) -> bool:
    """No tensor of numbers."""
    return bool(port.container) or port.dtype is None or port.dtype.kind == "string"


def _shapes(model: tilth.Model) -> dict[str, tuple[int, ...]]:
    """A shape for each tensor that is fed: its own, with open dimensions filled in."""
    shapes = {
        p.name: tuple(d if isinstance(d, int) else _EXTENT for d in p.shape or ())
        for p in model.inputs
        if not p.container
    }
    return bind_shapes([p for p in model.inputs if not p.container], shapes)


def _feeds(model: tilth.Model, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    numbers = [p for p in model.inputs if not _is_odd(p)]
    feeds = random_feeds(numbers, shapes)
    for port in model.inputs:
        if port.container:
            feeds[port.name] = [] if port.container == "sequence" else None
        elif port.dtype is None or port.dtype.kind == "string":
            feeds[port.name] = np.full(shapes[port.name], "text", object)
    return feeds
