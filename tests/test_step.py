"""A step allocates nothing, its memory grows as the context does, and the same threads give the same bits."""

from __future__ import annotations

import gc
import itertools
import math
import os
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.timing import PATIENCE, in_time
from tinyllm import kernels, model
from tinyllm.arena import Array, Layout
from tinyllm.cli import clock
from tinyllm.config import Config, ModelConfig, TrainConfig
from tinyllm.kernels import cross_entropy_backward
from tinyllm.layers import head, linear
from tinyllm.network import Purpose
from tinyllm.parallel import threads
from tinyllm.parallel.team import Task, Team, WorkQueue
from tinyllm.run.schedule import Schedule
from tinyllm.run.state import TrainState
from tinyllm.text.batches import Batch
from tinyllm.text.tokenizer import CharTokenizer
from tinyllm.training import environment
from tinyllm.training.step import Engine, TrainingError

ROOT = Path(__file__).resolve().parents[1]
V, B = 50, 4


def a_run(
    team: Team, workers: int, recompute: bool = False, own: bool = True, **shape: float
) -> tuple[TrainState, Engine]:
    settings = {"n_layer": 3, "n_head": 2, "n_embd": 32, "block_size": 160, "dropout": 0.1} | shape
    config = Config(ModelConfig(**settings), TrainConfig(batch_size=B, weight_decay=0.1))
    tokenizer = CharTokenizer(tuple(range(V - 1)))
    state = TrainState.fresh(config, tokenizer, Schedule(1e-3, 1e-4, 0, 0, 100), ("pretraining",))
    return state, Engine(state, team, workers, Purpose(recompute=recompute, own=own))


def batch_of(seed: int, T: int = 160, without_loss: float = 0.0) -> Batch:
    """Return a batch of documents of drawn lengths, with a part of the targets left out."""
    rng = np.random.default_rng(seed)
    tokens, targets = rng.integers(0, V, (2, B, T)).astype(np.int32)
    first = rng.random((B, T)) < 0.02
    starts = np.maximum.accumulate(np.where(first, np.arange(T), 0), axis=1).astype(np.int32)
    targets[rng.random((B, T)) < without_loss] = -1
    return Batch.of(tokens, targets, starts)


def rows_after(steps: int, ranks: int, workers: int, **options: Any) -> Array:
    with Team(ranks) as team:
        state, engine = a_run(team, workers, **options)
        for step in range(steps):
            engine.train(state, [batch_of(2 * step), batch_of(2 * step + 1)])
    return state.rows


def test_an_engine_made_for_one_micro_batch_refuses_two_and_trains_the_same_with_one():
    with Team(1) as team:
        state, engine = a_run(team, 1)
        bare = Engine(state, team, purpose=Purpose(accumulate=False, own=True))
        with pytest.raises(ValueError, match="expected 1"):
            bare.train(state, [batch_of(0), batch_of(1)])
        other, _ = a_run(team, 1)
        engine.train(state, [batch_of(0)])
        bare.train(other, [batch_of(0)])
    np.testing.assert_array_equal(state.rows, other.rows)


@pytest.mark.parametrize("from_before", [False, True])
def test_the_head_reads_the_rows_with_loss_alone_and_in_runs_from_before_all(from_before, monkeypatch):
    stored, read = Config().to_dict(), []
    if from_before:
        del stored["train"]["all_rows"]

    def counted(losses: Array, *rest: object) -> None:
        read.append(len(losses))
        cross_entropy_backward(losses, *rest)

    monkeypatch.setattr(head, "cross_entropy_backward", counted)
    some = batch_of(0, without_loss=0.4)
    rows = []
    with Team(1) as team:
        for purpose in (Purpose.of(Config.from_dict(stored).train), Purpose(all_rows=True)):
            state, _ = a_run(team, 1)
            Engine(state, team, purpose=purpose).train(state, [some])
            rows.append(state.rows)
    assert some.loss_tokens < 0.7 * B * 160
    assert read == [B * 160 if from_before else some.loss_tokens, B * 160]
    one, other = (row[1] for row in rows)  # Adam's m, a tenth of the gradient
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-4 * np.abs(other).max())
    assert not from_before or np.array_equal(*rows)


