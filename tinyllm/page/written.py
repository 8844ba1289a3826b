"""What the model wrote while it trained, read from the log: of many samples a few, most of them early ones.

Order: a sample, gathering them, the few that are shown.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import Any, NamedTuple

from tinyllm.checkpoint.metadata import is_count
from tinyllm.training.samples import EVENT

MOST = 2000  # kept of a run while its log is read
MILESTONES = (1, 5, 10, 20, 50, 100, 200, 500, 1000)  # epochs of a phase


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


def at_milestones(written: Mapping[int, Written], begun: Mapping[str, int]) -> list[Written]:
    """Return of each phase the first sample after 1, 5, 10, 20, ... of its epochs, and the last of all.

    `begun` tells how many epochs the run had made when a phase began. In a phase whose samples were drawn
    before its first epoch was over, as in one of few steps over many texts, the samples themselves are
    counted: it is the first, the 5th, the 10th, ...
    """
    samples, found = [written[step] for step in sorted(written)], []
    for phase in dict.fromkeys(sample.phase for sample in samples):
        own = [sample for sample in samples if sample.phase == phase]
        counts = [sample.epoch - begun.get(phase, 0) for sample in own]
        if not any(count > 0 for count in counts[:-1]):
            counts = list(range(1, len(own) + 1))
        places = {bisect_left(counts, milestone) for milestone in MILESTONES if milestone <= counts[-1]}
        found += [own[i] for i in sorted(places | {len(own) - 1})]
    return found
