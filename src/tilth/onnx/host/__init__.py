"""Operators that run between compiled segments, one module per family; importing this package
registers them all.

They give results whose shape depends on data, or take values that no compiled code can hold:
strings, sequences, optionals. See `tilth.onnx.staged` for how they and compiled code take turns.
"""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
