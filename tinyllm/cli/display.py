"""What a person sees of a run: one aligned row per epoch, and a progress bar where there is a terminal.

Order: plain lines, the bar below them (with rich, where it is installed). Progress is written to stdout,
notices to stderr.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TextIO

from tinyllm.cli.rows import WIDTH, Table, fitted, legend, mean_loss, rate
from tinyllm.escape import printable, printable_lines
from tinyllm.run.phases import phase_steps
from tinyllm.run.state import TrainState
from tinyllm.text.batches import Dataset
from tinyllm.training.step import Step
from tinyllm.words import counted, duration, fold, shortened

HEARTBEAT = 10.0  # seconds between lines during a long epoch
FIRST_STEP = "the first step ..."
BAR = 12  # columns
HEAVY, LIGHT = "\N{BOX DRAWINGS HEAVY HORIZONTAL}", "\N{BOX DRAWINGS LIGHT HORIZONTAL}"
AT_LAST = "\r\x1b[2K\x1b[?25h"  # removes the line of the bar and shows the cursor again


class Lines:
    """The plain watcher: aligned lines on stdout."""

    patience = f"{FIRST_STEP}\n"  # above a header whose first row may take minutes, as of a large model

    def __init__(self, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self.out, self.err = out or sys.stdout, err or sys.stderr
        self.what, self.done = "", 0
        self.steps: Mapping[str, int] = {}  # of each phase of the run that is ahead
        self.total, self.table = 0, Table(0, 0)
        self.started = self.spoke = time.monotonic()
        self.first_step: int | None = None
        self.best = math.inf

    def reading(self, what: str, done: int, total: int) -> None:
        """Write how many bytes of a long reading are done, if nothing was written for HEARTBEAT seconds."""
        now = time.monotonic()
        if what != self.what or done < self.done:
            self.what, self.started, self.spoke = what, now, now
        elif done and now - self.spoke >= HEARTBEAT:
            self.line(f"{what}: {self._reading(done, total, now)}")
        self.done = done

    def begin(self, state: TrainState, datasets: Mapping[str, Dataset], description: str) -> None:
        """Write what is trained on what; `datasets` are those of the current phase and the later ones."""
        train = state.config.train
        self.steps = {
            phase: phase_steps(train.of(phase), dataset.windows) for phase, dataset in datasets.items()
        }
        self.line(description)

    def phase(self, state: TrainState, steps: int) -> None:
        """Write the phase's name, its number of steps and the header; first of all, what the columns mean.

        Above the first header stands that the first step has begun: below it, the table would be torn.
        """
        progress, train = state.progress, state.config.train
        if not self.total:
            self.line("\n" + fold(legend(train.monitor or "train"), WIDTH, 0))
        later = state.phases[state.phases.index(progress.phase) + 1 :]
        self.total = progress.phase_start + steps + sum(self.steps.get(phase, 0) for phase in later)
        self.best = state.stopping.best
        ahead = (progress.phase, *later)
        epochs = progress.epoch - progress.phase_epoch + sum(train.of(each).epochs for each in ahead)
        self.table = Table(self.total if train.max_steps else epochs, self.total)
        done = progress.step - progress.phase_start
        length = f"step {done:,} of {steps:,}" if done else counted(steps, "step")
        patience = self.patience if self.first_step is None and done < steps else ""
        self.line(f"\n{progress.phase}: {length}\n{patience}{self.table.header()}")

    def step(self, state: TrainState, step: Step, tokens_per_second: float) -> None:
        """Write a row for the run's first step, and where there was none for HEARTBEAT seconds."""
        now = time.monotonic()
        first = self.first_step is None
        if first:
            self.first_step, self.started = state.progress.step - 1, now
        if state.progress.index and (first or now - self.spoke >= HEARTBEAT):
            self._write_row(state, math.nan, step, tokens_per_second)

    def epoch_ended(
        self, state: TrainState, loss: float, step: Step | None, tokens_per_second: float
    ) -> None:
        """Write the epoch's row, with a star if it is the best so far."""
        mark = " *" if loss < self.best else ""
        self.best = min(self.best, loss) if loss == loss else self.best
        self._write_row(state, state.progress.eval_loss, step, tokens_per_second, mark)

    def evaluated(self, state: TrainState, loss: float) -> None:
        """Write the loss of the held-out part."""
        train, mark = state.config.train, ""
        if not state.progress.index:  # at the end of an epoch, the epoch's row shows it
            return
        if train.monitor == "val" and train.eval_every and loss < self.best:
            self.best, mark = loss, " *"
        self._write_row(state, loss, None, math.nan, mark)

    def sampled(self, state: TrainState, prompt: str, text: str) -> None:
        """Write it as one line, whatever it is."""
        where, said = f"step {state.progress.step:,}", " ".join(f"{prompt} | {text}".split())
        self.line(shortened(f"  {where}  {printable(said)}", WIDTH))

    def notice(self, text: str) -> None:
        """Write it to stderr."""
        print(printable(text), file=self.err, flush=True)

    def line(self, text: str) -> None:
        """Write a line, or several, to stdout at once."""
        print(printable_lines(text), file=self.out, flush=True)
        self.spoke = time.monotonic()

    def interrupted(self, text: str, at_once: bool) -> None:
        """Write to stderr that a signal has come; called by its handler, where print could be re-entered."""
        with suppress(OSError):
            os.write(2, f"\n{text}\n".encode())

    def close(self) -> None:
        """End the display."""

    def _reading(self, done: int, total: int, now: float) -> str:
        speed = done / max(now - self.started, 1e-9)
        return (
            f"{done / 1e6:,.0f} of {total / 1e6:,.0f} MB, {speed / 1e6:.1f} MB/s, "
            f"ETA {duration((total - done) / speed)}"
        )

    def _write_row(
        self, state: TrainState, val: float, step: Step | None, speed: float, mark: str = ""
    ) -> None:
        progress = state.progress
        monitored = progress.eval_loss if state.config.train.monitor == "val" else mean_loss(progress)
        row = self.table.row(progress, val, monitored, step, speed, self._eta(state))
        self.line(row + mark)

    def _eta(self, state: TrainState) -> float:
        """Return the seconds to the end of the run, at the mean speed so far; NaN where there is none."""
        done = 0 if self.first_step is None else state.progress.step - self.first_step
        if done < 2:
            return math.nan
        return (time.monotonic() - self.started) / (done - 1) * (self.total - state.progress.step)


