"""Matrix products in float32 whose bits depend on the numbers alone: C (M, N) = or += A (M, K) · B (K, N).

No processor, vector or tile changes a bit of C: it is defined how each number is summed. The k's are taken
in blocks of 256, in order. A block is one chain of multiply-adds from 0, each rounded once; the sums of
blocks are added up one by one, to what C held where the product is added to it:

    c[i,j] = (c[i,j] + (... (a[i,0] b[0,j] + a[i,1] b[1,j]) ... + a[i,255] b[255,j])) + (256 to 511) + ...

Blocks are more accurate than one chain of thousands, and what one block reads stays in the cache. Speed is a
matter of how often a number is loaded. A tile of C, 8 rows by 32 columns, is 16 vectors in registers. For
each k, 2 vectors of B's strip meet 8 numbers of A's: 16 multiply-adds for 10 loads from the nearest cache.

    registers   a tile of C
    L1          the strip of B that is used by all tiles above each other; packed just before
    L2          the strips of A of 512 rows, which all strips of B meet; packed once for all of them
    memory      C, where each number is met once in 256 k's

While tiles run, they ask for the lines of B's next strip. Order: sizes, the processor, the tile, the loops,
the call.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import binding, ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

from .jit import Array, address, config, jit, wide_vectors
from .strips import ADDRESS, COLUMNS, INDEX, LANES, NUMBER, ROWS, Factor, cgutils, copy, load, pack, store

DEPTH = 256  # k's of a block: part of the definition
_BLOCK = 64 * ROWS  # rows of A whose strips lie in L2
_TURN = 16  # rows that are packed at a time where each belongs to one k: A's strips share their lines
ROOM = (64 * 8 + 32) * DEPTH + 8 * 32  # numbers that strips, and a tile at the edge, take at most
_VECTOR = ir.VectorType(NUMBER, LANES)


def _fuses() -> bool:
    """Return whether the processor has a multiply-add that rounds once; without, LLVM calls C's slow fmaf."""
    if config.DISABLE_JIT:
        return False
    features = config.CPU_FEATURES or ("" if config.CPU_NAME else binding.get_host_cpu_features().flatten())
    processor = config.CPU_NAME or binding.get_host_cpu_name()
    machine = binding.Target.from_default_triple().create_target_machine(processor, features)
    code = """
    declare float @llvm.fma.f32(float, float, float)
    define float @f(float %a) { %b = call float @llvm.fma.f32(float %a, float %a, float %a) ret float %b }
    """
    return "fmaf" not in machine.emit_assembly(binding.parse_assembly(code))


FUSES = _fuses()


def _call(b: Any, name: str, result: Any, *arguments: Any) -> Any:
    kind = ir.FunctionType(result, [each.type for each in arguments])
    return b.call(cgutils.get_or_insert_function(b.module, kind, name), arguments)


def _prefetch(b: Any, place: Any, write: int, level: int) -> None:
    pointer = b.inttoptr(place, ir.IntType(8).as_pointer())
    _call(b, "llvm.prefetch.p0", ir.VoidType(), pointer, INDEX(write), INDEX(level), INDEX(1))


def _ask(_: Any, place: Any) -> Any:
    return types.void(types.intp), lambda _, b, __, arguments: _prefetch(b, arguments[0], 0, 2)


def _sums(_: Any, c: Any, row: Any, left: Any, right: Any, depth: Any, add: Any) -> Any:
    """The tile at address c, of rows `row` bytes apart, is, or is increased by, A's strip times B's."""

    def emit(_: Any, b: Any, __: Any, arguments: Any) -> None:
        c, row, left, right, depth, add = arguments
        starts = [b.add(c, b.mul(row, ADDRESS(i))) for i in range(ROWS)]
        places = [(start, 4 * first) for start in starts for first in range(0, COLUMNS, LANES)]
        sums = [cgutils.alloca_once_value(b, _VECTOR(None)) for _ in places]  # LLVM keeps them in registers
        for start, offset in places:  # needed at the end
            _prefetch(b, b.add(start, ADDRESS(offset)), 1, 3)
        with cgutils.for_range(b, depth) as loop:
            numbers = b.add(left, b.mul(loop.index, ADDRESS(4 * ROWS)))
            line = b.add(right, b.mul(loop.index, ADDRESS(4 * COLUMNS)))
            vectors = [load(b, _VECTOR, line, 4 * first) for first in range(0, COLUMNS, LANES)]
            for i in range(ROWS):
                first = b.insert_element(_VECTOR(ir.Undefined), load(b, NUMBER, numbers, 4 * i), INDEX(0))
                number = b.shuffle_vector(first, first, ir.VectorType(INDEX, LANES)(None))  # in all lanes
                for vector, total in zip(vectors, sums[i * len(vectors) :], strict=False):
                    value = _call(b, f"llvm.fma.v{LANES}f32", _VECTOR, number, vector, b.load(total))
                    b.store(value, total)
        with b.if_then(add):
            for total, (start, offset) in zip(sums, places, strict=True):
                b.store(b.fadd(load(b, _VECTOR, start, offset), b.load(total)), total)
        for total, (start, offset) in zip(sums, places, strict=True):
            store(b, b.load(total), start, offset)

    return types.void(*[types.intp] * 5, types.boolean), emit


