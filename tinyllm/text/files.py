"""The bytes of a file become strings and JSON values, or an error that says where it is.

Files are UTF-8; a byte order mark is dropped. They are read piece by piece, so they may be larger than
memory; of JSON one line, or one entry of an array, is held at a time. Every reader calls `on_read` with the
number of bytes of each read, so that the caller can show progress. Order: the error, plain text, JSON.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from tinyllm.text.bpe import last_safe_cut

PIECE = 1 << 18  # bytes per read
LONGEST_PIECE = 1 << 22  # characters after which a text is cut even if no cut is safe
LONGEST_WORD = 16  # characters that JSON's grammar looks at together: -Infinity, \\ud83d
OnRead = Callable[[int], None]  # receives the number of bytes of a read

_DECODER = json.JSONDecoder()
_NON_BLANK = re.compile(r"[^ \t\n\r]")


class DataError(ValueError):
    """A text cannot be used; names the file, the position, what was found and what is expected."""


def pieces(file: Path, on_read: OnRead) -> Iterator[str]:
    """Yield a text, CRLF made LF, in pieces that are cut where it changes no token of BPE."""
    rest = ""
    for read in _decoded(file, on_read):
        rest += read
        cut = last_safe_cut(rest) or (len(rest) if len(rest) > LONGEST_PIECE else 0)
        if cut:
            yield rest[:cut]
            rest = rest[cut:]
    if rest:
        yield rest


def paragraphs(file: Path, on_read: OnRead) -> Iterator[str]:
    """Yield the paragraphs of a text, which blank lines separate, CRLF made LF."""
    lines: list[str] = []
    rest = ""
    for read in _decoded(file, on_read):
        *complete, rest = (rest + read).split("\n")
        for line in complete:  # a blank line ends the paragraph, if there is one
            if line and not line.isspace():
                lines.append(line)
            elif lines:
                yield "\n".join(lines)
                lines = []
    if rest and not rest.isspace():
        lines.append(rest)
    if lines:
        yield "\n".join(lines)


def _decoded(file: Path, on_read: OnRead) -> Iterator[str]:
    """Yield the text of each read, possibly empty; a character or CRLF that is cut comes with the next."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with file.open("rb") as source:
        position, held = _skip_bom(source), ""
        while True:
            read = source.read(PIECE)
            on_read(len(read))
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


def json_array(file: Path, on_read: OnRead) -> Iterator[tuple[int, Any]]:
    """Yield (number from 1, entry) of a file that is one JSON array; DataError where it is not."""
    text = _Json(file, on_read)
    if text.next_character() != "[":
        raise DataError(f"{file}: found {described(text.value())}, expected an array of entries")
    text.at += 1
    character, number = text.next_character(), 0
    text.at += character == "]"  # an empty array
    while character != "]":
        number += 1
        yield number, text.value()
        character = text.next_character()
        if character not in (",", "]"):
            raise text.error("Expecting ',' delimiter", text.at)
        text.at += 1
    if text.next_character():
        raise text.error("Extra data", text.at)


class _Json:
    """JSON text, of which only the part that is being parsed is in memory: `held`, from `at` on."""

    def __init__(self, file: Path, on_read: OnRead) -> None:
        self.file, self._source = file, _decoded(file, on_read)
        self.held, self.at = "", 0
        self._line, self._column = 1, 1  # of the first character held

    def next_character(self) -> str:
        """Move to the next character that is no white space, and return it; at the end the empty string."""
        while (found := _NON_BLANK.search(self.held, self.at)) is None:
            self.at = len(self.held)
            if not self._read_more():
                return ""
        self.at = found.start()
        return found[0]

    def value(self) -> Any:
        """Return the next value, and move behind it."""
        self.next_character()
        while True:
            try:
                value, end = _DECODER.raw_decode(self.held, self.at)
            except json.JSONDecodeError as error:
                # Wrong, or only cut off at the end of `held`? Then it is parsed again with more.
                cut = error.msg.startswith("Unterminated") or error.pos > len(self.held) - LONGEST_WORD
                if not cut or not self._read_more():
                    raise self.error(error.msg, error.pos) from None
            except (RecursionError, ValueError) as error:  # nested too deep, a number of thousands of digits
                line, _ = self._line_and_column(self.at)
                raise _unreadable(self.file, line, error) from None
            else:
                if end <= len(self.held) - LONGEST_WORD or not self._read_more():  # 1 may be cut from 1.5
                    self.at = end
                    return value

    def error(self, message: str, position: int) -> DataError:
        """Return the error for this position of `held`."""
        line, column = self._line_and_column(position)
        return DataError(f"{self.file}: line {line}, column {column}: found invalid JSON: {message}")

    def _line_and_column(self, position: int) -> tuple[int, int]:
        lines = self.held.count("\n", 0, position)
        before = self.held.rfind("\n", 0, position)
        return self._line + lines, position - before if lines else self._column + position

    def _read_more(self) -> bool:
        """Drop the text before `at` and hold at least twice the rest; return whether there was more."""
        # Doubling, so that a value much longer than a read is not parsed again after each of them.
        parts, size = [self.held[self.at :]], 0
        while size <= len(parts[0]) and (read := next(self._source, None)) is not None:
            parts.append(read)
            size += len(read)
        if size:
            self._line, self._column = self._line_and_column(self.at)
            self.held, self.at = "".join(parts), 0
        return size > 0


def json_lines(file: Path, on_read: OnRead) -> Iterator[tuple[int, Any]]:
    """Yield (line number from 1, entry) of a file with one JSON value per line; blank lines are skipped."""
    with file.open("rb") as source:
        position = _skip_bom(source)
        for number, line in enumerate(source, 1):
            on_read(len(line))
            if line.strip():
                # Without its newline: an error at the end would be reported for the next line.
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
            f"{file}: line {line + error.lineno - 1}, column {error.colno}: found invalid JSON: {error.msg}"
        ) from None
    except (RecursionError, ValueError) as error:  # nested too deep, a number of thousands of digits
        raise _unreadable(file, line, error) from None


def described(value: Any) -> str:
    """Say what kind of JSON value this is."""
    if isinstance(value, dict):
        fields = ", ".join(repr(name) for name in list(value)[:6])
        return f"an object with the fields {fields}" if fields else "an empty object"
    kinds = {str: "a string", list: "an array", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")


def _skip_bom(source: BinaryIO) -> int:
    """Move behind the byte order mark, if there is one, and return the position."""
    return source.seek(3 if source.read(3) == codecs.BOM_UTF8 else 0)


def _unreadable(file: Path, line: int, error: Exception) -> DataError:
    return DataError(f"{file}: line {line}: found JSON that cannot be read: {error}")


def _not_utf8(file: Path, position: int, error: UnicodeDecodeError) -> DataError:
    return DataError(
        f"{file}: found the byte 0x{error.object[error.start]:02x} at offset {position + error.start}, "
        f"expected UTF-8 ({error.reason}); save the file as UTF-8"
    )
