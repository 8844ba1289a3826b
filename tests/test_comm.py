"""Ranks that take over each other's tasks: each runs once, owners wait, and after an error nobody does."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.timing import PATIENCE, in_time
from tinyllm.parallel.team import Team, WorkQueue


def run(queue: WorkQueue, ranks: int, own) -> None:
    """Let every rank do `own(rank)` as a worker does."""

    def work(rank: int) -> None:
        with queue.working(rank):
            own(rank)

    def together() -> None:
        with Team(ranks) as team:
            team.run(work)

    queue.reset()
    in_time(together)


@settings(max_examples=30, deadline=None)
@given(
    plans=st.lists(
        st.lists(st.lists(st.integers(0, 300), max_size=4), max_size=4), min_size=1, max_size=4
    )
)  # fmt: skip
def test_every_task_runs_once_before_its_owner_goes_on(plans):
    """Each rank leaves groups of tasks that take some microseconds, and finishes after each group."""
    done: list[tuple[int, int, int]] = []
    missing = []

    def own(rank: int) -> None:
        for group, delays in enumerate(plans[rank]):
            for number, delay in enumerate(delays):

                def task(runner: int, name=(rank, group, number), delay=delay) -> None:
                    time.sleep(delay / 1e6)
                    done.append(name)

                queue.put(rank, task)
            queue.finish(rank)
            missing.extend({(rank, group, n) for n in range(len(delays))} - set(done))

    queue = WorkQueue(len(plans))
    everything = [
        (r, g, n) for r, plan in enumerate(plans) for g, d in enumerate(plan) for n in range(len(d))
    ]
    for _ in range(2):  # what one step leaves behind does not disturb the next
        run(queue, len(plans), own)
        assert sorted(done) == everything and not missing
        done.clear()


def test_an_idle_rank_takes_what_a_busy_one_has_left():
    queue, runners, taken = WorkQueue(2), [], threading.Event()

    def task(runner: int) -> None:
        runners.append(runner)
        taken.set()

    def own(rank: int) -> None:
        if rank == 1:
            queue.put(1, task)
            assert taken.wait(PATIENCE)  # rank 1 itself is busy here, so only rank 0 can set it
            queue.finish(1)

    run(queue, 2, own)
    assert runners == [0]


@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_of_one_rank_is_raised_and_nobody_waits_for_it(rank):
    def own(of: int) -> None:
        queue.put(of, lambda _: None)
        if of == rank:
            raise ValueError("broken")
        queue.finish(of)

    queue = WorkQueue(2)
    with pytest.raises(ValueError, match="broken"):
        run(queue, 2, own)
    run(queue, 2, lambda of: None)


def test_an_error_in_a_task_that_another_rank_runs_is_raised():
    queue, begun = WorkQueue(2), threading.Event()

    def task(runner: int) -> None:
        begun.set()
        raise ValueError(f"broken on {runner}")

    def own(rank: int) -> None:
        if rank == 1:
            queue.put(1, task)
            assert begun.wait(PATIENCE)
            queue.finish(1)

    with pytest.raises(ValueError, match="broken on 0"):
        run(queue, 2, own)


def test_where_a_thread_cannot_be_started_none_is_left_waiting(monkeypatch):
    before, start = threading.active_count(), threading.Thread.start

    def started(thread: threading.Thread) -> None:
        if threading.active_count() >= before + 3:
            raise RuntimeError("can't start new thread")
        start(thread)

    def together() -> None:
        monkeypatch.setattr(threading.Thread, "start", started)
        with pytest.raises(RuntimeError, match="7 threads cannot be started"):
            Team(8)

    in_time(together)
    assert threading.active_count() <= before + 1  # that of `in_time` itself


def test_a_team_is_complete_before_its_first_task():
    before = threading.active_count()
    with Team(5):
        assert threading.active_count() == before + 4
    assert threading.active_count() == before