# As Any: Numba supplies their first argument, of which type checkers know nothing.
_fetch: Any = intrinsic(_ask)
_tile: Any = intrinsic(_sums)


@jit
def _fetch_part(x: Factor, first: int, k: int, depth: int, part: int, parts: int) -> None:
    """Ask for a part of the lines that B's strip from column `first` on will be packed from."""
    number, line = (x.row, 4) if x.along else (4, x.row)
    source = x.address + first * number + k * line
    rows, lines = (COLUMNS, depth // 16) if x.along else (depth, COLUMNS // 16)
    for i in range(rows * lines * part // parts, rows * lines * (part + 1) // parts):
        _fetch(source + i // lines * x.row + i % lines * 64)


@jit
def _block(
    c: int, row: int, a: Factor, b: Factor, top: int, k: int, depth: int, add: bool, room: int
) -> None:
    """Add one block of k's to one block of C's rows, from `top` on; or write it."""
    wide_vectors()
    right, left = room, room + 4 * COLUMNS * DEPTH
    corner = left + 4 * _BLOCK * DEPTH
    bottom = min(top + _BLOCK, a.size)
    turn = DEPTH if a.along else _TURN
    for i in range(0, depth, turn):
        for m in range(top, bottom, ROWS):
            strip = left + 4 * ((m - top) * depth + i * ROWS)
            pack(strip, ROWS, a, m, k + i, min(turn, depth - i))
    for n in range(0, b.size, COLUMNS):
        pack(right, COLUMNS, b, n, k, depth)
        for m in range(top, bottom, ROWS):
            if n + COLUMNS < b.size:
                _fetch_part(b, n + COLUMNS, k, depth, (m - top) // ROWS, (bottom - top + ROWS - 1) // ROWS)
            strip, place = left + 4 * (m - top) * depth, c + m * row + 4 * n
            rows, columns = min(ROWS, a.size - m), min(COLUMNS, b.size - n)
            whole = rows == ROWS and columns == COLUMNS
            if add and not whole:  # at an edge: the part that C has, by way of a whole tile
                copy(corner, 4 * COLUMNS, place, row, 4, rows, columns)
            _tile(place if whole else corner, row if whole else 4 * COLUMNS, strip, right, depth, add)
            if not whole:
                copy(place, row, corner, 4 * COLUMNS, 4, rows, columns)


@jit
def _product(
    c: int, row: int, K: int, add: bool, room: int,
    a_address: int, a_row: int, a_along: bool, M: int, b_address: int, b_row: int, b_along: bool, N: int,
) -> None:  # fmt: skip
    # Numbers one by one: of tuples that Numba is given by Python, a few are never freed.
    a, b = Factor(a_address, a_row, a_along, M), Factor(b_address, b_row, b_along, N)
    for top in range(0, M, _BLOCK):
        for k in range(0, max(K, 1), DEPTH):  # without any k, C is 0
            _block(c, row, a, b, top, k, min(DEPTH, K - k), add or k > 0, room)


def _factor(x: Array, k_axis: int) -> Factor:
    """Return x as a factor, k being its axis `k_axis`; ValueError where memory has gaps."""
    rows = 0 if x.flags.c_contiguous else 1  # the axis along which memory's rows follow each other
    if rows and not x.flags.f_contiguous:
        raise ValueError(
            f"a factor: expected C-contiguous memory or its transpose, found strides {x.strides}"
        )
    return Factor(address(x), x.strides[rows], rows != k_axis, x.shape[1 - k_axis])


def multiply(c: Array, a: Array, b: Array, room: Array, add: bool = False) -> None:
    """Make c (M, N) = a (M, K) · b (K, N), or add that to it: in float32 as the head of this file defines it.

    c is C-contiguous; a and b are, or are transposes of what is. room (at least ROOM,) holds strips. Other
    types, and processors without a fused multiply-add, get NumPy's product.
    """
    if c.dtype == np.float32 and FUSES:
        place, (_, K) = address(c), a.shape
        _product(place, c.strides[0], K, add, address(room), *_factor(a, 1), *_factor(b, 0))
    elif add:
        c += a @ b
    else:
        np.matmul(a, b, out=c)
