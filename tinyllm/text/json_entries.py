"""JSON as people have it: one array of entries, or entries one after the other, each over one line or many.

The content decides, not the name: JSON Lines named .json are read, and so is indented JSON named .jsonl. One
entry is in memory at a time. Order: the entries of a file, the text that is parsed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from itertools import chain, islice
from typing import Any

from tinyllm.text import files
from tinyllm.text.files import DataError, File, decoded, refusal

LONGEST_WORD = 16  # characters that JSON's grammar looks at together: -Infinity, \\ud83d

_DECODER = json.JSONDecoder()
_NON_BLANK = re.compile(r"[^ \t\n\r]")


def json_entries(file: File, is_message: Callable[[Any], bool]) -> Iterator[tuple[str, Any]]:
    """Yield (where, entry) of a file; a refusal with line and column where it is no JSON.

    An array at the beginning holds the entries, unless it begins with a message: then it is a conversation,
    and so an entry.
    """
    text = _Json(file)
    if text.next_character() == "[":
        elements, line = text.elements(), text.line
        first = list(islice(elements, 1))
        if not first or not is_message(first[0]):
            for number, element in enumerate(chain(first, elements), 1):
                yield f"entry {number}", element
            if text.next_character():
                raise text.error("Extra data", text.at)
            return
        yield f"line {line}", [*first, *elements]
    while text.next_character():
        line = text.line
        yield f"line {line}", text.value()


class _Json:
    """JSON text, of which only the part that is being parsed is in memory: `held`, from `at` on."""

    def __init__(self, file: File) -> None:
        self.path, self._source = file.path, decoded(file)
        self.held, self.at = "", 0
        self._line, self._column = 1, 1  # of the first character held
        self._counted = 0, 1  # a position in `held`, and its line

    def next_character(self) -> str:
        """Move to the next character that is no white space, and return it; at the end the empty string."""
        while (found := _NON_BLANK.search(self.held, self.at)) is None:
            self.at = len(self.held)
            if not self._read_more():
                return ""
        self.at = found.start()
        return found[0]

    @property
    def line(self) -> int:
        """The line of the next character, from 1."""
        counted, line = self._counted
        line += self.held.count("\n", counted, self.at)
        self._counted = self.at, line
        return line

    def elements(self) -> Iterator[Any]:
        """Yield the elements of the array that begins here, and move behind it."""
        self.at += 1
        character = self.next_character()
        self.at += character == "]"  # an empty array
        while character != "]":
            yield self.value()
            character = self.next_character()
            if character not in (",", "]"):
                raise self.error("Expecting ',' delimiter", self.at)
            self.at += 1

    def value(self) -> Any:
        """Return the next value, and move behind it."""
        self.next_character()
        begun = self.line
        while True:
            try:
                value, end = _DECODER.raw_decode(self.held, self.at)
            except json.JSONDecodeError as error:
                # Wrong, or only cut off at the end of `held`? Then it is parsed again with more.
                cut = error.msg.startswith("Unterminated") or error.pos > len(self.held) - LONGEST_WORD
                if not cut or not self._read_more():
                    raise self.error(error.msg, error.pos, begun) from None
            except (RecursionError, ValueError) as error:  # nested too deep, a number of thousands of digits
                raise refusal(f"{self.path}: line {begun}: found JSON that cannot be read: {error}") from None
            else:
                if end <= len(self.held) - LONGEST_WORD or not self._read_more():  # 1 may be cut from 1.5
                    self.at = end
                    return value

    def error(self, message: str, position: int, begun: int = 0) -> DataError:
        """Return the error for this position of `held`, in a value that has begun in line `begun`."""
        line, column = self._line_and_column(position)
        inside = f" (in the entry that begins in line {begun})" if 0 < begun < line else ""
        return refusal(f"{self.path}: line {line}, column {column}: found invalid JSON: {message}{inside}")

    def _line_and_column(self, position: int) -> tuple[int, int]:
        lines = self.held.count("\n", 0, position)
        before = self.held.rfind("\n", 0, position)
        return self._line + lines, position - before if lines else self._column + position

    def _read_more(self) -> bool:
        """Drop the text before `at` and hold at least twice the rest; return whether there was more."""
        # Doubling, so that a value much longer than a read is not parsed again after each of them.
        parts, size = [self.held[self.at :]], 0
        if len(parts[0]) > files.LONGEST_ENTRY:
            raise refusal(
                f"{self.path}: line {self.line}: found an entry of more than {files.LONGEST_ENTRY:,} "
                f"characters, expected shorter ones"
            )
        while size <= len(parts[0]) and (read := next(self._source, None)) is not None:
            parts.append(read)
            size += len(read)
        if size:
            self._line, self._column = self._line_and_column(self.at)
            self.held, self.at = "".join(parts), 0
            self._counted = 0, self._line
        return size > 0
