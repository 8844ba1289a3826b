"""What survives a crash, and what does not.

If deleting something would change the next loss, it is in TrainState, and nothing else is. Workspace
is the opposite: filled with garbage before a step, it changes nothing.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyllm import model
from tinyllm.arena import Array, Layout, aligned_empty
from tinyllm.config import PHASES, Config, ModelConfig
from tinyllm.network import TRAINING, Inputs, Memory, Network, Purpose
from tinyllm.option import ConfigError, checked, from_fields
from tinyllm.run.schedule import Schedule
from tinyllm.run.stopping import EarlyStopping
from tinyllm.text.batches import Batch
from tinyllm.text.tokenizer import Tokenizer
from tinyllm.words import counted

ROLES = ("params", "m", "v")
STATUSES = ("running", "early_stopped", "rolled_back", "finished")
LONGEST_PATH = 4096  # Linux has no longer ones
MOST_THREADS = 1 << 16  # of any machine that a run may have been on
NETWORKS: dict[str, Network] = {"gpt": model}  # the one place that names them; see network.py


@dataclass
class Progress:
    """Where the run stands: the next update is number `step`, number `index` of epoch `phase_epoch`."""

    phase: str = PHASES[0]
    status: str = STATUSES[0]  # or early_stopped, then rolled_back (this phase), or finished (the run)
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
    judged: int = 0  # step at which best and patience were last decided; the name is the file format's


@dataclass
class Sources:
    """The texts of one phase: where they were, a hash of what they said, and of dialogues two more things."""

    paths: list[str]
    fingerprint: str
    # The system text of all; "": they have none, or several
    system: str = field(default="", metadata={"before": "", "free": True})
    questions: list[str] = field(default_factory=list, metadata={"before": []})  # a few to try

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values; text that is not UTF-8, which no msgpack text is, as bytes."""
        lone = re.compile("[\ud800-\udfff]")  # in a path, what Python makes of a byte that is not UTF-8
        paths = [os.fsencode(path) if lone.search(path) else path for path in self.paths]
        system = self.system.encode("utf-8", "surrogatepass") if lone.search(self.system) else self.system
        return {**vars(self), "paths": paths, "system": system, "questions": [*self.questions]}

    @classmethod
    def from_dict(cls, fields: Any, name: str) -> Sources:
        """Rebuild from plain values; ConfigError where they are none that `to_dict` returns."""
        if isinstance(fields, dict) and isinstance(fields.get("system"), bytes):
            fields = {**fields, "system": fields["system"].decode("utf-8", "surrogatepass")}
        found = from_fields(cls, fields, name)
        paths: list[Any] = found.paths
        if not paths or not all(isinstance(path, str | bytes) for path in paths):
            raise ConfigError(f"{name}.paths: expected one path or more, found {paths!r:.80}")
        found.paths = [os.fsdecode(path) for path in paths]
        if any(len(path) > LONGEST_PATH or "\0" in path for path in found.paths):
            raise ConfigError(f"{name}.paths: expected at most {LONGEST_PATH} characters, none of them NUL")
        if not re.fullmatch("[0-9a-f]{64}", found.fingerprint):  # files are named after it
            raise ConfigError(f"{name}.fingerprint: expected a SHA-256, found {found.fingerprint!r:.80}")
        for question in found.questions:
            if not isinstance(question, str):
                raise ConfigError(f"{name}.questions: expected texts, found {question!r:.80}")
            checked(question, f"{name}.questions")
        return found


