"""What `make ecosystem` found, as `docs/ecosystem.md`: tests, versions, and how far results differ.

Tests call `require_close`, which remembers the largest difference of the test that runs.
"""

from __future__ import annotations

import ast
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

RTOL, ATOL = 1e-4, 1e-5
PACKAGES = ("scikit-learn", "skl2onnx", "onnxmltools", "lightgbm", "xgboost-cpu", "torch",
            "transformers", "sentence-transformers", "optimum-onnx")  # fmt: skip
_HEAD = """# Other people's programs on Tilth

Written by `make ecosystem`, which installs these packages and runs them as they come; only their
`import onnxruntime` gives `tilth.onnx.session`. *Difference* is the largest one to what the package
computes itself, over the largest value; labels and texts must be equal.
"""
_differences: dict[str, float] = {}  # by test


def require_close(got: Any, want: Any) -> None:
    """AssertionError when the results differ by more than 1e-4 (relative) plus 1e-5."""
    got, want = np.asarray(got), np.asarray(want)
    np.testing.assert_allclose(got, want, RTOL, ATOL)
    test = os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")[0]
    largest = float(np.abs(want).max(initial=0))
    found = float(np.abs(got - want).max(initial=0)) / (largest or 1)
    _differences[test] = max(found, _differences.get(test, 0))


def page(passed: Mapping[str, bool]) -> str:
    """The page, from whether each test (by its id) passed."""
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    parts = [_HEAD, f"{sum(passed.values())} of {len(passed)} tests pass, with {versions}.\n"]
    by_file: dict[str, list[str]] = defaultdict(list)
    for test in passed:
        by_file[test.partition("::")[0]].append(test)
    for path, tests in by_file.items():
        title = (ast.get_docstring(ast.parse(Path(path).read_text())) or "").partition("\n")[0]
        parts.append(f"## {title.rstrip('.')}\n\n{_table(tests, passed)}")
    return "\n".join(parts)


def _table(tests: Iterable[str], passed: Mapping[str, bool]) -> str:
    """One line per test function; the things it was tried on by name where they are few enough."""
    by_function: dict[str, list[str]] = defaultdict(list)
    for test in tests:
        by_function[test.partition("::")[2].partition("[")[0]].append(test)
    lines = ["| test | tried on | passed | difference |", "|---|---|--:|--:|"]
    for function, cases in by_function.items():
        kinds = dict.fromkeys(_kind(case) for case in cases)
        named = ", ".join(filter(None, kinds))
        found = [_differences[case] for case in cases if case in _differences]
        difference = f"{max(found):.0e}" if found else ""
        count = f"{sum(passed[case] for case in cases)} of {len(cases)}"
        name = function.removeprefix("test_").replace("_", " ")
        lines.append(f"| {name} | {named} | {count} | {difference} |")
    return "\n".join(lines) + "\n"


def _kind(test: str) -> str:
    """What stands first in the brackets: the class of an estimator."""
    return (
        test.partition("[")[2].rstrip("]").partition("-")[0].partition("(")[0].rstrip("0123456789")
    )
