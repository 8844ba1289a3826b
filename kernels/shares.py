"""How ranks share the work of one phase after another inside a compiled kernel, without Python and its lock.

A phase is cut into parts, and an idle rank takes the next. A phase is over when all its parts are done, not
when all ranks have arrived: a rank that is late, or never begins because it was interrupted, delays no other.
With NUMBA_DISABLE_JIT=1 there may be one rank only. Order: the protocol, then its two primitives.

    part = take(counters)        3 parts, 2 ranks:   rank 0 takes 0, then 2, then 3: waits
    while part < parts:                              rank 1 takes 1, then 4: waits
        ...                                          both return when `done` was called 3 times
        done(counters)
        part = take(counters)
    await_all(counters, parts)
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic, overload

from .jit import Array, jit

SPINS = 2000  # polls before the core is offered to other threads: a few microseconds


@jit
def take(counters: Array) -> int:
    """Return the number of a part that no other rank gets; once all are taken, a number beyond the last.

    counters (2,) int64, zero before the phase: parts taken, parts done.
    """
    return add_and_read(counters[:1], 1)


@jit
def done(counters: Array) -> None:
    """Record in counters (2,) that a part that was taken is done, and all it wrote may be read."""
    # Sequentially consistent, like every `add_and_read`: a rank that sees the count sees the results too.
    add_and_read(counters[1:], 1)


@jit
def await_all(counters: Array, parts: int) -> None:
    """Return when counters (2,) say that all parts of the phase are done."""
    polls = 0
    while add_and_read(counters[1:], 0) < parts:  # adding 0 is an atomic read
        polls += 1
        if polls > SPINS:  # at first without a system call: the others are usually done in a moment
            give_way()


def add_and_read(counter: Array, amount: int) -> int:
    """Add to counter (1,) int64 in one indivisible operation; return what it was before."""
    before = int(counter[0])
    counter[0] += amount
    return before


def give_way() -> None:
    """Let another thread have this core, if one wants it."""
    os.sched_yield()


# The two functions above are what runs without compilation; below is what they are in a compiled kernel.
# Numba replaces a call by what `overload` returns, and that by the instructions which `emit` builds.


@overload(add_and_read)
def _add_and_read(counter: Any, amount: Any) -> Callable[[Any, Any], Any]:
    def call(counter: Any, amount: Any) -> Any:
        return _fetch_add(counter, amount)  # type: ignore[call-arg]  # Numba supplies its own first argument

    return call


@intrinsic
def _fetch_add(_: Any, counter: Any, amount: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        return builder.atomic_rmw("add", array.data, arguments[1], "seq_cst")

    return types.int64(counter, types.int64), emit


@overload(give_way)
def _give_way() -> Callable[[], None]:
    def call() -> None:
        _sched_yield()  # type: ignore[call-arg]

    return call


@intrinsic
def _sched_yield(_: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        name, module = "sched_yield", builder.module
        kind = ir.FunctionType(ir.IntType(32), [])
        builder.call(module.globals.get(name) or ir.Function(module, kind, name), [])
        return context.get_dummy_value()

    return types.none(), emit
