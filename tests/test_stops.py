"""From a signal, or an error, to a saved state it is a step or a batch of an evaluation, wherever a run is.

Order: evaluation, work of which nothing is to be saved, the report of a finished run, errors outside a step.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from tests.runs import CHATS, FACTS, SMALL, TINY, Run, Silent, same_state
from tinyllm.checkpoint import CheckpointError, CheckpointManager
from tinyllm.cli import last_words
from tinyllm.cli.interrupt import Interrupt, Stopped
from tinyllm.cli.main import main
from tinyllm.config import Config, DataConfig, TrainConfig
from tinyllm.training import setup
from tinyllm.training.control import SaveRhythm
from tinyllm.training.metrics import Metrics
from tinyllm.training.step import Engine

NEVER = SaveRhythm()
HALF = Config(
    SMALL, TrainConfig(batch_size=1, epochs=1, monitor="val", lr=0.01),
    DataConfig(vocab_size=280, val_fraction=0.5),
)  # fmt: skip


def test_a_stop_at_any_batch_of_an_evaluation_is_saved_there_and_the_resume_has_the_same_bits(
    tmp_path, monkeypatch
):
    whole = Run(tmp_path / "whole", HALF, phases=("pretraining",))
    expected, batches, evaluated = whole.go(), [], Engine.evaluate

    def counted(self, state, found, stop):
        def each():
            for batch in found:
                batches.append(batch)
                yield batch

        return evaluated(self, state, each(), stop)

    monkeypatch.setattr(Engine, "evaluate", counted)
    cut_inside = 0
    for action in itertools.count():
        cut = Run(tmp_path / f"cut-{action}", HALF, phases=("pretraining",), rhythm=NEVER)
        batches.clear()
        if cut.go(action, graceful=True) is not None:
            break
        cut_inside += bool(batches) and "eval/loss" not in (cut.directory / "metrics.jsonl").read_text()
        found = cut.go()
        assert found is not None and expected is not None
        same_state(found, expected)
        assert cut.losses() == whole.losses()
    assert cut_inside >= 3


def test_a_signal_ends_at_once_what_needs_no_saving():
    with Interrupt() as asked:
        with pytest.raises(Stopped, match="nothing to save"), asked.ends("nothing to save"):
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("still here")
        assert asked() and asked.exit_code == 128 + signal.SIGTERM


def test_a_signal_that_came_before_ends_it_at_its_beginning():
    with Interrupt() as asked:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped), asked.ends(""):
            raise AssertionError("begun all the same")


def test_a_signal_whose_exception_is_lost_ends_it_at_its_end():
    with Interrupt() as asked, pytest.raises(Stopped), asked.ends(""), suppress(Stopped):
        os.kill(os.getpid(), signal.SIGTERM)


def test_nohup_is_respected():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupt() as asked:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not asked()
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """Return the command line of a tiny run of two phases."""
    words = "train --n-layer 1 --n-head 2 --n-embd 8 --block-size 16 --vocab-size 280 --batch-size 4 --plain"
    for name, entries in ("facts", FACTS), ("chats", CHATS):
        (tmp_path / f"{name}.json").write_text(json.dumps(entries, ensure_ascii=False), encoding="utf-8")
    data = ["--pretraining-data", str(tmp_path / "facts.json"), "--chat-data", str(tmp_path / "chats.json")]
    return [*words.split(), "--epochs", "1", *data, "--checkpoint-dir", str(tmp_path / "run")]


def stopped_in(monkeypatch: pytest.MonkeyPatch, place: object, name: str, arguments: list[str]) -> int:
    """Run the command line, with a SIGTERM as soon as it calls the function; return the exit code."""

    def struck(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError(f"{name} was not ended by the signal")

    with monkeypatch.context() as patch:
        patch.setattr(place, name, struck)
        return main(arguments)


@pytest.mark.parametrize("name", ["train_bpe", "training_sample", "prepare"])
def test_a_stop_while_the_texts_are_read_begins_nothing_and_says_so(
    name, command, tmp_path, monkeypatch, capsys
):
    assert stopped_in(monkeypatch, setup, name, command) == 128 + signal.SIGTERM
    assert capsys.readouterr().err == (
        "SIGTERM: stopped before the first step; nothing was saved: the same command starts the run again\n"
    )
    assert main(command) == 0


def test_a_stop_while_a_resume_reads_the_texts_leaves_the_checkpoints_as_they_were(
    command, tmp_path, monkeypatch, capsys
):
    assert main(command) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").glob("*.bin")}
    resume = ["train", "--checkpoint-dir", str(tmp_path / "run"), "--resume", "--plain", "--epochs", "2"]
    assert stopped_in(monkeypatch, setup, "prepare", resume) == 128 + signal.SIGTERM
    assert "the checkpoints are as they were: python -m tinyllm.train" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "run").glob("*.bin")} == before
    assert main(resume) == 0


def test_a_stop_while_samples_are_written_says_that_the_run_is_finished(
    command, tmp_path, monkeypatch, capsys
):
    assert stopped_in(monkeypatch, last_words, "last_words", command) == 128 + signal.SIGTERM
    assert (
        f"the run is finished and saved in {tmp_path / 'run' / 'model_final.bin'}" in capsys.readouterr().err
    )
    assert (tmp_path / "run" / "report.html").exists()


def test_a_report_that_was_interrupted_is_drawn_by_the_resume(command, tmp_path, monkeypatch, capsys):
    from tinyllm import report

    page = tmp_path / "run" / "report.html"
    assert stopped_in(monkeypatch, report, "write_report", command) == 128 + signal.SIGTERM
    assert "the run is finished and saved" in capsys.readouterr().err and not page.exists()
    resume = ["train", "--checkpoint-dir", str(tmp_path / "run"), "--resume", "--plain"]
    assert main(resume) == 0
    assert page.exists() and "this run is finished" in capsys.readouterr().out


def test_a_report_is_drawn_again_only_if_it_is_older_than_the_final_model(command, tmp_path):
    run = tmp_path / "run"
    assert main([*command, "--no-samples"]) == 0
    final, resume = (
        (run / "model_final.bin").stat().st_mtime_ns,
        ["train", "--checkpoint-dir", str(run), "--resume"],
    )
    earlier = (run / "report.html").read_text() + "<!-- an earlier one -->"
    for age, drawn in (-1, True), (0, False), (1, False):
        (run / "report.html").write_text(earlier)
        os.utime(run / "report.html", ns=(final + age, final + age))
        assert main(resume) == 0
        assert ((run / "report.html").read_text() != earlier) == drawn


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), MemoryError(), ValueError("odd")])
def test_a_report_or_samples_that_fail_are_a_warning_of_a_run_that_has_succeeded(
    error, command, monkeypatch, capsys
):
    from tinyllm import report

    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(report, "write_report", fails)
    monkeypatch.setattr(last_words, "last_words", fails)
    assert main(command) == 0
    said = capsys.readouterr()
    assert "warning: no report: " in said.err and "warning: no samples: " in said.err
    assert "report.html" not in said.out


STOPS_EARLY = Config(SMALL, TrainConfig(batch_size=3, epochs=9, patience=2, min_delta=5.0, lr=3.0))

BETWEEN = Config(  # best and patience are judged within epochs
    SMALL,
    TrainConfig(batch_size=2, epochs=3, eval_every=2, monitor="val", patience=2, min_delta=5.0, lr=3.0),
    DataConfig(vocab_size=280, val_fraction=0.3),
)  # fmt: skip


def fails_at(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, k: int, error: Exception) -> None:
    """Let the k-th call of a method raise the error, and those before and after it be made."""
    calls, method = itertools.count(1), getattr(owner, name)

    def call(*args: object, **named: object) -> object:
        if next(calls) == k:
            raise error
        return method(*args, **named)

    monkeypatch.setattr(owner, name, call)


FULL = OSError(28, "No space left on device")


@pytest.mark.parametrize("config", [TINY, STOPS_EARLY, BETWEEN])
@pytest.mark.parametrize(
    ("owner", "name"),
    [(Metrics, "write"), (Metrics, "flush"), (Silent, "step"), (Silent, "epoch_ended"), (Silent, "phase"),
     (CheckpointManager, "save_checkpoint"), (CheckpointManager, "save_final"), (CheckpointManager, "poll")],
)  # fmt: skip
def test_a_run_that_any_output_fails_is_saved_once_and_its_resume_has_the_same_bits(
    owner, name, config, tmp_path, monkeypatch
):
    error = CheckpointError("not saved") if owner is CheckpointManager else FULL
    expected = Run(tmp_path / "whole", config).go()
    assert expected is not None
    train, steps = Engine.train, list[int]()
    monkeypatch.setattr(Engine, "train", lambda *given: (train(*given), steps.append(1))[0])
    for k in (1, 3, 7):
        steps.clear()
        run = Run(tmp_path / f"{k}", config, strategy="best", rhythm=NEVER)
        with monkeypatch.context() as patch:
            fails_at(patch, owner, name, k, error)
            try:
                found = run.go()
            except (OSError, CheckpointError) as raised:
                assert raised is error
                saved, _ = CheckpointManager.load_checkpoint(run.directory)
                assert saved.progress.step == len(steps) and not setup.is_finished(saved)
                found = None
        same_state(found or run.go(), expected)


@pytest.mark.parametrize("event", ["early_stop", "rollback", "finished"])
def test_a_rollback_that_the_log_fails_is_made_again(event, tmp_path, monkeypatch):
    expected, write, failed = Run(tmp_path / "whole", STOPS_EARLY).go(), Metrics.write, []

    def once(self, **values):
        if values.get("event") == event and not failed:
            failed.append(values)
            raise FULL
        write(self, **values)

    monkeypatch.setattr(Metrics, "write", once)
    run = Run(tmp_path / "run", STOPS_EARLY, strategy="best", rhythm=NEVER)
    with pytest.raises(OSError):
        run.go()
    found = run.go()
    assert found is not None and expected is not None
    same_state(found, expected)


def test_a_step_that_fails_is_not_saved(tmp_path, monkeypatch):
    """Its parameters may be updated in part."""
    run = Run(tmp_path / "run", strategy="best", rhythm=NEVER)
    fails_at(monkeypatch, Engine, "train", 2, MemoryError())
    with pytest.raises(MemoryError):
        run.go()
    assert not list(run.directory.glob("*.bin"))
