"""Too little space is known before the run and before each save, and loses nothing.

Order: before the run, before a save, a real disk that is full.
"""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.standin import QuickDisk, Standin, metadata, names
from tinyllm.checkpoint import CheckpointError, CheckpointManager, CheckpointStrategy
from tinyllm.checkpoint.disk import Disk
from tinyllm.checkpoint.store import RESERVE_BYTES

LAST = "checkpoint_last.bin"
SHAPES = {"w": (64, 64)}  # 48 KiB for the three roles


class Narrow(QuickDisk):
    """A disk with `room` bytes, which deleting gives back and nothing takes."""

    room = 1 << 40

    def free(self, path: Path) -> int:
        return self.room

    def unlink(self, path: Path) -> None:
        size = os.stat(path).st_size if os.stat(path).st_nlink == 1 else 0
        super().unlink(path)
        self.room += size


def state(epoch: int) -> Standin:
    return Standin(epoch, epoch, shapes=SHAPES)


def run(directory: Path, disk: Disk, **more) -> CheckpointManager:
    return CheckpointManager(directory, **{"asynchronous": False, "disk": disk, **more})


def seed_of(path: Path | None) -> int:
    assert path is not None
    return CheckpointManager.load_checkpoint(path, Standin)[0].seed


# ---- before the run


def test_a_run_whose_first_checkpoint_has_no_room_is_refused_before_it_trains(tmp_path):
    disk = Narrow()
    with run(tmp_path, disk) as manager:
        disk.room = 1000 + RESERVE_BYTES
        with pytest.raises(CheckpointError, match=r"the disk lacks [\d,]+ bytes of [\d,]+; free some"):
            manager.reserve(state(1))
    assert names(tmp_path) == set()


def test_what_is_reserved_is_enough_for_the_save(tmp_path):
    disk = Narrow()
    with run(tmp_path, disk) as manager:
        saved = manager.save_checkpoint(state(1), metadata()).result()
        assert saved is not None
        size = saved.stat().st_size
        for more, fits in (
            (0, False),
            (size // 50 + 8192, True),
        ):  # the estimate is never below, and not far off
            disk.room = size + RESERVE_BYTES - 1 + more
            if fits:
                manager.reserve(state(2))
            else:
                with pytest.raises(CheckpointError, match="lacks"):
                    manager.reserve(state(2))


@pytest.mark.parametrize(("strategy", "at_once"), [("last", 2), ("best", 4), ("best-and-last", 5)])
def test_room_for_one_but_not_for_all_that_is_kept_is_a_notice(tmp_path, strategy, at_once):
    disk, chosen = Narrow(), CheckpointStrategy.parse(strategy)
    for copies, noticed in ((at_once - 1, True), (at_once + 0.9, False)):
        with run(tmp_path / f"{copies}", disk, strategy=chosen) as manager:
            disk.room = int(copies * 53_000) + RESERVE_BYTES
            manager.reserve(state(1))
            assert any(f"but not for {at_once}" in notice for notice in manager.notices) == noticed


def test_what_the_run_already_holds_is_not_asked_for_again(tmp_path):
    disk = Narrow()
    with run(tmp_path, disk, strategy=CheckpointStrategy.LAST) as manager:
        manager.save_checkpoint(state(1), metadata())
        disk.room = 60_000 + RESERVE_BYTES
        manager.reserve(state(1))
        assert manager.notices == []


def test_a_state_that_could_not_be_saved_is_refused_before_the_run(tmp_path):
    with run(tmp_path, QuickDisk()) as manager, pytest.raises(CheckpointError, match="bytes of memory"):
        manager.reserve(Standin(1, extra=[[] for _ in range(300_000)]))


# ---- before a save


def test_old_checkpoints_are_deleted_first_and_only_if_room_is_needed(tmp_path):
    disk = Narrow()
    with run(tmp_path, disk, keep_best_n=3) as manager:
        for epoch, loss in enumerate([3.0, 2.0, 1.0], 1):
            manager.save_checkpoint(state(epoch), metadata(epoch, loss))
        manager.keep_best_n = 2
        disk.room = 40_000 + RESERVE_BYTES  # too little, until the worst is gone
        manager.save_checkpoint(state(4), metadata(4, 4.0))
        assert seed_of(manager.get_last_checkpoint()) == 4
    assert {name for name in names(tmp_path) if name.endswith(".bin")} == {
        LAST, "checkpoint_best_epoch_2_loss_2.0000.bin", "checkpoint_best_epoch_3_loss_1.0000.bin",
    }  # fmt: skip


def test_nothing_that_is_kept_is_deleted_for_room(tmp_path):
    disk = Narrow()
    with run(tmp_path, disk, keep_best_n=2) as manager:
        for epoch, loss in enumerate([3.0, 2.0], 1):
            manager.save_checkpoint(state(epoch), metadata(epoch, loss))
        before, disk.room = {path: path.read_bytes() for path in tmp_path.glob("*.*")}, 40_000
        with pytest.raises(CheckpointError, match="earlier checkpoints are still there"):
            manager.save_checkpoint(state(3), metadata(3, 1.0))
        assert {path: path.read_bytes() for path in tmp_path.glob("*.*")} == before
        disk.room = 1 << 30
        manager.save_checkpoint(state(3), metadata(3, 1.0))
        assert seed_of(manager.get_best_checkpoint()) == 3


def test_an_asynchronous_save_without_room_is_raised_at_the_next_call(tmp_path):
    disk = Narrow()
    with run(tmp_path, disk, asynchronous=True) as manager:
        manager.save_checkpoint(state(1), metadata(1, 3.0)).result()
        disk.room = 0
        manager.save_checkpoint(state(2), metadata(2, 2.0))
        assert len(manager.list_checkpoints()) == 2
        with pytest.raises(CheckpointError, match="the disk lacks"):
            manager.poll()
        assert seed_of(manager.get_last_checkpoint()) == 1


# ---- a real disk that is full


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 KiB; skipped where nothing may be mounted."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("only root may mount")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("asked", [True, False])
def test_a_disk_that_fills_up_keeps_what_was_saved_and_takes_the_next_save(small_disk, asked):
    """With and without asking beforehand how much is free; then it is the system that says no."""

    class Unasked(Disk):
        def free(self, path: Path) -> int:
            if asked:
                return super().free(path)
            raise OSError(errno.ENOSYS, "nobody knows")

    filler = small_disk / "filler"
    with run(small_disk, Unasked(), keep_best_n=1) as manager:
        manager.save_checkpoint(state(1), metadata(1, 3.0))
        filler.write_bytes(bytes(512 * 1024 - 160 * 1024))
        with pytest.raises(CheckpointError, match="lacks" if asked else "No space left"):
            for epoch in range(2, 9):
                manager.save_checkpoint(
                    Standin(epoch, epoch, shapes={"w": (64, 64 * epoch)}), metadata(epoch, 2.0)
                )
                filler.write_bytes(bytes(512 * 1024 - 130 * 1024))
        kept = seed_of(manager.get_last_checkpoint())
        assert not any(name.startswith(".tmp") for name in os.listdir(small_disk))
        filler.unlink()
        manager.save_checkpoint(state(9), metadata(9, 1.0))
        assert kept >= 1 and seed_of(manager.get_last_checkpoint()) == 9
