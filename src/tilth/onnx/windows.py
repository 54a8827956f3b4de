"""Sliding windows as ONNX writes them: kernel, strides, dilations, pads, auto_pad, ceil_mode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tilth.onnx.context import NodeContext

Pads = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Windows:
    """Windows over the spatial dimensions of a channels-first tensor.

    `pads` are what the model asks for; `extra` is what ceil_mode adds at the end of each dimension.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: Pads
    extra: tuple[int, ...]

    @property
    def padding(self) -> Pads:
        """All padding that the windows see."""
        pairs = zip(self.pads, self.extra, strict=True)
        return tuple((low, high + more) for (low, high), more in pairs)

    def full_rank(self) -> dict[str, tuple]:
        """`window, strides, padding, window_dilation` with the batch and channel dimensions."""
        return {
            "window": (1, 1, *self.kernel),
            "strides": (1, 1, *self.strides),
            "padding": ((0, 0), (0, 0), *self.padding),
            "window_dilation": (1, 1, *self.dilations),
        }

    def clipped(self, spatial: Sequence[int]) -> Windows:
        """The same windows for a reduction that leaves padding out, where a dimension has one only:
        what of it lies outside the data is cut off, as models pool whole maps by huge windows."""
        kernel, pads, extra = list(self.kernel), list(self.pads), list(self.extra)
        sides = zip(spatial, self.kernel, self.strides, self.dilations, self.padding, strict=True)
        for axis, (size, window, stride, dilation, (low, high)) in enumerate(sides):
            if dilation == 1 and low < window and 0 <= size + low + high - window < stride:
                kernel[axis] = min(size, window - low)
                pads[axis], extra[axis] = (0, 0), 0
        return replace(self, kernel=tuple(kernel), pads=tuple(pads), extra=tuple(extra))


def windows_of(
    cx: NodeContext, spatial: Sequence[int], kernel: Sequence[int] | None = None
) -> Windows:
    """The windows of a convolution or pooling node over `spatial` dimensions."""
    kernel = tuple(kernel or cx.attr("kernel_shape"))
    ones = (1,) * len(spatial)
    if len(kernel) != len(spatial):
        raise ValueError(f"a kernel of {len(kernel)} dimensions for {len(spatial)} spatial ones")
    strides = tuple(cx.attr("strides", ones))
    dilations = tuple(cx.attr("dilations", ones))
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = _pads(cx, spatial, extents, strides)
    extra = tuple(
        _ceil_extra(n + low + high - e, s, n + low) if cx.attr("ceil_mode", 0) else 0
        for n, e, s, (low, high) in zip(spatial, extents, strides, pads, strict=True)
    )
    return Windows(kernel, strides, dilations, pads, extra)


def split_pads(pads: Sequence[int], rank: int) -> Pads:
    """ONNX lists all begins, then all ends."""
    if len(pads) != 2 * rank:
        raise ValueError(f"{len(pads)} padding amounts for {rank} spatial dimensions")
    return tuple(zip(pads[:rank], pads[rank:], strict=True))


def same_padding(total: int, lower: bool) -> tuple[int, int]:
    """Split padding in two; an odd element goes to the end, or to the front with SAME_LOWER."""
    small = max(total, 0) // 2
    large = max(total, 0) - small
    return (large, small) if lower else (small, large)


def _pads(
    cx: NodeContext, spatial: Sequence[int], extents: Sequence[int], strides: Sequence[int]
) -> Pads:
    mode = cx.attr("auto_pad", "NOTSET")
    if mode == "VALID":
        return ((0, 0),) * len(spatial)
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        return tuple(
            same_padding((-(-n // s) - 1) * s + e - n, mode == "SAME_LOWER")
            for n, e, s in zip(spatial, extents, strides, strict=True)
        )
    return split_pads(cx.attr("pads", (0,) * 2 * len(spatial)), len(spatial))


def _ceil_extra(room: int, stride: int, last_start: int) -> int:
    """Padding that lets a partial window in, unless it would start beyond the data."""
    steps = -(-room // stride)
    if steps * stride >= last_start:
        return 0
    return steps * stride - room
