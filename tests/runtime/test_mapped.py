"""Weights in mapped files: a copy in another form lets go of the pages it was made from."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest

from tilth.runtime.mapped import release

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
