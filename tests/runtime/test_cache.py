"""The cache gives back what was stored, or nothing: never damage, never an exception."""

import logging
import multiprocessing
import os
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth import TilthError
from tilth.ir.types import DTYPES
from tilth.runtime.cache import Cache, default_cache
from tilth.runtime.digest import CHUNK, checksum
from tilth.runtime.entry import read_entry, write_entry
from tilth.runtime.keys import cache_key
from tilth.runtime.memory import ALIGNMENT

TREE = {"code": b"\x90\xc3", "weights": [np.arange(10, dtype=np.float32)], "name": "net", "n": 3}


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def entry_of(cache: Cache) -> Path:
    (path,) = cache.root.glob("*.tilth")
    return path


def assert_is_tree(found: dict | None) -> None:
    assert found is not None
    assert (found["code"], found["name"], found["n"]) == (b"\x90\xc3", "net", 3)
    np.testing.assert_array_equal(found["weights"][0], np.arange(10, dtype=np.float32))


def test_what_is_stored_is_loaded(cache: Cache):
    assert cache.store("k", TREE)
    assert_is_tree(cache.load("k"))


def test_an_unknown_key_is_none(cache: Cache):
    assert cache.load("k") is None


def test_arrays_are_read_only_aligned_and_not_copied(cache: Cache):
    cache.store("k", {"a": np.ones(3, np.int8), "b": np.ones((5, 7))})
    array = cache.load("k")["b"]
    assert not array.flags.writeable
    assert not array.flags.owndata
    assert array.ctypes.data % ALIGNMENT == 0


@pytest.mark.parametrize("name", sorted(set(DTYPES) - {"string"}))
@pytest.mark.parametrize("shape", [(), (0, 2), (3, 5)])
def test_every_dtype_and_shape_survives(tmp_path: Path, name: str, shape: tuple[int, ...]):
    array = np.ones(shape, DTYPES[name].numpy)
    write_entry(tmp_path / "e", {"a": array})
    found = read_entry(tmp_path / "e")["a"]
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(found, array)


def test_strings_and_strided_arrays_survive(tmp_path: Path):
    words = np.array([["a", "ü"]], dtype=object)
    strided = np.arange(12).reshape(3, 4).T.astype(ml_dtypes.bfloat16)
    write_entry(tmp_path / "e", {"words": words, "strided": strided})
    found = read_entry(tmp_path / "e")
    assert found["words"].tolist() == [["a", "ü"]]
    np.testing.assert_array_equal(found["strided"], strided)


def test_what_is_no_data_is_refused(tmp_path: Path):
    with pytest.raises(TypeError, match="cannot hold a function"):
        write_entry(tmp_path / "e", {"f": lambda: None})


@settings(max_examples=60)
@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_noticed(position: float, bit: int, tmp_path_factory):
    cache = Cache(tmp_path_factory.mktemp("flip"))
    cache.store("k", TREE)
    path = entry_of(cache)
    data = bytearray(path.read_bytes())
    data[int(position * len(data))] ^= 1 << bit
    path.write_bytes(data)
    found = cache.load("k")
    if found is not None:  # the flipped bit was padding
        assert_is_tree(found)


def test_a_flipped_bit_far_into_a_large_array_is_noticed(cache: Cache):
    cache.store("k", {"a": np.zeros(2 * CHUNK + 5, np.uint8)})
    with entry_of(cache).open("r+b") as file:
        file.seek(-70, os.SEEK_END)
        file.write(b"\1")
    assert cache.load("k") is None


@pytest.mark.parametrize("pages", [1, 2, 100, 509, 700])
def test_pages_that_changed_places_are_noticed(pages: int):
    data = np.random.default_rng(0).integers(0, 256, (1500, 4096), np.uint8)
    swapped = data.copy()
    swapped[[3, 3 + pages]] = data[[3 + pages, 3]]
    assert checksum(swapped.data) != checksum(data.data)


@pytest.mark.parametrize("length", [0, 1, 20, 56, 100, -1])
def test_a_truncated_entry_is_deleted_with_a_warning(cache: Cache, length: int, caplog):
    cache.store("k", TREE)
    path = entry_of(cache)
    path.write_bytes(path.read_bytes()[:length])
    with caplog.at_level(logging.WARNING, "tilth"):
        assert cache.load("k") is None
    assert "unusable" in caplog.text
    assert not path.exists()


def test_an_entry_of_another_format_is_deleted(cache: Cache):
    cache.store("k", TREE)
    entry_of(cache).write_bytes(b"something else" * 100)
    assert cache.load("k") is None
    assert cache.info().entries == 0


def test_entries_work_wherever_the_directory_is(cache: Cache, tmp_path: Path):
    cache.store("k", TREE)
    moved = tmp_path / "elsewhere"
    shutil.move(cache.root, moved)
    assert_is_tree(Cache(moved).load("k"))


def test_the_least_recently_used_entries_go_first(cache: Cache):
    big = {"a": np.zeros(1000, np.uint8)}
    small_cache = Cache(cache.root, limit=4000)
    for age, key in enumerate(["old", "middle", "new"]):
        small_cache.store(key, big)
        os.utime(cache.root / f"{key}.tilth", (age, age))
    assert small_cache.load("old") is not None  # now it is the latest used
    small_cache.store("newest", big)
    assert {p.stem for p in cache.root.glob("*.tilth")} == {"old", "new", "newest"}
    assert small_cache.info().nbytes <= 4000


def test_an_entry_beyond_the_bound_is_not_kept(cache: Cache, caplog):
    assert not Cache(cache.root, limit=100).store("k", TREE)
    assert "more than the bound" in caplog.text
    assert cache.info().entries == 0


def test_an_evicted_entry_stays_usable_for_who_has_it(cache: Cache):
    cache.store("k", TREE)
    found = cache.load("k")
    cache.clear()
    assert_is_tree(found)


def test_clear_empties_the_cache_and_tells_what_there_was(cache: Cache):
    cache.store("a", TREE)
    cache.store("b", TREE)
    (cache.root / "left-by-a-crash.part").touch()
    assert cache.clear().entries == 2
    assert list(cache.root.iterdir()) == []


def test_a_directory_that_cannot_be_made_is_a_warning(tmp_path: Path, caplog):
    (tmp_path / "file").touch()
    assert not Cache(tmp_path / "file" / "cache").store("k", TREE)
    assert "cannot be written" in caplog.text


def store_many(root: Path, seed: int) -> None:
    cache = Cache(root)
    for i in range(30):
        cache.store("k", {"seed": seed, "a": np.full(20_000, seed, np.int32)})
        found = cache.load("k")
        assert found is not None, f"lost in round {i}"
        assert np.all(found["a"] == found["seed"])


def test_processes_that_write_at_once_never_see_half_an_entry(cache: Cache):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=store_many, args=(cache.root, seed)) for seed in (1, 2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert [p.suffix for p in cache.root.iterdir()] == [".tilth"]


def test_the_environment_says_where_how_big_and_whether(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("TILTH_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TILTH_CACHE_BYTES", "123")
    assert default_cache() == Cache(tmp_path, 123)
    monkeypatch.setenv("TILTH_CACHE_BYTES", "much")
    with pytest.raises(TilthError, match="TILTH_CACHE_BYTES"):
        default_cache()
    monkeypatch.setenv("TILTH_CACHE", "0")
    assert default_cache() is None


def test_keys_tell_parts_apart_but_not_their_order():
    assert cache_key(a=1, b=(2, 3)) == cache_key(b=(2, 3), a=1)
    assert cache_key(a=1, b=2) != cache_key(a=2, b=1)
