"""How ranks share the work of one phase after another inside a compiled kernel, without Python and its lock.

A phase is cut into parts; whoever is free takes the next. A phase is over when all its parts are done, not
when all ranks have come: a rank that is late, or never begins because it was interrupted, holds nobody up.
With NUMBA_DISABLE_JIT=1 there may be one rank only.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic, overload

from .jit import Array, jit

SPINS = 2000  # looks before the core is offered to others: a few microseconds


@jit
def take(counters: Array) -> int:
    """Return the number of a part that nobody else takes; at the end of the phase, one there is no part for.

    counters (2,) int64, zero before the phase: parts taken, parts done.
    """
    return add_and_read(counters[:1], 1)


@jit
def done(counters: Array) -> None:
    """Say in counters (2,) that a part that was taken is done, and all it wrote may be read."""
    add_and_read(counters[1:], 1)


@jit
def await_all(counters: Array, parts: int) -> None:
    """Return when counters (2,) say that all parts of the phase are done."""
    looks = 0
    while add_and_read(counters[1:], 0) < parts:
        looks += 1
        if looks > SPINS:
            give_way()


def add_and_read(counter: Array, amount: int) -> int:
    """Add to counter (1,) int64 in one indivisible operation; return what it was before."""
    before = int(counter[0])
    counter[0] += amount
    return before


def give_way() -> None:
    """Let another thread have this core, if one wants it."""
    os.sched_yield()


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
