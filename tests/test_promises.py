"""Every promise of the design document, each under its own name; docs/promises.md lists them.

Small whole runs; the order is the document's: strategies, state, early stopping, resume, continuity, files.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.runs import SMALL, Run, Silent, same_state
from tests.test_bad_input import TINY, TRAIN, call
from tests.timing import PATIENCE
from tinyllm.checkpoint import CheckpointManager, CheckpointMetadata, CheckpointStrategy
from tinyllm.config import Config, DataConfig, TrainConfig
from tinyllm.parallel.team import Team
from tinyllm.run.state import Identity, TrainState
from tinyllm.text.tokenizer import train_bpe
from tinyllm.training import metrics
from tinyllm.training.control import SaveRhythm
from tinyllm.training.step import Engine

ROOT = Path(__file__).resolve().parents[1]
ONE_PHASE = ("pretraining",)
LOSSES = (3.0, 2.0, 2.5, 1.5, 1.2, 1.8)  # of epochs 1 to 6; better in 1, 2, 4 and 5


def some_state(seed: int = 0) -> TrainState:
    """Return a small state with moments that are not zero."""
    from tinyllm.run.schedule import Schedule

    config = Config(SMALL, TrainConfig(seed=seed), DataConfig(vocab_size=270))
    state = TrainState.fresh(
        config, train_bpe(["some words and some more"], 270), Schedule(1e-3, 1e-4, 0, 0, 9), ONE_PHASE
    )
    state.identity = Identity("one run")
    state.rows[1:] = np.abs(np.random.default_rng(seed).standard_normal(state.rows[1:].shape))
    for gap in state.layout.gaps():
        state.rows[:, gap] = 0
    return state


def at(epoch: int, loss: float, phase: str = "pretraining") -> CheckpointMetadata:
    return CheckpointMetadata(epoch, loss, 1e-4, "2025-10-28 12:00:00", phase)


def kept(directory: Path, strategy: CheckpointStrategy, keep_best_n: int = 3) -> set[str]:
    """Return the checkpoints that six epochs leave."""
    with CheckpointManager(directory, strategy, keep_best_n) as manager:
        for epoch, loss in enumerate(LOSSES, 1):
            state = some_state(epoch)
            state.progress.epoch = epoch
            manager.save_checkpoint(state, at(epoch, loss)).result()
    names = {path.name for path in directory.iterdir()} - {".lock"}
    found = {name.removesuffix(".bin") for name in names if name.endswith(".bin")}
    assert names == {f"{name}.{kind}" for name in found for kind in ("bin", "json")}
    return found


BEST = {
    "checkpoint_best_epoch_2_loss_2.0000",
    "checkpoint_best_epoch_4_loss_1.5000",
    "checkpoint_best_epoch_5_loss_1.2000",
}


def test_strategy_best(tmp_path):
    assert kept(tmp_path, CheckpointStrategy.BEST) == BEST


def test_strategy_last(tmp_path):
    assert kept(tmp_path, CheckpointStrategy.LAST) == {"checkpoint_last"}
    state, metadata = CheckpointManager.load_checkpoint(tmp_path / "checkpoint_last.bin")
    assert metadata == at(6, 1.8)
    assert np.array_equal(state.rows, some_state(6).rows)


def test_strategy_periodic(tmp_path):
    found = kept(tmp_path, CheckpointStrategy.periodic(2))
    assert found == {"checkpoint_epoch_2", "checkpoint_epoch_4", "checkpoint_epoch_6"}


def test_strategy_best_and_last(tmp_path):
    assert kept(tmp_path, CheckpointStrategy.BEST_AND_LAST) == BEST | {"checkpoint_last"}
    assert CheckpointManager.load_checkpoint(tmp_path / "checkpoint_last.bin")[1] == at(6, 1.8)  # no best
    with CheckpointManager(tmp_path) as manager:
        manager.save_checkpoint(some_state(7), at(7, 1.0)).result()
    best, last = tmp_path / "checkpoint_best_epoch_7_loss_1.0000.bin", tmp_path / "checkpoint_last.bin"
    assert best.stat().st_ino == last.stat().st_ino  # one save under two names is one file


def test_strategy_best_and_periodic(tmp_path):
    found = kept(tmp_path, CheckpointStrategy.best_and_periodic(3))
    assert found == BEST | {"checkpoint_epoch_3", "checkpoint_epoch_6"}


@pytest.mark.parametrize("n", [1, 2, 4])
def test_keep_best_n(tmp_path, n):
    best = BEST | {"checkpoint_best_epoch_1_loss_3.0000"}
    lowest = sorted(best, key=lambda name: float(name.rsplit("_", 1)[1]))[:n]
    assert kept(tmp_path, CheckpointStrategy.BEST, n) == set(lowest)


def test_adam_state_is_saved_whole(tmp_path):
    """m, v, timestep, beta1, beta2 and epsilon come back to the last bit."""
    state = some_state(5)
    adam = dataclasses.replace(state.config.train, beta1=0.85, beta2=0.97, epsilon=1e-6)
    state.config = dataclasses.replace(state.config, train=adam)
    state.progress.timestep = 7
    with CheckpointManager(tmp_path) as manager:
        path = manager.save_checkpoint(state, at(1, 1.0)).result()
        assert path is not None
        loaded, _ = manager.load_checkpoint(path)
    for row in (1, 2):
        assert loaded.rows[row].any()
        assert np.array_equal(loaded.rows[row].view(np.uint32), state.rows[row].view(np.uint32))
    assert loaded.progress.timestep == 7
    assert (loaded.config.train.beta1, loaded.config.train.beta2, loaded.config.train.epsilon) == (
        0.85,
        0.97,
        1e-6,
    )


def dying(run: Run) -> TrainState:
    """Let the run die at every fifth action until it is at its end all the same."""
    for _ in range(99):
        if (found := run.go(cut=4)) is not None:
            return found
    raise AssertionError("the run does not move on")


# Early stopping.
STOPPING = Config(
    SMALL, TrainConfig(batch_size=3, epochs=9, patience=2, min_delta=5.0, lr=3.0), DataConfig(vocab_size=300)
)


@pytest.mark.parametrize("strategy", ["best-and-last", "best"])
def test_early_stop_rolls_back_to_the_best(tmp_path, strategy):
    run = Run(tmp_path / "run", STOPPING, strategy, phases=ONE_PHASE, rhythm=SaveRhythm())
    final = run.go()
    assert final is not None and final.progress.status == "rolled_back"
    assert final.progress.epoch < 9 and final.stopping.best_epoch < final.progress.epoch
    with run.manager() as manager:
        path = manager.get_best_checkpoint()
        assert path is not None
        best, metadata = manager.load_checkpoint(path)
        stopped, _ = manager.load_checkpoint(run.directory / "checkpoint_last.bin")
    assert metadata.epoch == final.stopping.best_epoch
    assert np.array_equal(final.rows, best.rows)  # parameters, m and v
    assert final.progress.timestep == best.progress.timestep
    assert stopped.progress.status == "early_stopped"  # what was stopped is kept too
    assert not np.array_equal(stopped.rows, best.rows)


def test_an_early_stop_is_remembered_and_patience_survives_a_resume(tmp_path):
    whole, cut = (
        Run(tmp_path / "whole", STOPPING, phases=ONE_PHASE),
        Run(tmp_path / "cut", STOPPING, phases=ONE_PHASE),
    )
    expected = whole.go()
    assert expected is not None
    found = dying(cut)
    assert found.progress.epoch == expected.progress.epoch  # a forgotten counter would stop it later


# Resume.


def test_resume_finds_the_checkpoint_by_itself(world, tmp_path, capsys):
    run = tmp_path / "run"
    arguments = TRAIN.format(**world, new=run).split()
    assert call(arguments) == 0
    capsys.readouterr()
    assert call(["train", "--checkpoint-dir", str(run), "--plain", "--no-samples", "--resume"]) == 0
    printed = capsys.readouterr()
    assert (
        "resuming from" in printed.err and "this run is finished" in printed.out and "--epochs" in printed.out
    )


def test_resume_takes_the_newest_and_resume_best_the_best(tmp_path):
    with CheckpointManager(tmp_path) as manager:
        for epoch, loss in ((1, 1.0), (2, 3.0)):
            manager.save_checkpoint(some_state(epoch), at(epoch, loss)).result()
        last, best = manager.get_last_checkpoint(), manager.get_best_checkpoint()
        assert last is not None and best is not None
        assert manager.load_checkpoint(last)[1].epoch == 2
        assert manager.load_checkpoint(best)[1].epoch == 1


def test_resume_from_a_file(tmp_path):
    """From the checkpoint of epoch 1, epoch 2 comes out as it did the first time."""
    run = Run(tmp_path / "run", strategy="best-and-periodic:1", phases=ONE_PHASE)
    first = run.go()
    again = run.go(resume_from=run.directory / "checkpoint_epoch_1.bin")
    assert first is not None and again is not None
    same_state(first, again)


def test_resume_with_own_epochs_rate_patience_and_directory(world, tmp_path, capsys):
    """The document's own command: --resume --epochs --lr --patience --checkpoint-dir."""
    run = tmp_path / "my checkpoints"
    arguments = [run if part == "HERE" else part for part in TRAIN.format(**world, new="HERE").split()]
    assert call([str(part) for part in arguments]) == 0
    capsys.readouterr()
    changes = ["--resume", "--epochs=3", "--lr=0.0001", "--patience=50", f"--checkpoint-dir={run}"]
    assert call(["train", "--plain", "--no-samples", *changes]) == 0
    printed = capsys.readouterr().err
    for change in ("--epochs: 1 -> 3", "--lr: 0.001 -> 0.0001", "--patience: 30 -> 50"):
        assert change in printed
    state, _ = CheckpointManager.load_checkpoint(run / "model_final.bin")
    assert state.progress.phase_epoch == 3
    rates = [
        line["train/lr"]
        for line in metrics.read(run / "metrics.jsonl")
        if line.get("epoch", 0) >= 2 and "train/lr" in line
    ]
    assert rates and max(rates) <= 1e-4


