"""Tests of other people's programs on Tilth: `make ecosystem` installs what they need.

Every test here is marked `ecosystem`. A module whose packages are absent is skipped, and says so.
"""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.ecosystem)
