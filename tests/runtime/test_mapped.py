"""Weights in mapped files: memory for them is taken ahead, and let go of once they are copied."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest

from tilth.runtime import mapped as module
from tilth.runtime.mapped import Warmer, release

STATUS = Path("/proc/self/status")
MIB = 1 << 20

needs_proc = pytest.mark.skipif(not STATUS.exists(), reason="only Linux tells what is mapped")


@pytest.fixture
def mapped(tmp_path: Path) -> np.ndarray:
    """64 MiB of a file, from an odd offset on."""
    (tmp_path / "w.bin").write_bytes(bytes(64 * MIB + 8))
    with (tmp_path / "w.bin").open("rb") as file:
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(memoryview(memory)[8:], np.float32).reshape(1024, -1)


def pages_of_files() -> int:
    lines = STATUS.read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssFile"))


@needs_proc
def test_pages_of_a_file_are_let_go_and_can_be_read_again(mapped: np.ndarray):
    before = pages_of_files()
    assert mapped.sum() == 0
    assert pages_of_files() > before + 60 * MIB
    release(mapped)
    assert pages_of_files() < before + 4 * MIB
    assert mapped.sum() == 0


@needs_proc
def test_a_view_lets_go_of_its_part_only(mapped: np.ndarray):
    mapped.sum()
    before = pages_of_files()
    release(mapped[:512])
    assert before - 34 * MIB < pages_of_files() < before - 30 * MIB


def test_other_arrays_are_left_alone(mapped: np.ndarray):
    array = np.arange(5)
    for each in (array, array[::2], mapped.T, np.zeros(0)):
        release(each)
    assert array.tolist() == [0, 1, 2, 3, 4]


@pytest.fixture
def writable(tmp_path: Path) -> mmap.mmap:
    """64 MiB of a file, all ones."""
    (tmp_path / "w.bin").write_bytes(b"\1" * 64 * MIB)
    with (tmp_path / "w.bin").open("r+b") as file:
        return mmap.mmap(file.fileno(), 0)


@needs_proc
def test_warming_keeps_contents_and_takes_no_memory_of_the_process(writable: mmap.mmap):
    before = pages_of_files()
    warmer = Warmer(writable)
    warmer._thread.join()
    assert pages_of_files() < before + 40 * MIB  # one chunk at a time
    warmer.stop()
    assert writable[:] == b"\1" * 64 * MIB


def test_warming_ends_when_it_is_stopped(writable: mmap.mmap, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", mmap.PAGESIZE)
    warmer = Warmer(writable)
    warmer.stop()
    assert not warmer._thread.is_alive()
    warmer.stop()


def test_a_system_without_this_is_left_alone(writable: mmap.mmap, monkeypatch):
    monkeypatch.setattr(module, "_POPULATE_WRITE", 12345)
    Warmer(writable).stop()
    monkeypatch.setattr("sys.platform", "darwin")
    Warmer(writable).stop()
    assert writable[:1] == b"\1"