def test_resume_with_fewer_epochs_than_were_had_ends_at_once(tmp_path):
    run = Run(tmp_path / "run", phases=ONE_PHASE)
    had = run.go()
    fewer = run.go(changes={"train": {"epochs": 1}})
    assert had is not None and fewer is not None
    assert fewer.progress.step == had.progress.step
    assert np.array_equal(fewer.rows, had.rows)


def test_cross_phase_resume(tmp_path):
    """A run that dies in pretraining continues into instruction tuning by itself, with the same bits."""
    whole, cut = Run(tmp_path / "whole"), Run(tmp_path / "cut")
    expected = whole.go()
    assert cut.go(cut=3) is None  # three steps into pretraining
    found = cut.go()
    assert expected is not None and found is not None
    assert found.progress.phase == "instruction_tuning"
    same_state(found, expected)


def test_cross_phase_resume_from_a_pretraining_checkpoint(world, tmp_path):
    """--resume-from a pretraining checkpoint with --phase instruction_tuning begins to tune its weights."""
    run = tmp_path / "run"
    assert call(f"train --checkpoint-dir {run} --data {world['facts']} {TINY}".split()) == 0
    pretrained = next(run.glob("checkpoint_best_*.bin"))
    tuned = ["--plain", "--no-samples", "--resume-from", str(pretrained), "--phase", "instruction_tuning"]
    assert call(["train", "--checkpoint-dir", str(run), *tuned, "--chat-data", str(world["chats"])]) == 0
    state, metadata = CheckpointManager.load_checkpoint(run / "model_final.bin")
    assert metadata.phase == "instruction_tuning" and metadata.epoch == 2
    assert state.phases == ("pretraining", "instruction_tuning")


