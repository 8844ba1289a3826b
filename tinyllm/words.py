"""Numbers and messages as a person reads them: counted nouns, and lines that fit the terminal.

Order: counts, perplexity, durations, the width of a text, a line that is too wide, lines.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator

# A character that Chinese text may be broken after, with the marks that no line begins with; or others.
_HAN = r"\u2e80-\u9fff\uf900-\ufaff\uff00-\uff60\U00020000-\U0003ffff"
_PIECE = re.compile(rf"[{_HAN}][、。，！？：；）》」』”’]* *|[^{_HAN} ]+ *")


def counted(count: int, noun: str) -> str:
    """Return a number and what it counts: `1 step`, `1,020 steps`, `2 entries`."""
    if count == 1:
        return f"1 {noun}"
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count:,} {plural}"


def perplexity(loss: float) -> float:
    """Return e to a loss in nats: infinity above 700, where a float64 soon ends, and NaN for NaN."""
    return math.inf if loss > 700 else math.exp(loss)


def duration(seconds: float) -> str:
    """Return seconds in at most six characters: `42s`, `3m05s`, `2h07m`, `12d07h`, `120d`, `3y`."""
    if not math.isfinite(seconds):
        return "?"
    minutes, whole = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days >= 1000:
        return f"{min(days // 365, 99_999)}y"
    if days:
        return f"{days}d{hours:02d}h" if days < 100 else f"{days}d"
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{whole:02d}s" if minutes else f"{whole}s"


def columns(text: str) -> int:
    """Return how many columns of a terminal a line takes: two for a Han character, none for an accent."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(unicodedata.combining(character) > 0 for character in text)


def shortened(text: str, width: int) -> str:
    """Return a line, without its end if it takes more than `width` columns."""
    if columns(text) <= width:
        return text
    kept = text[:width]
    while columns(kept) > width - 4:
        kept = kept[:-1]
    return f"{kept} ..."


def fold(text: str, width: int, hang: int = 2) -> str:
    """Return `text`, each line that is too wide broken at spaces, with `hang` more of indent after a break.

    What is too wide and must not be broken, such as a path, stays whole: a command, to be copied, extends
    from `python -m` to the end of its line. Chinese text without spaces is broken between characters if it
    would not fit a line of its own.
    """
    return "\n".join(_folded(line, width, hang) for line in text.split("\n"))


def _folded(line: str, width: int, hang: int) -> str:
    if columns(line) <= width:
        return line
    indent = line[: len(line) - len(line.lstrip(" "))]
    lines = [indent]
    for piece in _pieces(line[len(indent) :], width - len(indent) - hang):
        if columns(lines[-1]) + columns(piece.rstrip(" ")) > width and lines[-1].strip(" "):
            lines.append(indent + " " * hang)
        lines[-1] += piece
    return "\n".join(each.rstrip(" ") for each in lines)


def _pieces(text: str, room: int) -> Iterator[str]:
    """Yield the parts of a line that stay whole, each with the spaces behind it."""
    for word in re.findall(r"python -m tinyllm.*|[^ ]+ *", text):
        too_wide = columns(word.rstrip(" ")) > room
        if too_wide and "/" not in word and not word.startswith("python -m"):
            yield from _PIECE.findall(word)
        else:
            yield word


class LineBreaks:
    """Breaks a text that comes in pieces into lines of at most `width` columns, between its words.

    A word is held back until its end is there; a Han character is a word by itself. What is wider than a line
    has one of its own. Without a width, every piece is left as it is.
    """

    def __init__(self, width: int | None) -> None:
        self.width, self.column, self.word = width, 0, ""

    def add(self, piece: str) -> str:
        """Return what can be written now that `piece` is there."""
        if self.width is None:
            return piece
        written = ""
        for character in piece:
            if character.isspace():
                written += self.end()
                if character == "\n" or self.column < self.width:  # else the line ends here anyway
                    written += character
                    self.column = 0 if character == "\n" else self.column + 1
            elif columns(character) > 1:
                written += self.end() + self._placed(character)
            else:
                self.word += character
        return written

    def end(self) -> str:
        """Return what is still held back: the last word."""
        word, self.word = self.word, ""
        return self._placed(word) if word else ""

    def _placed(self, word: str) -> str:
        taken, width = columns(word), self.width or 0
        broken = "\n" if self.column and self.column + taken > width else ""
        self.column = taken if broken else self.column + taken
        return broken + word