@dataclass(frozen=True)
class Identity:
    """Which run this is, drawn when it starts; runs of earlier versions have none."""

    id: str = ""
    parent: str = ""  # the run whose checkpoint was continued in another directory

    @classmethod
    def drawn(cls, parent: str = "") -> Identity:
        """Return an identity that no other run has: the one thing of a run that no seed decides."""
        return cls(secrets.token_hex(6), parent)


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
    identity: Identity = Identity()

    @classmethod
    def fresh(
        cls, config: Config, tokenizer: Tokenizer, schedule: Schedule, phases: tuple[str, ...]
    ) -> TrainState:
        """Return a new run: parameters drawn from the seed, moments zero."""
        layout = layout_of(config.model, tokenizer.vocab_size)
        rows = aligned_empty(3 * layout.size, np.float32).reshape(3, layout.size)
        layout.initialise(rows[0], config.train.seed)
        rows[1:] = 0
        progress = Progress(phase=phases[0])
        return cls(config, tokenizer, rows, layout, schedule, phases, progress, identity=Identity.drawn())

    @cached_property
    def params(self) -> Any:
        """The network's parameters, as views into their row: `rows` is written to, and never replaced."""
        return self.layout.views(self.rows[0])

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the rows as nested plain values, for `from_dict`."""
        return {
            "config": self.config.to_dict(),
            "tokenizer": self.tokenizer.to_dict(),
            "progress": dataclasses.asdict(self.progress),
            "schedule": dataclasses.asdict(self.schedule),
            "stopping": dataclasses.asdict(self.stopping),
            "phases": list(self.phases),
            "sources": {phase: source.to_dict() for phase, source in self.sources.items()},
            "environment": dict(self.environment),
            "identity": dataclasses.asdict(self.identity),
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> TrainState:
        """Rebuild a state from its `to_dict()`, its rows still to be filled in through `tensors`.

        Raises ConfigError or TokenizerError (both ValueErrors) where `fields` is anything else.
        """
        expected = {f.name for f in dataclasses.fields(cls)} - {"rows", "layout"}
        if not isinstance(fields, dict) or not expected - {"identity"} <= set(fields) <= expected:
            raise ConfigError(f"state: expected the fields {', '.join(sorted(expected))}")
        config = Config.from_dict(fields["config"])
        tokenizer = Tokenizer.from_dict(fields["tokenizer"])
        layout = layout_of(config.model, tokenizer.vocab_size)
        rows = aligned_empty(3 * layout.size, np.float32).reshape(3, layout.size)
        for gap in layout.gaps():
            rows[:, gap] = 0
        phases, sources, environment = (fields[name] for name in ("phases", "sources", "environment"))
        if not phases or phases != [phase for phase in PHASES if phase in phases]:
            raise ConfigError(f"state.phases: expected some of {', '.join(PHASES)}, found {phases!r:.80}")
        if not isinstance(sources, dict) or not set(sources) <= set(PHASES):
            raise ConfigError(f"state.sources: expected a map of {', '.join(PHASES)}")
        return cls(
            config, tokenizer, rows, layout,
            from_fields(Schedule, fields["schedule"], "schedule"), tuple(phases),
            _progress(fields["progress"], phases),
            from_fields(EarlyStopping, fields["stopping"], "stopping"),
            {phase: Sources.from_dict(source, f"sources.{phase}") for phase, source in sources.items()},
            _environment(environment),
            from_fields(Identity, fields.get("identity", {"id": "", "parent": ""}), "identity"),
        )  # fmt: skip

    def tensors(self) -> dict[str, Array]:
        """Return every tensor by its name in a checkpoint: `params/...`, `m/...`, `v/...`, in file order."""
        return {
            f"{role}/{name}": view
            for role, row in zip(ROLES, self.rows, strict=True)
            for name, view in self.layout.named(row).items()
        }


def _progress(stored: Any, phases: list[str]) -> Progress:
    """Return a stored Progress; ConfigError where the loop could not continue from it."""
    progress = from_fields(Progress, stored, "progress")
    if progress.phase not in phases:
        raise ConfigError(f"progress.phase: expected one of {phases}, found {progress.phase!r}")
    if progress.status not in STATUSES:
        raise ConfigError(
            f"progress.status: expected one of {', '.join(STATUSES)}, found {progress.status!r}"
        )
    if progress.phase_start > progress.step:
        raise ConfigError(f"progress.phase_start: {progress.phase_start}, after step {progress.step}")
    if progress.index and not progress.loss_tokens:
        raise ConfigError(
            f"progress.loss_tokens: found 0 after {counted(progress.index, 'update')} of the epoch"
        )
    return progress


def _environment(stored: Any) -> dict[str, str | int]:
    """Return a stored environment, which later releases may add names to; ConfigError where it is none."""
    if not isinstance(stored, dict) or not all(type(value) in (str, int) for value in stored.values()):
        raise ConfigError("environment: expected a map of texts and whole numbers")
    for name, value in stored.items():
        checked(name, "environment: a name")
        checked(value, f"environment.{name}")
    for name in ("workers", "blas_threads"):
        if name in stored and not (type(stored[name]) is int and 1 <= stored[name] <= MOST_THREADS):
            raise ConfigError(f"environment.{name}: expected 1 to {MOST_THREADS}, found {stored[name]!r}")
    return stored


def network_of(config: ModelConfig) -> Network:
    """Return a config's network: so far there is one; the next needs a key here and a field of the config."""
    return NETWORKS["gpt"]


