"""Where kernels usually go wrong: overflow, NaN, masks, bad indices, long sums, repeating masks, aliasing."""

from __future__ import annotations

import zlib

import llvmlite.binding as llvm
import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.test_kernels import BIG_KEY, draws
from tinyllm import kernels
from tinyllm.arena import Array
from tinyllm.kernels import checksum, elementary, jit


def random(*shape: int, dtype: type = np.float32) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


# exp


@jit.jit
def exp_all(y, x):
    for i in range(x.size):
        y[i] = elementary.exp(x[i])


def exp_of(x: Array) -> Array:
    y = np.empty_like(x)
    exp_all(y, x)
    return y


def test_exp_in_float32_is_right_to_two_units_in_the_last_place():
    x = np.linspace(-87, 88.3, 1_000_003, dtype=np.float32)
    wanted = np.exp(x.astype(np.float64))
    assert np.max(np.abs(exp_of(x) / wanted - 1)) < 1.5e-7


def test_exp_never_overflows_never_hides_a_nan_and_is_0_at_minus_infinity():
    x = np.array([-np.inf, -1e30, -100, 0, 100, np.inf, np.nan], np.float32)
    low, below, small_, one, high, top, nan = exp_of(x)
    assert (low, below, small_, one) == (0, 0, 0, 1)
    assert high == top and 2e38 < top < np.inf
    assert np.isnan(nan)


# the width of vectors


def wide(y, x):
    jit.wide_vectors()
    for i in range(x.size):
        y[i] = elementary.exp(x[i])


def vectors_of(function, y: Array, x: Array) -> int:
    """Compile a function again, since Numba shows no code from its cache; count its 512-bit operands."""
    kernel = numba.njit(**jit.OPTIONS)(function)
    kernel(y, x)
    (code,) = kernel.inspect_asm().values()
    return code.count("zmm")


@pytest.mark.skipif(not llvm.get_host_cpu_features().get("avx512f"), reason="no vectors of 512 bits")
@pytest.mark.skipif(jit.config.DISABLE_JIT, reason="nothing is compiled")
def test_a_kernel_that_asks_for_wide_vectors_gets_them():
    x = np.linspace(-9, 9, 1000, dtype=np.float32)
    y, z = np.empty_like(x), np.empty_like(x)
    assert vectors_of(wide, y, x) > 10 > vectors_of(exp_all.py_func, z, x)
    np.testing.assert_array_equal(y, z)


# attention


def softmax(p: Array, starts: Array, scale: float = 1.0, query: int = 0, key: int = 0) -> Array:
    """Run `attention_forward` on one block without dropout; return lse."""
    lse = np.zeros((*p.shape[:2], starts.shape[1]), p.dtype)
    kernels.attention_forward(p, lse, starts, query, key, scale, np.uint64(0), 0, 0.0)
    return lse


@settings(max_examples=30)
@given(draw=draws)
def test_probabilities_of_a_query_sum_to_1_and_are_exactly_0_where_masked(draw):
    K = draw.query + draw.Q - draw.seen
    p = draw.scores(draw.seen, K)
    softmax(p, draw.starts, 0.7, draw.query, draw.seen)
    np.testing.assert_allclose(p.sum(axis=-1), 1, rtol=1e-5)
    assert np.all(p[draw.masked(draw.seen, K)] == 0)


def test_a_nan_or_an_infinite_score_is_seen_in_its_whole_row_and_in_no_other():
    for bad in (np.nan, np.inf):
        p, starts = random(1, 1, 40, 40), np.zeros((1, 40), np.int32)
        p[0, 0, 30, 20] = bad
        softmax(p, starts)
        assert np.isnan(p[0, 0, 30, 20])
        assert not np.isnan(np.delete(p[0, 0], 30, axis=0)).any()


@pytest.mark.parametrize("start", [-1, 3])
def test_a_query_without_a_key_is_refused(start):
    p, starts = random(1, 1, 4, 4), np.zeros((1, 4), np.int32)
    starts[0, 2], before = start, p.copy()
    with pytest.raises(IndexError, match="starts"):
        softmax(p, starts)
    np.testing.assert_array_equal(p, before)


