"""The two scalar functions that LLVM vectorises only in a special form: exp and maximum.

`math.exp` is a call into libm, one element at a time, and a comparison in a loop must mind every NaN.
Both are inlined into the loops that call them. Their Python bodies serve NUMBA_DISABLE_JIT=1. Order: the
two as they are called, exp as arithmetic, maximum as one instruction.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic, overload

from .jit import ORDERED

LOWEST, HIGHEST = np.float32(-87.3), np.float32(88.37)  # between them e**x is a normal float32
ROUNDER = np.float32(3 << 22)  # 1.5 * 2**23


def exp(x: float) -> float:
    """Return e**x; in float32 to a relative error of 1e-7, and between 0 and 2.4e38.

    float32 results below 1.2e-38 are 0 and those above 2.4e38 stay there; NaN stays NaN. Callers that
    subtract a maximum first never reach the upper end.
    """
    return math.exp(x)


def maximum(x: float, y: float) -> float:
    """Return the larger of x and y; where one is NaN, the other."""
    return y if y > x or x != x else x


def _exp_float64(x: Any) -> Any:
    return math.exp(x)


def _exp_float32(x: Any) -> Any:
    """e**x = 2**n e**r with n = round(x / ln 2), so |r| <= ln(2) / 2; coefficients: Cephes expf (Moshier)."""
    f = np.float32
    # Conditional expressions, in this order: each becomes one instruction, and a NaN stays a NaN.
    above = LOWEST if x < LOWEST else x
    inside = HIGHEST if above > HIGHEST else above
    # So large a number has no fraction bits left: the sum is rounded to a whole n, in its lowest bits.
    shifted = inside * f(1.44269504088896) + ROUNDER
    n = shifted - ROUNDER
    # The remainder, with ln 2 in two parts: the first has few bits, so that n * part is exact.
    r = inside - n * f(0.693359375)
    r = r - n * f(-2.12194440e-4)
    # e**r = 1 + r + r**2 p(r), p by Horner's rule.
    p = f(1.9875691500e-4)
    p = p * r + f(1.3981999507e-3)
    p = p * r + f(8.3334519073e-3)
    p = p * r + f(4.1665795894e-2)
    p = p * r + f(1.6666665459e-1)
    p = p * r + f(5.0000001201e-1)
    p = p * (r * r) + r + f(1.0)
    # Adding n to the exponent, from bit 23 on, multiplies by 2**n; of `shifted`, only n's bits stay.
    power = f(p).view(np.int32) + (f(shifted).view(np.int32) << np.int32(23))
    return f(0.0) if x < LOWEST else np.int32(power).view(np.float32)


# Numba replaces a call of `exp` by the function returned here, chosen by the type of x.
@overload(exp, jit_options=ORDERED)
def _exp(x: Any) -> Callable[[Any], Any]:
    return _exp_float32 if x == types.float32 else _exp_float64


# LLVM's own maximum, which has NaN's rule in it and becomes one or two instructions.
@intrinsic
def _maxnum(_: Any, x: Any, y: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = arguments[0].type
        function = ir.FunctionType(kind, [kind, kind])
        return builder.call(builder.module.declare_intrinsic("llvm.maxnum", [kind], function), arguments)

    return x(x, x), emit


@overload(maximum, jit_options=ORDERED)
def _maximum(x: Any, y: Any) -> Callable[[Any, Any], Any]:
    def call(x: Any, y: Any) -> Any:
        return _maxnum(x, y)  # type: ignore[call-arg]  # Numba supplies its own first argument

    return call