@pytest.mark.parametrize(("bad", "kind"), [(math.nan, "parameter"), (-math.inf, "gradient")])
def test_a_step_that_is_not_finite_names_the_first_bad_tensor_and_updates_nothing(bad, kind, monkeypatch):
    with Team(1) as team:
        state, engine = a_run(team, 1)
        names, gradients = list(state.layout.named(state.rows[0])), Engine._gradients

        def spoil(row: Array) -> None:
            for name in (names[2], names[-1]):  # neither the first of all nor the only one
                state.layout.named(row)[name].reshape(-1)[-1] = bad

        def spoilt_gradients(*arguments):
            losses = gradients(*arguments)
            spoil(engine.workspaces[0].gradient)
            return losses

        if kind == "parameter":
            spoil(state.rows[0])
        else:
            monkeypatch.setattr(Engine, "_gradients", spoilt_gradients)
        before = state.rows.copy()
        first = rf"step 0: .*; the first bad tensor is the {kind} of {names[2]}\."
        with pytest.raises(TrainingError, match=first):
            engine.train(state, [batch_of(0)])
    np.testing.assert_array_equal(state.rows, before)
    assert (state.progress.step, state.progress.timestep, state.progress.tokens) == (0, 0, 0)


def test_an_evaluation_is_the_loss_of_a_step_without_dropout_and_stops_when_asked():
    with Team(2) as team:
        state, engine = a_run(team, 2, dropout=0.0)
        batches = [batch_of(0), batch_of(1)]
        found, nothing = engine.evaluate(state, batches), engine.evaluate(state, [])
        stops = iter([False, True])
        assert engine.evaluate(state, batches, lambda: next(stops)) is None
        assert found == pytest.approx(engine.train(state, batches).loss, rel=1e-6)
    assert nothing is not None and math.isnan(nothing)


def test_the_padding_between_tensors_stays_zero():
    with Team(2) as team:
        state, engine = a_run(team, 2, n_embd=6)
        for step in range(2):
            engine.train(state, [batch_of(step)])
    gaps = state.layout.gaps()
    assert gaps and all((state.rows[:, gap] == 0).all() for gap in gaps)


def test_a_step_allocates_no_array():
    with Team(2) as team:
        state, engine = a_run(team, 2, n_embd=128)
        batches = [batch_of(0), batch_of(1, without_loss=0.3)]
        stream = B // 2 * 160 * 128 * 4  # of one worker, in bytes
        for _ in range(3):
            engine.train(state, batches)
        peaks, kept = [], []
        for _ in range(5):  # what every step allocates is in each of them, and what Python does once is not
            tracemalloc.start()
            try:
                engine.train(state, batches)
                peaks.append(tracemalloc.get_traced_memory()[1])
                gc.collect()  # small Python objects that refer to each other
                kept.append(tracemalloc.get_traced_memory()[0])
            finally:
                tracemalloc.stop()
    # Views and other small Python objects come and go; an array of the model's would show at once.
    assert min(peaks) < stream / 2
    assert min(kept) < 4096


@pytest.mark.parametrize("recompute", [False, True])
def test_activations_and_scratch_grow_no_faster_than_the_context(recompute):
    purpose = Purpose(recompute=recompute)

    def size(T: int) -> int:
        config = ModelConfig(n_layer=2, n_head=4, n_embd=64, block_size=T)
        parts = model.acts(config, 1, purpose), model.scratch(config, V, 1, purpose)
        return sum(Layout(part).size for part in parts)

    assert size(4096) < 4.1 * size(1024)


