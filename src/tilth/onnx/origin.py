"""Where a model comes from: read already, or known from the cache and read when something needs it.

A process that finds all it runs in the cache never reads the model's file.
"""

from __future__ import annotations

import threading
from functools import cached_property
from typing import TYPE_CHECKING

from tilth.ir.errors import ModelError
from tilth.runtime.cache import Cache
from tilth.runtime.known import KnownModel, remember
from tilth.runtime.ports import Port

if TYPE_CHECKING:
    from tilth.onnx.load import OnnxModel


class Origin:
    """A model that may not be read yet; thread-safe."""

    def __init__(self, found: OnnxModel | KnownModel) -> None:
        self._known = found if isinstance(found, KnownModel) else None
        self._model = None if isinstance(found, KnownModel) else found
        self._lock = threading.Lock()

    @property
    def is_read(self) -> bool:
        return self._model is not None

    @property
    def name(self) -> str:
        """The file's name without its ending, else the name of the graph."""
        return self._known.path.stem if self._known else self.model.name

    @cached_property
    def inputs(self) -> tuple[Port, ...]:
        return (self._known or self.model).inputs

    @cached_property
    def outputs(self) -> tuple[Port, ...]:
        return (self._known or self.model).outputs

    @property
    def digest(self) -> str:
        """SHA-256 over the model and its external data."""
        return (self._known or self.model).digest

    @property
    def model(self) -> OnnxModel:
        """The model itself. Raises ModelError when its file cannot be read any more, or changed."""
        with self._lock:
            if self._model is None:
                assert self._known is not None, "one of the two is there"
                self._model = _read_again(self._known)
            return self._model

    def remember(self, cache: Cache) -> None:
        """Let other processes know what the file says, now that the cache holds code for it."""
        model = self._model
        if model is not None and model.path is not None and self._known is None:
            told = (model.digest, model.inputs, model.outputs)
            remember(cache, KnownModel(model.path, model.stamps, *told))


def _read_again(known: KnownModel) -> OnnxModel:
    from tilth.onnx.load import load_model

    model = load_model(known.path)
    if not known.is_current:
        raise ModelError(f"'{known.path}' changed since it was loaded; load it again")
    return model
