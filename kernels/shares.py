"""How ranks share the work of one phase after another inside a compiled kernel, without Python and its lock.

A phase is cut into parts; whoever is free takes the next. A phase is over when all its parts are done, not
when all ranks have come: a rank that is late, or never begins because it was interrupted, holds nobody up.
With NUMBA_DISABLE_JIT=1 one rank is all there may be.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic, overload

from .jit import Array, jit

SPINS = 2000  # looks before the core is offered to others: a few microseconds


def add_and_read(counter: Array, amount: int) -> int:
    """Add to counter (1,) int64 in one indivisible operation; return what it was before."""
    before = int(counter[0])
    counter[0] += amount
    return before


def give_way() -> None:
    """Let another thread have this core, if one wants it."""
    os.sched_yield()


@intrinsic
def _fetch_add(_: Any, counter: Any, amount: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        return builder.atomic_rmw("add", array.data, arguments[1], "seq_cst")

    return types.int64(counter, types.int64), emit


@overload(add_and_read)
def _add_and_read(counter: Any, amount: Any) -> Callable[[Any, Any], Any]:
    def call(counter: Any, amount: Any) -> Any:
        return _fetch_add(counter, amount)  # type: ignore[call-arg]  # Numba supplies its own first argument

    return call


@intrinsic
def _sched_yield(_: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        name, module = "sched_yield", builder.module
        kind = ir.FunctionType(ir.IntType(32), [])
        builder.call(module.globals.get(name) or ir.Function(module, kind, name), [])
        return context.get_dummy_value()

    return types.none(), emit


@overload(give_way)
def _give_way() -> Callable[[], None]:
    def call() -> None:
        _sched_yield()  # type: ignore[call-arg]

    return call


@jit
def shares(counters: Array, parts: int) -> Iterator[int]:
    """Yield the numbers below `parts`, each to one rank; end when all of them are done.

    counters (2,) int64, zero before the phase: parts taken, parts done.
    """
    taken, done = counters[:1], counters[1:]
    part = add_and_read(taken, 1)
    while part < parts:
        yield part
        add_and_read(done, 1)
        part = add_and_read(taken, 1)
    spins = 0
    while add_and_read(done, 0) < parts:
        spins += 1
        if spins > SPINS:
            give_way()
