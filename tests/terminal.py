"""Programs on a terminal of their own: what is typed there reaches them as if by a person."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.timing import PATIENCE

ROOT = Path(__file__).parents[1]


@contextmanager
def on_terminal(
    arguments: list[str], environment: Mapping[str, str]
) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Run Python with `arguments`; yield the other end of its terminal, and the process, ended at the end."""
    ours, theirs = pty.openpty()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG"))}
    with subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs,
        env={**inherited, "PYTHONPATH": str(ROOT), "TERM": "dumb", **environment},
        preexec_fn=lambda: _own_terminal(theirs),
    ) as process:  # fmt: skip
        os.close(theirs)
        try:
            yield ours, process
        finally:
            process.kill()
            os.close(ours)


def _own_terminal(descriptor: int) -> None:
    """Make the terminal the child's own, so that the key Ctrl-C reaches it."""
    import fcntl
    import termios

    os.setsid()
    fcntl.ioctl(descriptor, termios.TIOCSCTTY, 0)


def read_until(descriptor: int, text: str) -> bytes:
    """Read from a terminal until `text` has appeared; return all that has."""
    seen = b""
    while text.encode() not in seen:
        assert select.select([descriptor], [], [], PATIENCE)[0], f"no {text!r} after {seen!r}"
        seen += os.read(descriptor, 1)
    return seen


class Screen:
    """What a terminal of endless height shows after it was written: text, \\r, \\n, and what rich sends."""

    def __init__(self, written: str, columns: int) -> None:
        self.lines, self.cursor_is_hidden, self.colours = [""], False, set[str]()
        self.columns, self.row, self.column = columns, 0, 0
        for escape, number, letter, character in re.findall(
            r"(\x1b\[\??(\d*)(?:;\d+)*([A-Za-z]))|([^\x1b])", written
        ):
            if escape:
                self._obey(escape, int(number or "1"), letter)
            else:
                self._write(character)

    def _write(self, character: str) -> None:
        if character == "\r":
            self.column = 0
            return
        if character == "\n" or self.column == self.columns:
            self.row, self.column = self.row + 1, 0
            self.lines += [""] * (self.row + 1 - len(self.lines))
        if character != "\n":
            line = self.lines[self.row].ljust(self.column)
            self.lines[self.row] = line[: self.column] + character + line[self.column + 1 :]
            self.column += 1

    def _obey(self, escape: str, number: int, letter: str) -> None:
        if letter == "A":
            self.row -= number
        elif letter == "K":
            self.lines[self.row] = ""
        elif letter in "hl":
            self.cursor_is_hidden = letter == "l"
        elif letter == "m" and number not in (0, 39):  # not the default
            self.colours.add(escape)
