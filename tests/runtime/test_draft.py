"""Arrays made in the file of an entry are in memory once, and no half entry is ever seen."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
from onnx import helper, numpy_helper

import tilth
from tilth.runtime.cache import Cache
from tilth.runtime.draft import Draft

MIB = 1 << 20
needs_reservations = pytest.mark.skipif(
    not hasattr(os, "posix_fallocate"), reason="files cannot reserve space here"
)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def filled(draft: Draft, nbytes: int = 2 * MIB, value: int = 7) -> np.ndarray:
    array = draft.allocate(nbytes)
    array.fill(value)
    return array


def files(cache: Cache) -> list[str]:
    return sorted(path.suffix for path in cache.root.glob("*"))


def store(cache: Cache, *arrays: np.ndarray, draft: Draft | None = None) -> bool:
    return cache.store("k", {"arrays": list(arrays), "name": "net"}, draft)


def assert_stored(cache: Cache, *arrays: np.ndarray) -> None:
    found = cache.load("k")
    assert found is not None and found["name"] == "net"
    assert len(found["arrays"]) == len(arrays)
    for a, b in zip(found["arrays"], arrays, strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_was_made_in_a_draft_is_loaded(cache: Cache):
    with cache.draft() as draft:
        arrays = [filled(draft), np.arange(5), filled(draft, 3 * MIB + 1, 9)]
        assert store(cache, *arrays, draft=draft)
    assert_stored(cache, *arrays)
    assert files(cache) == [".tilth"]


@needs_reservations
def test_it_lies_in_the_file_and_is_not_written_again(cache: Cache):
    with cache.draft() as draft:
        array = filled(draft, 32 * MIB)
        store(cache, array, draft=draft)
    (path,) = cache.root.glob("*.tilth")
    assert 32 * MIB < path.stat().st_size < 33 * MIB


@pytest.mark.parametrize("expected", [MIB, 2 * MIB, 8 * MIB + 3])
def test_it_does_not_matter_how_much_was_expected(cache: Cache, expected: int):
    with cache.draft(expected) as draft:
        array = filled(draft)
        assert store(cache, array, draft=draft)
    assert_stored(cache, array)
    assert cache.info().nbytes < 2 * MIB + 10_000
    assert not [t for t in threading.enumerate() if t.name == "tilth-warmer"]


def test_a_draft_that_is_expected_but_not_used_leaves_nothing(cache: Cache):
    with cache.draft(64 * MIB):
        pass
    assert files(cache) == []
    assert not [t for t in threading.enumerate() if t.name == "tilth-warmer"]


@needs_reservations
def test_more_than_the_limit_is_not_reserved(cache: Cache):
    with Cache(cache.root, 2 * MIB).draft(3 * MIB):
        assert not cache.root.exists()


def test_parts_of_what_was_allocated_can_be_kept(cache: Cache):
    with cache.draft() as draft:
        array = filled(draft)
        array[100:] = 1
        assert store(cache, array[:64], array[64:200], array[:0], draft=draft)
    assert_stored(cache, array[:64], array[64:200], array[:0])


def test_addresses_are_aligned(cache: Cache):
    with cache.draft() as draft:
        for nbytes in (1, 100, MIB, 3 * MIB + 5, MIB):
            array = draft.allocate(nbytes)
            assert (array.nbytes, array.dtype, array.ctypes.data % 64) == (nbytes, np.uint8, 0)


def test_a_little_makes_no_file(cache: Cache):
    with cache.draft() as draft:
        draft.allocate(1000)
    assert not cache.root.exists()


def test_what_is_not_finished_leaves_nothing_and_stays_usable(cache: Cache):
    with pytest.raises(ValueError, match="no code"), cache.draft() as draft:
        array = filled(draft)
        raise ValueError("no code")
    assert files(cache) == []
    assert np.all(array == 7)


@pytest.mark.parametrize("limit", [MIB, 2 * MIB + 100])
def test_what_is_beyond_the_limit_is_not_kept_but_usable(cache: Cache, limit: int, caplog):
    small = Cache(cache.root, limit)
    with small.draft() as draft:
        array = filled(draft)
        assert not store(small, array, draft=draft)
    assert "more than the bound" in caplog.text
    assert files(small) == []
    assert np.all(array == 7)


def test_a_full_disk_is_a_warning_and_weights_lie_in_memory(cache: Cache, monkeypatch, caplog):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    monkeypatch.setattr("tilth.runtime.draft.EntryWriter.write", full)
    with caplog.at_level(logging.WARNING, "tilth"), cache.draft(2 * MIB) as draft:
        array = filled(draft)
        assert not store(cache, array, draft=draft)
    assert "No space left" in caplog.text
    assert np.all(array == 7)
    assert files(cache) == []


def test_a_system_that_cannot_reserve_space_keeps_entries_too(cache: Cache, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    with cache.draft() as draft:
        array = filled(draft)
        assert store(cache, array, draft=draft)
    assert_stored(cache, array)


def test_a_directory_that_cannot_be_made_is_a_warning(tmp_path: Path, caplog):
    (tmp_path / "file").touch()
    cache = Cache(tmp_path / "file" / "cache")
    with cache.draft() as draft:
        array = filled(draft)
        assert not store(cache, array, draft=draft)
    assert "cannot be written" in caplog.text
    assert np.all(array == 7)


def die_in_the_middle(root: Path) -> None:
    with Cache(root).draft() as draft:
        filled(draft)
        os.kill(os.getpid(), signal.SIGKILL)


@needs_reservations
def test_who_dies_leaves_no_entry_only_a_leftover(cache: Cache):
    worker = multiprocessing.get_context("spawn").Process(
        target=die_in_the_middle, args=[cache.root]
    )
    worker.start()
    worker.join()
    assert files(cache) == [".part"]
    assert cache.load("k") is None
    assert cache.clear().entries == 0
    assert files(cache) == []


@needs_reservations
def test_weights_of_a_compiled_model_are_those_of_its_entry(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("TILTH_CACHE_DIR", str(tmp_path))
    ends = [helper.make_tensor_value_info(n, 1, [1, 1024]) for n in "xy"]
    weight = numpy_helper.from_array(np.eye(1024, dtype=np.float32)[::-1].copy(), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [weight]
    )
    opsets = [helper.make_opsetid("", 17)]
    model = tilth.load(helper.make_model(graph, opset_imports=opsets, ir_version=9))
    x = np.arange(1024, dtype=np.float32).reshape(1, -1)
    for from_cache in (False, True):
        compiled = model.compile()
        assert compiled.report.from_cache == from_cache
        assert not compiled.regions[0].weights.flags.owndata
        np.testing.assert_array_equal(compiled({"x": x})["y"], x[:, ::-1])
    assert {path.suffix for path in tmp_path.iterdir()} == {".tilth"}
