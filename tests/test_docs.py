"""Documentation is executed: what README and docs/ show is what the code does today."""

from __future__ import annotations

import importlib
import re
import shlex
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LANGUAGES = {"python", "sh", "text", "console", "toml"}


@dataclass(frozen=True)
class Block:
    """A fenced code block: `line` is that of its first line of code."""

    language: str
    code: str
    line: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(found[1], found[2], text.count("\n", 0, found.start(2)) + 1)
        for found in FENCE.finditer(text)
    ]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def pages_with(language: str) -> list[Path]:
    return [page for page in PAGES if any(b.language == language for b in blocks(page))]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_names_a_known_language(page: Path):
    assert {block.language for block in blocks(page)} <= LANGUAGES


@pytest.mark.parametrize("page", pages_with("python"), ids=name_of)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    namespace = {"__name__": "__docs__"}
    for block in blocks(page):
        if block.language == "python":
            code = "\n" * (block.line - 1) + block.code  # tracebacks show the page's own lines
            exec(compile(code, str(page), "exec"), namespace)


@pytest.mark.parametrize("page", pages_with("sh"), ids=name_of)
def test_shell_blocks_name_commands_that_exist(page: Path):
    lines = [b.code.splitlines() for b in blocks(page) if b.language == "sh"]
    unknown = [line for code in lines for line in code if not command_exists(line)]
    assert unknown == []


def command_exists(line: str) -> bool:
    """Whether a line of shell starts with a command, make target or tilth subcommand we have."""
    words = shlex.split(line, comments=True)
    if not words:
        return True
    match Path(words[0]).name, *words[1:]:
        case ["make", target, *_]:
            return (
                re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE) is not None
            )
        case ["tilth", "--help"]:
            return True
        case ["tilth", command, *_]:
            return command in tilth_commands()
        case ["python", script, *_]:
            return (ROOT / script).is_file()
        case [program, *_]:
            return program in {"pytest", "pip", "git"}
    return False


def tilth_commands() -> set[str]:
    from tilth.cli.app import app

    return {command.callback.__name__ for command in app.registered_commands}


def test_links_between_pages_lead_to_files():
    broken = [
        f"{name_of(page)}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert broken == []


def test_dependencies_page_lists_exactly_what_pyproject_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    asked = {re.match(r"[\w-]+", item)[0].lower() for group in groups for item in group}
    page = (ROOT / "docs" / "dependencies.md").read_text()
    listed = {name.lower() for name in re.findall(r"^\| ([\w-]+) \|", page, re.MULTILINE)}
    assert listed - {"package"} == asked - {"tilth"}


def test_speed_table_of_readme_is_that_of_the_committed_results(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    readme = importlib.import_module("readme")
    text = (ROOT / "README.md").read_text()
    assert text == readme.replace_part(text, "speed", readme.speed())