def layout_of(config: ModelConfig, V: int) -> Layout:
    """Return the layout of a model's parameters for a vocabulary of V tokens."""
    return Layout(network_of(config).params(config, V))


def workspace_layouts(config: ModelConfig, V: int, B: int, purpose: Purpose) -> tuple[Layout, Layout]:
    """Return the layouts of activations and of scratch for B sequences."""
    network = network_of(config)
    return Layout(network.acts(config, B, purpose)), Layout(network.scratch(config, V, B, purpose))


class Workspace:
    """One worker's memory for B sequences: never saved, allocated once, so that a step allocates nothing."""

    def __init__(
        self, config: ModelConfig, V: int, B: int, dtype: npt.DTypeLike = np.float32,
        purpose: Purpose = TRAINING,
    ) -> None:  # fmt: skip
        N, network = B * config.block_size, network_of(config)
        acts, scratch = workspace_layouts(config, V, B, purpose)
        self._rows = [aligned_empty(part.size, dtype) for part in (acts, scratch)]
        self.gradient: Array = aligned_empty(0, dtype)
        self._added_to: list[Array] = []
        self._gradients: list[Array] = []
        grads = None
        if purpose.backward and purpose.gradient:
            layout = layout_of(config, V)
            self.gradient = aligned_empty(layout.size, dtype)
            self.gradient[:] = 0  # its padding belongs to no tensor, and must stay zero
            grads = layout.views(self.gradient)
            self._gradients = list(layout.named(self.gradient).values())
            # What backward always adds to, even where it overwrites all other gradients.
            self._added_to = [self.gradient[layout.matrices :]]
            self._added_to += [each.reshape(-1) for each in network.accumulators(grads)]
        integers = np.zeros((4, N), np.int32)
        self.memory = Memory(
            Inputs(integers[0], integers[1], integers[2], integers[3].reshape(B, -1)),
            network.share(acts.views(self._rows[0]), config, purpose),
            scratch.views(self._rows[1]), np.zeros(N, np.float64), grads,
        )  # fmt: skip
        self.indices = np.arange(config.block_size, dtype=np.int32)
        if grads is not None:
            self.poison(0)  # touches every page once, so that no step pays for it

    def load(self, batch: Batch, share: slice) -> None:
        """Copy a share of the batch's sequences into the inputs."""
        inputs = self.memory.inputs
        B, T = inputs.starts.shape
        np.copyto(inputs.tokens.reshape(B, T), batch.tokens[share])
        np.copyto(inputs.targets.reshape(B, T), batch.targets[share])
        np.copyto(inputs.starts, batch.starts[share])
        np.subtract(self.indices, inputs.starts, out=inputs.positions.reshape(B, T))

    def clear_gradients(self) -> None:
        """Clear the gradients that the first micro-batch of a step adds to; it overwrites the others."""
        for part in self._added_to:
            part[:] = 0

    def arrays(self) -> Iterator[Array]:
        """Yield every array of floats; their content must not matter between steps."""
        yield from (*self._gradients, *self._rows, self.memory.losses)

    def poison(self, value: float) -> None:
        """Fill all of `arrays` with `value`; tests use NaN."""
        for row in self.arrays():
            row[:] = value
