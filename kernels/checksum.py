"""What a checkpoint checks in every byte: CRC-32, zlib's but several times faster, and that all is finite.

A message is a polynomial over GF(2), its checksum the remainder of a division. 128 bits of it may be removed
if their remainder is added to the bits that follow at any distance, and that takes two multiplications
(Gopal et al. 2009, "Fast CRC computation for generic polynomials using PCLMULQDQ instruction"):

    (a x^64 + b) x^d  =  a (x^(d + 64) mod P) + b (x^d mod P)  modulo P; a, b of 64 bits, d the distance

Eight such lanes run side by side; zlib computes the checksum of the last 16 bytes. Numba has no name for the
instruction, so `_fold_lanes` is written for LLVM. Processors without it use zlib for everything. Order:
powers of x, folding, the checksum, finiteness.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from llvmlite import binding, ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils as _cgutils
from numba.extending import intrinsic

from .jit import Array, address, config, jit

LANES = 8  # multiplications take 7 cycles, and one may begin in each
BLOCK_BYTES = 16 * LANES
POLYNOMIAL = 0x104C11DB7  # x^32 + x^26 + ... + 1, the highest power first
cgutils: Any = _cgutils
_LANE, _WORD, _BYTE = ir.VectorType(ir.IntType(64), 2), ir.IntType(64), ir.IntType(8)

# A processor that NUMBA_CPU_NAME gives may lack what this machine has; and Python has no such instruction.
_CAN_MULTIPLY = bool(binding.get_host_cpu_features().get("pclmul")) and not (
    config.CPU_NAME or config.CPU_FEATURES or config.DISABLE_JIT
)


def _power(n: int) -> int:
    """Return x^n modulo the polynomial in CRC-32's order of bits, the lowest power first, shifted by one."""
    # CRC-32 keeps the highest power in bit 0, hence the reversal. In this order a product of two words counts
    # one x too many, and a power of 32 bits x^32: with the shift, exactly x^32 together.
    remainder = 1
    for _ in range(n):
        remainder <<= 1
        if remainder >> 32:
            remainder ^= POLYNOMIAL
    return int(f"{remainder:032b}"[::-1], 2) << 1


def _fold_lanes(context: Any, lanes: Any, blocks: Any, count: Any) -> Any:
    """Fold `count` blocks into the lanes, then all lanes into the first; both are addresses."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        multiply = builder.module.declare_intrinsic(
            "llvm.x86.pclmulqdq", (), ir.FunctionType(_LANE, [_LANE, _LANE, _BYTE])
        )

        def step(lane: Any, bits: int, following: Any) -> Any:
            """Emit the lane moved on by `bits` and added, which over GF(2) is xor, to what stands there."""
            # x^(bits + 64) for the half with higher powers, x^bits for the other, less x^32: see `_power`.
            keys = ir.Constant(_LANE, [_power(bits + 32), _power(bits - 32)])
            low, high = (builder.call(multiply, [lane, keys, _BYTE(half)]) for half in (0x00, 0x11))
            return builder.xor(builder.xor(low, high), following)

        def load(address: Any, index: Any) -> Any:
            loaded = builder.load(builder.gep(address, [index]))
            loaded.align = 1
            return loaded

        state, data = (builder.inttoptr(address, _LANE.as_pointer()) for address in arguments[:2])
        # A register per lane: all eight are independent, so their multiplications overlap.
        registers = [cgutils.alloca_once_value(builder, load(state, _WORD(i))) for i in range(LANES)]
        with cgutils.for_range(builder, arguments[2]) as loop:
            first = builder.mul(loop.index, _WORD(LANES))
            for i, register in enumerate(registers):
                following = load(data, builder.add(first, _WORD(i)))
                builder.store(step(builder.load(register), 128 * LANES, following), register)
        # The lanes stand 128 bits apart: each is folded into the next one, and so all into the last.
        rest = builder.load(registers[0])
        for register in registers[1:]:
            rest = step(rest, 128, builder.load(register))
        builder.store(rest, state).align = 1

    return types.void(types.uintp, types.uintp, types.intp), generate


_fold_blocks: Any = intrinsic(_fold_lanes)


@jit
def _fold(lanes: int, blocks: int, count: int) -> None:
    _fold_blocks(lanes, blocks, count)


def crc32(data: Array, crc: int) -> int:
    """Return the CRC-32 of `data`, uint8, (size,), continued from `crc`, as zlib.crc32 does."""
    blocks = data.size // BLOCK_BYTES
    if blocks < 2 or not _CAN_MULTIPLY:
        return zlib.crc32(data.data, crc)
    # The lanes start as the first block, with the checksum so far added to its first 32 bits. Folded, they
    # are 16 bytes with the checksum of all whole blocks; zlib continues from there with the rest.
    lanes = data[:BLOCK_BYTES].copy()
    lanes[:4] ^= np.frombuffer((crc ^ 0xFFFFFFFF).to_bytes(4, "little"), np.uint8)  # zlib keeps complements
    # As addresses: Numba would compile a version each for aligned, unaligned and read-only arrays.
    _fold(address(lanes), address(data) + BLOCK_BYTES, blocks - 1)
    return zlib.crc32(data[blocks * BLOCK_BYTES :].data, zlib.crc32(lanes[:16].data, 0xFFFFFFFF))


@jit
def all_finite(x: Array) -> bool:
    """Return whether no element of x (size,) is NaN or infinite: 0 times one of these is NaN."""
    # A sum and no test per element, so that the loop is vectorised.
    zero = x.dtype.type(0)
    total = zero
    for i in range(x.size):
        total += zero * x[i]
    return bool(total == zero)
