"""Pieces of an extent: two sizes, mixed so that parts of equally many pieces are equally large."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from tilth.cpu.emit import I64, Emitter
from tilth.cpu.isa import host_isa
from tilth.cpu.jit import new_module
from tilth.cpu.kernels.pieces import piece_start
from tilth.cpu.kernels.tiles import cover

extents, sizes = st.integers(1, 5000), st.integers(1, 32)


def starts(pieces):
    isa = host_isa()
    e = Emitter(new_module(isa, "test"), isa, "test", [I64])
    return [piece_start(e, pieces, i) for i in range(pieces.count + 1)]


@given(extents, sizes)
def test_pieces_cover_the_extent_in_two_sizes(extent, at_most):
    pieces = cover(extent, at_most)
    places = starts(pieces)
    found = [stop - start for start, stop in itertools.pairwise(places)]
    assert (places[0], places[-1]) == (0, extent)
    assert {size: found.count(size) for size in set(found)} == pieces.sizes()


@given(extents, sizes)
def test_halves_of_the_pieces_are_equally_large(extent, at_most):
    pieces = cover(extent, at_most)
    if pieces.count % 2 == 0:
        assert starts(pieces)[pieces.count // 2] == extent // 2
