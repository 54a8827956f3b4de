"""The error family of Tilth: everything a user can cause derives from `TilthError`.

Messages name the thing, say what was expected, and what to do next. They live in `ir` because
every other room may raise them; users import them from `tilth`.
"""


class TilthError(Exception):
    """Base of all errors that Tilth raises on purpose."""


class ModelError(TilthError):
    """The model itself is broken: unreadable file, cycle, dangling name, contradicting types."""


class UnsupportedError(TilthError):
    """The model is valid but uses something that is not implemented; lists every such thing."""


class LimitError(TilthError):
    """The model asks for more memory or work than is allowed; see `tilth.ir.limits`."""


class InputError(TilthError):
    """A feed is missing, unknown, or has the wrong dtype, rank or dimension."""


class VerifyError(TilthError):
    """A graph breaks the rules of the IR: a bug in an importer or a pass."""


class CompileError(TilthError):
    """A target could not turn a region into code."""


class DeviceError(TilthError):
    """No such device, or it cannot do what was asked."""
