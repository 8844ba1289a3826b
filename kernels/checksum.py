"""What a checkpoint asks of every byte: CRC-32, zlib's but several times sooner, and whether all is finite.

A message is a polynomial over GF(2), its checksum the remainder of a division. 128 bits of it may be taken
away if their remainder is added to the bits that follow at any distance, and that takes two multiplications
(Gopal et al. 2009, "Fast CRC computation for generic polynomials using PCLMULQDQ instruction"). Eight such
lanes run side by side; what is left of them, 16 bytes, is zlib's. Numba has no name for the instruction, so
`_fold_lanes` is written for LLVM. On processors without it all is left to zlib. Order: as it builds up.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from llvmlite import binding, ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils as _cgutils
from numba.extending import intrinsic

from .jit import Array, config, jit

LANES = 8  # multiplications take 7 cycles, and one may begin in each
BLOCK_BYTES = 16 * LANES
POLYNOMIAL = 0x104C11DB7  # x^32 + x^26 + ... + 1, the highest power first
cgutils: Any = _cgutils
_LANE, _WORD, _BYTE = ir.VectorType(ir.IntType(64), 2), ir.IntType(64), ir.IntType(8)

# A processor given by hand may lack what the machine at hand has; and Python has no such instruction.
_CAN_MULTIPLY = bool(binding.get_host_cpu_features().get("pclmul")) and not (
    config.CPU_NAME or config.CPU_FEATURES or config.DISABLE_JIT
)


def _power(n: int) -> int:
    """Return x^n modulo the polynomial in CRC-32's order of bits, the lowest power first, shifted by one."""
    remainder = 1
    for _ in range(n):
        remainder <<= 1
        if remainder >> 32:
            remainder ^= POLYNOMIAL
    return int(f"{remainder:032b}"[::-1], 2) << 1


def _fold_lanes(context: Any, lanes: Any, blocks: Any, count: Any) -> Any:
    """Fold `count` blocks into the lanes, then the lanes into the first of them; both are addresses."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        multiply = builder.module.declare_intrinsic(
            "llvm.x86.pclmulqdq", (), ir.FunctionType(_LANE, [_LANE, _LANE, _BYTE])
        )

        def step(lane: Any, bits: int, following: Any) -> Any:
            keys = ir.Constant(_LANE, [_power(bits + 32), _power(bits - 32)])
            low, high = (builder.call(multiply, [lane, keys, _BYTE(half)]) for half in (0x00, 0x11))
            return builder.xor(builder.xor(low, high), following)

        def load(address: Any, index: Any) -> Any:
            loaded = builder.load(builder.gep(address, [index]))
            loaded.align = 1
            return loaded

        state, data = (builder.inttoptr(address, _LANE.as_pointer()) for address in arguments[:2])
        registers = [cgutils.alloca_once_value(builder, load(state, _WORD(i))) for i in range(LANES)]
        with cgutils.for_range(builder, arguments[2]) as loop:
            first = builder.mul(loop.index, _WORD(LANES))
            for i, register in enumerate(registers):
                following = load(data, builder.add(first, _WORD(i)))
                builder.store(step(builder.load(register), 128 * LANES, following), register)
        rest = builder.load(registers[0])
        for register in registers[1:]:
            rest = step(rest, 128, builder.load(register))
        builder.store(rest, state).align = 1

    return types.void(types.uintp, types.uintp, types.intp), generate


_fold_blocks: Any = intrinsic(_fold_lanes)


@jit
def _fold(lanes: int, blocks: int, count: int) -> None:
    _fold_blocks(lanes, blocks, count)


def _address(data: Array) -> int:
    address: int = data.__array_interface__["data"][0]  # several times sooner than data.ctypes.data
    return address


def crc32(data: Array, crc: int) -> int:
    """Return the CRC-32 of `data`, uint8, (size,), that goes on from `crc`, as zlib.crc32 does."""
    blocks = data.size // BLOCK_BYTES
    if blocks < 2 or not _CAN_MULTIPLY:
        return zlib.crc32(data.data, crc)
    lanes = data[:BLOCK_BYTES].copy()
    lanes[:4] ^= np.frombuffer((crc ^ 0xFFFFFFFF).to_bytes(4, "little"), np.uint8)  # zlib keeps complements
    # As addresses: arrays that are aligned, unaligned or read-only would each be compiled for.
    _fold(_address(lanes), _address(data) + BLOCK_BYTES, blocks - 1)
    return zlib.crc32(data[blocks * BLOCK_BYTES :].data, zlib.crc32(lanes[:16].data, 0xFFFFFFFF))


@jit
def all_finite(x: Array) -> bool:
    """Return whether no element of x (size,) is NaN or infinite: 0 times one of these is NaN."""
    zero = x.dtype.type(0)
    total = zero
    for i in range(x.size):
        total += zero * x[i]
    return bool(total == zero)
