"""Feeds from files (`.npy`, `.json`, pictures) and from nowhere: seeded random values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tilth.ir.errors import InputError
from tilth.ir.types import Shape

if TYPE_CHECKING:
    from tilth.onnx.load import Port

_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
_PILLOW_MODES = {1: "L", 3: "RGB"}


def random_feeds(inputs: Sequence[Port], shapes: Mapping[str, Shape], seed: int = 0) -> Any:
    """Feeds of the given shapes: floats in [0, 1), integers in [0, 100), always the same ones."""
    rng = np.random.default_rng(seed)
    return {p.name: _random(p, shapes.get(p.name, ()), rng) for p in inputs}


def _random(port: Port, shape: Shape, rng: np.random.Generator) -> np.ndarray:
    dtype = port.dtype
    if dtype is None or port.container or dtype.kind == "string":
        raise InputError(f"no random values for input {port}; feed it from a file")
    if dtype.is_integer:
        top = min(100, 2 ** (dtype.bits - (dtype.kind == "int")))
        return rng.integers(0, top, shape).astype(dtype.numpy)
    if dtype.kind == "bool":
        return rng.random(shape) < 0.5
    return rng.random(shape).astype(dtype.numpy)


def read_input(port: Port, path: Path, resize: bool = False) -> Any:
    """The value of an input from a file; the ending says how it is read.

    A sequence is a list of arrays: those of an `.npz`, or of a list in a `.json`; else a tensor:

    `.npy` as it is; `.json` as nested lists of numbers, in the input's dtype; a picture as its
    shape asks (NCHW or NHWC, grey or RGB; floats are scaled to 0..1, integers stay 0..255).
    `resize` fits a picture to the input's height and width. Raises InputError.
    """
    suffix = path.suffix.lower()
    try:
        if port.container == "sequence":
            return _items(port, path)
        if suffix == ".npy":
            return np.load(path, allow_pickle=False)
        if suffix == ".json":
            return _from_json(port, path)
        if suffix in _PICTURES:
            return _from_picture(port, path, resize)
    except (OSError, ValueError) as e:
        raise InputError(f"input '{port.name}': cannot read '{path}': {e}") from e
    raise InputError(f"input '{port.name}': '{path}' is none of .npy, .json, .png, .jpg")


def _items(port: Port, path: Path) -> list[np.ndarray]:
    if path.suffix.lower() == ".npz":
        with np.load(path, allow_pickle=False) as file:
            return [file[name] for name in file.files]
    if path.suffix.lower() == ".json":
        return [_as_declared(port, path, item) for item in json.loads(path.read_text())]
    raise InputError(f"input '{port.name}': a sequence comes from .npz or .json, not '{path}'")


def _from_json(port: Port, path: Path) -> np.ndarray:
    return _as_declared(port, path, json.loads(path.read_text()))


def _as_declared(port: Port, path: Path, value: Any) -> np.ndarray:
    """Nested lists as an array of the port's dtype."""
    found = np.asarray(value)
    if port.dtype is None:
        raise InputError(f"input {port} cannot be read from JSON")
    array = found.astype(port.dtype.numpy)
    if port.dtype.kind != "string" and not port.dtype.is_float and np.any(array != found):
        raise InputError(f"input '{port.name}': '{path}' holds values that are no {port.dtype}")
    return array


def _from_picture(port: Port, path: Path, resize: bool) -> np.ndarray:
    try:
        from PIL import Image
    except ImportError:
        raise InputError("pictures need Pillow: pip install 'tilth[png]'") from None
    channels, axis, height, width = _picture_layout(port)
    with Image.open(path) as picture:
        picture = picture.convert(_PILLOW_MODES[channels])
        size = (_extent(width, picture.width), _extent(height, picture.height))
        if picture.size != size:
            if not resize:
                told = f"{picture.width}x{picture.height}, the input takes {size[0]}x{size[1]}"
                raise InputError(f"'{path}' has {told}: resize it, or pass --resize")
            picture = picture.resize(size)
        pixels = np.asarray(picture).reshape(size[1], size[0], channels)
    return _as_tensor(port, pixels, axis)


def _picture_layout(port: Port) -> tuple[int, int | None, int | str, int | str]:
    """Channels, the axis they are on (None: there is none), height and width of a picture input."""
    shape = port.shape or ()
    batched = len(shape) == 4 and (shape[0] == 1 or isinstance(shape[0], str))
    dims = shape[1:] if batched else shape
    if len(dims) == 2:
        return 1, None, dims[0], dims[1]
    if len(dims) == 3 and dims[0] in _PILLOW_MODES:
        return int(dims[0]), len(shape) - 3, dims[1], dims[2]
    if len(dims) == 3 and dims[2] in _PILLOW_MODES:
        return int(dims[2]), len(shape) - 1, dims[0], dims[1]
    raise InputError(f"input {port} is no single picture (NCHW or NHWC with 1 or 3 channels)")


def _extent(dim: int | str, found: int) -> int:
    return dim if isinstance(dim, int) else found


def _as_tensor(port: Port, pixels: np.ndarray, axis: int | None) -> np.ndarray:
    """Height x width x channels of bytes in the port's rank, channel position and dtype."""
    rank = len(port.shape or ())
    if axis is None:
        pixels = pixels[..., 0]
    elif axis == rank - 3:
        pixels = np.moveaxis(pixels, -1, 0)
    while pixels.ndim < rank:
        pixels = pixels[None]
    dtype = port.dtype
    if dtype is not None and dtype.is_float:
        return (pixels.astype(np.float32) / 255).astype(dtype.numpy)
    return np.ascontiguousarray(pixels, dtype.numpy if dtype else None)
