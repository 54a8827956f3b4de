"""The options of sessions and runs, and which of them do something here."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field, fields
from enum import IntEnum
from numbers import Integral
from typing import Any

from tilth.onnx import session_errors
from tilth.onnx.session_errors import InvalidArgument


class GraphOptimizationLevel(IntEnum):
    ORT_DISABLE_ALL = 0
    ORT_ENABLE_BASIC = 1
    ORT_ENABLE_EXTENDED = 2
    ORT_ENABLE_LAYOUT = 3
    ORT_ENABLE_ALL = 99


class ExecutionMode(IntEnum):
    ORT_SEQUENTIAL = 0
    ORT_PARALLEL = 1


class ExecutionOrder(IntEnum):
    DEFAULT = 0
    PRIORITY_BASED = 1
    MEMORY_EFFICIENT = 2


# Options that are taken and change nothing, and why. All others of `SessionOptions` do what ONNX
# Runtime's do.
WITHOUT_EFFECT = {
    "inter_op_num_threads": "a model is one function that all threads enter; nodes never compete",
    "execution_mode": "as above",
    "execution_order": "the order is chosen when compiling, by data flow",
    "enable_mem_pattern": "memory is always planned when compiling, for exact shapes",
    "enable_mem_reuse": "as above",
    "enable_cpu_mem_arena": "as above: one block per compiled model",
    "use_deterministic_compute": "the same input always gives the same bits",
    "use_per_session_threads": "threads are shared by all sessions of the same number of threads",
    "logid": "messages name the model",
    "log_verbosity_level": "there is one level of detail below INFO",
}

# Severities of ONNX Runtime as levels of `logging`; -1 leaves the level to the program.
_LEVELS = {
    0: logging.DEBUG,
    1: logging.INFO,
    2: logging.WARNING,
    3: logging.ERROR,
    4: logging.CRITICAL,
}
log = logging.getLogger("tilth")


class _Checked:
    """Fields take values of their type only; integers stand for the enums they number."""

    __slots__ = ()

    def __setattr__(self, name: str, value: Any) -> None:
        kinds = {f.name: type(f.default) for f in fields(self)}  # type: ignore[arg-type]
        kind = kinds.get(name, dict)
        if issubclass(kind, int) and isinstance(value, Integral):
            value = kind(int(value))
        elif issubclass(kind, (int, str)) and not isinstance(value, kind):
            raise TypeError(f"{name} must be {kind.__name__}, not {type(value).__name__}")
        object.__setattr__(self, name, value)


@dataclass(slots=True)
class SessionOptions(_Checked):
    """ONNX Runtime's `SessionOptions`. `WITHOUT_EFFECT` lists what is taken and ignored.

    `intra_op_num_threads` 0 means all cores this process may use. At `ORT_DISABLE_ALL` kernels
    that round differently from the plain definition are not used; other levels are all the same.
    With `enable_profiling` every run is followed by an instrumented one. The model that is written
    to `optimized_model_filepath` has exact shapes; open symbols must be fixed.
    """

    intra_op_num_threads: int = 0
    inter_op_num_threads: int = 0
    graph_optimization_level: GraphOptimizationLevel = GraphOptimizationLevel.ORT_ENABLE_ALL
    optimized_model_filepath: str = ""
    enable_profiling: bool = False
    profile_file_prefix: str = "tilth_profile_"
    log_severity_level: int = -1
    log_verbosity_level: int = 0
    logid: str = ""
    execution_mode: ExecutionMode = ExecutionMode.ORT_SEQUENTIAL
    execution_order: ExecutionOrder = ExecutionOrder.DEFAULT
    enable_cpu_mem_arena: bool = True
    enable_mem_pattern: bool = True
    enable_mem_reuse: bool = True
    use_deterministic_compute: bool = False
    use_per_session_threads: bool = True
    free_dimensions: dict[str, int] = field(default_factory=dict, init=False, repr=False)
    initializers: dict[str, Any] = field(default_factory=dict, init=False, repr=False)
    _entries: dict[str, str] = field(default_factory=dict, init=False, repr=False)

    def add_free_dimension_override_by_name(self, name: str, size: int) -> None:
        """Fix a symbol of the model's input shapes; one the model does not have is ignored."""
        self.free_dimensions[str(name)] = int(size)

    def add_free_dimension_override_by_denotation(self, denotation: str, size: int) -> None:
        raise session_errors.NotImplemented("dimensions are known by name, not by denotation")

    def add_session_config_entry(self, key: str, value: str) -> None:
        """Keep a configuration entry; none has an effect here."""
        self._entries[key] = value

    def get_session_config_entry(self, key: str) -> str:
        return _entry(self._entries, key)

    def add_initializer(self, name: str, value: Any) -> None:
        """Use an OrtValue instead of the model's initialiser of this name."""
        self.initializers[name] = value.numpy()

    def add_external_initializers(self, names: Sequence[str], values: Sequence[Any]) -> None:
        for name, value in zip(names, values, strict=True):
            self.add_initializer(name, value)

    def register_custom_ops_library(self, path: str) -> None:
        raise session_errors.NotImplemented(
            f"'{path}' is code for ONNX Runtime; register the operators with "
            f"tilth.onnx.register_op, or by an entry point in the group tilth.onnx_ops"
        )


@dataclass(slots=True)
class RunOptions(_Checked):
    """ONNX Runtime's `RunOptions`: `terminate` refuses the run, the level of messages is set."""

    terminate: bool = False
    log_severity_level: int = -1
    log_verbosity_level: int = 0
    logid: str = ""
    only_execute_path_to_fetches: bool = False
    _entries: dict[str, str] = field(default_factory=dict, init=False, repr=False)

    def add_run_config_entry(self, key: str, value: str) -> None:
        """Keep a configuration entry; none has an effect here."""
        self._entries[key] = value

    def get_run_config_entry(self, key: str) -> str:
        return _entry(self._entries, key)


def _entry(entries: dict[str, str], key: str) -> str:
    if key not in entries:
        raise RuntimeError(f"there is no configuration entry '{key}'")
    return entries[key]


# Messages


def set_default_logger_severity(severity: int) -> None:
    """The least severe messages shown: 0 verbose, 1 info, 2 warning, 3 error, 4 fatal."""
    log.setLevel(_level(severity))


def set_default_logger_verbosity(verbosity: int) -> None:
    """Without effect: there is one level of detail below INFO."""


_least: ContextVar[int] = ContextVar("least", default=logging.NOTSET)
log.addFilter(lambda record: record.levelno >= _least.get())


def severity(*levels: int) -> AbstractContextManager[None]:
    """Inside the block, messages below the last of these severities that is not -1 are dropped."""
    chosen = [level for level in levels if level != -1]
    return _dropping_below(_level(chosen[-1])) if chosen else nullcontext()


@contextmanager
def _dropping_below(level: int) -> Iterator[None]:
    token = _least.set(level)
    try:
        yield
    finally:
        _least.reset(token)


def _level(severity: int) -> int:
    if severity not in _LEVELS:
        raise InvalidArgument(f"severity {severity} is not one of 0 (verbose) to 4 (fatal)")
    return _LEVELS[severity]
