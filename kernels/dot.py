"""A few rows times a weight matrix, where the cost is reading the weights: y = x Wᵀ.

Each number of the result is summed in one order, which depends on the length of a row and on nothing else:
LANES partial sums, then their sum by halves, then the remainder of the row. So a row of x gives the same bits
alone or among others, whichever rank computes it. A compiler that may reorder sums promises no such thing,
and one that may not makes no vectors; hence vectors by hand. W is read once for all rows.

    a row of C = 40:   lane i adds products i and 16 + i, 0 <= i < 16; then 16 lanes are added to 8, 4, 2, 1;
                       then products 32 to 39 are added one after another
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils as untyped
from numba.extending import intrinsic, overload

from .jit import Array

cgutils: Any = untyped
LANES = 16  # a cache line of float32
OUTPUTS, ROWS = 4, 2  # of a tile: 8 sums of LANES, which fit the registers of AVX2 too
CONTRACT = ("contract",)  # a * b + c may be rounded once


def product(y: Array, x: Array, w: Array, start: int, first: int, stop: int) -> None:
    """y[:, first:stop] = x (R, C) · W[first:stop]ᵀ, for use in kernels; W (., C) lies in w from `start` on.

    All are C-contiguous; y is (R, at least stop), w (size,).
    """
    C = x.shape[1]
    W = w[start + first * C : start + stop * C].reshape(-1, C)
    y[:, first:stop] = x @ W.T


@overload(product)
def _product(y: Any, x: Any, w: Any, start: Any, first: Any, stop: Any) -> Callable[..., None]:
    def call(y: Any, x: Any, w: Any, start: Any, first: Any, stop: Any) -> None:
        _emitted(y, x, w, start, first, stop)  # type: ignore[call-arg]  # Numba supplies its own first argument

    return call


@intrinsic
def _emitted(_: Any, y: Any, x: Any, w: Any, start: Any, first: Any, stop: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        # Numba hands arrays over as structures: data pointer, shape, strides.
        views = [
            context.make_array(kind)(context, builder, argument)
            for kind, argument in zip(signature.args[:3], arguments[:3], strict=True)
        ]
        _Emitter(builder, y.dtype.bitwidth // 8, *views, *arguments[3:]).emit()
        return context.get_dummy_value()

    return types.none(y, x, w, types.int64, types.int64, types.int64), emit


class _Emitter:
    """Writes the loops: over tiles of outputs and rows, and in a tile over the row.

    Its methods run while Numba compiles; what they emit runs later. So a Python loop is unrolled code, and a
    `with self._loop` is a loop of the program.
    """

    def __init__(
        self, builder: Any, size: int, y: Any, x: Any, w: Any, start: Any, first: Any, stop: Any
    ) -> None:
        self.builder, self.size, self.integer = builder, size, start.type  # size: bytes of an element
        self.y, self.x, self.w = y.data, x.data, builder.gep(w.data, [start])
        self.vector = ir.VectorType(self.y.type.pointee, LANES)
        (self.R, self.C), (_, self.width) = (cgutils.unpack_tuple(builder, a.shape) for a in (x, y))
        self.first, self.stop = first, stop

    def emit(self) -> None:
        # Tiles of OUTPUTS by ROWS, then those of the last odd row, then the last few outputs one by one. Rows
        # are the inner loop: a tile's weights are still in the cache for the rows that follow.
        outputs = self.builder.sub(self.stop, self.first)
        whole = self.builder.add(self.first, self._multiple(outputs, OUTPUTS))
        pairs, zero = self._multiple(self.R, ROWS), self.integer(0)
        with self._loop(self.first, whole, OUTPUTS) as o:
            with self._loop(zero, pairs, ROWS) as r:
                self._tile(o, r, OUTPUTS, ROWS)
            with self._loop(pairs, self.R, 1) as r:
                self._tile(o, r, OUTPUTS, 1)
        with self._loop(whole, self.stop, 1) as o, self._loop(zero, self.R, 1) as r:
            self._tile(o, r, 1, 1)

    def _tile(self, o: Any, r: Any, outputs: int, rows: int) -> None:
        """Emit y[r, o] and its neighbours, `rows` down and `outputs` across; their sums stay in registers."""
        b, whole = self.builder, self._multiple(self.C, LANES)
        weights = [self._row(self.w, self.C, o, i) for i in range(outputs)]
        inputs = [self._row(self.x, self.C, r, i) for i in range(rows)]
        # LANES partial sums per pair of output and row, in the order of `itertools.product`: variables, which
        # LLVM keeps in registers.
        lanes = [cgutils.alloca_once_value(b, self.vector(None)) for _ in range(outputs * rows)]
        with self._loop(self.integer(0), whole, LANES) as c:
            self._add(lanes, *([self._lanes(row, c) for row in some] for some in (weights, inputs)))
        # One number each, to which the last C % LANES products are added.
        sums = [cgutils.alloca_once_value(b, self._halved(b.load(each))) for each in lanes]
        with self._loop(whole, self.C, 1) as c:
            self._add(sums, *([b.load(b.gep(row, [c])) for row in some] for some in (weights, inputs)))
        for n, total in enumerate(sums):  # number n is output n // rows of row n % rows
            target = b.gep(self._row(self.y, self.width, r, n % rows), [o])
            b.store(b.load(total), b.gep(target, [self.integer(n // rows)]))

    def _add(self, totals: list[Any], weights: list[Any], inputs: list[Any]) -> None:
        """Emit total += weight * input for every pair, vectors or single numbers."""
        for total, (a, b) in zip(totals, itertools.product(weights, inputs), strict=True):
            product = self.builder.fmul(a, b, flags=CONTRACT)
            self.builder.store(self.builder.fadd(self.builder.load(total), product, flags=CONTRACT), total)

    def _halved(self, vector: Any) -> Any:
        """Emit the sum of a vector's lanes: the upper half onto the lower one, until one is left."""
        index, width = ir.IntType(32), LANES
        while width > 1:
            width //= 2
            lower, upper = (
                self.builder.shuffle_vector(
                    vector, vector, ir.VectorType(index, width)(list(range(first, first + width)))
                )
                for first in (0, width)
            )
            vector = self.builder.fadd(lower, upper)
        return self.builder.extract_element(vector, index(0))

    def _lanes(self, row: Any, c: Any) -> Any:
        """Emit the LANES elements of a row from c on; rows begin anywhere, so the load is unaligned."""
        address = self.builder.bitcast(self.builder.gep(row, [c]), self.vector.as_pointer())
        return self.builder.load(address, align=self.size)

    def _row(self, array: Any, width: Any, first: Any, i: int) -> Any:
        """Emit the address of row first + i of an array with rows of `width` elements."""
        number = self.builder.add(first, self.integer(i))
        return self.builder.gep(array, [self.builder.mul(number, width)])

    def _multiple(self, n: Any, step: int) -> Any:
        """Emit the largest multiple of `step`, a power of two, that is not above n."""
        return self.builder.and_(n, self.integer(-step))

    @contextmanager
    def _loop(self, first: Any, stop: Any, step: int) -> Iterator[Any]:
        """Emit a loop over range(first, stop, step), whose body is what the `with` block emits."""
        with cgutils.for_range_slice(self.builder, first, stop, self.integer(step), inc=True) as (i, _):
            yield i
