"""The factors of a matrix product, copied into strips: the order in which a tile of the result reads them.

A product is fast when its numbers lie where they are needed next (Goto and van de Geijn 2008, "Anatomy of
high-performance matrix multiplication"). A strip holds some rows of A, or some columns of B, k after k:

    A, its rows 0 to 7:      a[0,0] a[1,0] ... a[7,0]   a[0,1] a[1,1] ... a[7,1]   a[0,2] ...
    B, its columns 0 to 31:  b[0,0] b[0,1] ... b[0,31]  b[1,0] b[1,1] ... b[1,31]  b[2,0] ...

It is read from front to end, so every line that the cache fetches is used whole. A factor may lie either way
in memory, W or its transpose. Where a row of memory belongs to one k, a strip's numbers for this k are side
by side, and are copied. Where k runs along the rows, squares of eight by eight are transposed in registers.
What does not fill a strip or a square is copied number by number.

Numba has no vectors, so what deals with them is written for LLVM; it is called with addresses, in bytes.
Order: sizes, instructions, whole strips, all strips.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from llvmlite import binding, ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils as untyped
from numba.extending import intrinsic

from .jit import config, jit

cgutils: Any = untyped
_FEATURES = {} if config.CPU_NAME or config.CPU_FEATURES else binding.get_host_cpu_features()
LANES = 16 if _FEATURES.get("avx512f") else 8  # numbers of a vector; NEON takes two registers for 8
# A tile of the result: its sums stay in registers, beside what they are made of. A multiply-add takes four
# cycles and two may begin in each, so eight sums at least are needed; with more, fewer loads are. The 32
# registers of AVX-512 hold 8 x 2 vectors of 16; the 16 of AVX2 hold 6 x 2 of 8, NEON's 32 as many in halves.
ROWS, COLUMNS = 8 if LANES == 16 else 6, 2 * LANES
SIDE = 8  # of a square
NUMBER, INDEX, ADDRESS = ir.FloatType(), ir.IntType(32), ir.IntType(64)


class Factor(NamedTuple):
    """A matrix of float32 in memory that strips are taken from."""

    address: int
    row: int  # bytes from one row of memory to the next
    along: bool  # k runs along the rows; otherwise each row belongs to one k
    size: int  # M of A, N of B


def load(b: Any, kind: Any, address: Any, offset: int = 0) -> Any:
    """Emit the number or vector that lies `offset` bytes behind an address."""
    return b.load(b.inttoptr(b.add(address, ADDRESS(offset)), kind.as_pointer()), align=4)


def store(b: Any, value: Any, address: Any, offset: int = 0) -> None:
    """Emit the writing of a number or vector `offset` bytes behind an address."""
    b.store(value, b.inttoptr(b.add(address, ADDRESS(offset)), value.type.as_pointer()), align=4)


def _one(_: Any, target: Any, source: Any) -> Any:
    def emit(_: Any, b: Any, __: Any, arguments: Any) -> None:
        store(b, load(b, NUMBER, arguments[1]), arguments[0])

    return types.void(types.intp, types.intp), emit


_copy_number: Any = intrinsic(_one)


@jit
def copy(target: int, pitch: int, source: int, row: int, step: int, rows: int, columns: int) -> None:
    """Copy numbers one by one to rows `pitch` bytes apart, from rows `row` and columns `step` bytes apart."""
    for i in range(rows):
        for j in range(columns):
            _copy_number(target + i * pitch + 4 * j, source + i * row + j * step)


def _transposed(b: Any, rows: list[Any]) -> list[Any]:
    """Emit the columns of a square of eight vectors of eight.

    Number `lane` of row i has to become number i of row `lane`. Each round does so for one bit of both: where
    it is 1 in the one and 0 in the other, the numbers of two rows change places.
    """
    for bit in (4, 2, 1):
        low = [SIDE + lane - bit if lane & bit else lane for lane in range(SIDE)]
        high = [SIDE + lane if lane & bit else lane + bit for lane in range(SIDE)]
        for i in (i for i in range(SIDE) if not i & bit):
            pair = rows[i], rows[i | bit]
            rows[i], rows[i | bit] = (
                b.shuffle_vector(*pair, ir.VectorType(INDEX, SIDE)(lanes)) for lanes in (low, high)
            )
    return rows


def _squares(b: Any, width: int, strip: Any, source: Any, row: Any) -> None:
    """Emit SIDE k's of a strip of `width`, from as many rows of memory."""
    for first in range(0, width, SIDE):
        count = min(SIDE, width - first)  # the tile of 6 rows repeats the last one, to fill the square
        starts = [b.add(source, b.mul(row, ADDRESS(first + min(i, count - 1)))) for i in range(SIDE)]
        columns = _transposed(b, [load(b, ir.VectorType(NUMBER, SIDE), start) for start in starts])
        kept = ir.VectorType(INDEX, count)(list(range(count)))
        for k, vector in enumerate(columns):
            store(b, b.shuffle_vector(vector, vector, kept), strip, 4 * (width * k + first))


def _packing(width: int, along: bool) -> Callable[..., None]:
    """Return a function for kernels that packs `depth` whole k's; where k runs along rows, SIDE at a time."""

    @intrinsic
    def pack(_: Any, strip: Any, source: Any, row: Any, depth: Any) -> Any:
        def emit(_: Any, b: Any, __: Any, arguments: Any) -> None:
            strip, source, row, depth = arguments
            step = ADDRESS(SIDE if along else 1)
            with cgutils.for_range_slice(b, ADDRESS(0), depth, step, inc=True) as (k, _):
                here = b.add(strip, b.mul(k, ADDRESS(4 * width)))
                if along:
                    _squares(b, width, here, b.add(source, b.mul(k, ADDRESS(4))), row)
                else:
                    store(b, load(b, ir.VectorType(NUMBER, width), b.add(source, b.mul(k, row))), here)

        return types.void(*[types.intp] * 4), emit

    return pack


_rows_along, _rows_across = _packing(ROWS, True), _packing(ROWS, False)
_columns_along, _columns_across = _packing(COLUMNS, True), _packing(COLUMNS, False)


@jit
def pack(strip: int, width: int, x: Factor, first: int, k: int, depth: int) -> None:
    """Pack `depth` k's from k on, of the `width` rows of A (ROWS) or columns of B (COLUMNS) from `first` on.

    Of those that the matrix does not have, the strip keeps what it held: the sums they enter are not used.
    """
    number, line = (
        (x.row, 4) if x.along else (4, x.row)
    )  # from one number of a k to the next, and from k to k
    source = x.address + first * number + k * line
    done = 0 if first + width > x.size else depth // SIDE * SIDE if x.along else depth
    if width == ROWS:
        if x.along:
            _rows_along(strip, source, x.row, done)
        else:
            _rows_across(strip, source, x.row, done)
    elif x.along:
        _columns_along(strip, source, x.row, done)
    else:
        _columns_across(strip, source, x.row, done)
    there = min(width, x.size - first)
    copy(strip + 4 * width * done, 4 * width, source + done * line, line, number, depth - done, there)
