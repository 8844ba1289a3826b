"""Lines as a person types them: with a history and arrow keys, in any script, where the terminal allows it.

Order: the lines, the locale of readline.
"""

from __future__ import annotations

import codecs
import locale
import os
import sys
from collections.abc import Iterator
from typing import TextIO

PROMPT = "> "


def lines(stdin: TextIO, out: TextIO, err: TextIO) -> Iterator[str]:
    """Yield the lines of `stdin` until there are no more, each asked for if it is a terminal."""
    if stdin is sys.stdin and stdin.isatty() and out.isatty():
        _use_readline(stdin.encoding)
        while True:
            try:
                yield input(PROMPT)
            except EOFError:
                return
    while True:
        if stdin.isatty():
            print(PROMPT, end="", file=err, flush=True)
        if not (line := stdin.readline()):
            return
        yield line


def _use_readline(encoding: str) -> None:
    """Let input() have a history and arrow keys, if the bytes of `encoding` can then be typed."""
    # readline takes what is typed for characters of the locale. In the C locale the bytes of a Chinese one
    # are keys pressed with Alt, one of which lists the directory; Python reads UTF-8 there all the same.
    # readline finds the name of the locale in the environment, each time that it reads a line.
    if not any(_reads(name, encoding) for name in ("", "C.UTF-8", "en_US.UTF-8")):
        return
    try:
        import readline
    except ImportError:
        return
    readline.parse_and_bind("set disable-completion on")  # a tab, such as of a pasted table, is a character


def _reads(name: str, encoding: str) -> bool:
    """Choose the locale `name`, "" the environment's; return whether its characters have this encoding."""
    try:
        locale.setlocale(locale.LC_CTYPE, name)
        found = codecs.lookup(locale.nl_langinfo(locale.CODESET)).name == codecs.lookup(encoding).name
    except (locale.Error, LookupError, AttributeError):  # AttributeError: this system has no nl_langinfo
        return False
    if found and name:
        os.environ["LC_ALL"] = name
    return found
