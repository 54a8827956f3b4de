"""The house: arrows point down, files are small, importing is quick, nothing names this machine."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import tilth

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "tilth"
# From the top of the house to the bottom; a room imports only itself and what stands after it.
# `runtime/target.py` names targets in strings, imported on use: the one registration by name.
ROOMS = ["cli", "tools", "face", "onnx", "compiler", "cpu", "runtime", "ir"]
FACE = {"__init__", "model", "interface"}
LONGEST_FILE = 500
IMPORT_SECONDS = 0.3
HEAVY = {"onnx", "llvmlite", "rich", "typer", "torch"}

MODULES = sorted(PACKAGE.rglob("*.py"))
TEXTS = [
    path
    for pattern in (
        "src/**/*.py",
        "tests/**/*.py",
        "examples/**/*",
        "docs/**/*",
        "*.md",
        "Makefile",
    )
    for path in ROOT.glob(pattern)
    if path.suffix in {".py", ".md", ".toml", ""} and path.is_file()
]


def room_of(module: str) -> str:
    """The room of a dotted module name.

    `onnx/session*.py` is a face, ONNX Runtime's, that lives where its users look for it.
    """
    if module.startswith("tilth.onnx.session"):
        return "face"
    first = [*module.split("."), "__init__"][1]
    return {"__main__": "cli"}.get(first, "face" if first in FACE else first)


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


def imports_of(path: Path, types: bool = True) -> set[str]:
    """The modules of Tilth that a file imports, wherever in the file; with `types`, also those
    that only the type checker imports."""
    found = set()
    for node in _nodes(ast.parse(path.read_text()), types):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            whole = (f"{node.module}.{alias.name}" for alias in node.names)
            found |= {name if name in NAMES else node.module for name in whole}
    return {name for name in found if name.split(".")[0] == "tilth"}


def _nodes(tree: ast.AST, types: bool) -> Iterator[ast.AST]:
    yield tree
    for child in ast.iter_child_nodes(tree):
        if types or not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield from _nodes(child, types)


NAMES = {name_of(path).removesuffix(".__init__"): path for path in MODULES}


def is_room(module: str) -> bool:
    return room_of(module) in ROOMS


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_arrows_point_down(path: Path):
    own = ROOMS.index(room_of(name_of(path)))
    for module in filter(is_room, imports_of(path)):
        assert ROOMS.index(room_of(module)) >= own, f"{name_of(path)} imports {module}"


def test_no_file_imports_itself_through_others():
    arrows = {name: imports_of(path, types=False) for name, path in NAMES.items()}
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as e:
        pytest.fail(" imports ".join(reversed(e.args[1])))


def test_every_room_has_its_place():
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert rooms <= set(ROOMS)
    assert {path.stem for path in PACKAGE.glob("*.py")} <= FACE | {"__main__"}


def test_only_the_table_of_targets_names_targets():
    """Below the targets, `tilth.cpu` appears in `runtime/target.py` (a string) and nowhere else."""
    named = [
        path.relative_to(PACKAGE).as_posix()
        for path in MODULES
        if room_of(name_of(path)) in ("compiler", "runtime", "ir")
        and "tilth.cpu" in path.read_text()
    ]
    assert named == ["runtime/target.py"]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_file_is_one_concept_and_says_which(path: Path):
    text = path.read_text()
    assert len(text.splitlines()) <= LONGEST_FILE
    assert not text.strip() or ast.get_docstring(ast.parse(text)), "begins with no docstring"


def test_importing_is_quick_and_leaves_heavy_packages_alone():
    code = (
        "import time, sys; start = time.perf_counter(); import tilth; "
        "print(time.perf_counter() - start, *{name.split('.')[0] for name in sys.modules})"
    )
    seconds = []
    while not seconds or (min(seconds) > IMPORT_SECONDS and len(seconds) < 8):  # others may run
        first, *modules = subprocess.check_output([sys.executable, "-c", code], text=True).split()
        seconds.append(float(first))
    assert not HEAVY & set(modules)
    assert min(seconds) <= IMPORT_SECONDS


def test_nothing_names_a_machine():
    pattern = re.compile(r"(?<![\w.])/(work|tmp|home|root|Users)/\w")
    places = [path for path in TEXTS if pattern.search(path.read_text(errors="ignore"))]
    assert [path.relative_to(ROOT).as_posix() for path in places] == []


def test_the_version_is_that_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert tilth.__version__ == project["version"]
