"""A corpus as tokens: one file beside the run, written once, memory-mapped and verified at each start.

at 0      one line of JSON, padded to 4096 bytes: what the tokens were made of, the counts, a checksum
at 4096   tokens (n,) uint16, or uint32 if the vocabulary has more than 65536; zeros up to a multiple of 8
then      starts (D + 1,) int64; masked (2 S,) int64; kinds (D,) uint8

Document d is tokens[starts[d]:starts[d + 1]]. A document is followed by its alternatives: the same dialogue,
its questions asked in another way. Order: kinds, Tokens, loading, saving, encoding.

    two documents, "hi" and the dialogue of prompt "q" and answer "a"; | is end_of_text:

    tokens   | h i | | q a |        starts  0 4 8        masked  5 6        kinds  0 0
"""

from __future__ import annotations

import json
import os
import zlib
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from tinyllm import safe_files
from tinyllm.arena import Array
from tinyllm.parallel.threads import cores
from tinyllm.text.dialogue import Tokenizer, encode_all
from tinyllm.text.texts import Digest, Text

FORMAT = "tinyllm tokens 1"
HEADER = 4096  # bytes, a page of memory
GROUP = 1 << 17  # characters that are encoded in one task
STREAM, JOINS, ALTERNATIVE = 1, 2, 4  # bits of a kind; earlier files have the first only
THREADS = min(4, cores())  # that encode; the tokens do not depend on their number
Encoded = tuple[Array, list[int], list[int]]  # tokens, begin and end of masked runs, ends of documents


class Tokens(NamedTuple):
    """A corpus of D documents, n tokens; views into the memory-mapped file.

    Masked tokens carry no loss as targets.
    """

    tokens: Array  # (n,) uint16 or uint32
    starts: Array  # (D + 1,) int64
    masked: Array  # (2 S,) int64: begin and end of each run of masked tokens, ascending
    kinds: Array  # (D,) uint8: STREAM; or JOINS, ALTERNATIVE, both, neither
    made_of: dict[str, str]  # digest of the texts, fingerprint of the tokenizer


