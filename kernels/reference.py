"""Every kernel again in plain NumPy: the readable truth, and what the compiled kernels are tested against.

Same names, same arguments, the same arrays changed in place. Nothing here is fast, and no training uses it.
In the order of the model: embedding, layernorm, linear's bias, attention, GELU, residual, dropout,
loss, Adam; then batches, and what checkpoints check.

A backward says: given dy = dLoss/dy, what is dLoss/dx = sum over y of dLoss/dy * dy/dx?
"""

from __future__ import annotations

import zlib

import numpy as np

from .jit import Array
from .reference_bpe import bpe_encode as bpe_encode
from .reference_bpe import bpe_merge as bpe_merge
from .reference_decode import decode_ as decode_
from .reference_product import multiply as multiply


def embedding_forward(
    x: Array, tokens: Array, positions: Array, token_table: Array, position_table: Array
) -> None:
    """x[n] = token_table[tokens[n]] + position_table[positions[n]]  (Vaswani et al. 2017, section 3.4)."""
    x[...] = token_table[tokens] + position_table[positions]


def embedding_backward(
    dtoken_table: Array, dposition_table: Array, dx: Array, tokens: Array, positions: Array
) -> None:
    """A row that was read many times receives the sum of its readers' gradients."""
    # Not `table[tokens] += dx`, which would add only the last of the rows with one index.
    np.add.at(dtoken_table, tokens, dx)
    np.add.at(dposition_table, positions, dx)


def layernorm_forward(y: Array, mean: Array, rstd: Array, x: Array, gain: Array, bias: Array) -> None:
    """xhat = (x - mean(x)) / sqrt(var(x) + 1e-5), y = xhat * gain + bias, row by row (Ba et al. 2016)."""
    mean[:] = x.mean(axis=1)
    rstd[:] = 1 / np.sqrt(x.var(axis=1) + 1e-5)
    xhat = (x - mean[:, None]) * rstd[:, None]
    y[...] = xhat * gain + bias


def layernorm_backward(
    dx: Array, dgain: Array, dbias: Array, dy: Array, x: Array, gain: Array, mean: Array, rstd: Array
) -> None:
    """The mean and the variance depend on every x of the row: hence the two means that are subtracted."""
    xhat = (x - mean[:, None]) * rstd[:, None]
    dxhat = dy * gain
    through_mean = dxhat.mean(axis=1, keepdims=True)
    through_variance = xhat * (dxhat * xhat).mean(axis=1, keepdims=True)
    dx += rstd[:, None] * (dxhat - through_mean - through_variance)
    dgain += (dy * xhat).sum(axis=0)
    dbias += dy.sum(axis=0)


def add_bias_(y: Array, bias: Array) -> None:
    """y = y + bias, the same bias for every row."""
    y += bias


def bias_backward(dbias: Array, dy: Array) -> None:
    """Every row used the bias, so its gradient is the sum over rows."""
    dbias += dy.sum(axis=0)


def _visible(starts: Array, query: int, Q: int, key: int, K: int) -> Array:
    """(B, 1, Q, K) bool: may query t see key s? From the start of its document up to itself."""
    t, s = np.arange(query, query + Q)[:, None], np.arange(key, key + K)
    return ((starts[:, query : query + Q, None] <= s) & (s <= t))[:, None]


def _attention_mask(shape: tuple[int, ...], T: int, query: int, key: int, mask: int, first: int, rate: float
                    ) -> Array:  # fmt: skip
    """The block (B, H, Q, K) of the masks of all rows (B, H, T), of which each is as long as need be."""
    B, H, Q, K = shape
    whole = _mask(mask, first, (B * H * T, key + K), rate).reshape(B, H, T, key + K)
    return whole[:, :, query : query + Q, key:]


def attention_forward(
    p: Array, lse: Array, starts: Array, query: int, key: int, scale: float, mask: np.uint64, first: int,
    rate: float,
) -> None:  # fmt: skip
    """p = dropout(softmax(scale * scores)) over visible keys, 0 elsewhere (Vaswani et al. 2017, equation 1).

    Subtracting a row's maximum changes nothing, e**(z - m) / sum e**(z - m) = e**z / sum e**z, and keeps
    e**z from overflowing.
    """
    Q, K = p.shape[2:]
    z = np.where(_visible(starts, query, Q, key, K), p, -np.inf) * p.dtype.type(scale)
    highest = z.max(axis=-1, keepdims=True)
    e = np.exp(z - highest)
    total = e.sum(axis=-1, keepdims=True)
    lse[:, :, query : query + Q] = (highest + np.log(total))[..., 0]
    p[...] = e / total * _attention_mask(p.shape, starts.shape[1], query, key, int(mask), first, rate)


