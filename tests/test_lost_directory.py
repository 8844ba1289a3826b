"""A run whose directory is gone says so and writes nowhere else; a script's end or a fork loses nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.standin import GatedDisk, QuickDisk, Standin, metadata
from tinyllm import train
from tinyllm.checkpoint import CheckpointError, CheckpointManager, CheckpointMetadata, CheckpointStrategy
from tinyllm.training.loop import Loop
from tinyllm.training.metrics import Metrics, read

ROOT = Path(__file__).resolve().parents[1]


def moved(run: Path) -> None:
    run.rename(run.with_name("elsewhere"))


def moved_and_made_again(run: Path) -> None:
    moved(run)
    run.mkdir()


def moved_and_another_run_begun(run: Path) -> None:
    moved(run)
    CheckpointManager(run).close()


def deleted(run: Path) -> None:
    shutil.rmtree(run)


def unlocked(run: Path) -> None:
    (run / ".lock").unlink()


LOSSES = (moved, moved_and_made_again, moved_and_another_run_begun, deleted, unlocked)


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("lose", LOSSES)
@pytest.mark.parametrize("asynchronous", [False, True])
def test_no_save_goes_to_a_directory_that_is_not_the_locked_one(tmp_path, lose, asynchronous):
    run = tmp_path / "run"
    manager = CheckpointManager(run, asynchronous=asynchronous, disk=QuickDisk())
    manager.save_checkpoint(Standin(7), metadata(3, 2.0)).result()
    lose(run)
    before = contents(tmp_path)
    for use in (
        lambda: manager.save_checkpoint(Standin(8), metadata(4, 1.0)),
        lambda: manager.save_final(Standin(8), metadata(4, 1.0)),
        manager.get_best_checkpoint, manager.get_last_checkpoint, manager.list_checkpoints,
        manager.check_directory,
    ):  # fmt: skip
        with pytest.raises(
            CheckpointError, match=r"run: this directory was .* while the run was using it"
        ) as caught:
            use()
        assert "checkpoint_last.bin, epoch 3, step 7) is lost" in str(caught.value)
    if lose.__name__.startswith("moved") and os.path.exists("/proc/self/fd"):
        assert f"was moved to {tmp_path / 'elsewhere'} " in str(caught.value)
    rescued = manager.save_final(Standin(8), metadata(4, 1.0), tmp_path / "rescue" / "state.bin")
    assert rescued.exists()
    shutil.rmtree(rescued.parent)
    manager.close()
    assert contents(tmp_path) == before
    assert run.exists() == (lose not in (moved, deleted))


def test_a_save_that_waits_while_the_directory_moves_fails(tmp_path):
    run, disk = tmp_path / "run", GatedDisk()
    manager = CheckpointManager(run, CheckpointStrategy.LAST, disk=disk)
    manager.save_checkpoint(Standin(1), metadata(1))
    assert disk.reached.wait(30)
    waiting = manager.save_checkpoint(Standin(2), metadata(2))
    moved(run)
    disk.gate.set()
    with pytest.raises(CheckpointError, match=r"was (moved to|deleted, moved)"):
        waiting.result()
    assert not run.exists()
    with pytest.raises(CheckpointError):  # of the first one, which was in flight
        manager.close()


def test_a_directory_that_moves_during_a_save_is_the_reason_that_is_given(tmp_path):
    class Moving(QuickDisk):
        def create(self, path):
            if not (tmp_path / "elsewhere").exists():
                moved(tmp_path / "run")
            return super().create(path)

    manager = CheckpointManager(tmp_path / "run", asynchronous=False, disk=Moving())
    with pytest.raises(CheckpointError, match=r"while the run was using it; .* it held no checkpoint"):
        manager.save_checkpoint(Standin(1), metadata(1))
    assert not (tmp_path / "run").exists()
    manager.close()


TEXT = "the quick brown fox jumps over the lazy dog and so on\n" * 40
OPTIONS = (
    "--tokenizer char --n-layer 1 --n-head 2 --n-embd 8 --block-size 8 --batch-size 2 --max-steps 9 --plain"
)


@pytest.mark.parametrize("lose", LOSSES)
@pytest.mark.parametrize("when", ["in training", "after the end"])
def test_a_training_that_loses_its_directory_exits_1_and_claims_nothing(
    tmp_path, capsys, monkeypatch, lose, when
):
    run, text = tmp_path / "run", tmp_path / "book.txt"
    text.write_text(TEXT)
    name = "_step" if when == "in training" else "_finish"
    original = getattr(Loop, name)

    def and_lose(self):
        original(self)
        if when == "after the end" or self.state.progress.step == 5:
            lose(run)

    monkeypatch.setattr(Loop, name, and_lose)
    arguments = f"{OPTIONS} --save-every-steps 2 --no-samples --data {text} --checkpoint-dir {run}"
    assert train.main(arguments.split()) == 1
    said = capsys.readouterr()
    assert "while the run was using it" in said.err
    assert " written in " not in said.out
    assert lose is unlocked or not (run / "metrics.jsonl").exists()
    assert not (run / "report.html").exists()


def test_a_log_does_not_go_on_into_a_deleted_file_and_the_state_is_saved(tmp_path, capsys, monkeypatch):
    run, text = tmp_path / "run", tmp_path / "book.txt"
    text.write_text(TEXT)
    step = Loop._step

    def and_lose(self):
        step(self)
        if self.state.progress.step == 5:
            (run / "metrics.jsonl").unlink()

    monkeypatch.setattr(Loop, "_step", and_lose)
    arguments = f"{OPTIONS} --save-every-steps 2 --no-samples --data {text} --checkpoint-dir {run}".split()
    assert train.main(arguments) == 1
    assert "metrics.jsonl: deleted, moved or replaced" in capsys.readouterr().err
    assert CheckpointManager.load_checkpoint(run)[0].progress.step == 6
    monkeypatch.undo()
    assert train.main(["--resume", "--plain", "--no-samples", "--checkpoint-dir", str(run)]) == 0
    assert read(run / "metrics.jsonl")[-1]["event"] == "finished"


def test_a_log_renamed_while_it_is_written_is_noticed_at_the_next_flush(tmp_path):
    with Metrics(tmp_path) as lines:
        lines.write(step=1)
        lines.flush()
        (tmp_path / "metrics.jsonl").rename(tmp_path / "metrics.jsonl.1")
        lines.write(step=2)
        with pytest.raises(FileNotFoundError, match="deleted, moved or replaced"):
            lines.flush()
    assert not (tmp_path / "metrics.jsonl").exists()


# ---- a script's end, and a fork

SCRIPT = """
import sys
sys.path.insert(0, {root!r})
from tests.standin import Standin, metadata
from tinyllm.checkpoint import CheckpointManager, CheckpointStrategy
import time

