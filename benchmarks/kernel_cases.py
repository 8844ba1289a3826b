"""What each kernel is timed on: arguments of a step's sizes, the bytes it must move, PyTorch's own operator.

One function a kernel, of the kernel's name. It takes `Sizes` and returns a `Case`; the operator gets the
torch package and the arguments as tensors, and returns what is timed. In the model's order; what is not of a
step is in kernel_cases_around.py.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.kernel_cases_around import AROUND
from benchmarks.kernel_sizes import Case, Sizes, gradient, leaves
from tinyllm.kernels import ROOM


def embedding_forward(s: Sizes) -> Case:
    x, tables = s.normal(s.N, s.C), (s.normal(s.V, s.C), s.normal(s.T, s.C))

    def operator(torch, x, tokens, positions, table, places):
        F = torch.nn.functional
        return lambda: F.embedding(tokens, table) + F.embedding(positions, places)

    return Case((x, s.tokens, s.positions, *tables), s.met(*tables), (x,), operator)


def embedding_backward(s: Sizes) -> Case:
    tables, dx = (s.normal(s.V, s.C), s.normal(s.T, s.C)), s.normal(s.N, s.C)

    def operator(torch, table, places, dx, tokens, positions):
        return lambda: (table.index_add_(0, tokens, dx), places.index_add_(0, positions, dx))

    return Case((*tables, dx, s.tokens, s.positions), (dx, *s.met(*tables)), s.met(*tables), operator)


def layernorm_forward(s: Sizes) -> Case:
    y, x, mean, rstd = s.normal(s.N, s.C), s.normal(s.N, s.C), s.normal(s.N), s.normal(s.N)

    def operator(torch, y, mean, rstd, x, gain, bias):
        return lambda: torch.nn.functional.layer_norm(x, (s.C,), gain, bias)

    return Case((y, mean, rstd, x, s.normal(s.C), s.normal(s.C)), (x,), (y, mean, rstd), operator)


def layernorm_backward(s: Sizes) -> Case:
    dx, dy, x, vectors = s.normal(s.N, s.C), s.normal(s.N, s.C), s.normal(s.N, s.C), s.normal(3, s.C)
    mean, rstd = x.mean(axis=1), 1 / x.std(axis=1)

    def operator(torch, dx, dgain, dbias, dy, x, gain, *_):
        inputs = leaves(x, gain, dbias)
        out = torch.nn.functional.layer_norm(inputs[0], (s.C,), *inputs[1:])
        backward = gradient(torch, out, inputs, dy)
        return lambda: dx.add_(backward()[0])

    return Case((dx, vectors[0], vectors[1], dy, x, vectors[2], mean, rstd), (dx, dy, x), (dx,), operator)


def multiply(s: Sizes) -> Case:
    y, x, weight = s.normal(s.N, 3 * s.C), s.normal(s.N, s.C), s.normal(3 * s.C, s.C)

    def operator(torch, y, x, weight, *_):
        return lambda: torch.mm(x, weight, out=y)

    arguments = (y, x, weight.T, s.normal(ROOM))
    return Case(arguments, (x, weight), (y,), operator, lambda: np.matmul(x, weight.T, out=y))


def add_bias_(s: Sizes) -> Case:
    y = s.normal(s.N, 3 * s.C)
    return Case((y, s.normal(3 * s.C)), (y,), (y,), lambda torch, y, bias: lambda: y.add_(bias))


def bias_backward(s: Sizes) -> Case:
    dy = s.normal(s.N, 3 * s.C)
    return Case((s.normal(3 * s.C), dy), (dy,), (), lambda torch, dbias, dy: lambda: dbias.add_(dy.sum(0)))


def attention_forward(s: Sizes) -> Case:
    p, lse, block = s.attention_block()

    def operator(torch, p, lse, starts, query, key, scale, *_):
        hidden, out = torch.ones(p.shape[2:], dtype=torch.bool).triu(1 + query), torch.empty_like(p)

        def forward():
            scores = p.mul_(scale).masked_fill_(hidden, -torch.inf)
            return torch.softmax(scores, -1, out=out), torch.logsumexp(scores, -1)

        return forward

    return Case((p, lse, *block), (p,), (p,), operator)


def attention_backward(s: Sizes) -> Case:
    p, lse, block = s.attention_block()
    dp, delta = s.normal(*p.shape), s.normal(*lse.shape)
    lse += 3 + np.log(s.T)

    def operator(torch, p, dp, lse, delta, starts, query, key, scale, *_):
        hidden = torch.ones(p.shape[2:], dtype=torch.bool).triu(1 + query)
        lse, delta = lse[:, :, query:, None], delta[:, :, query:, None]

        def backward():
            p.mul_(scale).sub_(lse).exp_().masked_fill_(hidden, 0)
            return dp.sub_(delta).mul_(p).mul_(scale)

        return backward

    return Case((p, dp, lse, delta, *block), (p, dp), (p, dp), operator)


def attention_delta(s: Sizes) -> Case:
    delta, dy, y = s.normal(s.B, s.H, s.T), s.normal(s.N, s.C), s.normal(s.N, s.C)

    def operator(torch, delta, dy, y):
        return lambda: (dy * y).view(s.B, s.T, s.H, -1).sum(-1).transpose(1, 2)

    return Case((delta, dy, y), (dy, y), (delta,), operator)


def copy_heads(s: Sizes) -> Case:
    x = s.heads()
    y = np.empty(x.shape, np.float32)
    return Case((y, x), (x,), (y,), lambda torch, y, x: lambda: y.copy_(x))


def transpose_heads(s: Sizes) -> Case:
    x = s.heads()
    y = np.empty((*x.shape[:2], x.shape[3], s.T + 16), np.float32)

    def operator(torch, y, x):
        return lambda: y[..., : s.T].copy_(x.transpose(2, 3))

    return Case((y, x), (x,), (x,), operator)


def bias_gelu_forward(s: Sizes) -> Case:
    y, x, bias = s.normal(s.N, s.F), s.normal(s.N, s.F), s.normal(s.F)

    def operator(torch, y, x, bias):
        return lambda: torch.nn.functional.gelu(x + bias, approximate="tanh")

    return Case((y, x, bias), (x,), (y,), operator)


def bias_gelu_backward(s: Sizes) -> Case:
    dx, y, x, vectors = s.normal(s.N, s.F), s.normal(s.N, s.F), s.normal(s.N, s.F), s.normal(2, s.F)

    def operator(torch, dx, y, dbias, x, bias):
        inputs = leaves(x, bias)
        return gradient(
            torch, torch.nn.functional.gelu(inputs[0] + inputs[1], approximate="tanh"), inputs, dx
        )

    return Case((dx, y, vectors[0], x, vectors[1]), (dx, x), (dx, y), operator)


def residual_norm_forward(s: Sizes) -> Case:
    x, y, skip, h = s.normal(4, s.N, s.C)
    (mean, rstd), vectors = s.normal(2, s.N), s.normal(3, s.C)

    def operator(torch, x, y, mean, rstd, skip, h, h_bias, gain, bias, *_):
        def forward():
            stream = skip + (h + h_bias)
            return stream, torch.nn.functional.layer_norm(stream, (s.C,), gain, bias)

        return forward

    arguments = (x, y, mean, rstd, skip, h, *vectors, np.uint64(0), 0, 0.0)
    return Case(arguments, (skip, h), (x, y, mean, rstd), operator)


def residual_norm_backward(s: Sizes) -> Case:
    dx, dh, dy, x = s.normal(4, s.N, s.C)
    vectors, mean, rstd = s.normal(4, s.C), x.mean(axis=1), 1 / x.std(axis=1)

    def operator(torch, dx, dh, dh_bias, dgain, dbias, dy, x, gain, *_):
        inputs = leaves(x, x, dh_bias, gain, dbias)
        stream = inputs[0] + (inputs[1] + inputs[2])
        outputs = (stream, torch.nn.functional.layer_norm(stream, (s.C,), *inputs[3:]))
        return gradient(torch, outputs, inputs, (dx, dy))

    arguments = (dx, dh, *vectors[:3], dy, x, vectors[3], mean, rstd, np.uint64(0), 0, 0.0)
    return Case(arguments, (dx, dy, x), (dx,), operator)


def dropout_forward(s: Sizes) -> Case:
    y, x = s.normal(s.N, s.C), s.normal(s.N, s.C)

    def operator(torch, y, x, *_):
        return lambda: torch.nn.functional.dropout(x, 0.1, training=True)

    return Case((y, x, 7, 0, 0.1), (x,), (y,), operator)


def dropout_backward(s: Sizes) -> Case:
    dx, dy = s.normal(s.N, s.C), s.normal(s.N, s.C)

    def operator(torch, dx, dy, *_):
        inputs = leaves(dx)
        return gradient(torch, torch.nn.functional.dropout(inputs[0], 0.1, training=True), inputs, dy)

    return Case((dx, dy, 7, 0, 0.1), (dy,), (dx,), operator)


def cross_entropy_forward(s: Sizes) -> Case:
    losses, logits = np.zeros(s.rows), s.normal(s.rows, s.V)

    def operator(torch, losses, logits, targets):
        return lambda: torch.nn.functional.cross_entropy(logits, targets, reduction="none")

    return Case((losses, logits, s.tokens[: s.rows]), (logits,), (losses,), operator)


def cross_entropy_backward(s: Sizes) -> Case:
    losses, dlogits = np.zeros(s.rows), s.normal(s.rows, s.V)

    def operator(torch, losses, dlogits, targets, scale):
        (logits,) = leaves(dlogits)

        def both():  # as the kernel does: the loss, and its gradient
            return torch.autograd.grad(torch.nn.functional.cross_entropy(logits, targets), logits)

        return both

    return Case((losses, dlogits, s.tokens[: s.rows], 1 / s.N), (dlogits,), (dlogits, losses), operator)


def sum_squares(s: Sizes) -> Case:
    x = s.normal(s.size)
    return Case((x,), (x,), (), lambda torch, x: lambda: torch.linalg.vector_norm(x))


def add_and_sum_squares(s: Sizes) -> Case:
    total, other = s.normal(s.size), s.normal(s.size)

    def operator(torch, total, other):
        return lambda: torch.linalg.vector_norm(total.add_(other))

    return Case((total, other), (total, other), (total,), operator)


def adam_(s: Sizes) -> Case:
    params, grads, m, v = s.normal(4, s.size)
    np.abs(v, out=v)

    def operator(torch, params, grads, *_):
        params.grad = grads
        return torch.optim.AdamW([params], lr=1e-3, fused=True).step

    settings = (1e-3, 0.9, 0.999, 1e-8, 0.1, 0.001, 0.1, 1.0)
    return Case((params, grads, m, v, *settings), (params, grads, m, v), (params, m, v), operator)


def add_heads_(s: Sizes) -> Case:
    y, x = s.heads(), s.heads()
    return Case((y, x), (y, x), (y,), lambda torch, y, x: lambda: y.add_(x))


CASES: dict[str, Callable[[Sizes], Case]] = AROUND | {
    f.__name__: f
    for f in (
        embedding_forward, embedding_backward, layernorm_forward, layernorm_backward, multiply, add_bias_,
        bias_backward, copy_heads, transpose_heads, add_heads_, attention_forward, attention_delta,
        attention_backward, bias_gelu_forward, bias_gelu_backward, residual_norm_forward,
        residual_norm_backward, dropout_forward, dropout_backward, cross_entropy_forward,
        cross_entropy_backward, sum_squares, add_and_sum_squares, adam_,
    )
}  # fmt: skip
