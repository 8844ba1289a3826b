"""What the model wrote while it trained, read from the log: of many samples a few, most of them early ones.

Order: a sample, gathering them, choosing the few.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from tinyllm.checkpoint.metadata import is_count
from tinyllm.training.samples import EVENT

MOST = 2000  # kept of a run while its log is read
ROWS = 6  # shown of each phase


class Written(NamedTuple):
    """A text that continues a prompt, or answers it, after update `step` and `epoch` whole epochs."""

    step: int
    epoch: int
    phase: str
    prompt: str
    text: str


def is_sample(line: dict[str, Any]) -> bool:
    """Return whether a line of the log is a sample."""
    return line.get("event") == EVENT


def gather_(found: dict[int, Written], lines: list[dict[str, Any]]) -> None:
    """Add the samples among lines of the log, by step; of too many, every second one is dropped."""
    for line in filter(is_sample, lines):
        texts = [line.get(name) for name in ("phase", "prompt", "text")]
        if all(isinstance(text, str) for text in texts):
            epoch = line.get("epoch")
            found[line["step"]] = Written(line["step"], epoch if is_count(epoch) else 0, *map(str, texts))
    while len(found) > MOST:
        for step in sorted(found)[1:-1:2]:  # the first and the last stay
            del found[step]


def chosen(written: dict[int, Written]) -> list[Written]:
    """Return of each phase the last sample, the one halfway to it, and so on, in the order of their steps."""
    samples, found = [written[step] for step in sorted(written)], []
    for phase in dict.fromkeys(sample.phase for sample in samples):
        own = [sample for sample in samples if sample.phase == phase]
        places = {len(own) - 1 >> k for k in range(ROWS - 1)} | {0}
        found += [own[i] for i in sorted(places)]
    return found
