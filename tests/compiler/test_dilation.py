"""Dilated convolutions become dense ones of interleaved images."""

import pytest
from graph_samples import assert_same, graph, tensor, weights

from tilth.compiler import dilation
from tilth.compiler.pipeline import run_target
from tilth.ir.ops.table import op
from tilth.ir.rewrite import rewrite
from tilth.runtime.target import Options, Traits


def dilated(x, *shape, **attrs):
    return op.convolution(x, weights(*shape), layout="channels_last", **attrs)


def convolution_of(y):
    before = graph(y)
    after, _ = rewrite(before, dilation.RULES)
    assert_same(before, after, 1e-4)
    (node,) = [n for n in after.nodes if n.op == "convolution"]
    return node


@pytest.mark.parametrize(
    ("rate", "padding", "image"),
    [
        ((2, 2), ((2, 2), (2, 2)), (6, 7)),
        ((1, 3), ((0, 0), (3, 3)), (7, 5)),
        ((4, 4), ((0, 3), (5, 0)), (3, 4)),
    ],
)
def test_pixels_that_windows_see_together_become_images_of_a_batch(rate, padding, image):
    x = tensor(2, 7, 9, 64)
    conv = convolution_of(dilated(x, 3, 3, 64, 64, rhs_dilation=rate, padding=padding))
    assert conv.attrs["rhs_dilation"] == (1, 1)
    assert conv.inputs[0].shape == (2 * rate[0] * rate[1], *image, 64)


@pytest.mark.parametrize(
    ("shape", "attrs"),
    [
        ((3, 3, 64, 8), {}),
        ((1, 3, 64, 64), {}),
        ((3, 3, 64, 64), {"strides": (2, 1)}),
        ((3, 3, 32, 64), {"groups": 2}),
    ],
    ids=["few channels", "no square window", "strides", "groups"],
)
def test_what_is_no_work_for_winograd_stays(shape, attrs):
    y = dilated(tensor(1, 9, 9, 64), *shape, rhs_dilation=(2, 2), **attrs)
    assert convolution_of(y).attrs["rhs_dilation"] == (2, 2)


@pytest.mark.parametrize(("precision", "rate"), [("default", (1, 1)), ("exact", (2, 2))])
def test_only_fast_algorithms_get_them(precision, rate):
    traits = Traits(layout="channels_last", images_for_volumes=True, dense_windows=True)
    y = dilated(tensor(1, 9, 9, 64), 3, 3, 64, 64, rhs_dilation=(2, 2))
    after = run_target(graph(y), traits, Options(precision=precision)).graph
    (conv,) = [n for n in after.nodes if n.op == "convolution"]
    assert conv.attrs["rhs_dilation"] == rate
