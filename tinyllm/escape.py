"""What came from a file or a path name is shown as characters, and never controls the terminal.

A name may hold an escape sequence that clears the screen, a line end that forges a message, or bytes that
are not text at all. Order: one line, several lines, running text.
"""

from __future__ import annotations

import re

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def printable(text: object) -> str:
    """Return `text` on one line, every control or invisible character replaced by an escape sequence."""
    line = str(text)
    return line if line.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def reason(error: BaseException) -> str:
    """Return what an error says, or else its kind, on one line."""
    return printable(str(error) or type(error).__name__)


def printable_lines(text: str) -> str:
    """Return `text`, each of its lines made `printable`."""
    return "\n".join(map(printable, text.split("\n")))


def legible(text: str) -> str:
    r"""Return running text for a terminal: control characters escaped, all but \n and \t.

    Spaces of any width and joined emoji stay as they are.
    """
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)
