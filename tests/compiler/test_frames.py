"""Convolutions over three dimensions become convolutions of frames."""

import pytest
from graph_samples import assert_same, count, graph, tensor, weights

from tilth.compiler import frames
from tilth.ir.ops.table import op
from tilth.ir.rewrite import rewrite


def volume(x, *window, **attrs):
    return op.convolution(x, weights(*window, x.shape[-1], 5), layout="channels_last", **attrs)


def rewritten(y):
    before = graph(y)
    after, _ = rewrite(before, frames.RULES)
    assert_same(before, after)
    return after


@pytest.mark.parametrize(
    "attrs",
    [
        {},
        {"padding": ((1, 1), (1, 0), (0, 2))},
        {"padding": ((2, 0), (0, 0), (0, 0)), "strides": (2, 1, 3)},
        {"padding": ((2, 2), (2, 2), (0, 0)), "rhs_dilation": (2, 2, 1)},
    ],
)
def test_the_frames_of_a_window_become_channels_and_result_frames_a_batch(attrs):
    y = volume(tensor(1, 6, 7, 8, 3), 3, 3, 2, **attrs)
    (conv,) = [n for n in rewritten(y).nodes if n.op == "convolution"]
    frame, weight = conv.inputs
    assert frame.shape[0] == y.shape[1]
    assert weight.shape == (3, 2, 9, 5)


def test_windows_of_one_frame_copy_nothing():
    g = rewritten(volume(tensor(1, 4, 6, 6, 3), 1, 3, 3, strides=(2, 1, 1)))
    assert "concatenate" not in count(g)


@pytest.mark.parametrize(
    "y",
    [
        volume(tensor(1, 4, 6, 6, 3), 3, 1, 1),
        volume(tensor(2, 4, 6, 6, 3), 3, 3, 3),
        volume(tensor(1, 4, 6, 6, 3), 2, 3, 3, lhs_dilation=(2, 1, 1)),
    ],
    ids=["one pixel of each frame", "more than one volume", "holes between frames"],
)
def test_other_convolutions_stay(y):
    (conv,) = [n for n in rewritten(y).nodes if n.op == "convolution"]
    assert conv.inputs[0].tensor.rank == 5
