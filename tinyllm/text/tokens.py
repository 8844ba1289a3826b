"""A corpus as tokens: one file beside the run, made once, memory-mapped ever after, never believed blindly.

at 0      one line of JSON, padded to 4096 bytes: what the tokens were made of, the counts, a checksum
at 4096   tokens (n,) uint16, or uint32 if the vocabulary has more than 65536; zeros up to a multiple of 8
then      starts (D + 1,) int64; silent (2 S,) int64; streams (D,) uint8

Document d is tokens[starts[d]:starts[d + 1]]. Order: Tokens, reading, writing.
"""

from __future__ import annotations

import json
import zlib
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from tinyllm.arena import Array
from tinyllm.text.dialogue import Tokenizer, encode
from tinyllm.text.texts import Text

FORMAT = "tinyllm tokens 1"
HEADER = 4096  # bytes: tokens begin on a page


class Tokens(NamedTuple):
    """A corpus of D documents, n tokens; views into the memory-mapped file.

    Token i carries no loss as a target if an odd number of the ascending `silent` are at most i.
    """

    tokens: Array  # (n,) uint16 or uint32
    starts: Array  # (D + 1,) int64
    silent: Array  # (2 S,) int64: begin and end of each run of tokens without loss
    streams: Array  # (D,) bool: is the document a stream


def load(path: Path, made_of: dict[str, str]) -> Tokens | None:
    """Return the tokens in the file, or None if it is missing, damaged, or made of something else."""
    try:
        raw: Array = np.memmap(path, np.uint8, "r").view(np.ndarray)
        header = json.loads(raw[:HEADER].tobytes())
        if header["format"] != FORMAT or header["made_of"] != made_of:
            return None
        parts, stop = [], HEADER
        for dtype, count in header["parts"]:
            start = -(-stop // 8) * 8
            stop = start + count * np.dtype(dtype).itemsize
            parts.append(raw[start:stop].view(dtype))
        if zlib.crc32(raw[HEADER:].data) != header["crc32"]:
            return None
        tokens, starts, silent, streams = parts
        return Tokens(tokens, starts, silent, streams.view(np.bool_))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def write(path: Path, texts: Iterable[Text], tokenizer: Tokenizer, made_of: dict[str, str]) -> None:
    """Write the tokens of `texts` to the file, which appears when it is complete.

    In memory are one Text at a time, 9 bytes per document and 16 per prompt. There is no fsync: a file that a
    crash tore fails its checksum and is made again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            body = _Body(file)
            starts, silent, streams = _write_tokens(body, texts, tokenizer)
            body.write(np.frombuffer(starts, "<i8"))
            body.write(np.frombuffer(silent, "<i8"))
            body.write(np.frombuffer(streams, "|u1"))
            header = {"format": FORMAT, "made_of": made_of, "parts": body.parts, "crc32": body.crc32}
            file.seek(0)
            file.write(json.dumps(header).encode().ljust(HEADER - 1) + b"\n")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class _Body:
    """What stands behind the header: remembers its parts and its checksum while it is written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.crc32, self.size = file, 0, 0
        self.parts: list[tuple[str, int]] = []
        file.write(bytes(HEADER))

    def write(self, values: Array) -> None:
        """Begin a part with `values`, at the next multiple of 8 bytes."""
        self._append(bytes(-self.size % 8))
        self.parts.append((values.dtype.str, 0))
        self.go_on(values)

    def go_on(self, values: Array) -> None:
        """Append `values` to the present part."""
        dtype, count = self.parts[-1]
        self.parts[-1] = dtype, count + values.size
        self._append(values.astype(dtype).tobytes())

    def _append(self, data: bytes) -> None:
        self.file.write(data)
        self.crc32 = zlib.crc32(data, self.crc32)
        self.size += len(data)


def _write_tokens(
    body: _Body, texts: Iterable[Text], tokenizer: Tokenizer
) -> tuple[array[int], array[int], bytearray]:
    """Write the tokens and return starts, silent and streams."""
    dtype = "<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4"
    end = np.array([tokenizer.end_of_text], np.int32)
    starts, silent, streams, count, opens = array("q", [0]), array("q"), bytearray(), 0, True
    body.write(np.empty(0, dtype))
    for text in texts:
        if text.stream:
            parts = (
                [end] * opens
                + [tokenizer.encode(segment.text) for segment in text.segments]
                + [end] * text.ends
            )
            tokens = np.concatenate(parts)
        else:
            tokens, without_loss = encode(tokenizer, text.segments)
            silent.extend(count + i for i in without_loss)
        body.go_on(tokens)
        count, opens = count + tokens.size, text.ends
        if text.ends:
            starts.append(count)
            streams.append(text.stream)
    return starts, silent, streams
