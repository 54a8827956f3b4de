"""ImageDecoder, by Pillow, whose JPEG decoder is libjpeg-turbo, the one the standard asks for."""

from __future__ import annotations

import io

import numpy as np

from tilth.ir.errors import UnsupportedError
from tilth.onnx.context import NodeContext
from tilth.onnx.host.registry import host_op

_MODES = {"RGB": "RGB", "BGR": "RGB", "Grayscale": "L"}


@host_op("ImageDecoder", why="images are decoded on the host")
def image_decoder(cx: NodeContext, data: np.ndarray) -> np.ndarray:
    """The bytes of a file, u8 [N], as u8 [H, W, C]; empty when they are no image."""
    try:
        from PIL import Image
    except ImportError as e:
        raise UnsupportedError("decoding images needs Pillow: pip install 'tilth[png]'") from e
    mode = cx.choice("pixel_format", _MODES, "RGB")
    try:
        with Image.open(io.BytesIO(data.tobytes())) as image:
            pixels = np.array(image.convert(mode))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return np.zeros((0, 0, 1 if mode == "L" else 3), np.uint8)
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    return pixels[..., ::-1].copy() if cx.attr("pixel_format", "RGB") == "BGR" else pixels
