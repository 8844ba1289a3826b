"""What a resume keeps and what it asks: whose directory it is, what was chosen, which losses are compared.

Order: a directory holds one run, other texts, what is remembered, the learning rate, when to stop and judge.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.runs import FACTS, SMALL, Run, Silent, same_state
from tests.test_bad_input import TINY, call
from tinyllm.checkpoint import CheckpointManager, CheckpointStrategy
from tinyllm.config import Config, DataConfig, TrainConfig, replace
from tinyllm.inference.language_model import load_model
from tinyllm.option import ConfigError
from tinyllm.run.changes import Changes
from tinyllm.run.phases import continue_phase, phase_end, phase_schedule
from tinyllm.run.state import Progress, TrainState
from tinyllm.run.stopping import EarlyStopping
from tinyllm.training import metrics, place, setup

PRETRAINING = ("pretraining",)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.json"
    path.write_text(json.dumps(FACTS, ensure_ascii=False), encoding="utf-8")
    return path


def train(directory: Path, line: str, *more: str) -> int:
    words = ["train", "--checkpoint-dir", str(directory), "--plain", "--no-samples", *line.split(), *more]
    return call(words)


def begin(directory: Path, texts: Path, line: str = "") -> int:
    return train(directory, f"{TINY} {line} --data", str(texts))


def state_of(path: Path) -> TrainState:
    return CheckpointManager.load_checkpoint(path)[0]


def content(directory: Path) -> dict[str, bytes]:
    """Return what a run has written, its cache of tokens and its lock excepted."""
    return {
        path.name: path.read_bytes()
        for path in directory.iterdir()
        if path.is_file() and path.name != ".lock"
    }


# ---- a directory holds one run


def test_a_run_is_not_continued_in_the_directory_of_another(texts, tmp_path, capsys):
    a, b = tmp_path / "a", tmp_path / "b"
    assert begin(a, texts) == begin(b, texts, "--seed 2 --n-embd 16") == 0
    before = content(a)
    assert train(a, "--epochs 3", "--resume-from", str(b / "model_final.bin")) == 1
    assert content(a) == before
    error = capsys.readouterr().err
    assert f"{a} holds" in error and f"--checkpoint-dir {b} continues this one where it is" in error
    shutil.copy(b / "model_final.bin", a / "model_final.bin")  # a foreign file inside is another run too
    before = content(a)
    assert train(a, "--epochs 3", "--resume-from", str(a / "model_final.bin")) == 1
    assert content(a) == before


def test_a_fork_is_a_run_of_its_own_and_takes_the_best_with_it(texts, tmp_path, capsys):
    a, b = tmp_path / "a", tmp_path / "b"
    assert begin(a, texts, "--epochs 4 --patience 99") == 0
    parent = state_of(a / "model_final.bin")
    before = content(a)
    # At this rate nothing improves: the run stops early, at the best that only its parent had.
    line = "--epochs 99 --lr 30 --grad-clip 0 --patience 2"
    assert train(b, line, "--resume-from", str(a / "model_final.bin")) == 0
    assert content(a) == before
    child = state_of(b / "model_final.bin")
    assert child.identity.parent == parent.identity.id != child.identity.id
    assert len(child.identity.id) == len(parent.identity.id) == 12
    assert "rolled back to epoch 4" in capsys.readouterr().err
    assert np.array_equal(child.rows, parent.rows)
    with CheckpointManager(b, read_only=True) as manager:
        assert {entry.run for entry in manager.list_checkpoints()} == {child.identity.id}


def test_a_fork_says_when_its_best_is_not_to_be_had(texts, tmp_path, capsys):
    a, b = tmp_path / "a", tmp_path / "b"
    assert begin(a, texts, "--strategy last") == 0
    (a / "checkpoint_last.bin").unlink()
    assert train(b, "--epochs 2 --strategy best", "--resume-from", str(a / "model_final.bin")) == 0
    assert f"is not in {a}: an early stop cannot return to it" in capsys.readouterr().err


def test_a_rewind_sets_its_former_future_aside(tmp_path):
    run = Run(tmp_path / "run", phases=PRETRAINING, strategy="best-and-periodic:1")
    final = run.go()
    assert final is not None
    source, silent = run.directory / "checkpoint_epoch_1.bin", Silent()
    earlier = state_of(source)
    with run.manager() as manager:
        place.rewind(earlier, manager, silent.notice)
        steps = [entry.step for entry in manager.list_checkpoints()]
    assert steps and max(steps) <= earlier.progress.step
    assert (run.directory / "previous-1" / "model_final.bin").exists()
    assert "later than step" in silent.notices[0] and "previous-1" in silent.notices[0]
    again = run.go(resume_from=source)
    assert again is not None
    same_state(again, final)


def test_losses_of_another_run_or_other_texts_decide_nothing(tmp_path):
    """Two states in one directory by hand: each has its own best, its own retention and its own rollback."""
    run = Run(tmp_path / "run", phases=PRETRAINING)
    state = run.go()
    assert state is not None
    with CheckpointManager(tmp_path / "both", CheckpointStrategy.BEST, keep_best_n=1) as manager:
        _, metadata = manager.load_checkpoint(run.directory / "model_final.bin")
        for epoch, (loss, name, hash_) in enumerate(
            [(1.0, "a", "x"), (3.0, "b", "x"), (2.0, "b", "x"), (9.0, "b", "y"), (8.0, "b", "y")], 1
        ):
            state.identity = dataclasses.replace(state.identity, id=name)
            state.sources["pretraining"].fingerprint = hash_
            about = dataclasses.replace(metadata, epoch=epoch, loss=loss)
            manager.save_checkpoint(state, about).result()
        assert [entry.metadata.loss for entry in manager.list_checkpoints() if entry.metadata] == [1, 2, 8]
        best = manager.get_best_checkpoint()
        assert best is not None and "loss_8.0" in best.name


# ---- other texts


def new_texts(run: Run, count: int) -> Changes:
    path = run.directory.parent / f"{count}.json"
    path.write_text(json.dumps([f"Text {i} is new." for i in range(count)]), encoding="utf-8")
    return Changes({}, {"pretraining": [str(path)]}, allow_new_data=True)


def resumed(run: Run, changes: Changes) -> tuple[TrainState, Any]:
    with run.manager() as manager:
        path = manager.get_last_checkpoint()
        assert path is not None
        state, _ = manager.load_checkpoint(path)
    return state, setup.resumed(state, changes, run.directory, Silent())["pretraining"]


def test_other_texts_have_their_own_best_and_patience(tmp_path):
    run = Run(
        tmp_path / "run", dataclasses.replace(Run.config, train=TrainConfig(4, epochs=9)), phases=PRETRAINING
    )
    run.go(cut=15)
    state, data = resumed(run, new_texts(run, 30))
    assert state.stopping == EarlyStopping()
    progress = state.progress
    assert (progress.index, progress.loss_tokens, progress.judged) == (0, 0, progress.step)
    assert math.isnan(progress.train_loss) and progress.phase_epoch > 0
    # The epochs ahead are of the new length, those behind were not.
    spe = -(-data.windows // 4)
    end = progress.step + (9 - progress.phase_epoch) * spe
    assert phase_end(progress, state.config.train, data.windows) == state.schedule.end == end
    stopped = dataclasses.replace(progress, status="rolled_back")
    state.progress = stopped
    setup.replace_texts(state)
    assert state.progress.status == "running"


def test_a_stop_at_the_last_step_of_an_epoch_has_had_the_epoch(tmp_path):
    whole = Run(tmp_path / "whole", phases=PRETRAINING).go()
    assert whole is not None
    per_epoch = whole.progress.step // whole.progress.epoch
    run = Run(tmp_path / "run", phases=PRETRAINING)
    actions = 0
    while True:  # until the first stop at which an epoch is behind us
        actions += 1
        shutil.rmtree(run.directory, ignore_errors=True)
        run.go(cut=actions, graceful=True)
        progress = state_of(run.directory / "checkpoint_last.bin").progress
        assert progress.index < per_epoch
        if progress.phase_epoch:
            break
    assert progress.index == 0 and progress.judged < progress.step and math.isfinite(progress.train_loss)
    run.go(cut=1, graceful=True)
    assert state_of(run.directory / "checkpoint_last.bin").progress.judged == progress.step


# ---- what is remembered


def test_a_resume_saves_as_the_run_did(texts, tmp_path, capsys):
    line = (
        "--strategy best --keep-best-n 10 --save-every-steps 3 --save-every-minutes 0 --no-async --recompute "
        "--products own"
    )
    assert begin(tmp_path / "run", texts, line) == 0
    before = state_of(tmp_path / "run" / "model_final.bin").config
    assert train(tmp_path / "run", "--resume --epochs 12") == 0
    after = state_of(tmp_path / "run" / "model_final.bin").config
    assert after == replace(before, {"train": {"epochs": 12}})
    bests = [path for path in (tmp_path / "run").glob("*best*.bin")]
    assert len(bests) == 10
    capsys.readouterr()
    other = "--keep-best-n 2 --async --no-recompute --products blas"
    assert train(tmp_path / "run", f"--resume --epochs 13 {other}") == 0
    printed = capsys.readouterr().err
    for change in ("--keep-best-n: 10 -> 2", "--async: False -> True", "--recompute: True -> False",
                   "--products: own -> blas"):  # fmt: skip
        assert change in printed
    assert len([path for path in (tmp_path / "run").glob("*best*.bin")]) <= 3


def test_the_former_run_keeps_its_place_until_the_new_one_can_begin(texts, tmp_path, capsys):
    assert begin(tmp_path / "run", texts) == 0
    before = content(tmp_path / "run")
    for line in (
        f"{TINY} --fresh --data {tmp_path}/typo.txt",
        f"{TINY} --fresh --n-embd 65536 --n-layer 999",
    ):
        assert train(tmp_path / "run", line) == 1
        assert content(tmp_path / "run") == before
    assert begin(tmp_path / "run", texts, "--fresh") == 0
    assert content(tmp_path / "run" / "previous-1") == before


def test_one_command_begins_continues_and_is_done(texts, tmp_path, capsys):
    line = f"{TINY} --epochs 3 --data {texts} --resume auto"
    assert train(tmp_path / "run", f"{line} --max-minutes 0") == 75
    assert "time is up (--max-minutes): saved at epoch 0, step 0" in capsys.readouterr().err
    assert state_of(tmp_path / "run" / "checkpoint_last.bin").progress.step == 0
    assert train(tmp_path / "run", line) == train(tmp_path / "run", line) == 0
    assert begin(tmp_path / "other", texts, "--epochs 3") == 0
    same_state(*(state_of(tmp_path / name / "model_final.bin") for name in ("run", "other")))


def test_a_run_begins_from_a_model(texts, tmp_path, capsys):
    assert begin(tmp_path / "one", texts, "--n-embd 16") == 0
    model = tmp_path / "one" / "model_final.bin"
    one = state_of(model)
    line = f"--data {texts} --epochs 1 --batch-size 4 --lr 1e-9 --init-from"
    assert train(tmp_path / "two", line, str(model)) == 0
    two = state_of(tmp_path / "two" / "model_final.bin")
    assert two.config.model == one.config.model and two.tokenizer.to_dict() == one.tokenizer.to_dict()
    assert two.progress.timestep == two.progress.step > 0 and two.identity.parent == ""
    np.testing.assert_allclose(two.rows[0], one.rows[0], atol=1e-6)
    assert not np.allclose(two.rows[2], one.rows[2], atol=1e-12)
    exported = tmp_path / "weights.bin"
    assert call(["checkpoint", "export", str(model), str(exported)]) == 0
    assert train(tmp_path / "three", line, str(exported)) == 0
    same = state_of(tmp_path / "three" / "model_final.bin")
    np.testing.assert_array_equal(same.rows, two.rows)
    assert load_model(tmp_path / "three").config == one.config.model
    capsys.readouterr()
    assert train(tmp_path / "four", f"--n-embd 8 {line}", str(model)) == 2
    assert "--n-embd 8: the model of --init-from has 16" in capsys.readouterr().err


# ---- the learning rate

rates = st.floats(1e-6, 1.0)
changes_of_settings = st.fixed_dictionaries(
    {},
    optional={
        "lr": rates, "min_lr": st.sampled_from([0.0, 1e-7, 1e-5, 1e-3]), "warmup": st.integers(0, 30),
        "epochs": st.integers(1, 40), "max_steps": st.integers(1, 200), "patience": st.integers(0, 9),
        "weight_decay": st.floats(0, 1), "grad_clip": st.floats(0, 9), "dropout": st.floats(0, 0.9),
    },
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    first=changes_of_settings,
    resumes=st.lists(st.tuples(st.integers(0, 90), changes_of_settings), max_size=4),
    windows=st.integers(1, 40),
)  # fmt: skip
def test_the_rate_never_jumps_at_a_resume_unless_lr_is_given(first, resumes, windows):
    def options(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
        return {"model": {}, "train": {name: v for name, v in values.items() if name != "dropout"}}

    try:
        config = replace(Config(train=TrainConfig(4)), options(first))
    except ConfigError:
        return
    schedule = phase_schedule(config.train, windows, 0)
    state: Any = SimpleNamespace(
        config=config, schedule=schedule, progress=Progress(), stopping=EarlyStopping(), phases=PRETRAINING
    )
    per_epoch = -(-windows // 4)
    for steps, change in resumes:
        step = min(state.progress.step + steps, phase_end(state.progress, state.config.train, windows))
        state.progress = Progress(step=step, phase_epoch=step // per_epoch, index=step % per_epoch)
        before, was = state.schedule, state.config
        if "epochs" in change and "max_steps" not in change:
            change = {**change, "max_steps": None}
        try:
            state.config = replace(was, options(change))
            continue_phase(state, was, options(change), windows)
        except ConfigError:
            state.config = was
            continue
        now, train = state.schedule, state.config.train
        if state.config == was:
            assert now == before
        if train.lr == was.train.lr and not ("lr" in change and before.lr(step) == 0):
            assert math.isclose(now.lr(step), before.lr(step), rel_tol=1e-12)
        assert now.end == phase_end(state.progress, train, windows)
        changed = (train.lr, train.min_lr) != (was.train.lr, was.train.min_lr)
        if changed and now.end > step:  # what has changed has an effect
            floor = train.lr / 10 if train.min_lr is None else train.min_lr
            assert math.isclose(now.lr(now.end + now.warmup), floor, rel_tol=1e-9, abs_tol=1e-12)


def test_a_run_that_ended_at_a_rate_of_zero_asks_for_a_rate(texts, tmp_path, capsys):
    assert begin(tmp_path / "run", texts, "--min-lr 0 --epochs 2") == 0
    before = content(tmp_path / "run")
    capsys.readouterr()
    assert train(tmp_path / "run", "--resume") == 0
    assert "--resume --epochs 4 --lr 0.0001" in capsys.readouterr().out
    assert train(tmp_path / "run", "--resume --epochs 4") == 2
    assert "the learning rate has reached 0" in capsys.readouterr().err
    assert content(tmp_path / "run") == before
    assert train(tmp_path / "run", "--resume --epochs 4 --lr 0.001") == 0  # even the one it had at first
    lines = list(metrics.read(tmp_path / "run" / metrics.FILE_NAME))
    assert [line["train/lr"] for line in lines if "train/lr" in line][-3] > 0


def test_a_warm_up_that_is_over_is_not_changed_in_silence(texts, tmp_path, capsys):
    assert begin(tmp_path / "run", texts) == 0
    assert train(tmp_path / "run", "--resume --epochs 3 --warmup 9") == 2
    assert "--warmup 9: the checkpoint has None" in capsys.readouterr().err


def test_fewer_epochs_than_were_had_are_shown_as_what_they_are(texts, tmp_path, capsys):
    assert begin(tmp_path / "run", texts, "--epochs 4") == 0
    steps = state_of(tmp_path / "run" / "model_final.bin").progress.step
    capsys.readouterr()
    assert train(tmp_path / "run", "--resume --epochs 2") == 0
    assert f"pretraining: step {steps} of {steps}" in capsys.readouterr().out


# ---- when a state is judged


def often(tmp_path: Path, **train: Any) -> Run:
    settings_of_it = TrainConfig(batch_size=2, monitor="val", **train)
    config = Config(SMALL, settings_of_it, DataConfig(vocab_size=300, val_fraction=0.3))
    return Run(tmp_path / "run", config, phases=PRETRAINING)


def test_every_evaluation_that_is_asked_for_decides(tmp_path):
    run = often(tmp_path, epochs=1, eval_every=1, lr=0.01)
    state = run.go()
    assert state is not None and state.progress.epoch == 1 < state.progress.step
    evaluations = [line for line in metrics.read(run.directory / metrics.FILE_NAME) if "eval/loss" in line]
    assert len(evaluations) == state.progress.step
    best = min(evaluations, key=lambda line: line["eval/loss"])
    assert (state.stopping.best, state.stopping.best_step) == (best["eval/loss"], best["step"])
    with run.manager() as manager:
        path = manager.get_best_checkpoint()
    assert path is not None and state_of(path).progress.step == best["step"]


def test_patience_counts_evaluations_where_they_decide(tmp_path):
    run = often(tmp_path, epochs=9, eval_every=1, lr=1e-9, patience=3, min_delta=1.0)
    state = run.go()
    assert state is not None and state.progress.status == "rolled_back"
    assert state.progress.step == 4  # the first is a gain over nothing
    assert any("no improvement of 1.0 for 3 evaluations" in text for text in run.watcher.notices)


@pytest.mark.parametrize("strategy", ["best-and-last", "best"])
def test_a_run_of_few_steps_ends_with_a_best(tmp_path, strategy):
    config = dataclasses.replace(Run.config, train=TrainConfig(batch_size=4, max_steps=2))
    run = Run(tmp_path / "run", config, strategy, phases=PRETRAINING)
    state = run.go()
    assert state is not None and state.progress.phase_epoch == 0 and state.stopping.best_step == 2
    names = {path.name for path in run.directory.glob("*.bin")}
    assert any("best" in name for name in names)
