"""Calls that must come to an end: what might wait for ever fails in place of hanging the suite."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

R = TypeVar("R")

# Seconds until a test that waits for a sign fails. What it waits for takes milliseconds on an idle machine,
# so a busy one makes it slow, never red.
PATIENCE = 300.0


def in_time(call: Callable[[], R], seconds: float = PATIENCE) -> R:
    """Return what `call` returns or raise what it raises; AssertionError if it has not ended by then.

    Threads that it has left waiting keep waiting: the test fails, but Python does not end by itself.
    """
    ended: list[Callable[[], R]] = []

    def run() -> None:
        try:
            result = call()
        except BaseException as error:
            raised = error

            def again() -> R:
                raise raised

            ended.append(again)
        else:
            ended.append(lambda: result)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert ended, f"not ended after {seconds:.0f} s"
    return ended[0]()
