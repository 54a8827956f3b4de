"""What every test may rely on: a cache of its own, verified passes, seeded random numbers.

The environment is set before anything imports `tilth`, because the library reads it at import.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile

import numpy as np
import pytest
from hypothesis import settings

settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

_CACHE = tempfile.mkdtemp(prefix="tilth-test-cache-")
os.environ["TILTH_CACHE_DIR"] = _CACHE
os.environ["TILTH_VERIFY"] = "1"  # the verifier runs after every pass


def pytest_unconfigure() -> None:
    shutil.rmtree(_CACHE, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if importlib.util.find_spec("torch"):
        return
    absent = pytest.mark.skip(reason="PyTorch is not installed: pip install -e '.[torch]'")
    for item in items:
        if item.get_closest_marker("torch"):
            item.add_marker(absent)


@pytest.fixture
def rng() -> np.random.Generator:
    """A random generator with a fixed seed, fresh for each test."""
    return np.random.default_rng(0)
