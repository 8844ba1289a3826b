"""What each kernel is timed on: arguments of a step's sizes, the bytes it must move, PyTorch's own operator.

One function a kernel, of the kernel's name. It takes `Sizes` and returns a `Case`; the operator gets the
torch package and the arguments as tensors. Order: sizes and cases, then the kernels in the model's order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from benchmarks.shapes import Shape
from tinyllm.arena import Array

Operator = Callable[..., Callable[[], Any]]


class Case(NamedTuple):
    """A kernel's arguments; what it must read and what it must write, each array once; PyTorch's operator."""

    arguments: tuple[Any, ...]
    read: tuple[Array, ...]
    written: tuple[Array, ...]
    torch: Operator

    @property
    def moved(self) -> int:
        """Bytes, read and written."""
        return sum(array.nbytes for array in (*self.read, *self.written))


class Sizes:
    """Arguments for a worker's share of a step: N rows of C channels, F = 4C, B sequences of T, V tokens."""

    def __init__(self, shape: Shape, workers: int) -> None:
        self.V, self.T, _, _, self.H, self.C = shape
        self.B = max(shape.B // workers, 1)
        self.N, self.F, self.size = self.B * self.T, 4 * self.C, shape.parameters
        self.rng = np.random.default_rng(0)
        self.tokens = self.rng.integers(0, self.V, self.N).astype(np.int32)
        self.positions = np.tile(np.arange(self.T, dtype=np.int32), self.B)
        self.starts = np.zeros((self.B, self.T), np.int32)

    def normal(self, *shape: int) -> Array:
        """Return drawn numbers, float32."""
        return self.rng.standard_normal(shape, dtype=np.float32)

    def met(self, table: Array, places: Array) -> tuple[Array, Array]:
        """Return as many rows of the two tables as the tokens and positions name."""
        return table[: len(set(self.tokens.tolist()))], places


def gradient(torch: Any, out: Any, inputs: tuple[Any, ...], dy: Any) -> Callable[[], Any]:
    """Return PyTorch's backward of `out` alone, its forward done."""
    return lambda: torch.autograd.grad(out, inputs, dy, retain_graph=True)


def leaves(*tensors: Any) -> tuple[Any, ...]:
    """Return the tensors as inputs whose gradients are wanted."""
    return tuple(tensor.detach().requires_grad_() for tensor in tensors)


def embedding_forward(s: Sizes) -> Case:
    x, tables = s.normal(s.N, s.C), (s.normal(s.V, s.C), s.normal(s.T, s.C))

    def operator(torch: Any, x: Any, tokens: Any, positions: Any, table: Any, places: Any) -> Any:
        F = torch.nn.functional
        return lambda: F.embedding(tokens, table) + F.embedding(positions, places)

    return Case((x, s.tokens, s.positions, *tables), s.met(*tables), (x,), operator)


def embedding_backward(s: Sizes) -> Case:
    tables, dx = (s.normal(s.V, s.C), s.normal(s.T, s.C)), s.normal(s.N, s.C)

    def operator(torch: Any, table: Any, places: Any, dx: Any, tokens: Any, positions: Any) -> Any:
        return lambda: (table.index_add_(0, tokens, dx), places.index_add_(0, positions, dx))

    return Case((*tables, dx, s.tokens, s.positions), (dx, *s.met(*tables)), s.met(*tables), operator)


def layernorm_forward(s: Sizes) -> Case:
    y, x, mean, rstd = s.normal(s.N, s.C), s.normal(s.N, s.C), s.normal(s.N), s.normal(s.N)

    def operator(torch: Any, y: Any, mean: Any, rstd: Any, x: Any, gain: Any, bias: Any) -> Any:
        return lambda: torch.nn.functional.layer_norm(x, (s.C,), gain, bias)

    return Case((y, mean, rstd, x, s.normal(s.C), s.normal(s.C)), (x,), (y, mean, rstd), operator)


def layernorm_backward(s: Sizes) -> Case:
    dx, dy, x, vectors = s.normal(s.N, s.C), s.normal(s.N, s.C), s.normal(s.N, s.C), s.normal(3, s.C)
    mean, rstd = x.mean(axis=1), 1 / x.std(axis=1)

    def operator(torch: Any, dx: Any, dgain: Any, dbias: Any, dy: Any, x: Any, gain: Any, *_: Any) -> Any:
        inputs = leaves(x, gain, dbias)
        out = torch.nn.functional.layer_norm(inputs[0], (s.C,), *inputs[1:])
        backward = gradient(torch, out, inputs, dy)
        return lambda: dx.add_(backward()[0])

    return Case((dx, vectors[0], vectors[1], dy, x, vectors[2], mean, rstd), (dx, dy, x), (dx,), operator)


def add_bias_(s: Sizes) -> Case:
    y = s.normal(s.N, 3 * s.C)
    return Case((y, s.normal(3 * s.C)), (y,), (y,), lambda torch, y, bias: lambda: y.add_(bias))


def bias_backward(s: Sizes) -> Case:
    dy = s.normal(s.N, 3 * s.C)
    return Case((s.normal(3 * s.C), dy), (dy,), (), lambda torch, dbias, dy: lambda: dbias.add_(dy.sum(0)))


def causal_softmax_forward(s: Sizes) -> Case:
    p, scale = s.normal(s.B, s.H, s.T, s.T), (s.C // s.H) ** -0.5

    def operator(torch: Any, p: Any, starts: Any, scale: float) -> Any:
        hidden, out = torch.ones(s.T, s.T, dtype=torch.bool).triu(1), torch.empty_like(p)
        return lambda: torch.softmax(p.mul_(scale).masked_fill_(hidden, -torch.inf), -1, out=out)

    return Case((p, s.starts, scale), (p,), (p,), operator)


def causal_softmax_backward(s: Sizes) -> Case:
    dp, scale = s.normal(s.B, s.H, s.T, s.T), (s.C // s.H) ** -0.5
    p = np.tril(np.ones((s.T, s.T), np.float32)) / np.arange(1, s.T + 1, dtype=np.float32)[:, None]
    p = np.broadcast_to(p, dp.shape).copy()

    def operator(torch: Any, dp: Any, p: Any, starts: Any, scale: float) -> Any:
        return lambda: torch.ops.aten._softmax_backward_data(dp, p, -1, torch.float32).mul_(scale)

    return Case((dp, p, s.starts, scale), (dp, p), (dp,), operator)


def bias_gelu_forward(s: Sizes) -> Case:
    y, x, bias = s.normal(s.N, s.F), s.normal(s.N, s.F), s.normal(s.F)

    def operator(torch: Any, y: Any, x: Any, bias: Any) -> Any:
        return lambda: torch.nn.functional.gelu(x + bias, approximate="tanh")

    return Case((y, x, bias), (x,), (y,), operator)


def bias_gelu_backward(s: Sizes) -> Case:
    dx, dy, x, vectors = s.normal(s.N, s.F), s.normal(s.N, s.F), s.normal(s.N, s.F), s.normal(2, s.F)

    def operator(torch: Any, dx: Any, dbias: Any, dy: Any, x: Any, bias: Any) -> Any:
        inputs = leaves(x, bias)
        return gradient(
            torch, torch.nn.functional.gelu(inputs[0] + inputs[1], approximate="tanh"), inputs, dy
        )

    return Case((dx, vectors[0], dy, x, vectors[1]), (dy, x), (dx,), operator)


def add_(s: Sizes) -> Case:
    y, x = s.normal(s.N, s.C), s.normal(s.N, s.C)
    return Case((y, x), (y, x), (y,), lambda torch, y, x: lambda: y.add_(x))


def dropout_forward(s: Sizes) -> Case:
    y, x = s.normal(s.N, s.C), s.normal(s.N, s.C)

    def operator(torch: Any, y: Any, x: Any, *_: Any) -> Any:
        return lambda: torch.nn.functional.dropout(x, 0.1, training=True)

    return Case((y, x, 7, 0, 0.1), (x,), (y,), operator)


def dropout_backward(s: Sizes) -> Case:
    dx, dy = s.normal(s.N, s.C), s.normal(s.N, s.C)

    def operator(torch: Any, dx: Any, dy: Any, *_: Any) -> Any:
        inputs = leaves(dx)
        return gradient(torch, torch.nn.functional.dropout(inputs[0], 0.1, training=True), inputs, dy)

    return Case((dx, dy, 7, 0, 0.1), (dy,), (dx,), operator)


def cross_entropy_forward(s: Sizes) -> Case:
    losses, logits = np.zeros(s.N), s.normal(s.N, s.V)

    def operator(torch: Any, losses: Any, logits: Any, targets: Any) -> Any:
        return lambda: torch.nn.functional.cross_entropy(logits, targets, reduction="none")

    return Case((losses, logits, s.tokens), (logits,), (logits, losses), operator)


def cross_entropy_backward(s: Sizes) -> Case:
    dlogits = s.normal(s.N, s.V)

    def operator(torch: Any, dlogits: Any, targets: Any, scale: float) -> Any:
        inputs = leaves(dlogits)
        return gradient(torch, torch.nn.functional.cross_entropy(*inputs, targets), inputs, None)

    return Case((dlogits, s.tokens, 1 / s.N), (dlogits,), (dlogits,), operator)


def sum_squares(s: Sizes) -> Case:
    x = s.normal(s.size)
    return Case((x,), (x,), (), lambda torch, x: lambda: torch.linalg.vector_norm(x))


def add_and_clear_(s: Sizes) -> Case:
    total, other = s.normal(s.size), s.normal(s.size)

    def operator(torch: Any, total: Any, other: Any) -> Any:
        return lambda: (total.add_(other), other.zero_())

    return Case((total, other), (total, other), (total, other), operator)


def adam_(s: Sizes) -> Case:
    params, grads, m, v = rows = s.normal(4, s.size)
    np.abs(v, out=v)

    def operator(torch: Any, params: Any, grads: Any, *_: Any) -> Any:
        params.grad = grads
        adam = torch.optim.AdamW([params], lr=1e-3, fused=True)
        return lambda: (adam.step(), grads.zero_())

    settings = (1e-3, 0.9, 0.999, 1e-8, 0.1, 0.001, 0.1, 1.0)
    return Case((params, grads, m, v, *settings), tuple(rows), tuple(rows), operator)


CASES: dict[str, Callable[[Sizes], Case]] = {
    f.__name__: f
    for f in (
        embedding_forward, embedding_backward, layernorm_forward, layernorm_backward,
        add_bias_, bias_backward, causal_softmax_forward, causal_softmax_backward,
        bias_gelu_forward, bias_gelu_backward, add_, dropout_forward, dropout_backward,
        cross_entropy_forward, cross_entropy_backward, sum_squares, add_and_clear_, adam_,
    )
}  # fmt: skip
