"""A model's file without its large tensors, which stay where they are.

The protobuf library copies all that it parses. So the bytes of large initialisers are cut out
before, and the tensors refer to them where they lie, as to external data in the model's own file:
offset and length (ONNX, "External Data"). What is parsed is the rest, some kilobytes.

Source: Protocol Buffers Documentation, "Encoding"; the numbers of fields are those of `onnx.proto`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

LARGE = 1 << 18  # bytes from which on a tensor stays in the file

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types; groups (3, 4) ended with proto2
_GRAPH, _INITIALIZER = 7, 5  # fields of ModelProto and GraphProto
_RAW, _EXTERNAL_DATA, _LOCATION = 9, 13, 14  # fields of TensorProto
_KEY, _VALUE = 1, 2  # fields of StringStringEntryProto


class WireError(ValueError):
    """The bytes are no message in the wire format."""


@dataclass(frozen=True, slots=True)
class _Field:
    """A field of a message: all of it is data[start:stop], its value data[value:stop]."""

    number: int
    kind: int
    start: int
    value: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.value


def without_large_tensors(data: memoryview, name: str) -> bytes:
    """The serialised model with large initialisers as external data in the file called `name`.

    Raises WireError.
    """
    return b"".join(_rewritten(data, 0, len(data), (_GRAPH, _INITIALIZER), name))


def _rewritten(
    data: memoryview, start: int, stop: int, path: tuple[int, ...], name: str
) -> list[bytes | memoryview]:
    """The message data[start:stop] in pieces; `path` are the fields that lead to the tensors."""
    pieces: list[bytes | memoryview] = []
    done = start  # all before it is in the pieces
    for field in _fields(data, start, stop):
        if field.number != path[0] or field.kind != _BYTES or field.size < LARGE:
            continue
        if len(path) > 1:
            inner = _rewritten(data, field.value, field.stop, path[1:], name)
        else:
            inner = _tensor(data, field, name)
        size = sum(map(len, inner))
        pieces += [data[done : field.start], _tag(field.number, _BYTES), _varint(size), *inner]
        done = field.stop
    return [*pieces, data[done:stop]]


def _tensor(data: memoryview, tensor: _Field, name: str) -> list[bytes | memoryview]:
    """A tensor with its raw data cut out, if that is all of its data."""
    fields = list(_fields(data, tensor.value, tensor.stop))
    raw = [field for field in fields if field.number == _RAW]
    external = any(field.number in (_EXTERNAL_DATA, _LOCATION) for field in fields)
    if external or len(raw) != 1 or raw[0].kind != _BYTES or raw[0].size < LARGE:
        return [data[tensor.value : tensor.stop]]
    place = {"location": name, "offset": str(raw[0].value), "length": str(raw[0].size)}
    entries = (_string(_KEY, key) + _string(_VALUE, value) for key, value in place.items())
    rest = [data[field.start : field.stop] for field in fields if field is not raw[0]]
    told = [_tag(_EXTERNAL_DATA, _BYTES) + _varint(len(entry)) + entry for entry in entries]
    return [*rest, *told, _tag(_LOCATION, _VARINT) + _varint(1)]


def _fields(data: memoryview, start: int, stop: int) -> Iterator[_Field]:
    """The fields of the message data[start:stop]."""
    at = start
    while at < stop:
        key, value = _read_varint(data, at, stop)
        match key & 7:
            case 0:
                end = _read_varint(data, value, stop)[1]
            case 1:
                end = value + 8
            case 2:
                size, value = _read_varint(data, value, stop)
                end = value + size
            case 5:
                end = value + 4
            case kind:
                raise WireError(f"wire type {kind} at byte {at}")
        if end > stop:
            raise WireError(f"the field at byte {at} ends beyond its message")
        yield _Field(key >> 3, key & 7, at, value, end)
        at = end


def _read_varint(data: memoryview, at: int, stop: int) -> tuple[int, int]:
    """The number at data[at:], and where it ends."""
    result = shift = 0
    while at < stop and shift < 64:
        byte = data[at]
        result |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return result, at
        shift += 7
    raise WireError(f"no end of the number before byte {at}")


def _varint(number: int) -> bytes:
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def _tag(number: int, kind: int) -> bytes:
    return _varint(number << 3 | kind)


def _string(number: int, text: str) -> bytes:
    data = text.encode()
    return _tag(number, _BYTES) + _varint(len(data)) + data
