"""A real process on a real disk is killed before each action of its saves, one run for each action."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.standin import Standin, metadata, names
from tinyllm.checkpoint import CheckpointManager

ROOT = Path(__file__).resolve().parents[1]
# Forks one child for each action: it begins a run, writes down what is durable, and dies.
DRIVER = """
import os, sys
from pathlib import Path
from tests.standin import KillingDisk, Standin, metadata
from tinyllm.checkpoint import CheckpointManager, CheckpointStrategy

def run(directory, k):
    durable = os.open(directory.parent / f"{directory.name}.durable", os.O_WRONLY | os.O_CREAT, 0o666)
    with CheckpointManager(directory, keep_best_n=1, asynchronous=False, disk=KillingDisk(k)) as manager:
        for epoch in (1, 2, 3):
            manager.save_checkpoint(Standin(epoch, epoch), metadata(epoch, 4.0 - epoch))
            os.write(durable, b"x")
        manager.save_final(Standin(4, 4), metadata(4, 0.5))
        os.write(durable, b"x")

for k in range(1, 999):
    child = os.fork()
    if not child:
        run(Path(sys.argv[1]) / str(k), k)
        os._exit(0)
    if not os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        print(k)
        break
"""


def test_a_kill_before_any_action_loses_nothing_and_the_next_run_saves_on(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    count = int(done.stdout)
    assert count > 60
    for k in range(1, count + 1):
        directory, durable = tmp_path / str(k), os.path.getsize(tmp_path / f"{k}.durable")
        with CheckpointManager(directory, keep_best_n=1, asynchronous=False) as manager:
            path = manager.get_last_checkpoint()
            found = manager.load_checkpoint(path, Standin)[0].seed if path else 0
            assert durable <= found <= durable + 1
            best = manager.get_best_checkpoint()
            assert (manager.load_checkpoint(best, Standin)[0].seed if best else 0) >= min(durable, 3)
            manager.save_checkpoint(Standin(5, 5), metadata(5, 0.1))
            assert manager.load_checkpoint(directory, Standin)[0].bits() == Standin(5, 5).bits()
        assert not any(name.startswith(".tmp") for name in names(directory))