def attention_backward(
    p: Array, dp: Array, lse: Array, delta: Array, starts: Array, query: int, key: int, scale: float,
    mask: np.uint64, first: int, rate: float,
) -> None:  # fmt: skip
    """dp_i / dz_j = p_i (delta_ij - p_j), hence dz = p * (dp - sum(dp * p)); and z = scale * score."""
    Q, K = p.shape[2:]
    seen = _visible(starts, query, Q, key, K)
    kept = _attention_mask(p.shape, starts.shape[1], query, key, int(mask), first, rate)
    z = np.where(seen, p, -np.inf) * p.dtype.type(scale)
    probability = np.exp(z - lse[:, :, query : query + Q, None])
    through_dropout = np.where(seen, dp, 0) * kept
    inner = delta[:, :, query : query + Q, None]
    p[...] = probability * kept
    dp[...] = p.dtype.type(scale) * probability * (through_dropout - inner)


def attention_delta(delta: Array, dy: Array, y: Array) -> None:
    """sum_s p_s dp_s = sum_s p_s (dy . v_s) = dy . sum_s p_s v_s = dy . y (Dao et al. 2022, appendix B)."""
    B, H, T = delta.shape
    delta[...] = (dy * y).reshape(B, T, H, -1).sum(axis=-1).transpose(0, 2, 1)


def transpose_heads(y: Array, x: Array) -> None:
    """The same matrices, columns for rows; y may have columns to spare."""
    y[..., : x.shape[2]] = x.swapaxes(2, 3)


def copy_heads(y: Array, x: Array) -> None:
    """The same numbers, without gaps."""
    y[...] = x


def add_heads_(y: Array, x: Array) -> None:
    """A block's contribution is added to the others'."""
    y += x


GELU_SLOPE = np.sqrt(2 / np.pi)
GELU_CUBIC = 0.044715


def bias_gelu_forward(y: Array, x: Array, bias: Array) -> None:
    """y = u/2 * (1 + tanh(sqrt(2/pi) * (u + 0.044715 u^3))), u = x + bias (Hendrycks and Gimpel 2016)."""
    u = x + bias
    slope = x.dtype.type(GELU_SLOPE)
    y[...] = 0.5 * u * (1 + np.tanh(slope * (u + GELU_CUBIC * u**3)))


def bias_gelu_backward(dx: Array, y: Array, dbias: Array, x: Array, bias: Array) -> None:
    """The product rule on u/2 * (1 + tanh z), with tanh' = 1 - tanh^2; y is what forward wrote."""
    u = x + bias
    slope = x.dtype.type(GELU_SLOPE)
    tanh = np.tanh(slope * (u + GELU_CUBIC * u**3))
    dz_du = slope * (1 + 3 * GELU_CUBIC * u**2)
    y[...] = 0.5 * u * (1 + tanh)
    dx *= 0.5 * (1 + tanh) + 0.5 * u * (1 - tanh**2) * dz_du
    dbias += dx.sum(axis=0)


def residual_norm_forward(
    x: Array, y: Array, mean: Array, rstd: Array, skip: Array, h: Array, h_bias: Array, gain: Array,
    bias: Array, key: np.uint64, first: int, rate: float,
) -> None:  # fmt: skip
    """x = skip + dropout(h + h_bias) (He et al. 2016, "Deep Residual Learning"), and the norm of it."""
    x[...] = skip + (h + h_bias) * _mask(int(key), first, x.shape, rate)
    layernorm_forward(y, mean, rstd, x, gain, bias)


def residual_norm_backward(
    dx: Array, dh: Array, dh_bias: Array, dgain: Array, dbias: Array, dy: Array, x: Array, gain: Array,
    mean: Array, rstd: Array, key: np.uint64, first: int, rate: float,
) -> None:  # fmt: skip
    """The stream passes its gradient on unchanged; the branch gets it through its mask."""
    layernorm_backward(dx, dgain, dbias, dy, x, gain, mean, rstd)
    through_dropout = dx * _mask(int(key), first, x.shape, rate)
    dh_bias += through_dropout.sum(axis=0)
    if rate:
        dh[...] = through_dropout


def _mix(h: Array) -> Array:
    """Scatter 32 bits, one to one (lowbias32: Wellons 2018, "Prospecting for hash functions")."""
    h = (h ^ h >> 16) * np.uint32(0x7FEB352D)
    h = (h ^ h >> 15) * np.uint32(0x846CA68B)
    return h ^ h >> 16


