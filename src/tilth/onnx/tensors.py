"""ONNX element types and tensors: `TensorProto` in, NumPy array out.

Raw data is viewed, not copied; data in external files is memory-mapped, and a file may only be
reached if it lies in the model's own directory. Everything a file says about sizes is checked.
Large tensors in files are not copied even where they are not aligned to their elements.
"""

from __future__ import annotations

import math
import mmap
import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from tilth.ir import types
from tilth.ir.errors import ModelError
from tilth.ir.limits import LARGEST_RANK, memory_limit, require_memory
from tilth.ir.types import DType
from tilth.onnx.wire import LARGE
from tilth.runtime.known import Stamp

# TensorProto.DataType, from onnx.proto.
ELEMENT_TYPES: dict[int, DType] = {
    1: types.f32,
    2: types.u8,
    3: types.i8,
    4: types.u16,
    5: types.i16,
    6: types.i32,
    7: types.i64,
    8: types.string,
    9: types.bool_,
    10: types.f16,
    11: types.f64,
    12: types.u32,
    13: types.u64,
    14: types.c64,
    15: types.c128,
    16: types.bf16,
    17: types.f8e4m3fn,
    18: types.f8e4m3fnuz,
    19: types.f8e5m2,
    20: types.f8e5m2fnuz,
    21: types.u4,
    22: types.i4,
    23: types.f4e2m1fn,
    24: types.f8e8m0fnu,
    25: types.u2,
    26: types.i2,
}

_EXTERNAL = 1  # TensorProto.DataLocation.EXTERNAL
_LONGEST = 1 << 62  # more bytes than any machine can address


def element_type(number: int, where: str) -> DType:
    """The dtype of a TensorProto.DataType number; ModelError naming `where` if unknown."""
    if number not in ELEMENT_TYPES:
        raise ModelError(f"{where}: unknown element type {number}; the known ones are 1 to 26")
    return ELEMENT_TYPES[number]


