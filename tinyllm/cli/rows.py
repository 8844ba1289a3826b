"""The table of a run: a header for each phase, and rows of at most 80 columns for any numbers.

Order: labelled lines, numbers in a fixed width, the table, what its columns mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from tinyllm.run.state import Progress
from tinyllm.training.step import Step
from tinyllm.words import duration, fold, perplexity

WIDTH = 80
GAP = 2
NONE = "-"


def labelled(rows: Mapping[str, str]) -> str:
    """Return lines of a label and a text, the texts below one another."""
    label = max(map(len, rows)) + GAP
    return "\n".join(fold(f"{name:<{label}}{text}", WIDTH, label) for name, text in rows.items())


def fitted(value: float, width: int, decimals: int) -> str:
    """Return a number in at most `width` characters, with as many decimals as that leaves; `-` for NaN."""
    if math.isnan(value):
        return NONE
    texts = [f"{value:.{count}f}" for count in range(decimals, -1, -1)]
    return next((text for text in (*texts, f"{value:.1e}") if len(text) <= width), f"{value:.0e}")


def rate(tokens_per_second: float) -> str:
    """Return a speed in at most seven characters, below 10**11: `5,109`, `1.5M`."""
    if not math.isfinite(tokens_per_second):
        return NONE
    if tokens_per_second < 999_999.5:
        return f"{tokens_per_second:,.0f}"
    return f"{fitted(tokens_per_second / 1e6, 6, 1)}M"


def mean_loss(progress: Progress) -> float:
    """Return the mean training loss of the epoch so far, or of the one just ended."""
    return progress.loss_sum / progress.loss_tokens if progress.loss_tokens else progress.train_loss


class Table:
    """Rows whose first columns are as wide as the last epoch and the last step of a run."""

    def __init__(self, epochs: int, steps: int) -> None:
        self.widths = {
            "epoch": max(5, len(str(epochs))), "step": max(5, len(f"{steps:,}")), "loss": 7, "val": 7,
            "ppl": 7, "lr": 7, "|g|": 6, "tok/s": 7, "ETA": 6,
        }  # fmt: skip
        if self._width() > WIDTH:
            del self.widths["ppl"]  # it repeats the loss

    def header(self) -> str:
        """Return the names of the columns."""
        return self._line({name: name for name in self.widths})

    def row(
        self, progress: Progress, val: float, monitored: float, step: Step | None, speed: float, eta: float
    ) -> str:
        """Return a row; `val` and `monitored` are losses.

        What is NaN or None is not shown, and the epoch only where one has ended.
        """
        cells = {
            "epoch": "" if progress.index else str(progress.epoch), "step": f"{progress.step:,}",
            "loss": fitted(mean_loss(progress), 7, 4), "val": fitted(val, 7, 4),
            "ppl": fitted(perplexity(monitored), 7, 2),
        }  # fmt: skip
        if step is not None:
            cells |= {"lr": f"{step.lr:.1e}", "|g|": fitted(step.grad_norm, 6, 3)}
            cells |= {"tok/s": rate(speed), "ETA": duration(eta)}
        return self._line(cells)

    def _line(self, cells: dict[str, str]) -> str:
        return (" " * GAP).join(cells.get(name, "").rjust(width) for name, width in self.widths.items())

    def _width(self) -> int:
        return sum(self.widths.values()) + GAP * len(self.widths)  # the last gap is that of the star


def legend(monitor: str) -> str:
    """Return what the columns mean."""
    best = "val" if monitor == "val" else "loss"
    return (
        f"loss: mean of the epoch so far; val: loss of held-out data, - if there is none; ppl: exp({best}); "
        f"|g|: norm of the gradient; ETA: of the whole run; *: best {best}"
    )
