"""What survives a crash, and what does not.

If deleting something would change the next loss, it is in TrainState, and nothing else is. Workspace
is the opposite: filled with garbage before a step, it changes nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyllm import model
from tinyllm.arena import Array, Layout, aligned_empty
from tinyllm.config import PHASES, Config, ConfigError, ModelConfig, from_fields
from tinyllm.run.schedule import Schedule
from tinyllm.run.stopping import EarlyStopping
from tinyllm.text.tokenizer import Tokenizer

ROLES = ("params", "m", "v")


@dataclass
class Progress:
    """Where the run stands: the next update is number `step`, batch `index` of epoch `phase_epoch`."""

    phase: str = PHASES[0]
    status: str = "running"  # running; early_stopped, then rolled_back: this phase; finished: the run
    step: int = 0  # updates made, all phases
    timestep: int = 0  # Adam's t: updates that the moments have seen
    epoch: int = 0  # whole epochs, all phases
    phase_epoch: int = 0  # whole epochs of this phase
    phase_start: int = 0  # step at which this phase began
    index: int = 0  # updates made in the current epoch
    tokens: int = 0  # target tokens trained on, all phases
    loss_sum: float = 0.0  # nats, of the current epoch so far
    loss_tokens: int = 0
    train_loss: float = math.nan  # mean of the last whole epoch of this phase
    eval_loss: float = math.nan  # the latest evaluation of this phase
    evaluated: int = 0  # step of the latest evaluation
    judged: int = 0  # step at which best and patience were last decided


@dataclass
class Sources:
    """The texts of one phase: where they were, and a hash of what they said."""

    paths: list[str]
    fingerprint: str


@dataclass
class TrainState:
    """A run, whole: saving and restoring it continues the same bits."""

    config: Config
    tokenizer: Tokenizer
    rows: Array  # (3, layout.size) float32: params, m, v
    layout: Layout
    schedule: Schedule
    phases: tuple[str, ...]
    progress: Progress = field(default_factory=Progress)
    stopping: EarlyStopping = field(default_factory=EarlyStopping)
    sources: dict[str, Sources] = field(default_factory=dict)
    environment: dict[str, str | int] = field(default_factory=dict)

    @classmethod
    def fresh(
        cls, config: Config, tokenizer: Tokenizer, schedule: Schedule, phases: tuple[str, ...]
    ) -> TrainState:
        """Return a new run: parameters drawn from the seed, moments zero."""
        layout = layout_of(config.model, tokenizer.vocab_size)
        rows = aligned_empty(3 * layout.size, np.float32).reshape(3, layout.size)
        layout.initialise(rows[0], config.train.seed)
        rows[1:] = 0
        return cls(config, tokenizer, rows, layout, schedule, phases, Progress(phase=phases[0]))

    @cached_property
    def params(self) -> model.Params:
        """The parameters, as views into their row: `rows` is written to, and never replaced."""
        params: model.Params = self.layout.views(self.rows[0])
        return params

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the rows as nested plain values, for `from_dict`."""
        return {
            "config": self.config.to_dict(),
            "tokenizer": self.tokenizer.to_dict(),
            "progress": dataclasses.asdict(self.progress),
            "schedule": dataclasses.asdict(self.schedule),
            "stopping": dataclasses.asdict(self.stopping),
            "phases": list(self.phases),
            "sources": {phase: dataclasses.asdict(source) for phase, source in self.sources.items()},
            "environment": dict(self.environment),
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> TrainState:
        """Rebuild a state from its `to_dict()`, its rows still to be filled in through `tensors`.

        Raises ConfigError or TokenizerError (both ValueErrors) where `fields` is anything else.
        """
        expected = {f.name for f in dataclasses.fields(cls)} - {"rows", "layout"}
        if not isinstance(fields, dict) or set(fields) != expected:
            raise ConfigError(f"state: expected the fields {', '.join(sorted(expected))}")
        config = Config.from_dict(fields["config"])
        tokenizer = Tokenizer.from_dict(fields["tokenizer"])
        layout = layout_of(config.model, tokenizer.vocab_size)
        rows = aligned_empty(3 * layout.size, np.float32).reshape(3, layout.size)
        for gap in layout.gaps():
            rows[:, gap] = 0
        phases, sources, environment = (fields[name] for name in ("phases", "sources", "environment"))
        if not isinstance(phases, list) or not phases or not set(phases) <= set(PHASES):
            raise ConfigError(f"state.phases: expected some of {', '.join(PHASES)}, found {phases!r}")
        if not isinstance(sources, dict) or not isinstance(environment, dict):
            raise ConfigError("state.sources, state.environment: expected maps")
        progress = from_fields(Progress, fields["progress"], "progress")
        if progress.phase not in phases:
            raise ConfigError(f"progress.phase: expected one of {phases}, found {progress.phase!r}")
        return cls(
            config, tokenizer, rows, layout,
            from_fields(Schedule, fields["schedule"], "schedule"), tuple(phases), progress,
            from_fields(EarlyStopping, fields["stopping"], "stopping"),
            {phase: from_fields(Sources, source, f"sources.{phase}") for phase, source in sources.items()},
            environment,
        )  # fmt: skip

    def tensors(self) -> dict[str, Array]:
        """Return every tensor by its name in a checkpoint: `params/...`, `m/...`, `v/...`, in file order."""
        return {
            f"{role}/{name}": view
            for role, row in zip(ROLES, self.rows, strict=True)
            for name, view in self.layout.named(row).items()
        }


def layout_of(config: ModelConfig, V: int) -> Layout:
    """Return the layout of a model's parameters for a vocabulary of V tokens."""
    return Layout(model.params(config, V))


class Workspace:
    """One worker's memory for B sequences: never saved, filled once, nothing is allocated in a step."""

    def __init__(
        self, config: ModelConfig, V: int, B: int, layout: Layout, dtype: npt.DTypeLike = np.float32,
        recompute: bool = False, accumulate: bool = True,
    ) -> None:  # fmt: skip
        N = B * config.block_size
        self.gradient = aligned_empty(layout.size, dtype)
        self.gradient[:] = 0  # its padding belongs to no tensor, and must stay zero
        self.grads: model.Params = layout.views(self.gradient)
        self._gradients = list(layout.named(self.gradient).values())
        self._added_to = [self.gradient[layout.matrices :], self.grads.embedding.position.reshape(-1)]
        acts = Layout(model.acts(config, B, recompute))
        scratch = Layout(model.scratch(config, V, B, accumulate))
        self._rows = [aligned_empty(part.size, dtype) for part in (acts, scratch)]
        views: model.Acts = acts.views(self._rows[0])
        self.acts = model.share(views) if recompute else views
        self.scratch: model.Scratch = scratch.views(self._rows[1])
        self.losses = np.zeros(N, np.float64)
        integers = np.zeros((4, N), np.int32)
        self.inputs = model.Inputs(integers[0], integers[1], integers[2], integers[3].reshape(B, -1))
        self.places = np.arange(config.block_size, dtype=np.int32)
        self.poison(0)

    def begin(self) -> None:
        """Clear the gradients that the first micro-batch of a step adds to; it overwrites the others."""
        for part in self._added_to:
            part[:] = 0

    def memory(self) -> Iterator[Array]:
        """Yield every array whose content must not matter between steps."""
        yield from (*self._gradients, *self._rows, self.losses)

    def poison(self, value: float) -> None:
        """Fill all of `memory` with `value`; tests use NaN, the constructor uses 0 to touch the pages."""
        for row in self.memory():
            row[:] = value