@pytest.mark.parametrize("ranks, workers", [(1, 1), (2, 2), (2, 1), (3, 2)])
def test_the_same_threads_give_the_same_bits(ranks, workers):
    np.testing.assert_array_equal(rows_after(3, ranks, workers), rows_after(3, ranks, workers))


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("rate", [0.0, 0.1])  # where nothing is dropped, other arrays are handed on
def test_who_makes_a_gradient_and_when_changes_no_bit(recompute, rate, monkeypatch):
    """One run in which nobody helps, and one in which all that rank 1 leaves is made by rank 0.

    The first makes gradients as late as may be, the second as early: one whose operands are overwritten in
    between would differ.
    """
    helped = []
    monkeypatch.setattr(WorkQueue, "_help", lambda queue, rank: None)
    alone = rows_after(2, 2, 2, recompute=recompute, dropout=rate)
    monkeypatch.undo()

    def slow(queue: WorkQueue, rank: int, task: Task, put=WorkQueue.put) -> None:
        made = threading.Event()

        def noted(runner: int) -> None:
            task(runner)
            helped.append((rank, runner))
            made.set()

        put(queue, rank, noted)
        if rank == 1:
            assert made.wait(PATIENCE)  # so long rank 1 does nothing, and rank 0 comes to its end

    monkeypatch.setattr(WorkQueue, "put", slow)
    np.testing.assert_array_equal(rows_after(2, 2, 2, recompute=recompute, dropout=rate), alone)
    layers = 2 * 2 * 3 * 4  # steps, micro-batches, blocks, weights
    assert helped.count((1, 0)) == layers and len(helped) == 2 * layers


@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_at_the_very_beginning_of_a_workers_share_is_raised(rank, monkeypatch):
    def broken() -> None:
        raise MemoryError("none left")

    def train() -> None:
        with Team(2) as team:
            state, engine = a_run(team, 2)
            monkeypatch.setattr(engine.workspaces[rank], "clear_gradients", broken)
            engine.train(state, [batch_of(0)])

    with pytest.raises(MemoryError, match="none left"):
        in_time(train)


def test_more_workers_change_rounding_and_nothing_else():
    alone, shared = rows_after(3, 1, 1)[0], rows_after(3, 2, 2)[0]
    np.testing.assert_allclose(shared, alone, atol=2e-5)


def test_own_products_train_the_same_model_as_blas():
    own, blas = (rows_after(3, 2, 2, own=own)[0] for own in (True, False))
    np.testing.assert_allclose(own, blas, atol=2e-5)


@pytest.mark.skipif(not kernels.FUSES, reason="no fused multiply-add here: all products are NumPy's")
@pytest.mark.parametrize("recompute", [False, True])
def test_no_weight_is_multiplied_by_blas_where_products_are_own(recompute, monkeypatch):
    with Team(2) as team:
        state, engine = a_run(team, 2, recompute)
        monkeypatch.setattr(linear, "np", None)
        engine.train(state, [batch_of(0), batch_of(1)])
        engine.evaluate(state, [batch_of(2)])


def test_blas_multiplies_where_it_has_threads_of_its_own():
    with Team(2) as team:
        assert not a_run(team, 1)[1].purpose.own
        assert a_run(team, 2)[1].purpose.own == kernels.FUSES


def test_recomputation_trains_the_same_model():
    np.testing.assert_allclose(rows_after(3, 2, 2, recompute=True)[0], rows_after(3, 2, 2)[0], atol=2e-5)


@pytest.mark.parametrize("n_embd", [32, 6])  # 6: tensors whose ends are padded
def test_what_the_workspaces_hold_before_a_step_changes_nothing(n_embd):
    with Team(2) as team:
        states = []
        for value in (0.0, np.nan):
            state, engine = a_run(team, 2, n_embd=n_embd)
            for step in range(3):
                for work in engine.workspaces:
                    work.poison(value)
                engine.train(state, [batch_of(2 * step), batch_of(2 * step + 1)])
            states.append(state.rows)
    np.testing.assert_array_equal(*states)


