"""Adam in one pass: gradient, both moments and parameters are read and written once."""

from __future__ import annotations

import numpy as np

from .jit import Array, jit

SMALLEST_NORMAL = 1.2e-38  # of float32


@jit
def adam_(
    params: Array, grads: Array, m: Array, v: Array, lr: float, beta1: float, beta2: float, epsilon: float,
    correction1: float, correction2: float, decay: float, scale: float,
) -> None:  # fmt: skip
    """Move params against the gradient scale * grads, and update m and v; all (size,).

    Kingma and Ba 2015, "Adam", algorithm 1, with correction1 = 1 - beta1**t and correction2 = 1 - beta2**t
    at update t = 1, 2, ...; `decay` is decoupled (Loshchilov and Hutter 2019, "Decoupled Weight Decay
    Regularization"): params -= lr * (m / correction1 / (sqrt(v / correction2) + epsilon) + decay * params).
    """
    dtype = params.dtype.type
    factor, rate, shrink, tiny = dtype(scale), dtype(lr), dtype(lr * decay), dtype(epsilon)
    keep1, take1 = dtype(beta1), dtype(1.0 - beta1)
    keep2, take2 = dtype(beta2), dtype(1.0 - beta2)
    unbias1, unbias2 = dtype(1.0 / correction1), dtype(1.0 / correction2)
    normal = dtype(SMALLEST_NORMAL)
    for i in range(params.size):
        g = grads[i] * factor
        first = keep1 * m[i] + take1 * g
        second = keep2 * v[i] + take2 * g * g
        # Where gradients stay 0, the moments shrink into subnormal numbers, which cost 60 times as much.
        m[i] = dtype(0) if abs(first) < normal else first
        v[i] = dtype(0) if second < normal else second
        step = rate * (first * unbias1) / (np.sqrt(second * unbias2) + tiny)
        params[i] = params[i] - step - shrink * params[i]
