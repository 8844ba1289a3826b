"""Train, struck by a signal at a certain place: `python -m benchmarks.struck PLACE N SIGNAL OPTION ...`.

The process sends the signal to itself when it comes to the place for the N-th time, so that a kill loop hits
moments that are too short to be hit by chance. Order: the places, main.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

from tinyllm import report, train
from tinyllm.text.batches import Dataset
from tinyllm.text.texts import Texts

PLACES: dict[str, tuple[Any, str]] = {
    "reading": (Texts, "__iter__"),  # for the tokenizer, their digest, their tokens
    "evaluation": (Dataset, "validation"),
    "report": (report, "write_report"),  # the final model is saved
}


def each(counted: Callable[[], None], items: Iterator[Any]) -> Iterator[Any]:
    """Count each item before it is yielded."""
    for item in items:
        counted()
        yield item


def main() -> int:
    """Prepare the place, and train."""
    place, count, name, *options = sys.argv[1:]
    owner, attribute = PLACES[place]
    times, original = 0, getattr(owner, attribute)

    def counted() -> None:
        nonlocal times
        times += 1
        if times == int(count):
            os.kill(os.getpid(), signal.Signals[name])

    def with_items(*given: Any) -> Iterator[Any]:
        return each(counted, original(*given))

    def once(*given: Any) -> Any:
        counted()
        return original(*given)

    setattr(owner, attribute, once if place == "report" else with_items)
    return train.main(options)


if __name__ == "__main__":
    sys.exit(main())
