"""A state that is no model, and disks that fail, die or wait: what the checkpoint tests are made of."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.timing import PATIENCE
from tinyllm.arena import Array
from tinyllm.checkpoint import CheckpointMetadata
from tinyllm.checkpoint.disk import Disk
from tinyllm.checkpoint.image import Image, pack_map


class Standin:
    """Looks to a checkpoint as TrainState does: plain fields, and named tensors drawn from `seed`."""

    def __init__(self, seed: int = 0, epoch: int = 1, extra: Any = None, shapes: Any = None) -> None:
        rng = np.random.default_rng(seed)
        shapes = shapes or {"wte": (7, 4), "bias": (5,)}
        self.seed, self.epoch, self.extra = seed, epoch, extra
        self.arrays: dict[str, Array] = {
            f"{role}/{name}": rng.standard_normal(shape).astype(np.float32)
            for role in ("params", "m", "v")
            for name, shape in shapes.items()
        }

    def to_dict(self) -> dict[str, Any]:
        about = {"step": self.seed, "epoch": self.epoch, "phase": "pretraining", "status": "running"}
        shapes = {name: [str(a.dtype), *a.shape] for name, a in self.arrays.items()}
        return {"progress": {**about, "tokens": 10 * self.seed}, "shapes": shapes, "extra": self.extra}

    def tensors(self) -> dict[str, Array]:
        return self.arrays

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Standin:
        state = cls(fields["progress"]["step"], fields["progress"]["epoch"], fields["extra"])
        state.arrays = {
            name: np.full(shape, 77, dtype=dtype) for name, (dtype, *shape) in fields["shapes"].items()
        }
        return state

    def bits(self) -> tuple[Any, ...]:
        """Everything, comparable and hashable; NaN in the fields compares by repr."""
        return repr(self.to_dict()), *((name, a.shape, a.tobytes()) for name, a in self.arrays.items())


def metadata(epoch: int = 1, loss: float = 1.0, phase: str = "pretraining") -> CheckpointMetadata:
    return CheckpointMetadata(epoch, loss, 1e-3, "2025-10-28 12:34:56", phase)


def file_bytes(state: Any, about: CheckpointMetadata | None = None, sequence: int = 1) -> bytes:
    image = Image()
    image.fill(pack_map(state.to_dict(), about or metadata()), state.tensors())
    return bytes(image.seal(sequence))


def names(directory: Path) -> set[str]:
    """The names a person sees: without the lock."""
    return {name for name in os.listdir(directory) if name != ".lock"}


class Died(BaseException):
    """The process is gone: nothing after it runs."""


class QuickDisk(Disk):
    """Syncs nothing: for tests that no power cut can reach."""

    def sync(self, fd: int) -> None:
        pass

    def sync_directory(self, path: Path) -> bool:
        return True


class FaultyDisk(QuickDisk):
    """A disk until its k-th action, which `fails`: by an error number, or by dying for good.

    An action that fails does not happen, except `close`. `actions` records what was asked for.
    """

    FREE_OF_FAULTS = ("identity", "is_directory", "is_at", "place_of")

    def __init__(self, k: int | None = None, fails: int | type[Died] = errno.ENOSPC) -> None:
        self.k, self.fails, self.actions = k, fails, list[str]()
        self.dead = False
        self.opened: set[int] = set()
        for name in vars(Disk):
            if not name.startswith("_") and name not in self.FREE_OF_FAULTS:
                setattr(self, name, self._guarded(name, getattr(self, name)))

    def _guarded(self, name: str, action: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any) -> Any:
            self.actions.append(name)
            if self.dead or len(self.actions) == self.k:
                if name == "close" and self.fails is not Died:
                    action(*args)
                    self.opened.discard(*args)
                if self.fails is Died:
                    self.dead = True
                    raise Died
                raise OSError(self.fails, os.strerror(int(self.fails)))  # type: ignore[call-overload]
            result = action(*args)
            if name == "close":
                self.opened.discard(*args)
            if name in ("create", "open", "lock"):
                self.opened.add(result if name == "create" else result[0])
            return result

        return guarded

    def bury(self) -> None:
        """Close what the dead had open, as the kernel does."""
        for fd in self.opened:
            os.close(fd)


class KillingDisk(Disk):
    """Kills this process with SIGKILL before its k-th action."""

    def __init__(self, k: int) -> None:
        self.k = k
        for name in vars(Disk):
            if not name.startswith("_") and name not in FaultyDisk.FREE_OF_FAULTS:
                setattr(self, name, self._deadly(getattr(self, name)))

    def _deadly(self, action: Callable[..., Any]) -> Callable[..., Any]:
        def deadly(*args: Any) -> Any:
            self.k -= 1
            if not self.k:
                os.kill(os.getpid(), signal.SIGKILL)
            return action(*args)

        return deadly


class MeanDisk(Disk):
    """Takes at most seven bytes a write and gives at most five a read."""

    def write(self, fd: int, data: memoryview, offset: int) -> int:
        return super().write(fd, data[:7], offset)

    def read(self, fd: int, into: memoryview, offset: int) -> int:
        return super().read(fd, into[:5], offset)


class GatedDisk(Disk):
    """Waits before each file's fsync until `gate` is open; `reached` says that one is waiting."""

    def __init__(self) -> None:
        self.gate, self.reached = threading.Event(), threading.Event()

    def sync(self, fd: int) -> None:
        self.reached.set()
        assert self.gate.wait(PATIENCE)
        super().sync(fd)
