"""Ranks inside a compiled kernel: each part is taken once, and a phase is over when all parts are done."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from tinyllm.kernels.jit import Array, jit
from tinyllm.kernels.shares import await_all, done, take

from tests.test_kernels import source
from tests.timing import PATIENCE


@jit
def work(counters: Array, owners: Array, rank: int) -> None:
    part = take(counters)
    while part < len(owners):
        owners[part] += rank
        done(counters)
        part = take(counters)
    await_all(counters, len(owners))


def test_every_part_is_taken_by_one_rank():
    for _ in range(20):
        counters, owners = np.zeros(2, np.int64), np.zeros(5000, np.int64)
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(partial(work, counters, owners), (1, 10, 100)))
        assert set(owners.tolist()) <= {1, 10, 100}
        assert counters.tolist() == [5000 + 3, 5000]  # each rank has asked once in vain


@pytest.mark.parametrize("version", [lambda function: function, source], ids=["compiled", "plain"])
def test_parts_are_counted_from_0_and_what_is_done_is_counted_apart(version):
    counters = np.zeros(2, np.int64)
    assert [int(version(take)(counters)) for _ in range(3)] == [0, 1, 2]
    version(done)(counters)
    assert counters.tolist() == [3, 1]
    version(await_all)(counters, 1)


def test_a_rank_waits_until_the_last_part_is_done():
    counters = np.array([2, 0], np.int64)
    await_all(counters, 0)
    waiting = threading.Thread(target=await_all, args=(counters, 2), daemon=True)
    waiting.start()
    done(counters)
    waiting.join(0.1)  # long enough to have polled more often than a rank does before it gives way
    assert waiting.is_alive()
    done(counters)
    waiting.join(PATIENCE)
    assert not waiting.is_alive() and counters.tolist() == [2, 2]
