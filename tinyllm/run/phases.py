"""A run is a row of phases; each has its own schedule, records and count of epochs.

Order: how long a phase is, its schedule, how it begins, how it continues with other settings or texts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tinyllm.config import Config, TrainConfig
from tinyllm.option import ConfigError
from tinyllm.run.schedule import Schedule
from tinyllm.run.state import Progress, TrainState
from tinyllm.run.stopping import EarlyStopping


def steps_per_epoch(config: TrainConfig, windows: int) -> int:
    """Return the number of updates that visit `windows` training windows once."""
    return -(-windows // (config.batch_size * config.accumulate))


def phase_end(progress: Progress, config: TrainConfig, windows: int) -> int:
    """Return the update at which the current phase ends: this one, if it has had all its epochs or steps.

    Only the epochs ahead have `windows` windows: those before may have been of other texts.
    """
    if config.max_steps:
        end = progress.phase_start + config.max_steps
    else:
        ahead = (config.epochs - progress.phase_epoch) * steps_per_epoch(config, windows)
        end = progress.step - progress.index + ahead
    return max(end, progress.step)


def phase_steps(config: TrainConfig, windows: int) -> int:
    """Return the number of updates of a whole phase, whose settings are `config`."""
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
    state.schedule = phase_schedule(state.config.train.of(phase), windows, progress.step)
    progress.phase, progress.status = phase, "running"
    progress.phase_start, progress.phase_epoch = progress.step, 0
    _forget_losses(state)


def continue_phase(
    state: TrainState, previous: Config, given: Mapping[str, Mapping[str, Any]], windows: int
) -> None:
    """Fit schedule, patience and status to the options `given`; without changes, nothing changes.

    The rate continues without a jump, except to another --lr. Raises ConfigError where a change would have
    no effect.
    """
    progress = state.progress
    old, new = (config.train.of(progress.phase) for config in (previous, state.config))
    warmup = new.warmup if new.warmup != old.warmup else None
    if warmup is not None and new.lr == old.lr and progress.phase == state.phases[-1]:
        raise ConfigError(
            f"--warmup {warmup}: the checkpoint has {old.warmup}, and the warm-up of a phase that has begun "
            f"changes with --lr only; give another --lr too, or drop --warmup"
        )
    end, floor = phase_end(progress, new, windows), state.schedule.floor
    if (new.lr, new.min_lr) != (old.lr, old.min_lr):
        floor = floor_rate(new)
    rate = state.schedule.lr(progress.step)
    ended = end > progress.step >= state.schedule.end
    if new.lr != old.lr or (ended and not rate and "lr" in given.get("train", {})):
        state.schedule = state.schedule.restarted(progress.step, end, new.lr, floor, warmup)
    elif ended and not rate:
        raise ConfigError(
            f"the learning rate has reached 0 at the end of {progress.phase}: give --lr to train further, "
            f"such as --lr {new.lr / 10:g}"
        )
    else:
        state.schedule = state.schedule.continued(progress.step, end, floor)
    stopped = progress.status in ("early_stopped", "rolled_back")
    limits_changed = (new.epochs, new.max_steps, new.patience, new.min_delta) != (
        old.epochs, old.max_steps, old.patience, old.min_delta,
    )  # fmt: skip
    if stopped and limits_changed:
        state.stopping = state.stopping.renewed()
    if limits_changed:
        progress.status = "running"


def replace_texts(state: TrainState) -> None:
    """Prepare the current phase for other texts: its epoch starts over, no earlier loss is compared."""
    if state.progress.status != "finished":  # a phase that stopped early may well improve on these
        state.progress.status = "running"
    _forget_losses(state)


def _forget_losses(state: TrainState) -> None:
    """Begin an epoch of which nothing is known, and have no earlier loss to compare with."""
    progress = state.progress
    state.stopping = EarlyStopping()
    progress.evaluated = progress.judged = progress.step
    progress.index, progress.loss_sum, progress.loss_tokens = 0, 0.0, 0
    progress.train_loss = progress.eval_loss = math.nan
