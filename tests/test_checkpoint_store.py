"""The directory: what is committed stays, whatever fails or dies, and only one writer may change it."""

from __future__ import annotations

import ast
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tinyllm.checkpoint
from tests.standin import Died, FaultyDisk, QuickDisk, Standin, file_bytes, metadata, names
from tinyllm.checkpoint import CheckpointError, CheckpointManager, reader
from tinyllm.checkpoint.disk import Disk
from tinyllm.checkpoint.store import Store

LAST, BEST1 = "checkpoint_last.bin", "checkpoint_best_epoch_1_loss_3.0000.bin"


def opened(directory: Path, disk: Disk | None = None, **more) -> CheckpointManager:
    return CheckpointManager(directory, keep_best_n=2, asynchronous=False, disk=disk or QuickDisk(), **more)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def loaded(path: Path | None) -> int:
    """The seed of the state in a checkpoint, every bit of which is right."""
    assert path is not None
    state, _ = CheckpointManager.load_checkpoint(path, Standin)
    assert state.bits() == Standin(state.seed, state.epoch).bits()
    return state.seed


MODULES = {"os", "io", "shutil", "socket", "fcntl", "tempfile", "glob", "mmap", "time", "datetime"}
MODULES |= {"subprocess", "importlib", "ctypes", "posix", "signal", "fileinput", "codecs", "pickle"}
CALLS = {
    "open",
    "exists",
    "is_file",
    "is_dir",
    "stat",
    "lstat",
    "iterdir",
    "glob",
    "rglob",
    "touch",
    "unlink",
}
CALLS |= {"rename", "rmdir", "mkdir", "resolve", "absolute", "read_bytes", "write_bytes", "read_text", "cwd"}
CALLS |= {"write_text", "symlink_to", "hardlink_to", "chmod", "samefile", "tofile", "fromfile", "memmap"}
CALLS |= {"save", "savez", "savez_compressed", "savetxt", "load", "loadtxt", "genfromtxt"}
OF_DISK = {"open", "unlink", "rename", "is_directory"}


