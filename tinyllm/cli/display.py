"""What a person sees of a run: one aligned line per epoch, and a progress bar where there is a terminal.

Order: numbers as people write them, plain lines, the bar below them (with rich, where it is installed).
Progress is written to stdout, notices to stderr.
"""

from __future__ import annotations

import math
import sys
import time
import unicodedata
from itertools import accumulate
from typing import Any, TextIO

from tinyllm.escape import printable, printable_lines
from tinyllm.run.state import TrainState
from tinyllm.training.step import Step

SAMPLE_WIDTH = 66  # columns of a sample: with the step before it, a line of 80
HEARTBEAT = 10.0  # seconds between lines during a long epoch


def duration(seconds: float) -> str:
    """Write seconds as people do: `42s`, `3m05s`, `2h07m`."""
    if not math.isfinite(seconds):
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def perplexity(loss: float) -> str:
    """Write exp(loss) in at most eight characters."""
    value = math.exp(loss) if loss < 20 else math.inf
    return f"{value:8.2f}" if value < 1e5 else f"{value:8.1e}"


def shortened(text: str, width: int) -> str:
    """Return the text, cut if it takes more than `width` columns of a terminal; East Asian ones are wide."""
    ends = accumulate(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
    fits = sum(end <= width for end in ends)
    return text if fits == len(text) else f"{text[: fits - 4]} ..."


class Lines:
    """The plain watcher: aligned lines on stdout."""

    def __init__(self, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self.out, self.err = out or sys.stdout, err or sys.stderr
        self.what, self.done, self.total = "", 0, 0
        self.started = self.spoke = time.monotonic()
        self.first_step: int | None = None
        self.best = math.inf

    def reading(self, what: str, done: int, total: int) -> None:
        """Write how many bytes of a long reading are done, if nothing was written for HEARTBEAT seconds."""
        now = time.monotonic()
        if what != self.what or done < self.done:
            self.what, self.started, self.spoke = what, now, now
        elif done and now - self.spoke >= HEARTBEAT:
            speed = done / (now - self.started)
            self.line(
                f"{what}: {done / 1e6:,.0f} of {total / 1e6:,.0f} MB, {speed / 1e6:.1f} MB/s, "
                f"ETA {duration((total - done) / speed)}"
            )
        self.done = done

    def phase(self, state: TrainState, steps: int) -> None:
        """Write the phase's name and how many steps it has."""
        progress = state.progress
        self.total, self.first_step, self.best = progress.phase_start + steps, None, state.stopping.best
        done = progress.step - progress.phase_start
        length = f"step {done:,} of {steps:,}" if done else f"{steps:,} steps"
        self.line(f"\n{progress.phase}: {length}")

    def step(self, state: TrainState, step: Step, tokens_per_second: float) -> None:
        """Write a line for the step if there was none for HEARTBEAT seconds."""
        now = time.monotonic()
        if self.first_step is None:
            self.first_step, self.started, self.spoke = state.progress.step - 1, now, now
        elif now - self.spoke >= HEARTBEAT:
            self.line(self._row(state, "step", step.loss, step, tokens_per_second))

    def epoch_ended(
        self, state: TrainState, loss: float, step: Step | None, tokens_per_second: float
    ) -> None:
        """Write the epoch's line, with a star if it is the best so far."""
        mark = " *" if loss < self.best else ""
        self.best = min(self.best, loss) if loss == loss else self.best
        self.line(self._row(state, "epoch", loss, step, tokens_per_second) + mark)

    def evaluated(self, state: TrainState, loss: float) -> None:
        """Write the loss of the held-out part."""
        if state.progress.index:  # at the end of an epoch, the epoch's line shows it
            self.line(f"{f'step {state.progress.step:,}':>12}  val {loss:.4f}  ppl {perplexity(loss)}")

    def sampled(self, state: TrainState, prompt: str, text: str) -> None:
        """Write it as one line, whatever it is."""
        where, said = f"step {state.progress.step:,}", " ".join(f"{prompt} | {text}".split())
        self.line(f"{where:>12}  {shortened(said, SAMPLE_WIDTH)}")

    def notice(self, text: str) -> None:
        """Write it to stderr."""
        print(printable(text), file=self.err, flush=True)

    def line(self, text: str) -> None:
        """Write a line, or several, to stdout at once."""
        print(printable_lines(text), file=self.out, flush=True)
        self.spoke = time.monotonic()

    def close(self) -> None:
        """End the display."""

    def _row(self, state: TrainState, unit: str, loss: float, step: Step | None, speed: float) -> str:
        progress = state.progress
        where = f"{unit} {progress.epoch if unit == 'epoch' else progress.step:,}"
        row = f"{where:>12}  loss {loss:7.4f}  ppl {perplexity(loss)}"
        if unit == "epoch" and math.isfinite(progress.eval_loss):
            other = (
                ("train", progress.train_loss)
                if state.config.train.monitor == "val"
                else ("val", progress.eval_loss)
            )
            row += f"  {other[0]} {other[1]:7.4f}"
        if step is not None:
            row += f"  lr {step.lr:.2e}  |g| {step.grad_norm:6.3f}"
            row += f"  {speed:8,.0f} tok/s  ETA {self._eta(state):>6}"
        return row

    def _eta(self, state: TrainState) -> str:
        done = state.progress.step - (self.first_step or 0)
        seconds = time.monotonic() - self.started
        return duration(seconds / max(done - 1, 1) * (self.total - state.progress.step)) if done > 1 else "?"


class Bar(Lines):
    """The same lines, with a live bar of the phase below them."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.console = Console(highlight=False, soft_wrap=True)
        super().__init__()
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(),
            TextColumn("{task.fields[now]}"), TimeRemainingColumn(), console=self.console, transient=True,
        )  # fmt: skip
        self.bar.start()
        self.task: Any = None

    def phase(self, state: TrainState, steps: int) -> None:
        """Write the phase's line, and start its bar."""
        super().phase(state, steps)
        if self.task is not None:
            self.bar.remove_task(self.task)
        done = state.progress.step - state.progress.phase_start
        self.task = self.bar.add_task(state.progress.phase, total=steps, completed=done, now="")

    def step(self, state: TrainState, step: Step, tokens_per_second: float) -> None:
        """Move the bar."""
        self.spoke = time.monotonic()  # the bar itself is the heartbeat
        super().step(state, step, tokens_per_second)
        now = f"loss {step.loss:.4f}  {tokens_per_second:,.0f} tok/s"
        self.bar.update(self.task, completed=state.progress.step - state.progress.phase_start, now=now)

    def notice(self, text: str) -> None:
        """Write it above the bar."""
        self.line(printable(text))

    def line(self, text: str) -> None:
        """Write a line, or several, above the bar."""
        self.console.print(printable_lines(text), markup=False)
        self.spoke = time.monotonic()

    def close(self) -> None:
        """Remove the bar."""
        self.bar.stop()


def watcher(plain: bool) -> Lines:
    """Return a Bar on a terminal where rich is installed, else Lines."""
    if plain or not sys.stdout.isatty():
        return Lines()
    try:
        return Bar()
    except ImportError:
        return Lines()
