"""Keys follow Tilth's own code, which is read only when its files changed."""

import os
from pathlib import Path

import pytest

from tilth.runtime import keys


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The one module of a package in the place of Tilth's; files need no time to settle."""
    path = tmp_path / "package" / "room" / "module.py"
    path.parent.mkdir(parents=True)
    path.write_text("x = 1\n")
    monkeypatch.setattr(keys, "_PACKAGE", tmp_path / "package")
    monkeypatch.setattr(keys, "SETTLED", -1)
    monkeypatch.setenv("TILTH_CACHE_DIR", str(tmp_path / "cache"))
    return path


def source_digest() -> str:
    """As another process would find it."""
    return keys.source_digest.__wrapped__()


def test_code_that_did_not_change_is_not_read(module: Path, monkeypatch):
    first = source_digest()
    monkeypatch.setattr(keys, "_read", lambda: pytest.fail("it was read"))
    assert source_digest() == first


@pytest.mark.parametrize("times_kept", [False, True])
def test_a_changed_module_changes_the_digest(module: Path, times_kept: bool):
    first, before = source_digest(), module.stat()
    module.write_text("x = 2\n")
    if times_kept:
        os.utime(module, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert source_digest() != first


def test_added_and_removed_modules_change_it(module: Path):
    first = source_digest()
    other = module.with_name("other.py")
    other.touch()
    assert source_digest() != first
    other.unlink()
    assert source_digest() == first


def test_code_that_just_changed_is_not_remembered(module: Path, monkeypatch):
    monkeypatch.setattr(keys, "SETTLED", 10**12)
    source_digest()
    assert not (module.parents[2] / "cache").exists()


def test_without_a_cache_it_is_read(module: Path, monkeypatch):
    first = source_digest()
    monkeypatch.setenv("TILTH_CACHE", "0")
    assert source_digest() == first
