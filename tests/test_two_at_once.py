"""Beside a running writer: another writer is refused, a reader always finds a whole checkpoint."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.standin import Standin
from tests.timing import PATIENCE
from tinyllm.checkpoint import CheckpointError, CheckpointManager, load_weights
from tinyllm.checkpoint.__main__ import main
from tinyllm.checkpoint.disk import Disk
from tinyllm.inference import language_model

ROOT = Path(__file__).resolve().parents[1]
WRITER = """
import itertools, select, sys
from tests.standin import QuickDisk, Standin, metadata
from tinyllm.checkpoint import CheckpointManager, CheckpointStrategy
strategy = CheckpointStrategy.parse(sys.argv[2])
with CheckpointManager(sys.argv[1], strategy, 1, disk=QuickDisk()) as manager:
    for number in itertools.count(1):
        manager.save_checkpoint(Standin(number, number), metadata(number, 1e6 - number)).result()
        if number == 1:
            print("begun", flush=True)
        if select.select([sys.stdin], [], [], 0)[0]:
            print(number)
            break
"""


@pytest.mark.parametrize("strategy", ["best", "best-and-last"])
def test_a_reader_beside_a_writer_that_saves_and_deletes_always_finds_a_whole_checkpoint(
    tmp_path, capsys, strategy
):
    """Each save deletes the best one before it, often between a reader's listing and its opening."""
    arguments = [sys.executable, "-c", WRITER, str(tmp_path), strategy]
    with subprocess.Popen(
        arguments, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout and writer.stdout.readline() == "begun\n"
        reads, newest, deadline = 0, 0, time.monotonic() + PATIENCE
        while reads < 20 or newest < 300:
            assert writer.poll() is None and time.monotonic() < deadline
            state, about = CheckpointManager.load_checkpoint(tmp_path, Standin)
            assert state.bits() == Standin(state.seed, state.seed).bits() and about.epoch == state.seed
            assert state.seed >= newest
            newest, reads = state.seed, reads + 1
            fields, weights = load_weights(tmp_path)
            seed = fields["progress"]["step"]
            assert weights["wte"].tobytes() == Standin(seed).arrays["params/wte"].tobytes()
            with CheckpointManager(tmp_path, read_only=True) as manager:
                assert manager.get_last_checkpoint() and manager.get_best_checkpoint()
                assert not manager.notices
            for command in ("ls", "show"):
                assert main([command, str(tmp_path)]) == 0
            assert not capsys.readouterr().err
        last, _ = writer.communicate("enough\n")
        assert writer.returncode == 0
    assert CheckpointManager.load_checkpoint(tmp_path, Standin)[0].seed == int(last)


@pytest.mark.parametrize("read", [load_weights, language_model.load_model, CheckpointManager.load_checkpoint])
def test_a_file_that_was_named_and_is_not_there_is_looked_for_once(tmp_path, monkeypatch, read):
    looks, look = [], Disk.open
    monkeypatch.setattr(Disk, "open", lambda disk, path: looks.append(path) or look(disk, path))
    with pytest.raises(CheckpointError, match="No such file"):
        read(tmp_path / "none.bin")
    assert looks == [tmp_path / "none.bin"]
