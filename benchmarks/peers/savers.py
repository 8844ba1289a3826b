"""Who else saves a training state, each behind the same three verbs; all of it imported only where used.

`save` returns when the bytes are on the disk (savers that do not fsync are followed by one), `begin` as soon
as training may continue, and `load` gives every tensor in memory. Order: what all share, the peers, the
floor.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tinyllm.arena import Array
from tinyllm.checkpoint import CheckpointManager, CheckpointMetadata, CheckpointStrategy, reader
from tinyllm.checkpoint.disk import Disk
from tinyllm.run.state import TrainState

ABOUT = CheckpointMetadata(1, 1.0, 1e-3, "2026-01-01 00:00:00", "pretraining")
Wait = Callable[[], object]


class Peer:
    """One way to save `state` in `directory`; `path` is the file or directory that it makes."""

    def __init__(self, state: TrainState, directory: Path) -> None:
        self.state, self.path = state, directory / type(self).__name__
        self.tensors = state.tensors()

    def save(self) -> None:
        """Save, and return when it would survive a power cut."""
        raise NotImplementedError

    def load(self) -> object:
        """Read every tensor."""
        raise NotImplementedError

    def size(self) -> int:
        """Return the bytes on the disk."""
        files = [self.path] if self.path.is_file() else self.path.rglob("*")
        return sum(file.stat().st_size for file in files if file.is_file())

    def forget(self) -> None:
        """Delete what the last save left, so that each pays for new blocks."""
        if self.path.is_dir():
            shutil.rmtree(self.path)
        else:
            self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Give everything back."""


class Asynchronous(Peer):
    """One that can save beside the training."""

    def begin(self) -> Wait:
        """Start a save; return when training may continue, with what waits for the rest."""
        raise NotImplementedError

    def save(self) -> None:
        self.begin()()


def fsync(path: Path) -> None:
    """Make a closed file durable."""
    fd = os.open(path, os.O_RDWR)
    os.fsync(fd)
    os.close(fd)


class TinyLLM(Asynchronous):
    """This project, through the door that a run uses; loads into rows that are there already."""

    def __init__(self, state: TrainState, directory: Path) -> None:
        super().__init__(state, directory)
        self.manager = CheckpointManager(directory / "tinyllm", CheckpointStrategy.LAST)
        self.path = self.manager.directory / "checkpoint_last.bin"
        self.manager.reserve(state)
        self.into = TrainState.from_dict(state.to_dict())
        self.into.rows.fill(0)

    def begin(self) -> Wait:
        return self.manager.save_checkpoint(self.state, ABOUT).result

    def load(self) -> object:
        return reader.read_state(self.path, Disk(), self)

    def from_dict(self, fields: dict[str, Any]) -> TrainState:
        """Stand in for TrainState, with memory that was touched before."""
        return self.into

    def close(self) -> None:
        self.manager.close()


class TorchSave(Peer):
    """torch.save of a dict of tensors, then fsync."""

    def __init__(self, state: TrainState, directory: Path) -> None:
        import torch

        super().__init__(state, directory)
        self.torch = torch
        self.named = {name: torch.from_numpy(array) for name, array in self.tensors.items()}

    def save(self) -> None:
        self.torch.save(self.named, self.path)
        fsync(self.path)

    def load(self) -> object:
        return self.torch.load(self.path, weights_only=True)


class TorchDCP(Asynchronous):
    """torch.distributed.checkpoint.async_save, in a group of one; it syncs its files itself."""

    def __init__(self, state: TrainState, directory: Path) -> None:
        import torch
        import torch.distributed as distributed
        import torch.distributed.checkpoint as dcp

        super().__init__(state, directory)
        self.dcp, self.distributed = dcp, distributed
        self.named = {name: torch.from_numpy(array) for name, array in self.tensors.items()}
        rendezvous = (directory / "rendezvous").as_uri()
        distributed.init_process_group("gloo", init_method=rendezvous, rank=0, world_size=1)

    def begin(self) -> Wait:
        found = self.dcp.async_save(self.named, checkpoint_id=str(self.path))
        return getattr(found, "upload_completion", found).result

    def load(self) -> object:
        self.dcp.load(self.named, checkpoint_id=str(self.path))
        return self.named

    def close(self) -> None:
        self.distributed.destroy_process_group()


class Safetensors(Peer):
    """safetensors.numpy.save_file, then fsync."""

    def save(self) -> None:
        from safetensors.numpy import save_file

        save_file(self.tensors, self.path)
        fsync(self.path)

    def load(self) -> object:
        from safetensors.numpy import load_file

        return load_file(self.path)


class NumpySavez(Peer):
    """np.savez, every tensor an entry; then fsync."""

    def save(self) -> None:
        with open(self.path, "wb") as file:
            np.savez(file, **self.tensors)
        fsync(self.path)

    def load(self) -> object:
        with np.load(self.path) as found:
            return {name: found[name] for name in found.files}


class NumpySave(Peer):
    """np.save of the three rows as one nameless array, then fsync: nothing is simpler."""

    def save(self) -> None:
        with open(self.path, "wb") as file:
            np.save(file, self.state.rows)
        fsync(self.path)

    def load(self) -> object:
        found: Array = np.load(self.path)
        return found


class Orbax(Asynchronous):
    """orbax.checkpoint.AsyncCheckpointer with its standard handler, after which everything is synced."""

    def __init__(self, state: TrainState, directory: Path) -> None:
        import orbax.checkpoint as ocp

        super().__init__(state, directory)
        self.ocp = ocp
        self.checkpointer = ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler())

    def begin(self) -> Wait:
        self.checkpointer.save(
            self.path.absolute(), args=self.ocp.args.StandardSave(self.tensors), force=True
        )  # over an earlier one
        return self._wait

    def _wait(self) -> None:
        self.checkpointer.wait_until_finished()
        for path in self.path.rglob("*"):
            if path.is_file():
                fsync(path)

    def load(self) -> object:
        return self.checkpointer.restore(
            self.path.absolute(), args=self.ocp.args.StandardRestore(self.tensors)
        )

    def close(self) -> None:
        self.checkpointer.close()


class DD(Peer):
    """`dd conv=fsync` of as many zeros: what the disk can do through the page cache."""

    def save(self) -> None:
        size = sum(array.nbytes for array in self.tensors.values())
        subprocess.run(
            ["dd", "if=/dev/zero", f"of={self.path}", "bs=4M", f"count={size}", "iflag=count_bytes",
             "conv=fsync", "status=none"], check=True,
        )  # fmt: skip


PEERS = {
    "tinyllm": TinyLLM, "dd": DD, "torch.save": TorchSave, "safetensors": Safetensors,
    "np.savez": NumpySavez, "np.save": NumpySave, "torch DCP": TorchDCP, "orbax": Orbax,
}  # fmt: skip
