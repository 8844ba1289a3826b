"""A checkpoint described without its tensors, and the errors that name what is wrong with one.

Order: the errors, CheckpointMetadata (the user's five fields), Entry (one name in a directory), the
sidecar's text.
"""

from __future__ import annotations

import json
import math
import numbers
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from tinyllm.option import LARGEST_COUNT

_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, read or trusted; names the file and the field."""


class DamagedError(CheckpointError):
    """The bytes are not those of any one save: the file may be set aside, and must not be used."""


class GoneError(CheckpointError):
    """There is no such file, or no longer: a running trainer deletes checkpoints that better ones replace."""


class UnknownVersionError(CheckpointError):
    """Written by another version of the format: not damaged, and not to be touched."""


@dataclass(frozen=True)
class CheckpointMetadata:
    """The five fields that are shown first. `loss` may be NaN, which is never best.

    `timestamp` is "YYYY-mm-dd HH:MM:SS". Anything else raises ValueError with the field's name.
    """

    epoch: int
    loss: float
    learning_rate: float
    timestamp: str
    phase: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "epoch", whole("epoch", self.epoch))
        for name in ("loss", "learning_rate"):
            value = getattr(self, name)
            if isinstance(value, bool | np.bool_) or not hasattr(value, "__float__"):
                raise ValueError(f"{name}: expected a number, found {value!r:.80}")
            object.__setattr__(self, name, float(value))  # NumPy's scalars too
        if not math.isfinite(self.learning_rate):
            raise ValueError(f"learning_rate: expected a finite number, found {self.learning_rate}")
        if not isinstance(self.timestamp, str) or not _TIMESTAMP.fullmatch(self.timestamp):
            raise ValueError(f"timestamp: expected YYYY-mm-dd HH:MM:SS, found {self.timestamp!r:.80}")
        if not isinstance(self.phase, str) or not 0 < len(self.phase) <= 64 or not self.phase.isprintable():
            raise ValueError(f"phase: expected 1 to 64 printable characters, found {self.phase!r:.80}")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a plain dict, as they are stored in the .bin."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Any) -> CheckpointMetadata:
        """Rebuild from a plain dict; ValueError names a missing, unknown or wrong field."""
        names = [*cls.__dataclass_fields__]
        if not isinstance(fields, dict) or set(fields) != set(names):
            raise ValueError(f"expected the fields {', '.join(names)}")
        return cls(**fields)


class Origin(NamedTuple):
    """Where a loss comes from: losses of two runs, or on two sets of texts, say nothing about each other."""

    run: str
    texts: str  # a hash of them


@dataclass(frozen=True)
class Entry:
    """One checkpoint name in a directory; a bad file has a `problem`, and None for what cannot be read."""

    path: Path
    label: str  # best, last, periodic or final
    metadata: CheckpointMetadata | None = None
    sequence: int = 0
    step: int | None = None
    status: str | None = None
    size: int = 0
    weights_only: bool = False
    epoch_end: bool = False
    problem: str | None = None
    tokens: int | None = None
    run: str = ""  # the run that saved it
    texts: str = ""  # a hash of the texts that its loss is of
    pinned: bool = False

    @property
    def origin(self) -> Origin:
        """What its loss can be compared with: other losses of the same run on the same texts."""
        return Origin(self.run, self.texts)

    @property
    def seq(self) -> int:
        """Short for `sequence`, the number of the save in its directory; the newest has the largest."""
        return self.sequence

    @property
    def valid(self) -> bool:
        """Whether training can resume from this file, judging by its head; `verify` reads every byte."""
        return self.problem is None and not self.weights_only

    @property
    def labels(self) -> tuple[str, ...]:
        """The reasons for which this file is kept."""
        return (self.label, "pinned") if self.pinned else (self.label,)


def by_sequence(entry: Entry) -> tuple[int, str]:
    """Return the key that sorts entries in the order of their saving."""
    return entry.sequence, entry.path.name


class Standing(NamedTuple):
    """What a state's fields say of where it stands, for its Entry."""

    step: int
    status: str
    tokens: int | None
    run: str
    texts: str

    @property
    def origin(self) -> Origin:
        """What its loss can be compared with."""
        return Origin(self.run, self.texts)


def read_standing(fields: Mapping[str, Any]) -> Standing:
    """Return what a state's fields say of where it stands; ValueError names a wrong field."""
    found = fields.get("progress")
    if not isinstance(found, dict):
        raise ValueError("progress: expected a map")
    step, status = whole("progress.step", found.get("step")), found.get("status")
    if not isinstance(status, str) or not 0 < len(status) <= 64:
        raise ValueError(f"progress.status: expected 1 to 64 characters, found {status!r:.80}")
    try:
        tokens = whole("progress.tokens", found.get("tokens"))
    except ValueError:
        tokens = None  # only for the sidecar
    sources, phase = fields.get("sources"), found.get("phase")
    source = sources.get(phase) if isinstance(sources, dict) and isinstance(phase, str) else None
    return Standing(
        step, status, tokens,
        _text_of(fields.get("identity"), "id"), _text_of(source, "fingerprint"),
    )  # fmt: skip


def _text_of(fields: Any, name: str) -> str:
    """Return a short text of an optional map, "" where there is none."""
    found = fields.get(name) if isinstance(fields, dict) else None
    return found if isinstance(found, str) and len(found) <= 128 and found.isprintable() else ""


def sidecar(entry: Entry) -> bytes:
    """Return the text of the .json beside a .bin: the five fields, then step, tokens, status and size.

    JSON has no NaN or infinity: such a loss is null.
    """
    assert entry.metadata is not None
    fields = entry.metadata.to_dict()
    if not math.isfinite(entry.metadata.loss):
        fields["loss"] = None
    fields["step"] = entry.step
    if entry.tokens is not None:
        fields["tokens"] = entry.tokens
    fields |= {"status": entry.status, "size": entry.size, "sequence": entry.sequence}
    return (json.dumps(fields, indent=2, allow_nan=False) + "\n").encode()


def whole(name: str, value: object, least: int = 0) -> int:
    """Return a count as Python's int, NumPy's integers included; ValueError, with the name, for others."""
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        found = int(value)
        if least <= found < LARGEST_COUNT:
            return found
    raise ValueError(f"{name}: expected a whole number of at least {least}, found {value!r:.80}")


def is_count(value: object) -> TypeGuard[int]:
    """Whether `value` is a valid count of steps, epochs, tokens or bytes (True is not)."""
    return type(value) is int and 0 <= value < LARGEST_COUNT
