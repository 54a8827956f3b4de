"""The names under which ONNX Runtime raises errors, within the family of Tilth's.

`except session.InvalidArgument` and `except tilth.InputError` catch the same mistake.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from tilth.ir.errors import (
    CompileError,
    DeviceError,
    InputError,
    LimitError,
    ModelError,
    TilthError,
    UnsupportedError,
    VerifyError,
)


class Fail(TilthError):
    """Something went wrong that has no name of its own."""


class InvalidArgument(InputError):
    """A feed, an output name or an option is wrong."""


class MissingInput(InvalidArgument, ValueError):
    """A required input is not fed; ONNX Runtime raises a ValueError."""


class NoSuchFile(ModelError):
    """There is no model at this path."""


class InvalidProtobuf(ModelError):
    """The file or the bytes are no ONNX model at all."""


class InvalidGraph(ModelError):
    """The model contradicts itself or the standard."""


class NoModel(ModelError):
    """There is no model to work with."""


class NotImplemented(UnsupportedError):
    """The model, or what is asked of the session, is valid but not implemented."""


class EPFail(DeviceError):
    """A device is not there or cannot do what was asked."""


class EngineError(CompileError):
    """The model could not be compiled."""


class RuntimeException(Fail):
    """A fault inside the library."""


class FailOnShapes(Fail, ModelError):
    """The model cannot work on what is fed, though each input by itself is as declared."""


class FailOnLimits(Fail, LimitError):
    """The model asks for more memory or work than makes sense."""


class FailOnGraph(RuntimeException, VerifyError):
    """The library built a graph that breaks its own rules."""


# The first kind that fits: while loading, and (before these) while running.
_LOADING: tuple[tuple[type[TilthError], type[TilthError]], ...] = (
    (InputError, InvalidArgument),
    (UnsupportedError, NotImplemented),
    (ModelError, InvalidGraph),
    (DeviceError, EPFail),
    (CompileError, EngineError),
    (LimitError, FailOnLimits),
    (VerifyError, FailOnGraph),
    (TilthError, Fail),
)
_RUNNING = ((ModelError, FailOnShapes), *_LOADING)


def renamed(error: TilthError, running: bool = False) -> TilthError:
    """The error under ONNX Runtime's name for it; raise it `from` the one given."""
    if type(error).__module__ == __name__:
        return error
    if isinstance(error.__cause__, DecodeError):
        return InvalidProtobuf(str(error))
    kinds = _RUNNING if running else _LOADING
    return next(name for kind, name in kinds if isinstance(error, kind))(str(error))


@contextmanager
def translated() -> Iterator[None]:
    """Errors of Tilth leave the block under ONNX Runtime's names."""
    try:
        yield
    except TilthError as e:
        raise renamed(e) from e
