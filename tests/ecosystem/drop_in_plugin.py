"""A pytest plugin, `-p drop_in_plugin`: tests that import ONNX Runtime get Tilth."""

from __future__ import annotations

import logging

from ecosystem_helpers import onnxruntime_is_tilth

_replaced = onnxruntime_is_tilth()


def pytest_configure() -> None:
    logging.getLogger("tilth").setLevel(logging.ERROR)
    _replaced.__enter__()


def pytest_unconfigure() -> None:
    _replaced.__exit__(None, None, None)
