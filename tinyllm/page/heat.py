"""A matrix of weights as a picture of its own size: a PNG whose opacity is the weight.

A page paints it in the colour it likes, in the light and in the dark. W3C 2003, "Portable Network Graphics",
colour type 4. The scale is the square root, for most weights are small.
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
    """Return the picture of weights (rows, columns) from 0 to 1: black, as opaque as each is great."""
    rows, columns = weights.shape
    pixels = np.zeros((rows, columns, 2), np.uint8)
    pixels[..., 1] = opacity(weights)
    lines = b"".join(b"\0" + line.tobytes() for line in pixels)  # 0: no filter
    header = struct.pack(">IIBBBBB", columns, rows, 8, 4, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def mask(weights: Array) -> str:
    """Return the CSS that lets a colour through as the `png` of weights (rows, columns) is opaque."""
    return f"mask-image:url(data:image/png;base64,{base64.b64encode(png(weights)).decode()})"