# cross entropy


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", [0, 20, 49])
def test_a_nan_or_infinite_logit_makes_the_loss_nan(dtype, bad, where):
    losses, logits, targets = np.zeros(3), random(3, 50, dtype=dtype), np.array([3, 20, -1], np.int32)
    logits[1:, where] = bad
    for find in (kernels.cross_entropy_forward, lambda *a: kernels.cross_entropy_backward(*a, 1.0)):
        losses[:] = 7
        find(losses, logits, targets)
        assert np.isfinite(losses[0]) and np.isnan(losses[1]) and losses[2] == 0
    assert np.isnan(logits[1]).any() and not logits[2].any()


def test_huge_logits_do_not_overflow_the_loss():
    losses, targets = np.zeros(3), np.array([0, 0, 1], np.int32)
    logits = np.array([[3e4, 3e4 - 1], [-3e4, -3e4 - 1], [3e38, -3e38]], np.float32)
    one_apart = np.log1p(np.exp(-1))
    for find in (kernels.cross_entropy_forward, lambda *a: kernels.cross_entropy_backward(*a, 1.0)):
        losses[:] = 7
        find(losses, logits, targets)
        np.testing.assert_allclose(losses, [one_apart, one_apart, 6e38], rtol=1e-6)


@pytest.mark.parametrize("target", [-2, 5, 2**31 - 1])
def test_a_target_outside_the_vocabulary_is_refused_and_nothing_is_written(target):
    losses, logits = np.zeros(2), random(2, 5)
    before = logits.copy()
    targets = np.array([0, target], np.int32)
    with pytest.raises(IndexError, match="targets"):
        kernels.cross_entropy_forward(losses, logits, targets)
    with pytest.raises(IndexError, match="targets"):
        kernels.cross_entropy_backward(losses, logits, targets, 1.0)
    np.testing.assert_array_equal(logits, before)


# embedding


@pytest.mark.parametrize("token, position", [(-1, 0), (5, 0), (0, -1), (0, 3)])
def test_a_token_or_position_outside_its_table_is_refused_and_nothing_is_written(token, position):
    x, tokens, positions = random(2, 4), np.array([0, token], np.int32), np.array([0, position], np.int32)
    before = x.copy()
    with pytest.raises(IndexError, match=r"tokens|positions"):
        kernels.embedding_forward(x, tokens, positions, random(5, 4), random(3, 4))
    np.testing.assert_array_equal(x, before)


# dropout


def mask_of(key: int, first: int, rows: int, columns: int, rate: float) -> Array:
    mask = np.empty((rows, columns), np.float32)
    kernels.dropout_forward(mask, np.ones_like(mask), key, first, rate)
    return mask != 0


@settings(max_examples=25)
@given(key=st.integers(0, 2**64 - 1), rate=st.floats(0.01, 0.95))
def test_dropout_keeps_the_fraction_it_promises_in_any_rows_and_columns(key, rate):
    kept = mask_of(key, 0, 256, 256, rate)
    six_sigma = 6 * np.sqrt(rate * (1 - rate))
    assert abs(kept.mean() - (1 - rate)) < six_sigma / 256
    for axis in (0, 1):
        assert np.all(np.abs(kept.mean(axis=axis) - (1 - rate)) < six_sigma / 16)


@settings(max_examples=25)
@given(
    key=st.integers(0, 2**64 - 1), bit=st.integers(0, 63),
    shift=st.sampled_from([(1, 0), (2, 0), (64, 0), (1 << 32, 0), (0, 1), (0, 7), (3, 2)]),
)  # fmt: skip
def test_masks_of_keys_one_bit_apart_and_of_neighbouring_elements_are_independent(key, bit, shift):
    rows, columns = 256, 256
    base = mask_of(key, 0, rows, columns, 0.5)
    down, right = shift
    moved = mask_of(key, down, rows, columns + right, 0.5)[:, right:]
    for other in (mask_of(key ^ (1 << bit), 0, rows, columns, 0.5), moved):
        assert abs((base == other).mean() - 0.5) < 6 * 0.5 / np.sqrt(base.size)