# Continuity.


def test_loss_continuity(tmp_path):
    """The loss in evaluation mode is the same number after loading, and keeps falling as it would have."""
    run = Run(tmp_path / "run", phases=ONE_PHASE)
    state = run.go()
    assert state is not None
    loaded, _ = CheckpointManager.load_checkpoint(run.directory / "model_final.bin")
    from tinyllm.training import setup

    data, _ = setup.open_dataset(
        state.config, "pretraining", run.sources()["pretraining"], state.tokenizer, run.directory, Silent()
    )
    with Team(1) as team:
        engine = Engine(state, team)
        batch = data.batch(0, 0, 0, 4)
        assert engine.evaluate(state, [batch]) == engine.evaluate(loaded, [batch])


@pytest.mark.parametrize("k", [1, 3])
def test_training_k_epochs_and_then_the_others_is_training_all(tmp_path, k):
    """The document's own check: some epochs, then `--resume` with more; here the bits are compared."""
    config = Config(SMALL, TrainConfig(batch_size=4, epochs=4), DataConfig(vocab_size=300))
    at_epochs = {"phases": ONE_PHASE, "rhythm": SaveRhythm()}
    whole, cut = (Run(tmp_path / name, config, **at_epochs) for name in ("whole", "cut"))
    expected = whole.go()
    assert cut.go(cut=5 * k) is None  # the actions of an epoch: three steps, its close, its judgement
    with cut.manager() as manager:
        path = manager.get_last_checkpoint()
        assert path is not None and manager.load_checkpoint(path)[1].epoch == k
    found = cut.go()
    assert expected is not None and found is not None
    same_state(found, expected)
    assert cut.losses() == whole.losses()


def test_learning_rate_continuity(tmp_path):
    """Every step of a run that died ten times has the rate it would have had; nothing is annealed twice."""
    config = Config(SMALL, TrainConfig(batch_size=2, epochs=3, warmup=3), DataConfig(vocab_size=300))
    whole, cut = Run(tmp_path / "whole", config), Run(tmp_path / "cut", config)
    whole.go()
    dying(cut)
    rates = [
        [
            (line["step"], line["train/lr"])
            for line in metrics.read(run.directory / "metrics.jsonl")
            if "train/lr" in line
        ]
        for run in (whole, cut)
    ]
    assert rates[0] == rates[1] and len({rate for _, rate in rates[0]}) > 5