class Bar(Lines):
    """The same lines, with a live line below them: how far the run is.

    It has the terminal's own colours, which can be read on light and on dark, and leaves room for the ^C that
    the terminal writes behind it: a line that overflows could not be removed.
    """

    patience = ""  # the live line says it

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn

        self.console = Console(highlight=False, soft_wrap=True)
        super().__init__()
        self.where, self.news, self.signal = "preparing the data ...", "", ""
        self.live = Progress(
            SpinnerColumn("line", style="default"), TextColumn("{task.fields[of].now}", markup=False),
            console=self.console, transient=True,
        )  # fmt: skip
        self.live.add_task("", total=None, of=self)
        self.live.start()  # from here on another thread draws what `now` is, ten times per second

    @property
    def now(self) -> str:
        """The live line: how far the run is, and the latest numbers, or that a signal has come."""
        return f"{self.where}  {self.signal or self.news}"

    def reading(self, what: str, done: int, total: int) -> None:
        """Show how much of a reading is done."""
        self.spoke = now = time.monotonic()  # no lines: the live one is enough
        super().reading(what, done, total)
        long = done and now - self.started > 1
        self.where, self.news = what, self._reading(done, total, now) if long else "..."

    def begin(self, state: TrainState, datasets: Mapping[str, Dataset], description: str) -> None:
        """Write what is trained on what, and show that memory is made ready."""
        super().begin(state, datasets, description)
        self.where, self.news = "preparing the memory ...", ""

    def phase(self, state: TrainState, steps: int) -> None:
        """Write the phase's lines, and show how far the run is."""
        super().phase(state, steps)
        self._move(state, FIRST_STEP)

    def step(self, state: TrainState, step: Step, tokens_per_second: float) -> None:
        """Show how far the run is."""
        if self.first_step is None:
            self.first_step, self.started = state.progress.step - 1, time.monotonic()
        loss, speed = fitted(step.loss, 7, 4), rate(tokens_per_second)
        self._move(state, f"loss {loss}  {speed} tok/s  ETA {duration(self._eta(state))}")

    def notice(self, text: str) -> None:
        """Write it above the live line."""
        self.line(printable(text))

    def line(self, text: str) -> None:
        """Write a line, or several, above the live one."""
        self.console.print(fold(printable_lines(text), self.console.width), markup=False)
        self.spoke = time.monotonic()

    def interrupted(self, text: str, at_once: bool) -> None:
        """Show that a signal has come: without a lock, which this very thread may hold."""
        self.signal = text
        if at_once:
            with suppress(OSError):
                os.write(1, AT_LAST.encode())
                os.write(2, f"{text}\n".encode())

    def close(self) -> None:
        """Remove the live line."""
        self.live.stop()

    def _move(self, state: TrainState, news: str) -> None:
        step, total = state.progress.step, max(self.total, 1)
        full, empty = ("=", "-") if self.console.options.ascii_only else (HEAVY, LIGHT)
        done = BAR * step // total
        self.where, self.news = f"{step:,}/{total:,} {full * done}{empty * (BAR - done)}", news


def watcher(plain: bool) -> Lines:
    """Return a Bar on a terminal where rich is installed, else Lines."""
    if plain or not sys.stdout.isatty():
        return Lines()
    try:
        return Bar()
    except ImportError:
        return Lines()
