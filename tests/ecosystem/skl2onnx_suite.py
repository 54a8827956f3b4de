"""skl2onnx's own tests with Tilth in the place of ONNX Runtime.

usage: skl2onnx_suite.py [-k EXPRESSION] ...      (options of pytest; all tests take half an hour)

Fetches the source package of the installed skl2onnx, runs its tests with ONNX Runtime and then, as
they are, with Tilth. Prints how many of those that pass with the one pass with the other, and which
do not.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

HERE = Path(__file__).parent


def fetch_tests(folder: Path) -> Path:
    """The tests of the installed version, unpacked."""
    package = f"skl2onnx=={version('skl2onnx')}"
    options = ["--no-deps", "--no-binary", "skl2onnx", "--no-build-isolation"]
    subprocess.check_call(
        [sys.executable, "-m", "pip", "download", "-q", *options, "-d", str(folder), package]
    )
    (archive,) = folder.glob("skl2onnx-*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz") / "tests"


def passed(tests: Path, *options: str) -> dict[str, bool]:
    """Whether each test passes; skipped ones are left out."""
    report = tests.parent / "report.xml"
    command = [sys.executable, "-m", "pytest", str(tests), f"--rootdir={tests.parent}", "-q"]
    command += ["-p", "no:cacheprovider", f"--junitxml={report}", *options]
    environment = os.environ | {"PYTHONPATH": str(HERE)}
    subprocess.run(command, cwd=tests.parent, env=environment, stdout=subprocess.DEVNULL)
    results: dict[str, bool] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name, kinds = f"{case.get('classname')}::{case.get('name')}", {c.tag for c in case}
        if "skipped" not in kinds:  # a test with sub-tests is reported several times
            results[name] = results.get(name, True) and not kinds & {"failure", "error"}
    return results


def main() -> None:
    options = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        tests = fetch_tests(Path(folder))
        theirs = {name for name, good in passed(tests, *options).items() if good}
        swapped = passed(tests, "-p", "drop_in_plugin", *options)
    ours = {name for name, good in swapped.items() if good}
    print(
        f"{len(theirs & ours)} of {len(theirs)} tests that pass with ONNX Runtime pass with Tilth"
    )
    for name in sorted(theirs - ours):
        print(f"  {name}")


if __name__ == "__main__":
    main()
