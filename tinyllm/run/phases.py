"""A run is a row of phases; each has its own schedule, records and count of epochs.

Order: how long a phase is, its schedule, how it begins.
"""

from __future__ import annotations

import math

from tinyllm.config import TrainConfig
from tinyllm.run.schedule import Schedule
from tinyllm.run.state import TrainState
from tinyllm.run.stopping import EarlyStopping


def steps_per_epoch(config: TrainConfig, windows: int) -> int:
    """Return the number of updates that visit `windows` training windows once."""
    return -(-windows // (config.batch_size * config.accumulate))


def phase_steps(config: TrainConfig, windows: int) -> int:
    """Return the number of updates of a whole phase."""
    return config.max_steps or config.epochs * steps_per_epoch(config, windows)


def phase_schedule(config: TrainConfig, windows: int, start: int) -> Schedule:
    """Return the schedule of a phase that begins at update `start`."""
    steps = phase_steps(config, windows)
    warmup = min(100, steps // 20) if config.warmup is None else min(config.warmup, steps)
    return Schedule(config.lr, floor_rate(config), start, warmup, start + steps)


def floor_rate(config: TrainConfig) -> float:
    """Return the rate at the end of a phase: --min-lr, or a tenth of --lr."""
    return config.lr / 10 if config.min_lr is None else config.min_lr


def enter_phase(state: TrainState, phase: str, windows: int) -> None:
    """Begin `phase` from the state's present weights: a new schedule, new records, epochs counting on."""
    progress = state.progress
    state.schedule = phase_schedule(state.config.train, windows, progress.step)
    state.stopping = EarlyStopping()
    progress.phase, progress.status = phase, "running"
    progress.phase_start = progress.evaluated = progress.judged = progress.step
    progress.phase_epoch = progress.index = 0
    progress.loss_sum, progress.loss_tokens = 0.0, 0
    progress.train_loss = progress.eval_loss = math.nan