class ExternalFiles:
    """The files beside a model that hold tensor data, each mapped into memory once."""

    def __init__(self, directories: Sequence[Path] = ()) -> None:
        self.directories = tuple(Path(d).resolve() for d in directories)
        self._maps: dict[Path, mmap.mmap] = {}
        self.stamps: list[Stamp] = []  # of the files that were mapped

    def adopt(self, path: Path, mapped: mmap.mmap, stamp: Stamp) -> None:
        """Read the file at `path` (absolute, without links) from this mapping."""
        self._maps[path] = mapped
        self.stamps.append(stamp)

    def require_unchanged(self) -> None:
        """Raise ModelError when a file that was mapped has been written to since then."""
        for stamp in self.stamps:
            if stamp.is_overwritten:
                raise ModelError(f"'{stamp.path}' changed since it was loaded; load it again")

    def read(self, tensor: Any, nbytes: int, where: str) -> memoryview:
        """The bytes of an external tensor. ModelError when the entry or the file is unusable."""
        entries = {e.key: e.value for e in tensor.external_data}
        mapped = self._map(self._resolve(entries.get("location", ""), where), where)
        try:
            offset = int(entries.get("offset", 0))
            length = int(entries.get("length", nbytes))
        except ValueError as e:
            raise ModelError(f"{where}: external data offset or length is no number") from e
        if length != nbytes:
            raise ModelError(
                f"{where}: its external data has {length} bytes, its type and shape need {nbytes}"
            )
        if not 0 <= offset <= len(mapped) - nbytes:
            raise ModelError(
                f"{where}: needs bytes {offset} to {offset + nbytes} of "
                f"'{entries['location']}', which has {len(mapped)}; is the file complete?"
            )
        return memoryview(mapped)[offset : offset + nbytes]

    def _resolve(self, location: str, where: str) -> Path:
        if not self.directories:
            raise ModelError(
                f"{where}: its data is in the external file '{location}'; load the model from "
                f"its path so that the file can be found"
            )
        parts = PurePosixPath(location.replace("\\", "/"))
        absolute = parts.is_absolute() or PureWindowsPath(location).drive
        if not location or "\0" in location or absolute or ".." in parts.parts:
            raise ModelError(
                f"{where}: external data location {location!r} must be a path inside the "
                f"model's directory"
            )
        try:
            path = (self.directories[0] / parts).resolve()
        except (OSError, RuntimeError) as e:  # a name that is too long, links in a circle
            raise ModelError(f"{where}: external data location {location[:80]!r}: {e}") from e
        # Download caches keep a model as links into one directory of blobs: that one counts too.
        if not any(path.is_relative_to(d) for d in self.directories):
            raise ModelError(f"{where}: external data '{location}' leaves the model's directory")
        if not _is_file(path):
            raise ModelError(
                f"{where}: external data file '{location}' is missing from {self.directories[0]}"
            )
        return path

    def _map(self, path: Path, where: str) -> mmap.mmap:
        if path not in self._maps:
            try:
                with path.open("rb") as file:
                    self.stamps.append(Stamp.of(path, file.fileno()))
                    self._maps[path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as e:  # ValueError: an empty file
                raise ModelError(f"{where}: cannot map external data '{path.name}': {e}") from e
        return self._maps[path]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def tensor_dims(dims: Sequence[int], where: str) -> tuple[int, ...]:
    """Checked dimensions of a stored tensor."""
    shape = tuple(int(d) for d in dims)
    if any(d < 0 for d in shape) or math.prod(max(d, 1) for d in shape) * 16 > _LONGEST:
        raise ModelError(f"{where}: impossible dimensions {list(shape)}")
    if len(shape) > LARGEST_RANK:
        raise ModelError(f"{where}: {len(shape)} dimensions; {LARGEST_RANK} are possible")
    return shape


def tensor_array(tensor: Any, files: ExternalFiles, where: str = "") -> np.ndarray:
    """The read-only contents of a TensorProto; strings give an object array of `str`.

    Raises ModelError when the data does not fit the declared type and shape.
    """
    where = where or f"tensor '{tensor.name}'"
    dtype = element_type(tensor.data_type, where)
    shape = tensor_dims(tensor.dims, where)
    size = math.prod(shape)
    if dtype.kind == "string":
        return _string_array(tensor, shape, where)
    if tensor.data_location == _EXTERNAL:
        flat = _from_bytes(tensor_bytes(tensor, files, where), dtype, size)
    elif tensor.HasField("raw_data"):
        raw = tensor.raw_data
        if len(raw) != _stored_bytes(dtype, size):
            raise ModelError(
                f"{where}: holds {len(raw)} bytes, but {dtype}{list(shape)} takes "
                f"{_stored_bytes(dtype, size)}"
            )
        flat = _from_bytes(raw, dtype, size)
    else:
        flat = _from_fields(tensor, dtype, size, where)
    if flat.nbytes < LARGE:
        flat = np.require(flat, requirements=["ALIGNED", "C"])
    array = flat.reshape(shape)
    array.flags.writeable = False
    return array


def tensor_bytes(tensor: Any, files: ExternalFiles, where: str) -> memoryview:
    """The bytes of an external tensor as they lie in its file. Raises ModelError."""
    dtype = element_type(tensor.data_type, where)
    size = math.prod(tensor_dims(tensor.dims, where))
    return files.read(tensor, _stored_bytes(dtype, size), where)


def sparse_array(sparse: Any, files: ExternalFiles) -> np.ndarray:
    """A SparseTensorProto as a dense array (indices are linear or one column per dimension)."""
    where = f"sparse tensor '{sparse.values.name}'"
    values = tensor_array(sparse.values, files, where)
    indices = tensor_array(sparse.indices, files, where)
    shape = tensor_dims(sparse.dims, where)
    nbytes = math.prod(shape) * values.itemsize
    require_memory(where, nbytes, memory_limit(values.nbytes + indices.nbytes))
    dense = np.zeros(shape, values.dtype)
    try:
        if indices.ndim == 2:
            indices = np.ravel_multi_index(tuple(indices.T), dense.shape)
        dense.reshape(-1)[indices] = values
    except (IndexError, ValueError) as e:
        raise ModelError(f"{where}: bad indices: {e}") from e
    return dense


def _stored_bytes(dtype: DType, size: int) -> int:
    """Bytes that `size` elements take in a file, where sub-byte elements are packed."""
    return (size * dtype.bits + 7) // 8


def _from_bytes(raw: bytes | memoryview, dtype: DType, size: int) -> np.ndarray:
    if dtype.bits < 8:
        return _unpack(np.frombuffer(raw, np.uint8), dtype, size)
    flat = np.frombuffer(raw, dtype.numpy)
    return flat if sys.byteorder == "little" else flat.byteswap()


def _unpack(packed: np.ndarray, dtype: DType, size: int) -> np.ndarray:
    """Sub-byte elements, stored lowest bits first, one per byte in memory."""
    shifts = np.arange(0, 8, dtype.bits, dtype=np.uint8)
    codes = ((packed[:, None] >> shifts) & ((1 << dtype.bits) - 1)).reshape(-1)[:size]
    if dtype.is_float:
        return codes.astype(np.uint8).view(dtype.numpy)
    values = codes.astype(np.int8)
    if dtype.kind == "int":
        values = (values ^ (1 << (dtype.bits - 1))) - (1 << (dtype.bits - 1))  # sign-extend
    return values.astype(dtype.numpy)


def _string_array(tensor: Any, shape: tuple[int, ...], where: str) -> np.ndarray:
    strings = tensor.string_data
    if len(strings) != math.prod(shape):
        raise ModelError(f"{where}: holds {len(strings)} strings for shape {list(shape)}")
    flat = np.empty(len(strings), object)
    flat[:] = [s.decode("utf-8", "surrogateescape") for s in strings]
    return flat.reshape(shape)


def _from_fields(tensor: Any, dtype: DType, size: int, where: str) -> np.ndarray:
    """Data in the typed repeated fields, which hold narrow types widened to 32 bits."""
    if dtype in (types.f32, types.c64):
        field = np.array(tensor.float_data, np.float32)
    elif dtype in (types.f64, types.c128):
        field = np.array(tensor.double_data, np.float64)
    elif dtype is types.i64:
        field = np.array(tensor.int64_data, np.int64)
    elif dtype in (types.u32, types.u64):
        field = np.array(tensor.uint64_data, np.uint64)
    else:
        field = np.array(tensor.int32_data, np.int32)
    if dtype.kind == "complex":
        flat = field[: field.size // 2 * 2].view(dtype.numpy)
    elif dtype.bits < 8:
        flat = _unpack(field.astype(np.uint8), dtype, size)
    elif dtype.is_float and dtype.bits < 32:  # the bits of the number, in an integer
        unsigned = np.uint16 if dtype.bits == 16 else np.uint8
        flat = field.astype(unsigned).view(dtype.numpy)
    else:
        flat = field.astype(dtype.numpy)
    if flat.size != size:
        raise ModelError(f"{where}: holds {flat.size} elements, its shape needs {size}")
    return flat
