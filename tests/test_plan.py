"""`train --plan`: what it says of a run is what the run does, and it leaves no trace."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.runs import CHATS, FACTS
from tinyllm import train
from tinyllm.checkpoint import CheckpointManager
from tinyllm.cli import plan

SHAPE = (
    "--n-layer=1 --n-head=2 --n-embd=8 --block-size=12 --batch-size=4 --vocab-size=300 --plain --no-samples"
)


@pytest.fixture(autouse=True)
def seconds(monkeypatch):
    """Let every look at the clock find it a second later, so that each step and each evaluation takes one."""
    ticks = iter(range(10**9))
    monkeypatch.setattr(plan, "time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))
    monkeypatch.setattr(plan, "SECONDS", 0.0)


@pytest.fixture
def words(tmp_path):
    paths = {}
    for name, texts in (("pretraining", FACTS), ("chat", CHATS)):
        paths[name] = tmp_path / f"{name}.json"
        paths[name].write_text(json.dumps(texts, ensure_ascii=False), encoding="utf-8")
    given = [f"--{name}-data={path}" for name, path in paths.items()]
    return [*SHAPE.split(), *given, "--epochs=2", f"--checkpoint-dir={tmp_path / 'run'}"]


def planned(capsys, *words: str) -> tuple[dict[str, tuple[int, int]], str]:
    """Return the steps and tokens of each phase, and all that was printed."""
    capsys.readouterr()
    assert train.main([*words, "--plan"]) == 0
    said = capsys.readouterr()
    found = re.findall(r"(\w+) +([\d,]+) steps, ([\d,]+) tokens, 1.00 s per step", said.out)
    return {
        phase: (int(steps.replace(",", "")), int(tokens.replace(",", ""))) for phase, steps, tokens in found
    }, said.out + said.err


def content(directory: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in directory.rglob("*") if path.is_file()
    }  # fmt: skip


def test_it_plans_the_steps_and_tokens_that_the_run_then_makes(words, tmp_path, capsys):
    phases, said = planned(capsys, *words, "--accumulate=2")
    assert not (tmp_path / "run").exists()
    assert train.main([*words, "--accumulate=2"]) == 0
    state, _ = CheckpointManager.load_checkpoint(tmp_path / "run")
    assert sum(steps for steps, _ in phases.values()) == state.progress.step
    assert sum(tokens for _, tokens in phases.values()) == state.progress.tokens
    assert re.search(rf"time +{state.progress.step}s to the end; early stopping may end it sooner", said)
    assert f"{state.layout.count:,} parameters" in said
    checkpoint = (tmp_path / "run" / "model_final.bin").stat().st_size
    planned_size = re.search(r"memory +\d+ MB at its peak; (\d+) MB per checkpoint", said)
    assert planned_size and abs(int(planned_size[1]) - checkpoint / 1e6) <= 1


def test_nothing_of_a_run_is_touched_and_a_resume_plans_what_is_ahead(words, tmp_path, capsys):
    run, words = tmp_path / "run", [word for word in words if not word.startswith("--chat")]
    words = [*words, "--phase=pretraining"]
    whole = planned(capsys, *words)[0]["pretraining"][0]
    assert train.main(words) == 0
    before = content(run)
    assert planned(capsys, *words, "--resume", "--epochs=5")[0]["pretraining"][0] == whole // 2 * 3
    assert "this run is finished" in planned(capsys, *words, "--resume")[1]
    assert f"{run} holds a run already" in planned(capsys, *words)[1]
    assert "holds a run already" not in planned(capsys, *words, "--fresh")[1]
    assert content(run) == before
    (run / "data" / "pretraining.tokens").write_bytes(b"torn")
    before = content(run)
    planned(capsys, *words, "--fresh")
    assert content(run) == before


def test_evaluations_take_their_time_too(words, tmp_path, capsys):
    words = [*(word for word in words if not word.startswith("--chat")), "--phase=pretraining"]
    words += ["--val-fraction=0.3", "--eval-every=2"]
    held, said = planned(capsys, *words)
    ((steps, _),) = held.values()
    assert train.main(words) == 0
    evaluations = (tmp_path / "run" / "metrics.jsonl").read_text().count("eval/loss")
    assert f"per step: {steps + evaluations}s\n" in said
