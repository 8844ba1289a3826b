"""A matrix of weights as a PNG of one pixel per weight, whose opacity is the weight.

Used as a CSS mask, it takes the page's colour in light and dark mode. The scale is the square root, since
most weights are small. W3C 2003, "Portable Network Graphics", colour type 4.
"""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np

from tinyllm.arena import Array


def opacity(weights: Array) -> Array:
    """Return 255 * sqrt(weight), rounded, as uint8, of weights (rows, columns) from 0 to 1."""
    found: Array = np.rint(255 * np.sqrt(np.clip(weights, 0, 1))).astype(np.uint8)
    return found


def png(weights: Array) -> bytes:
    """Return the PNG of weights (rows, columns) from 0 to 1: black, with the opacity of each weight."""
    rows, columns = weights.shape
    pixels = np.zeros((rows, columns, 2), np.uint8)  # grey, alpha
    pixels[..., 1] = opacity(weights)
    lines = b"".join(b"\0" + line.tobytes() for line in pixels)  # 0: no filter
    header = struct.pack(">IIBBBBB", columns, rows, 8, 4, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def css_mask(weights: Array) -> str:
    """Return the CSS that masks an element with the `png` of weights (rows, columns)."""
    return f"mask-image:url(data:image/png;base64,{base64.b64encode(png(weights)).decode()})"