def ways_past_the_door(source: str) -> list[str]:
    """Return what in a module touches the operating system other than by a Disk or a Store."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = (
                [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            )
            found += [name for name in names if name.split(".")[0] in MODULES]
        elif isinstance(node, ast.Name) and node.id in ("open", "__import__", "exec", "eval"):
            found.append(node.id)
        elif isinstance(node, ast.Attribute) and node.attr in CALLS:
            owner = ast.unparse(node.value)
            if not (node.attr in OF_DISK and owner.split(".")[-1].strip("_") in {"disk", "door", "store"}):
                found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize(
    "path", sorted(Path(tinyllm.checkpoint.__file__).parent.glob("*.py")), ids=lambda p: p.name
)
def test_only_disk_py_touches_the_operating_system(path):
    assert bool(ways_past_the_door(path.read_text())) == (path.name == "disk.py")


@pytest.mark.parametrize(
    "source",
    [
        "import os.path", "from os import replace", "from shutil import move", "import mmap", "open('x')",
        "f = open", "__import__('os')", "path.write_bytes(b'')", "Path('x').open()", "path.unlink()",
        "np.save('x', a)", "np.memmap('x')", "array.tofile(path)", "path.stat().st_size", "go = path.rename",
    ],
)  # fmt: skip
def test_a_way_past_the_door_is_seen(source):
    assert ways_past_the_door(source)


def test_a_save_commits_before_it_derives_and_deletes_last(tmp_path):
    disk = FaultyDisk()
    with opened(tmp_path, disk) as manager:
        for epoch, loss in enumerate([3.0, 2.0], 1):
            manager.save_checkpoint(Standin(epoch, epoch), metadata(epoch, loss))
        disk.actions.clear()
        manager.save_checkpoint(Standin(3, 3), metadata(3, 1.0))
    commit = [
        "free",
        "create",
        "preallocate",
        "write",
        "sync",
        "close",
        "link",
        "rename",
        "rename",
        "sync_directory",
    ]
    sidecar = ["create", "write", "close", "rename"]
    assert disk.actions == [*commit, *sidecar, *sidecar, "unlink", "unlink", "close"]


# ---- one writer


def test_a_second_manager_is_refused_at_once_and_told_who_holds_the_directory(tmp_path):
    with opened(tmp_path), pytest.raises(CheckpointError, match=rf"in use by process {os.getpid()} on "):
        opened(tmp_path)
    opened(tmp_path).close()


def test_a_second_process_is_refused_and_a_killed_one_leaves_no_lock(tmp_path):
    program = (
        "import sys; from tinyllm.checkpoint import CheckpointManager\n"
        "manager = CheckpointManager(sys.argv[1]); print('locked', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdin and holder.stdout
    assert holder.stdout.readline() == "locked\n"
    with pytest.raises(CheckpointError, match=rf"process {holder.pid} on .* another directory"):
        opened(tmp_path)
    CheckpointManager(tmp_path, read_only=True).close()
    holder.kill()
    holder.wait()
    holder.stdin.close()
    holder.stdout.close()
    opened(tmp_path).close()


def test_read_only_changes_nothing_and_cannot_save(tmp_path):
    with opened(tmp_path) as manager:
        manager.save_checkpoint(Standin(1), metadata(1, 3.0))
    (tmp_path / ".tmp-1-1").write_bytes(b"x")
    (tmp_path / "checkpoint_epoch_3.bin").write_bytes(b"rotten")
    before = names(tmp_path)
    with CheckpointManager(tmp_path, read_only=True) as manager:
        assert manager.get_last_checkpoint() == tmp_path / LAST
        with pytest.raises(CheckpointError, match="read-only"):
            manager.save_checkpoint(Standin(2), metadata(2))
    assert names(tmp_path) == before
    assert CheckpointManager(tmp_path / "none", read_only=True).list_checkpoints() == []
    assert not (tmp_path / "none").exists()


# ---- recovery


def test_opening_sweeps_temp_files_and_orphaned_sidecars_but_no_foreign_file(tmp_path):
    foreign = {"notes.json", "tokens.bin", "checkpoint_mine.json", "model_final.txt"}
    for name in [*foreign, ".tmp-99-1", "checkpoint_epoch_7.json"]:
        (tmp_path / name).write_bytes(b"{}")
    opened(tmp_path).close()
    assert names(tmp_path) == foreign


@pytest.mark.parametrize("damage", [b"", b"{", b'{"epoch": 7}', None])
def test_a_missing_stale_or_damaged_sidecar_is_rebuilt_and_never_believed(tmp_path, damage):
    with opened(tmp_path) as manager:
        manager.save_checkpoint(Standin(5), metadata(1, 3.0))
    sidecar = tmp_path / "checkpoint_last.json"
    right = sidecar.read_bytes()
    sidecar.unlink()
    if damage is not None:
        sidecar.write_bytes(damage)
    with opened(tmp_path) as manager:
        assert manager.list_checkpoints()[-1].metadata == metadata(1, 3.0)
    assert sidecar.read_bytes() == right


def test_the_sidecar_holds_the_five_fields_and_what_a_person_looks_for(tmp_path):
    with opened(tmp_path) as manager:
        manager.save_checkpoint(Standin(42), metadata(1, 3.0))
        manager.save_checkpoint(Standin(43), metadata(2, float("nan")))
    assert json.loads((tmp_path / BEST1).with_suffix(".json").read_text()) == {
        "epoch": 1, "loss": 3.0, "learning_rate": 0.001, "timestamp": "2025-10-28 12:34:56",
        "phase": "pretraining", "step": 42, "tokens": 420, "status": "running",
        "size": (tmp_path / BEST1).stat().st_size, "sequence": 1,
    }  # fmt: skip
    assert json.loads((tmp_path / "checkpoint_last.json").read_text())["loss"] is None


def test_a_bad_head_is_set_aside_at_opening_and_the_newest_valid_one_is_found(tmp_path):
    with opened(tmp_path) as manager:
        manager.save_checkpoint(Standin(1), metadata(1, 3.0))
    for _ in range(2):
        (tmp_path / LAST).unlink(missing_ok=True)
        (tmp_path / LAST).write_bytes(b"rotten")
        with opened(tmp_path) as manager:
            assert any("checkpoint_last.bin.corrupt" in notice for notice in manager.notices)
            assert manager.get_last_checkpoint() == tmp_path / BEST1
    assert {f"{LAST}.corrupt", f"{LAST}.corrupt2"} <= names(tmp_path)
    assert "checkpoint_last.json" not in names(tmp_path)


def test_rotten_tensors_are_found_when_they_are_asked_for_and_set_aside_with_a_notice(tmp_path):
    with opened(tmp_path) as manager:
        manager.save_checkpoint(Standin(1), metadata(1, 3.0))
        manager.save_checkpoint(Standin(2), metadata(2, 4.0))
        data = bytearray((tmp_path / LAST).read_bytes())
        data[-2] ^= 4
        (tmp_path / LAST).write_bytes(data)
        assert manager.get_last_checkpoint() == tmp_path / BEST1
        assert any("checksum differs" in notice for notice in manager.notices)
        assert any(f"{BEST1} is used instead" in notice for notice in manager.notices)
        assert (tmp_path / f"{LAST}.corrupt").read_bytes() == data
        manager.save_checkpoint(Standin(3), metadata(3, 5.0))
        assert loaded(manager.get_last_checkpoint()) == 3


def test_a_directory_of_a_newer_format_is_refused_and_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("tinyllm.checkpoint.format.VERSION", 2)
    data = file_bytes(Standin(1))
    monkeypatch.undo()
    (tmp_path / LAST).write_bytes(data)
    with pytest.raises(CheckpointError, match="format version 2"):
        opened(tmp_path)
    assert (tmp_path / LAST).read_bytes() == data
    with CheckpointManager(tmp_path, read_only=True) as manager:
        assert [entry.valid for entry in manager.list_checkpoints()] == [False]


def test_a_pipe_or_a_directory_under_a_checkpoint_name_is_a_bad_entry(tmp_path):
    os.mkfifo(tmp_path / LAST)
    (tmp_path / "model_final.bin").mkdir()
    with opened(tmp_path) as manager:
        assert [(entry.path.name, entry.valid) for entry in manager.list_checkpoints()] == [
            (LAST, False), ("model_final.bin", False),
        ]  # fmt: skip
        assert manager.get_last_checkpoint() is None


def test_a_new_file_never_takes_the_place_of_one_nor_follows_a_link(tmp_path):
    (tmp_path / "precious").write_bytes(b"1")
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    for name in ("precious", "link"):
        with pytest.raises(FileExistsError):
            Disk().create(tmp_path / name)


# ---- platforms that offer less


class Poor(Disk):
    """No links, no preallocation, no directory fsync, no locks."""

    def preallocate(self, fd, size):
        return False

    def link(self, source, target):
        return False

    def sync_directory(self, path):
        return False

    def lock(self, path):
        return os.open(path, os.O_RDWR | os.O_CREAT), False


def test_what_a_platform_lacks_is_said_once_and_saves_work_without_it(tmp_path):
    with opened(tmp_path, Poor()) as manager:
        for epoch in (1, 2):
            manager.save_checkpoint(Standin(epoch, epoch), metadata(epoch, 4.0 - epoch))
        assert len(manager.notices) == 4
        assert all(word in " ".join(manager.notices) for word in ("links", "reserved", "sync", "locks"))
        assert loaded(manager.get_last_checkpoint()) == loaded(manager.get_best_checkpoint()) == 2
    assert (tmp_path / LAST).stat().st_ino != (
        tmp_path / "checkpoint_best_epoch_2_loss_2.0000.bin"
    ).stat().st_ino


def test_the_package_imports_where_fcntl_is_missing():
    program = "import sys; sys.modules['fcntl'] = None; import tinyllm.checkpoint.__main__"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("refused", [False, True])
def test_a_large_file_passes_by_the_page_cache_or_goes_through_it_where_that_is_refused(tmp_path, refused):
    class Direct(QuickDisk):
        on = refusals = 0

        def direct(self, fd, on):
            self.on = on
            return super().direct(fd, on) or refused

        def write(self, fd, data, offset):
            if refused and self.on and offset:  # the first write succeeds: then it changes its mind
                self.refusals += 1
                raise OSError(errno.EINVAL, "unaligned")
            if self.on:
                assert np.frombuffer(data, np.uint8).ctypes.data % 4096 == len(data) % 4096 == 0
                data = data[: 1 << 21]
            return super().write(fd, data, offset)

    disk = Direct()
    state = Standin(3, shapes={"wte": (1000, 801)})
    with opened(tmp_path, disk) as manager:
        path = manager.save_checkpoint(state, metadata()).result()
    assert disk.refusals == refused
    assert CheckpointManager.load_checkpoint(path, Standin)[0].bits() == state.bits()


# ---- failing and dying at every action

ERRORS = [errno.ENOSPC, errno.EIO, errno.EINTR]
MORE_ERRORS = [errno.EDQUOT, errno.EMFILE, errno.EACCES, errno.EROFS, errno.ENOENT]


def one_run(directory: Path, disk: Disk) -> list[str]:
    """Save two more epochs of a run that has one; return what was raised."""
    raised = []
    manager = None
    try:
        manager = opened(directory, disk)
        for epoch, loss in ((2, 2.0), (3, 1.0)):
            try:
                manager.save_checkpoint(Standin(epoch, epoch), metadata(epoch, loss))
            except CheckpointError as error:
                raised.append(str(error))
    except CheckpointError as error:
        raised.append(str(error))
    finally:
        if manager is not None:
            manager.close()
    return raised


def first_epoch(directory: Path) -> None:
    with opened(directory) as manager:
        manager.save_checkpoint(Standin(1, 1), metadata(1, 3.0))


@pytest.mark.parametrize(
    "error",
    [*ERRORS, *(pytest.param(error, marks=pytest.mark.slow) for error in MORE_ERRORS)],
    ids=errno.errorcode.get,
)
def test_one_failing_action_loses_nothing_leaks_nothing_and_the_next_save_works(tmp_path, error):
    open_before, k = descriptors(), 0
    while True:
        k += 1
        directory = tmp_path / str(k)
        first_epoch(directory)
        disk = FaultyDisk(k, error)
        raised = one_run(directory, disk)
        assert descriptors() == open_before
        assert len(raised) <= 1
        failed = disk.actions[k - 1] if len(disk.actions) >= k else None
        if failed in ("create", "sync", "rename", "sync_directory") and not raised:
            with CheckpointManager(directory, read_only=True) as manager:
                assert loaded(manager.get_last_checkpoint()) == 3  # only a sidecar was hit
        if failed != "unlink":
            assert not any(name.startswith(".tmp") for name in names(directory))
        with opened(directory) as manager:
            found = loaded(manager.get_last_checkpoint())
            assert found == 3 or raised
            assert loaded(manager.get_best_checkpoint()) == found
            manager.save_checkpoint(Standin(4, 4), metadata(4, 0.5))
            assert loaded(manager.get_last_checkpoint()) == 4
            assert all(entry.valid for entry in manager.list_checkpoints())
        if failed is None:
            break
    assert k > 40


@pytest.mark.parametrize("error", [errno.ENOSPC, Died])
def test_dying_or_failing_for_good_at_any_action_leaves_what_was_durable(tmp_path, error):
    k = 0
    while True:
        k += 1
        directory = tmp_path / str(k)
        first_epoch(directory)
        disk = FaultyDisk(k, error)
        durable = 1
        try:
            manager = opened(directory, disk)
            for epoch, loss in ((2, 2.0), (3, 1.0)):
                manager.save_checkpoint(Standin(epoch, epoch), metadata(epoch, loss))
                durable = epoch
                disk.dead = disk.dead or len(disk.actions) >= k
        except (Died, CheckpointError):
            pass
        disk.bury()
        with opened(directory) as manager:
            assert durable <= loaded(manager.get_last_checkpoint()) <= durable + 1
            assert loaded(manager.get_best_checkpoint()) >= durable
            assert not any(name.startswith(".tmp") for name in names(directory))
            for entry in manager.list_checkpoints():
                assert entry.path.with_suffix(".json").exists()
                reader.verify(entry.path, Disk())
        if durable == 3:
            break
    assert k > 30


def test_a_failed_fsync_is_never_tried_again_on_the_same_file(tmp_path):
    class Forgetful(Disk):
        synced: list[int] = []  # noqa: RUF012

        def sync(self, fd):
            self.synced.append(os.fstat(fd).st_ino)
            if len(self.synced) == 1:
                raise OSError(errno.EIO, "lost")
            super().sync(fd)

    blocker = tmp_path / "blocker"  # keeps the inode of the deleted temp from being given out again
    disk = Forgetful()
    with opened(tmp_path / "run", disk) as manager:
        create = disk.create

        def create_and_hold(path):
            fd = create(path)
            if not blocker.exists():
                os.link(path, blocker)
            return fd

        disk.create = create_and_hold  # type: ignore[method-assign]
        with pytest.raises(CheckpointError, match="lost"):
            manager.save_checkpoint(Standin(1), metadata(1))
        manager.save_checkpoint(Standin(2), metadata(2))
    assert len(disk.synced) == len(set(disk.synced)) == 2


def test_too_little_space_is_known_before_anything_is_written(tmp_path):
    class Small(Disk):
        room = 1 << 30

        def free(self, path):
            return self.room

    disk = Small()
    with opened(tmp_path, disk) as manager:
        for epoch, loss in enumerate([3.0, 2.0], 1):
            manager.save_checkpoint(Standin(epoch, epoch), metadata(epoch, loss))
        disk.room, before = 1000, names(tmp_path)
        with pytest.raises(CheckpointError, match=r"the disk lacks [\d,]+ bytes"):
            manager.save_checkpoint(Standin(3, 3), metadata(3, 1.0))
        assert names(tmp_path) == before
        assert manager.failures == 1
        manager.keep_best_n = 1

        def unlink(path):
            disk.room = 1 << 30
            Disk.unlink(disk, path)

        disk.unlink = unlink  # type: ignore[method-assign]
        manager.save_checkpoint(Standin(3, 3), metadata(3, 1.0))
        assert loaded(manager.get_last_checkpoint()) == 3


def test_an_unwritable_place_is_a_checkpoint_error_that_names_it(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CheckpointError, match="file"):
        opened(tmp_path / "file")
    with pytest.raises(CheckpointError, match="cannot be listed"):
        Store(tmp_path / "file", Disk(), print).entries()


def test_missing_parents_are_made_and_names_may_be_in_any_script(tmp_path):
    directory = tmp_path / "检查点" / "ünï" / "a b"
    with opened(directory) as manager:
        manager.save_checkpoint(Standin(1), metadata())
        assert loaded(manager.get_last_checkpoint()) == 1
