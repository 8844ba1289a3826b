"""The bytes of a file become strings and JSON values, or an error that names the place.

Files are UTF-8; a byte order mark is dropped. Text is read piece by piece, so it may be larger than memory;
of JSON lines one is in memory at a time. Order: the error, plain text, JSON.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from tinyllm.text.bpe import last_safe_cut

PIECE = 1 << 20  # bytes of a text that are read at once
LONGEST_PIECE = 4 * PIECE  # characters after which a text is cut even if no cut is safe


class DataError(ValueError):
    """A text cannot be used; names the file, the place, what was found and what is expected."""


def pieces(file: Path) -> Iterator[str]:
    """Yield a text, CRLF made LF, in pieces that are cut where it changes no token of BPE."""
    rest = ""
    for read in _decoded(file):
        rest += read
        cut = last_safe_cut(rest) or (len(rest) if len(rest) > LONGEST_PIECE else 0)
        if cut:
            yield rest[:cut]
            rest = rest[cut:]
    if rest:
        yield rest


def paragraphs(file: Path) -> Iterator[str]:
    """Yield what stands between the blank lines of a text, CRLF made LF."""
    lines: list[str] = []
    rest = ""
    for read in _decoded(file):
        *complete, rest = (rest + read).split("\n")
        for line in complete:
            if line and not line.isspace():
                lines.append(line)
            elif lines:
                yield "\n".join(lines)
                lines = []
    if rest and not rest.isspace():
        lines.append(rest)
    if lines:
        yield "\n".join(lines)


def _decoded(file: Path) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    with file.open("rb") as source:
        position, held = _skip_mark(source), ""
        while True:
            read = source.read(PIECE)
            waiting = len(decoder.getstate()[0])  # bytes of a character that the last read cut
            try:
                text = held + decoder.decode(read, final=not read)
            except UnicodeDecodeError as error:
                raise _not_utf8(file, position - waiting, error) from None
            position += len(read)
            held = "\r" if read and text.endswith("\r") else ""  # perhaps the first half of CRLF
            yield text.removesuffix(held).replace("\r\n", "\n")
            if not read:
                return


def json_array(file: Path) -> Iterator[tuple[int, Any]]:
    """Yield (number from 1, entry) of a file that is one JSON array."""
    with file.open("rb") as source:
        position = _skip_mark(source)
        entries = _parsed(source.read(), file, position, line=1)
    if not isinstance(entries, list):
        raise DataError(f"{file}: found {described(entries)}, expected an array of entries")
    yield from enumerate(entries, 1)


def json_lines(file: Path) -> Iterator[tuple[int, Any]]:
    """Yield (line number from 1, entry) of a file with one JSON value per line; blank lines are none."""
    with file.open("rb") as source:
        position = _skip_mark(source)
        for number, line in enumerate(source, 1):
            if line.strip():
                # Without its end, or an error at the end would be told of the next line.
                yield number, _parsed(line.rstrip(), file, position, number)
            position += len(line)


def _parsed(content: bytes, file: Path, position: int, line: int) -> Any:
    """Parse the JSON that stands at byte `position`, in line `line`, of the file."""
    try:
        return json.loads(content.decode())
    except UnicodeDecodeError as error:
        raise _not_utf8(file, position, error) from None
    except json.JSONDecodeError as error:
        raise DataError(
            f"{file}: line {line + error.lineno - 1}, column {error.colno}: found no valid JSON: {error.msg}"
        ) from None
    except (RecursionError, ValueError) as error:  # nested too deep, or a number of thousands of digits
        raise DataError(f"{file}: line {line}: found JSON that cannot be read: {error}") from None


def described(value: Any) -> str:
    """Say what kind of JSON value this is."""
    if isinstance(value, dict):
        fields = ", ".join(repr(name) for name in list(value)[:6])
        return f"an object with the fields {fields}" if fields else "an empty object"
    kinds = {str: "a string", list: "an array", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")


def _skip_mark(source: BinaryIO) -> int:
    """Move behind the byte order mark, if there is one, and return the position."""
    return source.seek(3 if source.read(3) == codecs.BOM_UTF8 else 0)


def _not_utf8(file: Path, position: int, error: UnicodeDecodeError) -> DataError:
    return DataError(
        f"{file}: found the byte 0x{error.object[error.start]:02x} at offset {position + error.start}, "
        f"expected UTF-8 ({error.reason}); save the file as UTF-8"
    )
