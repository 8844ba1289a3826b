"""Programs on a terminal of their own: what is typed there reaches them as if by a person."""

from __future__ import annotations

import os
import pty
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