def test_no_two_rows_of_a_mask_and_no_two_columns_agree_too_much_or_too_little():
    signs = 2.0 * mask_of(12345, 0, 512, 512, 0.5) - 1
    for product in (signs @ signs.T, signs.T @ signs):
        off = product[~np.eye(512, dtype=bool)]
        assert np.abs(off).max() < 6 * np.sqrt(512)
        assert abs(off.std() / np.sqrt(512) - 1) < 0.02


@settings(max_examples=30)
@given(key=st.integers(0, 2**64 - 1), rows=st.integers(2, 60), page=st.integers(0, 3), data=st.data())
def test_dropout_in_parts_is_dropout_as_a_whole(key, rows, page, data):
    cut = data.draw(st.integers(1, rows - 1))
    first = page * 2**32 + data.draw(st.sampled_from([0, 5, 2**32 - cut, 2**32 - 1]))
    parts = mask_of(key, first, cut, 7, 0.4), mask_of(key, first + cut, rows - cut, 7, 0.4)
    np.testing.assert_array_equal(mask_of(key, first, rows, 7, 0.4), np.concatenate(parts))


def test_dropout_backward_is_the_transpose_and_works_in_place():
    x, dy = random(9, 111, dtype=np.float64), random(9, 111, dtype=np.float64)[::-1].copy()
    y, dx = np.empty_like(x), dy.copy()
    kernels.dropout_forward(y, x, 3, 0, 0.4)
    kernels.dropout_backward(dx, dx, 3, 0, 0.4)
    np.testing.assert_allclose((y * dy).sum(), (x * dx).sum(), rtol=1e-12)


def test_dropout_at_rate_0_changes_nothing_and_hides_no_nan():
    x, y = random(5, 100), np.empty((5, 100), np.float32)
    kernels.dropout_forward(y, x, BIG_KEY, 0, 0.0)
    np.testing.assert_array_equal(y, x)
    kernels.dropout_forward(y, np.full((5, 100), np.nan, np.float32), BIG_KEY, 0, 0.9)
    assert np.isnan(y).all()


def test_the_residual_and_attention_draw_the_masks_that_dropout_draws():
    N, C, key = 7, 40, np.uint64(BIG_KEY)
    mask = np.empty((N, C), np.float32)
    kernels.dropout_forward(mask, np.ones_like(mask), int(key), 5, 0.3)
    x, y, dh = (np.empty((N, C), np.float32) for _ in range(3))
    vectors = [np.zeros(C, np.float32) for _ in range(5)]
    mean, rstd = np.zeros((2, N), np.float32)
    ones, zeros = np.ones((N, C), np.float32), np.zeros((N, C), np.float32)
    kernels.residual_norm_forward(x, y, mean, rstd, zeros, ones, *vectors[:3], key, 5, 0.3)
    np.testing.assert_array_equal(x, mask)
    kernels.residual_norm_backward(
        ones.copy(), dh, *vectors[:3], zeros, x, vectors[3], mean, rstd, key, 5, 0.3
    )  # fmt: skip
    np.testing.assert_array_equal(dh, mask)
    p, lse, starts = (
        np.zeros((1, 1, N, N), np.float32),
        np.zeros((1, 1, N), np.float32),
        np.zeros((1, N), np.int32),
    )
    kernels.attention_forward(p, lse, starts, 0, 0, 1.0, key, 5, 0.3)
    np.testing.assert_array_equal((p[0, 0] != 0), np.tril(mask[:, :N] != 0))


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_a_dropout_rate_outside_0_to_1_is_refused(rate):
    with pytest.raises(ValueError, match="rate"):
        kernels.dropout_forward(np.zeros((1, 1)), np.zeros((1, 1)), 0, 0, rate)


# sums, GELU, Adam


