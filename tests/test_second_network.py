"""A network of other norms, positions and MLP is one file; the rest trains, resumes and explains it."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

from tests import second_network
from tests.gradcheck import check_row
from tests.models import saved
from tests.runs import Run, same_state
from tinyllm import explain, model
from tinyllm.arena import Layout
from tinyllm.config import ModelConfig
from tinyllm.inference.language_model import LanguageModel
from tinyllm.layers import linear
from tinyllm.network import Network, Pass
from tinyllm.run.state import NETWORKS, Workspace, layout_of
from tinyllm.text.batches import Batch

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def chosen(monkeypatch):
    monkeypatch.setitem(NETWORKS, "gpt", second_network)


def test_its_backward_is_the_derivative_of_every_parameter_tensor():
    config, V, B = ModelConfig(n_layer=2, n_head=2, n_embd=6, block_size=5), 7, 2
    rng, layout = np.random.default_rng(3), layout_of(config, V)
    row = np.zeros(layout.size)
    for view in layout.named(row).values():
        view[...] = 0.4 * rng.standard_normal(view.shape)
    work = Workspace(config, V, B, np.float64)
    p, inputs = layout.views(row), work.memory.inputs
    starts = np.array([[0, 0, 0, 3, 3], [0, 1, 1, 1, 1]], np.int32)
    tokens, targets = rng.integers(0, V, (2, B, 5)).astype(np.int32)
    work.load(Batch.of(tokens, targets, starts), slice(0, B))
    inputs.targets[1] = -1

    def loss() -> float:
        second_network.forward(p, work.memory, Pass())
        second_network.loss(p, work.memory)
        return 0.7 * float(work.memory.losses.sum())

    loss()
    work.poison(np.nan)
    work.clear_gradients()
    second_network.forward(p, work.memory, Pass())
    deferred = linear.DeferredGradients([linear.Products(work.memory.scratch.products)])
    second_network.backward(p, work.memory, Pass(), 0.7, deferred)
    check_row(loss, layout, row, work.gradient, rng)


def test_it_trains_on_two_workers_dies_and_resumes_with_the_same_bits(tmp_path):
    whole = Run(tmp_path / "whole", workers=2).go()
    run = Run(tmp_path / "cut", workers=2)
    while (found := run.go(cut=7)) is None:
        pass
    same_state(found, whole)
    losses = [loss for _, phase, loss in run.losses() if phase == "pretraining"]
    assert losses[-1] < losses[0]


def test_what_it_writes_is_what_its_forward_says(tmp_path):
    lm = LanguageModel.of(Run(tmp_path / "run").go())
    prompt = lm.prompt("月亮是")[:6]
    decoder = lm.decoder()
    logits, text = decoder.extend(0, prompt[:3]).copy(), prompt[:3].tolist()
    for token in [*prompt[3:].tolist(), 5]:
        logits, text = decoder.step([0], [token])[0].copy(), [*text, token]
    config = ModelConfig(1, 2, 8, len(text))
    work = Workspace(config, lm.weights.vocabulary, 1)
    tokens = np.array([text], np.int32)
    batch = Batch.of(tokens, np.full_like(tokens, -1), np.zeros_like(tokens))
    work.load(batch, slice(0, 1))
    y = second_network.forward(lm.weights.params, work.memory, Pass())
    np.testing.assert_allclose(logits, y[-1] @ lm.weights.params.head.T, rtol=1e-4, atol=1e-5)


def test_its_page_is_drawn(tmp_path):
    file = saved(Run(tmp_path / "run").go(), tmp_path / "model")
    assert explain.main([str(file), "--prompt", "月亮是卫星"]) == 0
    assert "blocks.0.gain1" in (tmp_path / "model" / "explain.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("module", [model, second_network], ids=lambda module: module.__name__)
def test_a_network_offers_what_the_protocol_says_with_the_same_parameters(module):
    for name in (name for name in vars(Network) if not name.startswith("_")):
        wanted = getattr(Network, name).__code__
        found = getattr(module, name).__code__
        assert found.co_varnames[: found.co_argcount] == wanted.co_varnames[1 : wanted.co_argcount], name


def test_only_the_state_names_a_network():
    """No other file of tinyllm imports model.py: a second one needs no change elsewhere."""
    found = set()
    for path in (ROOT / "tinyllm").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (
                node.module == "tinyllm.model"
                or (node.module == "tinyllm" and "model" in [alias.name for alias in node.names])
            ):
                found.add(str(path.relative_to(ROOT)))
    assert found == {"tinyllm/run/state.py"}
    assert Layout(model.params(ModelConfig(), 9)).size != layout_of(ModelConfig(), 9).size
