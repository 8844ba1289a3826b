"""Products of a few rows with a weight matrix, whose cost is reading the weights: y = x Wᵀ.

Each number of the result is added up in one order, which depends on the length of a row and on nothing else:
LANES partial sums, then their sum by halves, then what is left of the row. So a row of x gives the same bits
alone or among others, and whoever computes which part. No reassociation that the compiler likes could do
that; hence vectors by hand. Reading W once for several rows is what a batch gains.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from .jit import Array, jit

LANES = 16  # a cache line of float32
OUTPUTS, ROWS = 4, 2  # of a tile: 8 sums, which fit the registers of AVX2 too
CONTRACT = ("contract",)  # a * b + c may be rounded once


def _tile(outputs: int, rows: int) -> Callable[[Array, Array, Array, int, int, int], None]:
    """Return dots(y, x, w, start, o, r): y[r, o] and its neighbours, `rows` down and `outputs` across."""

    def dots(y: Array, x: Array, w: Array, start: int, o: int, r: int) -> None:
        C = x.shape[1]
        matrix = w[start + o * C : start + (o + outputs) * C].reshape(outputs, C)
        y[r : r + rows, o : o + outputs] = x[r : r + rows] @ matrix.T

    @intrinsic
    def emitted(_: Any, y: Any, x: Any, w: Any, start: Any, o: Any, r: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            views = [
                context.make_array(kind)(context, builder, argument)
                for kind, argument in zip(signature.args[:3], arguments[:3], strict=True)
            ]
            _emit(builder, signature.args[0].dtype.bitwidth // 8, *views, *arguments[3:], outputs, rows)
            return context.get_dummy_value()

        return types.none(y, x, w, start, o, r), emit

    @overload(dots)
    def _(y: Any, x: Any, w: Any, start: Any, o: Any, r: Any) -> Callable[..., None]:
        def call(y: Any, x: Any, w: Any, start: Any, o: Any, r: Any) -> None:
            emitted(y, x, w, start, o, r)  # type: ignore[call-arg]  # Numba supplies its own first argument

        return call

    return dots


def _emit(
    builder: Any, size: int, y: Any, x: Any, w: Any, start: Any, o: Any, r: Any, outputs: int, rows: int
) -> None:  # fmt: skip
    """Emit the loop over a row of x and w, with `outputs` times `rows` sums that stay in registers."""
    kind, integer = y.data.type.pointee, o.type
    vector = ir.VectorType(kind, LANES)
    length, width = (cgutils.unpack_tuple(builder, array.shape)[1] for array in (x, y))
    whole = builder.and_(length, integer(-LANES))

    def row(array: Any, width: Any, first: Any, i: int) -> Any:
        return builder.gep(array.data, [builder.mul(builder.add(first, integer(i)), width)])

    def load(row: Any, i: Any) -> Any:
        place = builder.bitcast(builder.gep(row, [i]), vector.as_pointer())
        return builder.load(place, align=size)

    def add_products(totals: Any, weights: Any, inputs: Any) -> None:
        for (a, b), total in zip(itertools.product(weights, inputs), totals, strict=True):
            product = builder.fmul(a, b, flags=CONTRACT)
            builder.store(builder.fadd(builder.load(total), product, flags=CONTRACT), total)

    weights = [builder.gep(row(w, length, o, i), [start]) for i in range(outputs)]
    inputs = [row(x, length, r, i) for i in range(rows)]
    lanes = [cgutils.alloca_once_value(builder, vector(None)) for _ in range(outputs * rows)]
    with cgutils.for_range_slice(builder, integer(0), whole, integer(LANES), inc=True) as (i, _):
        add_products(lanes, [load(each, i) for each in weights], [load(each, i) for each in inputs])
    sums = [cgutils.alloca_once_value(builder, _halved(builder, builder.load(each))) for each in lanes]
    with cgutils.for_range_slice(builder, whole, length, integer(1), inc=True) as (i, _):
        rest = [[builder.load(builder.gep(each, [i])) for each in some] for some in (weights, inputs)]
        add_products(sums, *rest)
    for n, total in enumerate(sums):
        place = builder.gep(row(y, width, r, n % rows), [builder.add(o, integer(n // rows))])
        builder.store(builder.load(total), place)


def _halved(builder: Any, vector: Any) -> Any:
    """Emit the sum of a vector's lanes: the upper half onto the lower one, until one is left."""
    index, width = ir.IntType(32), LANES
    while width > 1:
        width //= 2
        lower, upper = (
            builder.shuffle_vector(
                vector, vector, ir.VectorType(index, width)(list(range(first, first + width)))
            )
            for first in (0, width)
        )
        vector = builder.fadd(lower, upper)
    return builder.extract_element(vector, index(0))


many, several, one = _tile(OUTPUTS, ROWS), _tile(OUTPUTS, 1), _tile(1, 1)
