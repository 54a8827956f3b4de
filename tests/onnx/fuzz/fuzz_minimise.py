"""Make a failing file small: leave things out for as long as it fails in the same way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError

Fails = Callable[[bytes], bool]


def minimised(data: bytes, fails: Fails, rounds: int = 400) -> bytes:
    """The smallest file found within about `rounds` tries for which `fails` still holds."""
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
        message = proto.SerializeToString()
    except DecodeError:
        return _shorter(data, fails, rounds)
    if message != data and not fails(message):
        return _shorter(data, fails, rounds)
    return _smaller(message, fails, rounds)


def _smaller(data: bytes, fails: Fails, rounds: int) -> bytes:
    """Leave out one field or item at a time, the biggest first."""
    tried: set[bytes] = set()
    while True:
        for candidate in sorted(_without_one(data), key=len):
            if candidate in tried:
                continue
            if len(tried) >= rounds:
                return data
            tried.add(candidate)
            if fails(candidate):
                data = candidate
                break
        else:
            return data


def _without_one(data: bytes) -> Iterator[bytes]:
    count = sum(1 for _ in _parts(onnx.ModelProto.FromString(data)))
    for i in range(count):
        proto = onnx.ModelProto.FromString(data)
        message, field, place = next(p for n, p in enumerate(_parts(proto)) if n == i)
        if place is None:
            message.ClearField(field.name)
        else:
            del getattr(message, field.name)[place]
        yield proto.SerializeToString()


def _parts(message: Any) -> Iterator[tuple[Any, Any, int | None]]:
    """(message, field, position in a repeated field) of everything that is set."""
    for field, value in message.ListFields():
        if field.is_repeated:
            for i in range(len(value)):
                yield message, field, i
        else:
            yield message, field, None
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for child in value if field.is_repeated else (value,):
                yield from _parts(child)


def _shorter(data: bytes, fails: Fails, rounds: int) -> bytes:
    """Leave out pieces of the bytes, the biggest first."""
    size = len(data) // 2
    while size and rounds > 0:
        start = 0
        while start < len(data) and rounds > 0:
            candidate = data[:start] + data[start + size :]
            rounds -= 1
            if fails(candidate):
                data = candidate
            else:
                start += size
        size //= 2
    return data
