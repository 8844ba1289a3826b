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
from tinyllm.layers import attention, dropout, embedding, layernorm, linear, mlp, residual
from tinyllm.state import Workspace, layout_of

FAST = settings(max_examples=12)
small = st.integers(1, 5)
seeds = st.integers(0, 2**32 - 1)


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


def drop_of(rate: float, count: int) -> dropout.Address:
    return dropout.Address(rate, 7, 3, 2, count)


@FAST
@given(N=small, C=small, O=small, seed=seeds)
def test_linear_backward_is_the_derivative(N, C, O, seed):
    rng = np.random.default_rng(seed)
    x, weight, dy = rng.standard_normal((N, C)), rng.standard_normal((O, C)), rng.standard_normal((N, O))
    y, dx, dweight = np.empty((N, O)), np.full((N, C), np.nan), np.zeros((O, C))
    linear.backward(dx, dweight, dy, x, weight, np.empty(O * C))

    def loss() -> float:
        return float((linear.forward(y, x, weight) * dy).sum())

    check(loss, x, dx, rng, "x")
    check(loss, weight, dweight, rng, "weight")


@FAST
@given(N=small, C=st.integers(3, 6), seed=seeds)
def test_layernorm_backward_is_the_derivative_and_adds_into_dx(N, C, seed):
    rng = np.random.default_rng(seed)
    layout = Layout(layernorm.params(C))
    row, gradient = random_row(layout, rng), np.zeros(layout.size)
    acts_layout = Layout(layernorm.acts(N, C))
    a = acts_layout.views(np.zeros(acts_layout.size))
    p, g = layout.views(row), layout.views(gradient)
    x, dy, carried = (rng.standard_normal((N, C)) for _ in range(3))

    def loss() -> float:
        return float((layernorm.forward(p, a, x) * dy).sum() + (carried * x).sum())

    loss()
    dx = carried.copy()
    layernorm.backward(p, g, a, x, dy, dx)
    check(loss, x, dx, rng, "x")
    check_row(loss, layout, row, gradient, rng)


@FAST
@given(
    B=st.integers(1, 3), T=small, H=st.integers(1, 3), D=small, rate=st.sampled_from([0.0, 0.3]), seed=seeds
)
def test_attention_backward_is_the_derivative(B, T, H, D, rate, seed):
    rng = np.random.default_rng(seed)
    C = H * D
    layout = Layout(attention.params(C, 2))
    row, gradient = random_row(layout, rng), np.zeros(layout.size)
    p, g = layout.views(row), layout.views(gradient)
    parts = [Layout(attention.acts(B, T, C, H)), Layout(attention.scratch(B, T, C, H, rate > 0))]
    a, s = (part.views(np.full(part.size, np.nan)) for part in parts)
    x, dy = rng.standard_normal((B * T, C)), rng.standard_normal((B * T, C))
    starts, drop = starts_of(rng, B, T), drop_of(rate, B)

    def loss() -> float:
        return float((attention.forward(p, a, s, x, starts, drop, 1) * dy).sum())

    loss()
    dx = np.full_like(x, np.nan)
    attention.backward(p, g, a, s, x, dy, dx, np.empty(3 * C * C), starts, drop, 1)
    gradient_of_out_bias = layout.named(gradient)["out_bias"]
    assert not gradient_of_out_bias.any()  # the block owns it
    check(loss, x, dx, rng, "x")
    check_row(loss, layout, row, gradient, rng)


@FAST
@given(N=small, C=small, F=small, seed=seeds)
def test_mlp_backward_is_the_derivative(N, C, F, seed):
    rng = np.random.default_rng(seed)
    layout = Layout(mlp.params(C, F, 2))
    row, gradient = random_row(layout, rng), np.zeros(layout.size)
    p, g = layout.views(row), layout.views(gradient)
    parts = [Layout(mlp.acts(N, C, F)), Layout(mlp.scratch(N, F))]
    a, s = (part.views(np.full(part.size, np.nan)) for part in parts)
    x, dy = rng.standard_normal((N, C)), rng.standard_normal((N, C))

    def loss() -> float:
        return float((mlp.forward(p, a, x) * dy).sum())

    loss()
    dx = np.full_like(x, np.nan)
    mlp.backward(p, g, a, s, x, dy, dx, np.empty(F * C))
    check(loss, x, dx, rng, "x")
    check_row(loss, layout, row, gradient, rng)


