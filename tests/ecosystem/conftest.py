"""Tests of other people's programs on Tilth: `make ecosystem` installs what they need.

Every test here is marked `ecosystem`. A module whose packages are absent is skipped, and says so.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from ecosystem_report import page

HERE = Path(__file__).parent
_passed: dict[str, bool] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--page", type=Path, help="where to write what was found, as Markdown")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.ecosystem)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if not report.skipped and "tests/ecosystem" in report.nodeid:
        _passed[report.nodeid] = _passed.get(report.nodeid, True) and report.passed


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.getoption("--page", None)
    if path is not None and _passed:
        path.write_text(page(_passed))
