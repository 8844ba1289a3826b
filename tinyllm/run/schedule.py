"""The learning rate is a pure function of the step; its inputs are stored, never its output."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from tinyllm.option import ConfigError


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up from `start`, then half a cosine from `peak` down to `floor` at `end`.

    Loshchilov & Hutter 2016, arXiv:1608.03983, without restarts. `start` and `end` count updates of
    the whole run; the cosine begins at `start + warmup`.
    """

    peak: float
    floor: float
    start: int
    warmup: int
    end: int

    def __post_init__(self) -> None:
        if not (0 <= self.peak < math.inf and 0 <= self.floor < math.inf):
            raise ConfigError(f"schedule: found rates {self.peak} and {self.floor}, expected finite ones")

    def lr(self, step: int) -> float:
        """Return the rate of update number `step` (the first update of the run is number 0).

        Before `start` the rate is that of `start`.
        """
        done = max(step - self.start, 0)
        if done < self.warmup:
            return self.peak * (done + 1) / self.warmup
        length = max(self.end - self.start - self.warmup, 1)
        fraction = min((done - self.warmup) / length, 1.0)
        return self.floor + 0.5 * (self.peak - self.floor) * (1 + math.cos(math.pi * fraction))

    def continued(self, step: int, end: int, floor: float) -> Schedule:
        """Return a schedule to another `end` or `floor`, without a jump at update `step`."""
        if (end, floor) == (self.end, self.floor):
            return self
        if step - self.start < self.warmup:  # the rate depends on neither yet
            return dataclasses.replace(self, end=end, floor=floor)
        return Schedule(self.lr(step), floor, step, 0, end)

    def restarted(self, step: int, end: int, peak: float, floor: float, warmup: int | None) -> Schedule:
        """Return a schedule with another `peak`, after `warmup` updates from here.

        None: the warm-up so far leads there, or after it the rate jumps there.
        """
        if warmup is None and step - self.start < self.warmup:
            return dataclasses.replace(self, peak=peak, floor=floor, end=end)
        return Schedule(peak, floor, step, warmup or 0, end)