def load_tokens(path: Path, vocab_size: int) -> Tokens | None:
    """Return the tokens in the file; None if it is missing, damaged, or not one that `save_tokens` writes."""
    # An unexpected header raises one of the errors below, and each of them means None: tokens can always be
    # made again. Nothing is used before the checksum of the body has been compared.
    try:
        with os.fdopen(safe_files.open_to_read(path), "rb") as file:
            raw: Array = np.memmap(file, np.uint8, "r").view(np.ndarray)
        header = json.loads(raw[:HEADER].tobytes())
        if header["format"] != FORMAT:
            return None
        parts, stop = [], HEADER
        for dtype, count in header["parts"]:
            start = -(-stop // 8) * 8  # rounded up to a multiple of 8
            stop = start + count * np.dtype(dtype).itemsize
            parts.append(raw[start:stop].view(dtype))
        if zlib.crc32(raw[HEADER:].data) != header["crc32"]:
            return None
        tokens, starts, masked, kinds = parts
        if not _is_sound(tokens, starts, masked, kinds, vocab_size):
            return None
        made_of = {name: str(header["made_of"][name]) for name in ("texts", "tokenizer")}
        return Tokens(tokens, starts, masked, kinds, made_of)
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return None


def _is_sound(tokens: Array, starts: Array, masked: Array, kinds: Array, vocab_size: int) -> bool:
    """Return whether every number is one that the kernels, which trust them, may use as an index.

    A checksum shows what a disk has changed, but not what a person has.
    """
    dtypes = [part.dtype.str for part in (starts, masked, kinds)]
    if tokens.dtype.str != dtype_of(vocab_size) or dtypes != ["<i8", "<i8", "|u1"]:
        return False
    if not tokens.size or len(starts) != len(kinds) + 1 or len(masked) % 2:
        return False
    ends = starts[0] == 0 and starts[-1] == tokens.size
    # Compared, not subtracted: a difference of two large numbers may overflow.
    if not ends or not (starts[:-1] < starts[1:]).all():
        return False
    if masked.size and (masked[0] < 0 or masked[-1] > tokens.size or not (masked[:-1] <= masked[1:]).all()):
        return False
    # An alternative stands behind the document that it can replace, or another alternative of it.
    follows, joins = kinds & ALTERNATIVE > 0, kinds & JOINS
    if follows[0] or (follows[1:] & ((kinds[:-1] == STREAM) | (joins[1:] != joins[:-1]))).any():
        return False
    known = (0, STREAM, JOINS, ALTERNATIVE, JOINS | ALTERNATIVE)
    return bool(np.isin(kinds, known).all()) and int(tokens.max()) < vocab_size


def save_tokens(path: Path, texts: Iterable[Text], tokenizer: Tokenizer) -> None:
    """Write the tokens of `texts`, iterated once, to the file, which appears when it is complete.

    The directory above it is made in an existing one; no other process may be writing there. A few pieces of
    text are in memory at a time, with 9 bytes per document and 16 per prompt. There is no
    fsync: a file that a crash tore fails its checksum and is made again.
    """
    safe_files.own_directory(path.parent)
    safe_files.remove_leftovers(path)
    with safe_files.replacing(path) as file:  # atomic; a run that has the old file mapped keeps it
        body, digest = _Body(file), Digest()
        # One pass over the texts: their digest is complete when their last token is written.
        starts, masked, kinds = _write_tokens(body, digest.of(texts), tokenizer)
        body.start_part(np.frombuffer(starts, "<i8"))
        body.start_part(np.frombuffer(masked, "<i8"))
        body.start_part(np.frombuffer(kinds, "|u1"))
        made_of = {"texts": digest.hexadecimal(), "tokenizer": tokenizer.fingerprint()}
        header = {"format": FORMAT, "made_of": made_of, "parts": body.parts, "crc32": body.crc32}
        file.seek(0)  # over the zeros that `_Body` began with
        file.write(json.dumps(header).encode().ljust(HEADER - 1) + b"\n")


class _Body:
    """The part of the file after the header: knows its parts and its checksum while it is written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.crc32, self.size = file, 0, 0
        self.parts: list[tuple[str, int]] = []
        file.write(bytes(HEADER))

    def start_part(self, values: Array) -> None:
        """Begin a part with `values`, at the next multiple of 8 bytes."""
        self._write(bytes(-self.size % 8))
        self.parts.append((values.dtype.str, 0))
        self.extend_part(values)

    def extend_part(self, values: Array) -> None:
        """Append `values` to the last part, in its dtype."""
        dtype, count = self.parts[-1]
        self.parts[-1] = dtype, count + values.size
        self._write(values.astype(dtype).tobytes())

    def _write(self, data: bytes) -> None:
        self.file.write(data)
        self.crc32 = zlib.crc32(data, self.crc32)
        self.size += len(data)


def _write_tokens(
    body: _Body, texts: Iterable[Text], tokenizer: Tokenizer
) -> tuple[array[int], array[int], bytearray]:
    """Write the tokens and return starts, masked and kinds."""
    # Arrays of machine integers: lists of Python's take five times the memory.
    starts, masked, kinds, count = array("q", [0]), array("q"), bytearray(), 0
    body.start_part(np.empty(0, dtype_of(tokenizer.vocab_size)))
    for kinds_here, (tokens, masked_here, stops) in _encoded(texts, tokenizer):
        body.extend_part(tokens)
        masked.extend(count + i for i in masked_here)
        starts.extend(count + i for i in stops)
        kinds += kinds_here
        count += tokens.size
    return starts, masked, kinds


def dtype_of(vocab_size: int) -> str:
    """Return the dtype of tokens in a file, as a string."""
    return "<u2" if vocab_size <= 1 << 16 else "<u4"


def _encoded(texts: Iterable[Text], tokenizer: Tokenizer) -> Iterator[tuple[bytes, Encoded]]:
    """Yield the kinds and the tokens of all documents in order.

    Some threads encode ahead of the writer, so that reading, encoding and writing overlap.
    """
    # At most THREADS + 1 groups are waiting, oldest first: that bounds the memory, and keeps the order.
    waiting: deque[tuple[bytes, Future[Encoded]]] = deque()
    with ThreadPoolExecutor(THREADS) as pool:
        for group, opens in _groups(texts):
            if group[0].stream:
                future = pool.submit(_encode_stream, tokenizer, group, opens)
                kinds = bytes([STREAM]) * sum(text.ends for text in group)
            else:
                documents = [each for text in group for each in (text.segments, *text.alternatives)]
                future = pool.submit(encode_all, tokenizer, documents)
                kinds = b"".join(_kinds(text) for text in group)
            waiting.append((kinds, future))
            if len(waiting) > THREADS:
                kinds, future = waiting.popleft()
                yield kinds, future.result()
        for kinds, future in waiting:
            yield kinds, future.result()


def _kinds(text: Text) -> bytes:
    """Return the kinds of a document and of its alternatives."""
    kind = JOINS if text.joins else 0
    return bytes([kind, *[kind | ALTERNATIVE] * len(text.alternatives)])


def _groups(texts: Iterable[Text]) -> Iterator[tuple[list[Text], bool]]:
    """Yield texts of one kind, together long enough for a task, and whether the first begins a document."""
    group: list[Text] = []
    size, opens = 0, True
    for text in texts:
        if group and (size >= GROUP or text.stream != group[0].stream):
            yield group, opens
            opens, group, size = group[-1].ends, [], 0
        group.append(text)
        documents = (text.segments, *text.alternatives)
        size += sum(len(segment.text) for segments in documents for segment in segments)
    if group:
        yield group, opens


def _encode_stream(tokenizer: Tokenizer, pieces: Sequence[Text], opens: bool) -> Encoded:
    """Return the tokens of pieces of streams: end_of_text stands before and after each stream.

    A group of pieces may begin and end in the middle of a stream: `opens` tells whether it begins with one.
    """
    ids, ends = tokenizer.encode_all(["".join(s.text for s in piece.segments) for piece in pieces])
    marks: list[int] = []  # where in `ids` an end_of_text is inserted
    stops: list[int] = []
    begin = 0
    for piece, end in zip(pieces, ends, strict=True):
        marks += [begin] * opens + [end] * piece.ends
        if piece.ends:
            stops.append(end + len(marks))  # after the insertions so far
        begin, opens = end, piece.ends
    return np.insert(ids, marks, tokenizer.end_of_text), [], stops
