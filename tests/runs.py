"""Tiny whole runs for tests: texts, a config, and a Loop that can be cut at any action."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tinyllm.checkpoint import CheckpointManager, CheckpointStrategy
from tinyllm.cli.clock import SystemClock
from tinyllm.config import Config, DataConfig, ModelConfig, TrainConfig
from tinyllm.inference.samples import sample_in_training
from tinyllm.run.changes import Changes
from tinyllm.run.state import TrainState
from tinyllm.training import metrics, setup
from tinyllm.training.control import Clock, Control, Outputs, SaveRhythm
from tinyllm.training.loop import Loop
from tinyllm.training.metrics import Metrics
from tinyllm.training.step import engine_of

KINDS = {
    "月亮": "卫星", "太阳": "恒星", "地球": "行星", "火星": "红色的行星", "水": "液体", "铁": "金属",
    "氧": "气体", "松树": "植物", "鲸": "哺乳动物", "诗": "文学",
}  # fmt: skip
FACTS = [f"{name}是{kind}。" for name, kind in KINDS.items()]
CHATS = [f"用户：{name}是什么？助手：{name}是{KINDS[name]}。" for name in ("月亮", "铁", "水")]
CHATS += ["User: Who are you? Assistant: A model.", "User: Two and two? Assistant: Four."]
SMALL = ModelConfig(n_layer=1, n_head=2, n_embd=8, block_size=12)


TINY = Config(SMALL, TrainConfig(batch_size=4, epochs=2), DataConfig(vocab_size=300))
OFTEN = SaveRhythm(steps=1)


class KilledError(BaseException):
    """Stands in for SIGKILL: nothing of the run is asked to save or to tidy up."""


class Silent:
    """A watcher and listener that only remembers the notices."""

    def __init__(self) -> None:
        self.notices: list[str] = []

    def phase(self, state: TrainState, steps: int) -> None: ...
    def step(self, state: TrainState, step: Any, tokens_per_second: float) -> None: ...
    def epoch_ended(self, state: TrainState, loss: float, step: Any, tokens_per_second: float) -> None: ...
    def evaluated(self, state: TrainState, loss: float) -> None: ...
    def sampled(self, state: TrainState, prompt: str, text: str) -> None: ...
    def reading(self, what: str, done: int, total: int) -> None: ...

    def notice(self, text: str) -> None:
        self.notices.append(text)


@dataclass
class Run:
    """A run in a directory: `go` starts or resumes it."""

    directory: Path
    config: Config = TINY
    strategy: str = "best-and-last"
    workers: int = 1
    asynchronous: bool = True
    keep_best_n: int = 3
    rhythm: SaveRhythm = OFTEN
    phases: tuple[str, ...] = ("pretraining", "instruction_tuning")
    watcher: Silent = field(default_factory=Silent)
    clock: Clock = field(default_factory=SystemClock)

    def sources(self) -> dict[str, list[str]]:
        """Write the texts beside the run once and return them by phase."""
        import json

        texts = {"pretraining": FACTS, "instruction_tuning": CHATS}
        paths = {}
        for phase in self.phases:
            path = self.directory.parent / f"{phase}.json"
            if not path.exists():
                path.write_text(json.dumps(texts[phase], ensure_ascii=False), encoding="utf-8")
            paths[phase] = [str(path)]
        return paths

    def go(self, cut: int | None = None, graceful: bool = False, resume_from: Path | None = None,
           changes: dict[str, dict[str, Any]] | None = None) -> TrainState | None:  # fmt: skip
        """Run until the end, or until the loop's `cut`-th action; return the state at the end, None if cut.

        A run that left checkpoints is resumed; everything is rebuilt from the files.
        """
        actions = 0

        def stop() -> bool:
            nonlocal actions
            actions += 1
            if cut is not None and actions > cut:
                if graceful:
                    return True
                raise KilledError
            return False

        with self.manager() as manager:
            path = resume_from or manager.get_last_checkpoint()
            if path is None:
                state, datasets = setup.fresh(self.config, self.sources(), self.directory, self.watcher)
            else:
                state, _ = manager.load_checkpoint(path)
                datasets = setup.resumed(state, Changes(changes or {}), self.directory, self.watcher)
            workers = min(self.workers, state.config.train.batch_size)
            with engine_of(state, workers, 1) as engine, Metrics(self.directory) as lines:
                for workspace in engine.workspaces:
                    workspace.poison(np.nan)
                outputs = Outputs(manager, lines, self.watcher, sample_in_training)
                loop = Loop(state, datasets, engine, outputs, Control(self.clock, stop, self.rhythm))
                try:
                    return state if loop.run() else None
                except KilledError:
                    return None

    def manager(self) -> CheckpointManager:
        """Return the manager of the run's directory."""
        strategy = CheckpointStrategy.parse(self.strategy)
        return CheckpointManager(self.directory, strategy, self.keep_best_n, asynchronous=self.asynchronous)

    def losses(self) -> list[tuple[int, str, float]]:
        """Return every logged (step, phase, loss), evaluations included."""
        return [
            (line["step"], line["phase"], line.get("train/loss", line.get("eval/loss")))
            for line in metrics.read(self.directory / metrics.FILE_NAME)
            if "event" not in line
        ]

    def samples(self) -> list[dict[str, Any]]:
        """Return every logged line that the model wrote."""
        return [
            line for line in metrics.read(self.directory / metrics.FILE_NAME) if line.get("event") == "sample"
        ]


def same_state(one: TrainState, other: TrainState) -> None:
    """Assert that two states are equal to the last bit."""
    assert _written(one) == _written(other)
    assert np.array_equal(one.rows.view(np.uint32), other.rows.view(np.uint32))


def _written(state: TrainState) -> str:
    fields = {**state.to_dict(), "identity": None}  # drawn at the start of each run
    return repr(fields)  # NaN != NaN, but it is written the same