from tinyllm.checkpoint.disk import Disk

class Slow(Disk):
    def sync(self, fd):
        time.sleep(0.05)
        super().sync(fd)
        {fails}

manager = CheckpointManager(sys.argv[1], CheckpointStrategy.periodic(1), disk=Slow())
for number in (1, 2, 3):
    manager.save_checkpoint(Standin(number, shapes={{"w": (700_000,)}}), metadata(number))
{ends}
"""


@pytest.mark.parametrize("ends", ["", "sys.exit(3)", "raise KeyError", "del manager"])
def test_a_script_that_closes_nothing_loses_no_save(tmp_path, ends):
    script = SCRIPT.format(root=str(ROOT), fails="", ends=ends)
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == {"sys.exit(3)": 3, "raise KeyError": 1}.get(ends, 0)
    assert {f"checkpoint_epoch_{n}.bin" for n in (1, 2, 3)} <= {path.name for path in tmp_path.iterdir()}
    assert CheckpointManager.load_checkpoint(tmp_path, Standin)[0].seed == 3
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".tmp")]


def test_a_save_that_fails_at_a_scripts_end_is_not_silent(tmp_path):
    script = SCRIPT.format(root=str(ROOT), fails="raise OSError(28, 'No space left on device')", ends="")
    script = script.replace("for number in (1, 2, 3)", "for number in (1,)")
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, cwd=ROOT
    )
    assert "not saved: No space left on device" in done.stderr


def test_a_closed_manager_leaves_nothing_to_be_done_at_the_end(tmp_path, monkeypatch):
    import atexit

    kept: list[object] = []
    monkeypatch.setattr(atexit, "register", kept.append)
    monkeypatch.setattr(atexit, "unregister", kept.remove)
    with CheckpointManager(tmp_path, disk=QuickDisk()) as manager:
        manager.save_checkpoint(Standin(1), metadata(1)).result()
        assert len(kept) == 1
    assert not kept


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


def in_a_child(act) -> str:
    """Return what `act` says in a forked child, which then ends as a script does not: at once."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writing, str(act()).encode())
        except BaseException as error:
            os.write(writing, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as said:
        found = said.read()
    os.waitpid(child, 0)
    return found


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_holds_no_lock_after_its_parent_has_closed(tmp_path):
    manager = CheckpointManager(tmp_path)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(writing)
        os.read(reading, 1)  # until the parent is done
        os._exit(0)
    os.close(reading)
    try:
        with pytest.raises(CheckpointError, match="in use"):
            CheckpointManager(tmp_path)
        manager.close()
        CheckpointManager(tmp_path).close()
    finally:
        os.close(writing)
        os.waitpid(child, 0)


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_the_lock_of_a_killed_parent_does_not_live_on_in_its_child(tmp_path):
    program = (
        "import os, sys; from tinyllm.checkpoint import CheckpointManager\n"
        "manager = CheckpointManager(sys.argv[1])\n"
        "if os.fork(): sys.stdin.read()\n"
        "os.kill(os.getppid(), 9); print('alone', flush=True); sys.stdin.read()"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, text=True,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    assert parent.stdin and parent.stdout and parent.stdout.readline() == "alone\n"
    parent.wait()
    CheckpointManager(tmp_path).close()
    parent.stdin.close()
    parent.stdout.close()


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_never_writes_to_its_parents_run_and_waits_for_nothing(tmp_path):
    disk = GatedDisk()
    with CheckpointManager(tmp_path, disk=disk) as manager:
        manager.save_checkpoint(Standin(1), metadata(1, 3.0))
        assert disk.reached.wait(30)  # a save is in flight: in the child it never ends
        before = contents(tmp_path)
        refused = (
            rf"CheckpointError: {tmp_path}: in use by process {os.getpid()}, from which this one was forked"
        )
        for act in (
            lambda: manager.save_checkpoint(Standin(2), metadata(2, 1.0)),
            lambda: manager.save_final(Standin(2), metadata(2)), manager.get_last_checkpoint,
            manager.get_best_checkpoint, manager.list_checkpoints, manager.poll, manager.check_directory,
        ):  # fmt: skip
            assert in_a_child(act).startswith(refused)
        assert in_a_child(manager.close) == "None"
        assert in_a_child(manager._writer._finish) == "None"
        assert contents(tmp_path) == before
        with pytest.raises(CheckpointError, match="in use"):  # no child has given the lock away
            CheckpointManager(tmp_path)
        disk.gate.set()
    assert CheckpointManager.load_checkpoint(tmp_path, Standin)[0].seed == 1


# ---- NumPy's numbers


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8, np.intp])
def test_numpys_integers_are_integers(tmp_path, kind):
    about = CheckpointMetadata(
        kind(3), np.float32(0.5), np.float64(0.1), "2025-10-28 12:34:56", "pretraining"
    )
    assert type(about.epoch) is int and about.epoch == 3
    state = Standin(kind(7), extra={"seen": kind(5), "rates": [np.float32(0.5)], "on": np.bool_(True)})
    with CheckpointManager(
        tmp_path, CheckpointStrategy.best_and_periodic(kind(3)), keep_best_n=kind(2)
    ) as manager:
        assert manager.should_save(kind(3), np.float32(1.0))
        manager.save_checkpoint(state, about)
    found, again = CheckpointManager.load_checkpoint(tmp_path / "checkpoint_epoch_3.bin", Standin)
    assert again == about and found.seed == 7
    assert found.extra == {"seen": 5, "rates": [0.5], "on": True}
    assert '"step": 7' in (tmp_path / "checkpoint_epoch_3.json").read_text()


@pytest.mark.parametrize(
    "epoch", [True, np.bool_(True), 3.0, np.float64(3), "3", None, -1, np.int64(-1), 1 << 62]
)
def test_what_is_no_count_is_no_epoch(epoch):
    with pytest.raises(ValueError, match="epoch: expected a whole number"):
        CheckpointMetadata(epoch, 0.5, 0.1, "2025-10-28 12:34:56", "pretraining")