def _mask(key: int, first: int, shape: tuple[int, int], rate: float) -> Array:
    """(N, C): 0 with probability `rate`, else 1 / (1 - rate), so that the mean stays.

    Row n, column c is kept if hash(key, first + n, c) >= rate * 2**32: a counter in place of a generator,
    as in Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
    """
    N, C = shape
    golden = np.uint32(0x9E3779B9)
    row = np.uint64(first) + np.arange(N, dtype=np.uint64)
    row_low, row_high = row.astype(np.uint32), (row >> np.uint64(32)).astype(np.uint32)
    key_low, key_high = np.uint32(key & 0xFFFFFFFF), np.uint32(key >> 32)
    rows = _mix(_mix(row_low + key_high) ^ _mix(row_high + golden))
    columns = np.arange(C, dtype=np.uint32) * golden + key_low
    bits = _mix(columns ^ rows[:, None])
    return (bits >= np.uint32(rate * 2**32)) / (1 - rate)


def dropout_forward(y: Array, x: Array, key: int | np.uint64, first: int, rate: float) -> None:
    """y = x * mask / (1 - rate) (Srivastava et al. 2014, inverted)."""
    y[...] = x * _mask(int(key), first, x.shape, rate).astype(x.dtype)


def dropout_backward(dx: Array, dy: Array, key: int | np.uint64, first: int, rate: float) -> None:
    """y = D x with a diagonal D; the gradient goes through its transpose, which is D."""
    dropout_forward(dx, dy, key, first, rate)


def cross_entropy_forward(losses: Array, logits: Array, targets: Array) -> None:
    """loss = -log p[target] = log(sum e**z) - z[target], after subtracting the maximum; masked targets: 0."""
    rows = np.arange(len(targets))
    z = logits - logits.max(axis=1, keepdims=True)
    total = np.exp(z).sum(axis=1).astype(np.float64)
    losses[:] = np.where(targets >= 0, np.log(total) - z[rows, targets], 0.0)


def cross_entropy_backward(losses: Array, dlogits: Array, targets: Array, scale: float) -> None:
    """dLoss/dlogit = p - onehot(target), times the scale; nothing from masked targets."""
    cross_entropy_forward(losses, dlogits, targets)
    rows = np.flatnonzero(targets >= 0)
    e = np.exp(dlogits - dlogits.max(axis=1, keepdims=True))
    dlogits[...] = e / e.sum(axis=1, keepdims=True)
    dlogits[rows, targets[rows]] -= 1
    dlogits *= dlogits.dtype.type(scale)
    dlogits[targets < 0] = 0


def sum_squares(x: Array) -> float:
    """The squared Euclidean norm."""
    return float(np.square(x.astype(np.float64)).sum())


def add_and_sum_squares(total: Array, other: Array) -> float:
    """Add another worker's gradient, and take the norm of the sum while it is at hand."""
    total += other
    return sum_squares(total)


def adam_(
    params: Array, grads: Array, m: Array, v: Array, lr: float, beta1: float, beta2: float, epsilon: float,
    correction1: float, correction2: float, decay: float, scale: float,
) -> None:  # fmt: skip
    """Kingma and Ba 2015, algorithm 1; decoupled decay as in Loshchilov and Hutter 2019, algorithm 2."""
    g = grads * params.dtype.type(scale)
    m[:] = beta1 * m + (1 - beta1) * g
    v[:] = beta2 * v + (1 - beta2) * g**2
    m_hat = m / correction1  # m starts at 0, so its first values are too small by this factor
    v_hat = v / correction2
    params -= lr * (m_hat / (np.sqrt(v_hat) + epsilon) + decay * params)


def fill_batch(
    tokens: Array, targets: Array, starts: Array, corpus: Array, masked: Array, spans: Array, first: Array
) -> int:
    """Row after row, span after span; a target is the token that follows, or -1 where that is masked."""
    B, T = tokens.shape
    tokens[:], targets[:], starts[:] = 0, -1, np.arange(T)
    for b in range(B):
        t = begin = 0
        for start, stop, joins in spans[first[b] : first[b + 1]]:
            begin = begin if joins else t
            row = slice(t, t + stop - start)
            tokens[b, row] = corpus[start:stop]
            # Entries of `masked` that are at most a token's position: an odd number inside a run.
            inside = np.searchsorted(masked, np.arange(start, stop) + 1, "right") % 2 == 1
            targets[b, row] = np.where(inside, -1, corpus[start + 1 : stop + 1].astype(np.int32))
            starts[b, row] = begin
            t = row.stop
    return np.count_nonzero(targets >= 0)


def crc32(data: Array, crc: int) -> int:
    """The remainder of the message as a polynomial over GF(2), by one of degree 32 (ISO 3309)."""
    return zlib.crc32(data, crc)


def all_finite(x: Array) -> bool:
    """No NaN and no infinity."""
    return bool(np.isfinite(x).all())
