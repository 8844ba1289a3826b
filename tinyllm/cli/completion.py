"""Tab completion in a shell, where argcomplete is installed and registered; otherwise nothing happens here.

The shell runs the program with what was typed in its environment, and the program prints what may follow,
instead of doing anything. Order: one parser, the program of `tinyllm PROGRAM`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from contextlib import suppress

_STARTED_BY_SHELL = "_ARGCOMPLETE"  # then the number of words before the program's own, its name included


def complete(parser: argparse.ArgumentParser) -> None:
    """Print what may be typed next, and end the process, if a shell asks."""
    if _STARTED_BY_SHELL in os.environ:
        with suppress(ImportError):
            import argcomplete  # type: ignore[import-not-found,unused-ignore]

            argcomplete.autocomplete(parser)


def typed_program(programs: Iterable[str]) -> list[str]:
    """Return the program that was typed, whose parser completes the rest; complete its name if there is none.

    Returns [] where no shell asks.
    """
    if _STARTED_BY_SHELL not in os.environ:
        return []
    parser = argparse.ArgumentParser("tinyllm")
    parser.add_argument("program", choices=list(programs))
    parser.add_argument("--version", action="store_true")
    with suppress(ImportError):
        from argcomplete.lexers import split_line  # type: ignore[import-not-found,unused-ignore]

        before = int(os.environ[_STARTED_BY_SHELL])
        words = split_line(os.environ["COMP_LINE"], int(os.environ["COMP_POINT"]))[3]
        if words[before : before + 1] and words[before] in programs:
            os.environ[_STARTED_BY_SHELL] = str(before + 1)
            return [words[before]]
    complete(parser)
    return []
