"""What a run leaves behind, made up: a metrics file of any length, and checkpoints of a tiny state."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinyllm.arena import Array
from tinyllm.checkpoint import CheckpointManager, CheckpointMetadata

PHASES = ("pretraining", "instruction_tuning")
EVENTS = {0.3: "resume", 0.6: "early_stop", 0.61: "rollback"}  # by share of the steps


def log_run(
    directory: Path, steps: int, *, seed: int = 1, epochs: int = 40, finished: bool = True,
    events: bool = True, phases: Sequence[str] = PHASES, evaluations: bool = True,
) -> list[dict[str, Any]]:  # fmt: skip
    """Write metrics.jsonl of `steps` steps, 100 tokens each, in two phases of which the first has 60 %."""
    draw = random.Random(seed)
    cut, per_epoch = max(1, steps * 6 // 10), max(1, steps // epochs)
    happened = {max(1, int(share * steps)): kind for share, kind in EVENTS.items()} if events else {}
    lines: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        second = step > cut
        done = (step - cut) / max(steps - cut, 1) if second else step / cut
        loss = ((1.1 if second else 7.0) * math.exp(-7 * done) + 0.7) * math.exp(draw.gauss(0, 0.05))
        where = {
            "step": step,
            "epoch": (step - 1) // per_epoch,
            "phase": phases[second],
            "tokens": 100 * step,
        }
        lines.append(
            where | {
                "train/loss": loss, "train/lr": 1e-4 + 9e-4 * (1 - done),
                "train/grad_norm": math.exp(draw.gauss(0, 0.3)) * (12 if draw.random() < 0.002 else 1),
                "train/tokens_per_second": round(2000 * math.exp(draw.gauss(0, 0.03)), 1),
            }
        )  # fmt: skip
        if evaluations and step % per_epoch == 0:
            lines.append(where | {"epoch": step // per_epoch, "eval/loss": loss + 0.2})
        if step in happened:
            lines.append({"step": step, "event": happened[step], "phase": phases[second], "epoch": 3})
    if finished:
        lines.append({"step": steps, "event": "finished", "phase": phases[-1]})
    write_lines(directory, lines)
    return lines


def write_lines(directory: Path, lines: Sequence[Any]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (directory / "metrics.jsonl").write_text(text, encoding="utf-8")


class Saved:
    """A state of 12 parameters, with whatever config and environment a test wants to see."""

    def __init__(self, step: int, status: str = "running", **sections: Any) -> None:
        self.step, self.status, self.sections = step, status, sections

    def to_dict(self) -> dict[str, Any]:
        progress = {"step": self.step, "status": self.status, "tokens": 100 * self.step}
        return {"progress": progress, "schedule": {"end": 2 * self.step}, **self.sections}

    def tensors(self) -> dict[str, Array]:
        return {f"{role}/wte": np.ones((3, 4), np.float32) for role in ("params", "m", "v")}


def save(directory: Path, epoch: int, loss: float, phase: str = PHASES[0], **sections: Any) -> None:
    """Save the end of an epoch of 10 steps as CheckpointManager does."""
    metadata = CheckpointMetadata(epoch, loss, 3e-4, "2026-11-24 00:10:00", phase)
    with CheckpointManager(directory, asynchronous=False) as manager:
        manager.save_checkpoint(Saved(10 * epoch, **sections), metadata)