@FAST
@given(N=small, C=small, rate=st.sampled_from([0.0, 0.4]), seed=seeds)
def test_residual_backward_is_the_derivative(N, C, rate, seed):
    rng = np.random.default_rng(seed)
    x, h, bias, dy = (rng.standard_normal(shape) for shape in ((N, C), (N, C), (C,), (N, C)))
    y, dbias, drop = np.empty((N, C)), np.zeros(C), drop_of(rate, N)

    def loss() -> float:
        return float((residual.forward(y, x, h.copy(), bias, drop, "here", 0) * dy).sum())

    dh = residual.backward(np.full((N, C), np.nan), dbias, dy, drop, "here", 0)
    check(loss, h, dh, rng, "h")
    check(loss, bias, dbias, rng, "bias")
    check(loss, x, dy, rng, "x")


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
    dy, drop = rng.standard_normal((N, C)), drop_of(rate, N)

    def loss() -> float:
        return float((embedding.forward(p, a, tokens, positions, drop) * dy).sum())

    embedding.backward(g, dy.copy(), tokens, positions, drop)
    check_row(loss, layout, row, gradient, rng)


def whole_model(config: ModelConfig, V: int, B: int, seed: int):
    """Return everything for one forward and backward of a drawn model in float64."""
    rng = np.random.default_rng(seed)
    layout = layout_of(config, V)
    row = random_row(layout, rng, 0.3)
    work = Workspace(config, V, B, layout, np.float64)
    work.poison(np.nan)
    T = config.block_size
    work.inputs.tokens[:] = rng.integers(0, V, B * T)
    work.inputs.targets[:] = np.where(rng.random(B * T) < 0.3, -1, rng.integers(0, V, B * T))
    work.inputs.targets[0] = 0
    work.inputs.starts[:] = starts_of(rng, B, T)
    work.inputs.positions[:] = (np.arange(T) - work.inputs.starts).reshape(-1)
    return rng, layout, row, work


@settings(max_examples=6)
@given(
    B=st.integers(1, 2), T=st.integers(1, 5), H=st.integers(1, 2), D=st.integers(2, 3), L=st.integers(1, 2),
    V=st.integers(2, 6), rate=st.sampled_from([0.0, 0.25]), seed=seeds,
)  # fmt: skip
def test_the_whole_models_backward_is_the_derivative_of_every_parameter_tensor(B, T, H, D, L, V, rate, seed):
    config = ModelConfig(n_layer=L, n_head=H, n_embd=H * D + H, block_size=T, dropout=rate)
    rng, layout, row, work = whole_model(config, V, B, seed)
    p, drop, scale = layout.views(row), drop_of(rate, B), 0.7

    def loss() -> float:
        model.forward(p, work.acts, work.scratch, work.losses, work.inputs, drop)
        return scale * float(work.losses.sum())

    loss()
    model.backward(p, work.grads, work.acts, work.scratch, work.inputs, drop, scale)
    check_row(loss, layout, row, work.gradient, rng)


@pytest.mark.parametrize("rate", [0.0, 0.2])
def test_backward_twice_adds_the_gradient_twice(rate):
    config = ModelConfig(n_layer=2, n_head=2, n_embd=8, block_size=6, dropout=rate)
    _, layout, row, work = whole_model(config, 11, 3, 5)
    p, drop = layout.views(row), drop_of(rate, 3)
    for _ in range(2):
        model.forward(p, work.acts, work.scratch, work.losses, work.inputs, drop)
        model.backward(p, work.grads, work.acts, work.scratch, work.inputs, drop, 1.0)
    twice = work.gradient.copy()
    work.gradient[:] = 0
    model.forward(p, work.acts, work.scratch, work.losses, work.inputs, drop)
    model.backward(p, work.grads, work.acts, work.scratch, work.inputs, drop, 1.0)
    np.testing.assert_allclose(twice, 2 * work.gradient, rtol=1e-12, atol=1e-14)