def test_async_saving_does_not_change_the_result(tmp_path):
    states = [Run(tmp_path / f"{mode}", asynchronous=mode).go() for mode in (True, False)]
    assert states[0] is not None and states[1] is not None
    same_state(states[0], states[1])


def test_a_kill_at_any_moment_leaves_a_loadable_checkpoint(world, tmp_path):
    """A process is killed, resumed, killed again; each kill loses nothing that was durable before it."""
    run = tmp_path / "run"
    last, reached = run / "checkpoint_last.bin", 0
    begin = [*TRAIN.format(**world, new=run).split(), "--epochs", "100000"]
    again = ["train", "--checkpoint-dir", str(run), "--plain", "--no-samples", "--resume"]
    for command, moment in ((begin, 0.0), (again, 0.1), (again, 0.23)):
        process = subprocess.Popen(
            [sys.executable, "-m", "tinyllm", *command, "--save-every-steps", "1"],
            cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + PATIENCE
        while not last.exists() or CheckpointManager.load_checkpoint(last)[0].progress.step <= reached:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(moment)
        durable = CheckpointManager.load_checkpoint(last)[0].progress.step
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        with CheckpointManager(run) as manager:
            path = manager.get_last_checkpoint()
            assert path is not None
            reached = manager.load_checkpoint(path)[0].progress.step
        assert reached >= durable


# Files.


def test_json_sidecar(tmp_path):
    """The document's five fields, human-readable; rebuilt from the .bin when missing or untrue."""
    with CheckpointManager(tmp_path) as manager:
        manager.save_checkpoint(some_state(), at(42, 2.1234)).result()
    sidecar = tmp_path / "checkpoint_best_epoch_42_loss_2.1234.json"
    fields = json.loads(sidecar.read_text(encoding="utf-8"))
    five = {name: fields[name] for name in ("epoch", "loss", "learning_rate", "timestamp", "phase")}
    assert five == dataclasses.asdict(at(42, 2.1234)) and list(fields)[:5] == list(five)
    assert [type(value) for value in five.values()] == [int, float, float, str, str]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", fields["timestamp"])
    for damage in (None, "{", json.dumps({**fields, "loss": 0.0})):
        if damage is None:
            sidecar.unlink()
        else:
            sidecar.write_text(damage, encoding="utf-8")
        with CheckpointManager(tmp_path) as manager:
            assert manager.list_checkpoints()[0].metadata == at(42, 2.1234)
        assert json.loads(sidecar.read_text(encoding="utf-8")) == fields


def test_final_model(tmp_path):
    """model_final.bin is the state at the end, whole: it can be talked to, and trained on."""
    run = Run(tmp_path / "run")
    final = run.go()
    assert final is not None
    loaded, metadata = CheckpointManager.load_checkpoint(run.directory / "model_final.bin")
    same_state(final, loaded)
    assert metadata.phase == "instruction_tuning" and loaded.progress.status == "finished"


def test_binary_and_json_export(tmp_path):
    """Weights alone, as .bin and as .json, both with the same numbers."""
    run = Run(tmp_path / "run", phases=ONE_PHASE)
    final = run.go()
    assert final is not None
    source = str(run.directory / "model_final.bin")
    for name in ("weights.bin", "weights.json"):
        assert call(["checkpoint", "export", source, str(tmp_path / name)]) == 0
    text = (tmp_path / "weights.json").read_text(encoding="utf-8")
    number = repr(float(final.layout.named(final.rows[0])["norm.gain"][0]))
    assert number in text and (tmp_path / "weights.bin").stat().st_size < Path(source).stat().st_size / 2


def test_the_list_of_promises_names_these_tests_and_no_others():
    from tests import test_continuing

    page = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
    parts = page.split("## What a resume keeps")
    for part, module in zip(parts, (globals(), vars(test_continuing)), strict=True):
        listed = set(re.findall(r"`(test_\w+)`", part))
        here = {name for name in module if name.startswith("test_")}
        assert listed == here - {"test_the_list_of_promises_names_these_tests_and_no_others"}


@pytest.fixture
def world(tmp_path):
    """Write the texts that TRAIN names."""
    from tests.runs import CHATS, FACTS

    paths = {"facts": tmp_path / "facts.json", "chats": tmp_path / "chats.json"}
    for name, texts in (("facts", FACTS), ("chats", CHATS)):
        paths[name].write_text(json.dumps(texts, ensure_ascii=False), encoding="utf-8")
    return paths
