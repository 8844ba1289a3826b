"""From the same weights and batches tinyllm computes PyTorch's logits, gradients and losses of 200 updates.

PyTorch's side is golden/parity.npz, written by benchmarks/make_golden.py, so no test needs PyTorch. tinyllm's
side is the real training path, `Engine.train`, seen through spies where it does not return what it computes.
The bars are ten (logits) to fifty (losses) times what float32's rounding makes of it; a GELU whose
constant is 0.0447 for 0.044715 fails.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinyllm.arena import Array
from tinyllm.config import Config, ModelConfig, TrainConfig
from tinyllm.layers import head
from tinyllm.run.schedule import Schedule
from tinyllm.run.state import TrainState, layout_of
from tinyllm.text.batches import Batch
from tinyllm.text.tokenizer import CharTokenizer
from tinyllm.training import step
from tinyllm.training.step import Step, engine_of

with np.load(Path(__file__).parent / "golden" / "parity.npz") as file:
    GOLDEN: dict[str, Array] = dict(file)
SETTINGS: dict[str, Any] = json.loads(str(GOLDEN["settings"]))
V, T, B = SETTINGS["shape"]["V"], SETTINGS["shape"]["T"], SETTINGS["B"]

# (workers, micro-batches): one update over B sequences must not depend on how they are shared.
each_way = pytest.mark.parametrize("workers, accumulate", [(1, 1), (2, 1), (1, 2)])


def fresh_state(accumulate: int) -> TrainState:
    """Return a run with the golden settings and parameters."""
    shape, rate = SETTINGS["shape"], SETTINGS["rate"]
    config = Config(
        model=ModelConfig(n_layer=shape["L"], n_head=shape["H"], n_embd=shape["C"], block_size=T),
        train=TrainConfig(
            batch_size=B // accumulate, accumulate=accumulate, grad_clip=SETTINGS["clip"], **SETTINGS["adam"]
        ),
    )
    layout = layout_of(config.model, V)
    rows = np.zeros((3, layout.size), np.float32)
    named = layout.named(rows[0])
    assert {f"parameters/{name}" for name in named} == {
        name for name in GOLDEN if name.startswith("parameters/")
    }
    for name, view in named.items():
        golden = GOLDEN[f"parameters/{name}"]
        assert view.shape == golden.shape, name
        view[...] = golden
    schedule = Schedule(rate["peak"], rate["floor"], 0, rate["warmup"], rate["steps"])
    tokenizer = CharTokenizer(tuple(range(V - 1)))
    return TrainState(config, tokenizer, rows, layout, schedule, ("pretraining",))


def micro_batches(number: int, accumulate: int) -> list[Batch]:
    """Return golden batch `number`, cut into `accumulate` parts, whose numbers of targets differ."""
    whole = [GOLDEN[name][number].astype(np.int32) for name in ("tokens", "targets", "starts")]
    return [Batch.of(*parts) for parts in zip(*(np.split(array, accumulate) for array in whole), strict=True)]


def train(workers: int, accumulate: int, steps: int) -> list[Step]:
    """Make the first `steps` updates of the golden run."""
    state = fresh_state(accumulate)
    count = len(GOLDEN["tokens"])
    with engine_of(state, workers, 1) as engine:
        return [engine.train(state, micro_batches(i % count, accumulate)) for i in range(steps)]


def worst(found: Array, expected: Array) -> float:
    """Return the largest difference, in units of the largest expected element."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@each_way
def test_the_logits_of_a_training_step_are_pytorchs(workers, accumulate, monkeypatch):
    # The loss turns logits into their gradient in place, so they are copied at its door: those of the rows
    # that carry loss, of one worker or micro-batch after another.
    seen: dict[int, Array] = {}
    enter = head.cross_entropy_backward
    targets_of = [row[row >= 0] for row in GOLDEN["targets"][0]]

    def spy(losses: Array, logits: Array, targets: Array, scale: float) -> None:
        row = next(b for b in range(B) if np.array_equal(targets[: len(targets_of[b])], targets_of[b]))
        seen[row] = logits.copy()
        enter(losses, logits, targets, scale)

    monkeypatch.setattr(head, "cross_entropy_backward", spy)
    first = train(workers, accumulate, 1)[0]
    logits = np.concatenate([seen[row] for row in sorted(seen)])
    np.testing.assert_allclose(logits, GOLDEN["logits"][GOLDEN["targets"][0] >= 0], rtol=0, atol=2e-5)
    assert first.loss == pytest.approx(float(GOLDEN["loss"]), rel=1e-5)


@each_way
def test_every_gradient_tensor_of_a_training_step_is_pytorchs(workers, accumulate, monkeypatch):
    # The next step writes over the gradient, so it is copied when Adam gets it.
    layout = fresh_state(accumulate).layout
    total = np.full(layout.size, np.nan, np.float32)
    update_ = step.update_

    def spy(rows: Array, gradient: Array, part: slice, *rest: Any) -> None:
        total[part] = gradient[part]
        update_(rows, gradient, part, *rest)

    monkeypatch.setattr(step, "update_", spy)
    first = train(workers, accumulate, 1)[0]
    squares = 0.0
    for name, gradient in layout.named(total).items():
        expected = GOLDEN[f"gradients/{name}"]
        error = np.linalg.norm(gradient - expected) / np.linalg.norm(expected)
        assert error <= 5e-5, f"{name}: relative error {error:.1e}"
        assert worst(gradient, expected) <= 5e-5, name
        squares += float(np.square(expected, dtype=np.float64).sum())
    assert first.grad_norm == pytest.approx(np.sqrt(squares), rel=1e-5)
    assert first.grad_norm > SETTINGS["clip"]


@each_way
def test_the_losses_of_200_updates_are_pytorchs(workers, accumulate):
    steps = train(workers, accumulate, len(GOLDEN["losses"]))
    assert [s.lr for s in steps] == pytest.approx(GOLDEN["rates"].tolist(), rel=1e-12)
    losses = np.array([s.loss for s in steps])
    np.testing.assert_allclose(losses, GOLDEN["losses"], rtol=1e-4, atol=0)
    np.testing.assert_allclose(losses, GOLDEN["losses_float64"], rtol=1e-4, atol=0)
    # The run is no easy one: it learns, and its gradients are clipped in some steps and not in others.
    assert losses[-8:].mean() < 0.3 * losses[0]
    clipped = np.array([s.grad_norm > SETTINGS["clip"] for s in steps])
    assert 0 < clipped.sum() < len(steps)
