"""Every backward is the derivative of its forward: float64, every tensor, drawn shapes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.gradcheck import check, check_row
from tinyllm import model
from tinyllm.arena import Layout
from tinyllm.config import ModelConfig
from tinyllm.layers import (
    attention,
    blockwise,
    dropout,
    embedding,
    head,
    layernorm,
    linear,
    mlp,
    residual_norm,
)
from tinyllm.network import Pass, Purpose
from tinyllm.run.state import Workspace, layout_of

FAST = settings(max_examples=12)
small = st.integers(1, 5)
seeds = st.integers(0, 2**32 - 1)
AT_ONCE = linear.DeferredGradients()


def random_row(layout: Layout, rng: np.random.Generator, scale: float = 0.5) -> np.ndarray:
    row = np.zeros(layout.size)
    for view in layout.named(row).values():
        view[...] = scale * rng.standard_normal(view.shape)
    return row


def starts_of(rng: np.random.Generator, B: int, T: int) -> np.ndarray:
    """Draw documents: each position begins a new one with probability 0.3."""
    starts = np.zeros((B, T), np.int32)
    for t in range(1, T):
        starts[:, t] = np.where(rng.random(B) < 0.3, t, starts[:, t - 1])
    return starts


def drop_of(rate: float) -> dropout.Address:
    return dropout.Address(rate, 7, 3, 2)


@FAST
@given(N=small, C=small, O=small, add=st.booleans(), seed=seeds)
def test_linear_backward_is_the_derivative(N, C, O, add, seed):
    rng = np.random.default_rng(seed)
    x, weight, dy = rng.standard_normal((N, C)), rng.standard_normal((O, C)), rng.standard_normal((N, O))
    y, dx, before = np.empty((N, O)), np.full((N, C), np.nan), rng.standard_normal((O, C)) if add else 0.0
    dweight = np.full((O, C), before if add else np.nan)
    linear.backward(
        dx, dweight, dy, x, weight, linear.DeferredGradients([linear.Products(np.empty(O * C))], add)
    )

    def loss() -> float:
        return float((linear.forward(y, x, weight) * dy).sum())

    check(loss, x, dx, rng, "x")
    check(loss, weight, dweight - before, rng, "weight")


@pytest.mark.parametrize("norm", [layernorm], ids=lambda layer: layer.__name__)
@FAST
@given(N=small, C=st.integers(3, 6), seed=seeds)
def test_backward_of_a_norm_is_the_derivative_and_adds_into_dx(norm, N, C, seed):
    rng = np.random.default_rng(seed)
    layout = Layout(norm.params(C))
    row, gradient = random_row(layout, rng), np.zeros(layout.size)
    acts_layout = Layout(norm.acts(N, C))
    a = acts_layout.views(np.zeros(acts_layout.size))
    p, g = layout.views(row), layout.views(gradient)
    x, dy, carried = (rng.standard_normal((N, C)) for _ in range(3))

    def loss() -> float:
        return float((norm.forward(p, a, x) * dy).sum() + (carried * x).sum())

    loss()
    dx = carried.copy()
    norm.backward(p, g, a, x, dy, dx)
    check(loss, x, dx, rng, "x")
    check_row(loss, layout, row, gradient, rng)


@FAST
@given(
    B=st.integers(1, 3), T=st.integers(1, 11), H=st.integers(1, 3), D=small, rate=st.sampled_from([0.0, 0.3]),
    block=st.sampled_from([2, 3, 64]), at_once=st.sampled_from([1, 1 << 17]),
    most=st.sampled_from([1, 1 << 20]), seed=seeds,
)  # fmt: skip
def test_attention_backward_is_the_derivative(B, T, H, D, rate, block, at_once, most, seed):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blockwise, "BLOCK", block)
        patch.setattr(blockwise, "SCORES", at_once)
        patch.setattr(blockwise, "SMALL", most)
        rng = np.random.default_rng(seed)
        C = H * D
        layout = Layout(attention.params(C, 2))
        row, gradient = random_row(layout, rng), np.zeros(layout.size)
        p, g = layout.views(row), layout.views(gradient)
        parts = [Layout(attention.acts(B, T, C, H)), Layout(attention.scratch(B, T, C, H))]
        a, s = (part.views(np.full(part.size, np.nan)) for part in parts)
        x, dy, y = rng.standard_normal((B * T, C)), rng.standard_normal((B * T, C)), np.empty((B * T, C))
        source = attention.Within(blockwise.block_mask(starts_of(rng, B, T), H, D))
        site = attention.Site(source, 1, drop_of(rate).mask("attention", 1, H * T))

        def loss() -> float:
            return float((attention.forward(p, a, s, x, y, site) * dy).sum())

        loss()
        dx = np.full_like(x, np.nan)
        attention.backward(p, g, a, s, linear.Flow(x, dy, dx, AT_ONCE), site)
        gradient_of_out_bias = layout.named(gradient)["out_bias"]
        assert not gradient_of_out_bias.any()  # the residual owns it
        check(loss, x, dx, rng, "x")
        check_row(loss, layout, row, gradient, rng)


@FAST
@given(N=small, C=small, F=small, seed=seeds)
def test_mlp_backward_is_the_derivative(N, C, F, seed):
    rng = np.random.default_rng(seed)
    layout = Layout(mlp.params(C, F, 2))
    row, gradient = random_row(layout, rng), np.zeros(layout.size)
    p, g = layout.views(row), layout.views(gradient)
    parts = [Layout(mlp.acts(N, F)), Layout(mlp.scratch(N, F))]
    a, s = (part.views(np.full(part.size, np.nan)) for part in parts)
    x, dy, y = rng.standard_normal((N, C)), rng.standard_normal((N, C)), np.empty((N, C))

    def loss() -> float:
        return float((mlp.forward(p, a, s, x, y) * dy).sum())

    loss()
    s.gelu[:] = np.nan  # shared by all blocks: backward must not rely on it
    dx = np.full_like(x, np.nan)
    mlp.backward(p, g, a, s, linear.Flow(x, dy, dx, AT_ONCE))
    check(loss, x, dx, rng, "x")
    check_row(loss, layout, row, gradient, rng)


@FAST
@given(N=small, C=st.integers(3, 6), rate=st.sampled_from([0.0, 0.4]), seed=seeds)
def test_residual_norm_backward_is_the_derivative_and_lets_the_stream_through(N, C, rate, seed):
    rng = np.random.default_rng(seed)
    layout = Layout(layernorm.params(C))
    row, gradient = random_row(layout, rng), np.zeros(layout.size)
    acts = Layout(residual_norm.acts(N, C))
    p, g, a = layout.views(row), layout.views(gradient), acts.views(np.full(acts.size, np.nan))
    skip, h, dy, carried = (rng.standard_normal((N, C)) for _ in range(4))
    bias, dbias, mask = rng.standard_normal(C), np.zeros(C), drop_of(rate).mask("here", 0, N)

    def loss() -> float:
        y = residual_norm.forward(p, a, skip, h, bias, mask)
        return float((y * dy).sum() + (carried * a.x).sum())

    loss()
    dx = carried.copy()
    stream = residual_norm.Scratch(np.full((N, C), np.nan), dx, dy)
    dh = residual_norm.backward(p, g, dbias, a, stream, mask)
    check(loss, h, dh, rng, "h")
    check(loss, bias, dbias, rng, "bias")
    check(loss, skip, dx, rng, "skip")
    check_row(loss, layout, row, gradient, rng)


@FAST
@given(
    N=st.integers(1, 9), V=st.integers(1, 6), C=small, rows=st.integers(1, 4), seed=seeds,
    all_rows=st.booleans(), without_loss=st.sampled_from([0.0, 0.3, 1.0]),
)  # fmt: skip
def test_head_backward_is_the_derivative_in_blocks_of_any_size(N, V, C, rows, seed, all_rows, without_loss):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head, "FEWEST_ROWS", rows)
        patch.setattr(head, "MOST", 1)
        rng = np.random.default_rng(seed)
        layout = Layout(head.scratch(N, V, C, all_rows))
        s = layout.views(np.full(layout.size, np.nan))
        assert s.logits.shape == (min(rows, N), V)
        weight, y, dy = rng.standard_normal((V, C)), rng.standard_normal((N, C)), np.full((N, C), np.nan)
        targets = np.where(rng.random(N) < without_loss, -1, rng.integers(0, V, N)).astype(np.int32)
        losses, dweight = np.full(N, np.nan), np.zeros((V, C))
        held = head.Rows(y, targets, losses, dy)
        adding = linear.DeferredGradients([linear.Products(np.full(V * C, np.nan))], add=True)

        def loss() -> float:
            head.forward(weight, s, held)
            return 0.7 * float(losses.sum())

        total = loss()
        head.backward(weight, dweight, s, held, 0.7, adding)
        assert 0.7 * losses.sum() == pytest.approx(total, rel=1e-12)
        check(loss, y, dy, rng, "y")
        check(loss, weight, dweight, rng, "weight")
        over = np.full((V, C), np.nan)
        head.backward(weight, over, s, held, 0.7, adding._replace(add=False))
        np.testing.assert_allclose(over, dweight, rtol=1e-12, atol=1e-15)
        assert (losses[targets < 0] == 0).all() and (dy[targets < 0] == 0).all()


@FAST
@given(
    N=small, V=st.integers(1, 6), T=st.integers(1, 6), C=small, rate=st.sampled_from([0.0, 0.4]), seed=seeds
)
def test_embedding_backward_is_the_derivative(N, V, T, C, rate, seed):
    rng = np.random.default_rng(seed)
    layout = Layout(embedding.params(V, T, C))
    row, gradient = random_row(layout, rng), np.zeros(layout.size)
    p, g = layout.views(row), layout.views(gradient)
    a = embedding.Acts(np.full((N, C), np.nan))
    tokens, positions = rng.integers(0, V, N).astype(np.int32), rng.integers(0, T, N).astype(np.int32)
    dy, mask = rng.standard_normal((N, C)), drop_of(rate).mask("embedding", 0, N)

    def loss() -> float:
        return float((embedding.forward(p, a, tokens, positions, mask) * dy).sum())

    embedding.backward(g, dy.copy(), tokens, positions, mask)
    check_row(loss, layout, row, gradient, rng)


def whole_model(config: ModelConfig, V: int, B: int, seed: int, recompute: bool = False):
    """Return everything for one forward and backward of a drawn model in float64."""
    rng = np.random.default_rng(seed)
    layout = layout_of(config, V)
    row = random_row(layout, rng, 0.3)
    work = Workspace(config, V, B, np.float64, Purpose(recompute=recompute))
    work.poison(np.nan)
    T, inputs = config.block_size, work.memory.inputs
    inputs.tokens[:] = rng.integers(0, V, B * T)
    inputs.targets[:] = np.where(rng.random(B * T) < 0.3, -1, rng.integers(0, V, B * T))
    inputs.targets[0] = 0
    inputs.starts[:] = starts_of(rng, B, T)
    inputs.positions[:] = (np.arange(T) - inputs.starts).reshape(-1)
    return rng, layout, row, work


def go(p: model.Params, work: Workspace, drop: dropout.Address, scale: float, first: bool) -> None:
    deferred = linear.DeferredGradients([linear.Products(work.memory.scratch.products)], add=not first)
    model.forward(p, work.memory, Pass(drop))
    model.backward(p, work.memory, Pass(drop), scale, deferred)


@settings(max_examples=8)
@given(
    B=st.integers(1, 2), T=st.integers(1, 5), H=st.integers(1, 2), D=st.integers(2, 3), L=st.integers(1, 3),
    V=st.integers(2, 6), rate=st.sampled_from([0.0, 0.25]), recompute=st.booleans(), seed=seeds,
)  # fmt: skip
def test_the_whole_models_backward_is_the_derivative_of_every_parameter_tensor(
    B, T, H, D, L, V, rate, recompute, seed
):
    config = ModelConfig(n_layer=L, n_head=H, n_embd=H * D + H, block_size=T, dropout=rate)
    rng, layout, row, work = whole_model(config, V, B, seed, recompute)
    p, drop, scale = layout.views(row), drop_of(rate), 0.7

    def loss() -> float:
        model.forward(p, work.memory, Pass(drop))
        model.loss(p, work.memory)
        return scale * float(work.memory.losses.sum())

    total = loss()
    work.clear_gradients()
    go(p, work, drop, scale, True)
    assert scale * work.memory.losses.sum() == pytest.approx(total, rel=1e-12)
    check_row(loss, layout, row, work.gradient, rng)


@pytest.mark.parametrize("rate", [0.0, 0.2])
def test_a_second_micro_batch_adds_its_gradient(rate):
    config = ModelConfig(n_layer=2, n_head=2, n_embd=8, block_size=6, dropout=rate)
    _, layout, row, work = whole_model(config, 11, 3, 5)
    p, drop, tensors = layout.views(row), drop_of(rate), layout.named(work.gradient)
    work.clear_gradients()
    go(p, work, drop, 1.0, True)
    once = {name: view.copy() for name, view in tensors.items()}
    go(p, work, drop, 1.0, False)
    for name, view in tensors.items():
        np.testing.assert_allclose(view, 2 * once[name], rtol=1e-12, atol=1e-14, err_msg=name)


@pytest.mark.parametrize("rate", [0.0, 0.2])
def test_recomputation_changes_no_gradient_and_keeps_a_fraction_of_the_activations(rate):
    config = ModelConfig(n_layer=5, n_head=2, n_embd=8, block_size=6, dropout=rate)
    gradients, sizes = [], []
    for recompute in (False, True):
        _, layout, row, work = whole_model(config, 11, 3, 5, recompute)
        work.clear_gradients()
        go(layout.views(row), work, drop_of(rate), 1.0, True)
        gradients.append({name: view.copy() for name, view in layout.named(work.gradient).items()})
        sizes.append(Layout(model.acts(config, 3, Purpose(recompute=recompute))).size)
    for name, gradient in gradients[0].items():
        np.testing.assert_allclose(gradients[1][name], gradient, rtol=1e-11, atol=1e-13, err_msg=name)
    assert sizes[1] < sizes[0] / 2