def test_long_float32_sums_lose_less_than_a_hundred_thousandth():
    rows = np.full((50_000, 3), 0.1, np.float32)
    wanted = 50_000 * float(np.float32(0.1))
    dbias, dgain, gain = np.zeros((3, 3), np.float32)
    kernels.bias_backward(dbias, rows)
    np.testing.assert_allclose(dbias, wanted, rtol=1e-5)
    dbias[:] = 0
    mean, rstd = np.zeros(50_000, np.float32), np.ones(50_000, np.float32)
    kernels.layernorm_backward(rows.copy(), dgain, dbias, rows, np.ones_like(rows), gain, mean, rstd)
    np.testing.assert_allclose([dbias, dgain], np.full((2, 3), wanted), rtol=1e-5)
    np.testing.assert_allclose(kernels.sum_squares(rows.reshape(-1)), 0.01 * 150_000, rtol=1e-6)


def test_sum_squares_of_float32_does_not_overflow_where_float32_would():
    np.testing.assert_allclose(kernels.sum_squares(np.full(10, 1e30, np.float32)), 1e61, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_sum_squares_lets_nan_and_infinity_through(bad):
    x = random(1000)
    x[777] = bad
    np.testing.assert_equal(kernels.sum_squares(x), bad)


def test_gelu_of_a_large_input_is_the_input_or_0():
    y, x = np.empty((1, 4), np.float32), np.array([[-1e10, -50, 50, 1e10]], np.float32)
    kernels.bias_gelu_forward(y, x, np.zeros(4, np.float32))
    np.testing.assert_allclose(y, [[0, 0, 50, 1e10]], atol=1e-20)


def test_the_first_adam_step_is_the_learning_rate_against_the_gradients_sign():
    params, grads = np.zeros(50), random(50, dtype=np.float64)
    signs = np.sign(grads)
    kernels.adam_(params, grads, np.zeros(50), np.zeros(50), 0.1, 0.9, 0.999, 0.0, 0.1, 0.001, 0.0, 1.0)
    np.testing.assert_allclose(params, -0.1 * signs, rtol=1e-12)


def adam_without_gradient(moment: float, gradient: float = 0.0) -> tuple[Array, Array, Array]:
    params, grads, m, v = np.ones((4, 100), np.float32)
    grads[:], m[:], v[:] = gradient, moment, moment
    kernels.adam_(params, grads, m, v, 0.1, 0.9, 0.999, 1e-8, 0.1, 0.001, 0.0, 1.0)
    return params, m, v


def test_adam_leaves_no_subnormal_moments_behind():
    _, m, v = adam_without_gradient(moment=1.2e-38)
    assert not m.any() and not v.any()
    _, m, v = adam_without_gradient(moment=1e-37)
    assert m.all() and v.all()


def test_adam_hides_no_nan():
    for row in adam_without_gradient(moment=0.0, gradient=np.nan):
        assert np.isnan(row).all()


# crc32 and all_finite


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_all_finite_finds_one_bad_number_anywhere_and_takes_the_largest_for_good(dtype, bad):
    x = np.full(131, np.finfo(dtype).max, dtype)
    x[::2] *= -1
    assert kernels.all_finite(x)
    for i in range(x.size):
        before, x[i] = x[i], bad
        assert not kernels.all_finite(x)
        x[i] = before


@pytest.mark.parametrize("start", [0, 1, 0xFFFFFFFF])
def test_crc32_is_that_of_zlib_to_the_bit_at_every_length_and_place(start):
    data = np.random.default_rng(0).integers(0, 256, 1 << 17, np.uint8)
    for size in [*range(700), 4096, len(data) - 7]:
        part = data[size % 7 :][:size]
        assert kernels.crc32(part, start) == zlib.crc32(part, start)


def test_crc32_goes_on_from_the_parts_before():
    data = np.random.default_rng(1).integers(0, 256, 5000, np.uint8)
    for cut in range(0, 5000, 37):
        assert kernels.crc32(data[cut:], kernels.crc32(data[:cut], 0)) == zlib.crc32(data)


def test_crc32_is_left_to_zlib_where_the_processor_cannot_multiply(monkeypatch):
    monkeypatch.setattr(checksum, "_CAN_MULTIPLY", False)
    monkeypatch.setattr(checksum, "_fold", None)
    data = np.arange(5000).astype(np.uint8)
    assert kernels.crc32(data, 7) == zlib.crc32(data, 7)
