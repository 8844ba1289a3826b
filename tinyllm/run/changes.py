"""What a person changes of a run by resuming it; nothing here imports NumPy, so `--help` is instant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Changes:
    """What is different when a run is resumed; everything else stays as the checkpoint has it."""

    options: Mapping[str, Mapping[str, Any]]  # fields of the config, by section
    sources: Mapping[str, list[str]] = field(default_factory=dict)  # paths of texts, by phase
    phase: str | None = None  # the phase to enter
    allow_new_data: bool = False  # texts other than the checkpoint's are accepted