@pytest.mark.parametrize(
    "sequences, cores, workers, blas_threads, chosen",
    [
        (16, 2, None, None, (2, 1)), (1, 2, None, None, (1, 2)), (3, 8, None, None, (3, 2)),
        (16, 8, 4, None, (4, 2)), (16, 2, None, 1, (2, 1)), (2, 2, 5, 3, (2, 3)), (1, 1, None, None, (1, 1)),
        (0, 4, None, None, (1, 4)),
    ],
)  # fmt: skip
def test_workers_come_first_and_blas_gets_the_cores_they_leave(
    sequences, cores, workers, blas_threads, chosen
):
    assert threads.choose(sequences, cores, workers, blas_threads) == chosen


@pytest.mark.parametrize(
    "workers, blas_threads, chosen", [(None, None, (1, 2)), (None, 1, (1, 1)), (3, None, (3, 2))]
)
def test_a_resumed_run_keeps_its_threads_where_none_are_given(workers, blas_threads, chosen, monkeypatch):
    monkeypatch.setattr(environment, "set_blas_threads", lambda n: True)
    with Team(1) as team:
        state, _ = a_run(team, 1)
    state.environment = {"workers": 1, "blas_threads": 2}
    assert environment.threads(state, workers, blas_threads, print) == chosen


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to cores")
def test_the_cores_are_those_this_process_may_use(monkeypatch):
    allowed = os.sched_getaffinity(0)
    assert threads.cores() == len(allowed)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert threads.cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS and Windows
    for count, expected in ((6, 6), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda count=count: count)
        assert threads.cores() == expected


def test_before_numpy_is_loaded_blas_threads_are_a_wish_that_the_environment_may_overrule():
    program = (
        "import os, sys; from tinyllm.parallel.threads import VARIABLES, set_blas_threads;"
        "print('numpy' in sys.modules, set_blas_threads(3), *(os.environ[name] for name in VARIABLES))"
    )
    variables = {name: value for name, value in os.environ.items() if name not in threads.VARIABLES}
    variables[threads.VARIABLES[0]] = "7"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=variables, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False", "7", *["3"] * (len(threads.VARIABLES) - 1)]


def test_without_openblas_threadpoolctl_sets_the_threads_where_it_is_installed(monkeypatch):
    calls = []
    limits = SimpleNamespace(threadpool_limits=lambda n, user_api: calls.append((n, user_api)))
    monkeypatch.setattr(threads, "_openblas", lambda function: None)
    for module, sure in ((None, False), (limits, True)):  # None: the import fails
        monkeypatch.setitem(sys.modules, "threadpoolctl", module)
        assert threads.set_blas_threads(3) is sure
    assert calls == [(3, "blas")] and threads.blas_core() == "unknown"


def test_a_loaded_openblas_takes_another_number_of_threads_and_tells_its_core():
    code = """
import numpy
from tinyllm.cli.clock import probe
from tinyllm.parallel import threads
get = threads._openblas("get_num_threads")
if get is None:
    print("no OpenBLAS")
else:
    found = []
    for n in (2, 1):
        assert threads.set_blas_threads(n)
        found.append(get())
    print(*found, threads.blas_core() not in ("", "unknown"), probe(1, 0.01, 64) > 0)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    if done.stdout == "no OpenBLAS\n":
        pytest.skip("NumPy is not linked with OpenBLAS")
    assert done.stdout == "2 1 True True\n"


def test_the_probe_counts_one_product_of_each_worker_that_begins_after_the_time_is_over(monkeypatch):
    """The clock is at 0 once, when the probe begins, and at 4 s whenever it is looked at later."""
    moments = itertools.chain([0.0], itertools.repeat(4.0))
    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=lambda: next(moments)))
    assert clock.probe(3, seconds=0.2, n=8) == 3 * 2 * 8**3 / 4 / 1e9
