"""One training step over all ranks: forward, backward, sum, clip, Adam.

Each worker runs the whole model on its share of the sequences with a Workspace of its own; one that has
finished computes weight gradients that slower ones have deferred, into their rows. Then every rank of the
team, of which the workers are the first, sums the gradients over its slice of the rows, and updates it,
clipped by the global norm. The result depends on the numbers of workers and of ranks and on nothing else
about them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import numpy as np

from tinyllm.arena import Array
from tinyllm.kernels import FUSES, add_and_sum_squares, sum_squares
from tinyllm.layers import dropout, linear
from tinyllm.network import TRAINING, Pass, Purpose
from tinyllm.parallel.team import Team, WorkQueue
from tinyllm.parallel.threads import most_threads
from tinyllm.run.state import TrainState, Workspace, network_of
from tinyllm.text.batches import Batch
from tinyllm.training.optim import Update, clip_factor, slices, update_

R = TypeVar("R")


class TrainingError(RuntimeError):
    """Training cannot continue: a loss or gradient is not a finite number."""


class Step(NamedTuple):
    """What one update reports."""

    loss: float  # nats per target token, before the update
    grad_norm: float  # global norm before clipping
    lr: float
    tokens: int  # target tokens


class Engine:
    """The workers' memory for a run's batches, made once, and what they do together."""

    def __init__(
        self, state: TrainState, team: Team, workers: int | None = None, purpose: Purpose = TRAINING
    ) -> None:
        """Allocate for `workers` of the team's ranks, all by default; each batch is shared out among them.

        With `purpose.recompute`, activations take a fraction of the memory, and a step a quarter more time.
        Without `purpose.accumulate`, a step takes one micro-batch and no memory to add others with.
        """
        config = state.config.model
        self.workers = workers or team.size
        # A worker's own products have one thread: where it has several, BLAS shares them out.
        purpose = purpose._replace(own=purpose.own and FUSES and team.size == self.workers)
        self.network, self.layout, self.team, self.purpose = network_of(config), state.layout, team, purpose
        V = self.network.vocabulary(state.params)
        borders = [state.config.train.batch_size * rank // self.workers for rank in range(self.workers + 1)]
        self.shares = [slice(a, b) for a, b in itertools.pairwise(borders)]
        self.parts = slices(self.layout.size, team.size)
        counts = [share.stop - share.start for share in self.shares]
        self.workspaces = self._work(lambda rank: Workspace(config, V, counts[rank], purpose=purpose))
        self.queue = WorkQueue(self.workers)
        self.products = [linear.Products(w.memory.scratch.products, purpose.own) for w in self.workspaces]
        # One worker alone makes each gradient at once, while what it is made of is in the cache.
        shared = self.queue if self.workers > 1 else None
        self.deferred = [
            linear.DeferredGradients(self.products, queue=shared, rank=rank) for rank in range(self.workers)
        ]

    def _work(self, task: Callable[[int], R]) -> list[R]:
        return self.team.run(task, self.workers)

    def train(self, state: TrainState, batches: Sequence[Batch]) -> Step:
        """Make one update of `state` from `batches`, whose gradients are summed, and count it in progress.

        Raises TrainingError, before anything is updated, where loss or gradient is not finite, and ValueError
        for more batches than the engine was made for.
        """
        progress, config = state.progress, state.config
        if len(batches) > 1 and not self.purpose.accumulate:
            raise ValueError(f"batches: found {len(batches)}, expected 1 of an engine made not to accumulate")
        count = sum(batch.loss_tokens for batch in batches)
        if not count:
            raise TrainingError(f"step {progress.step}: the batch has no target tokens")
        self.queue.reset()
        losses = self._work(lambda rank: self._gradients(rank, state, batches, 1 / count))
        loss = math.fsum(losses) / count
        norm = math.sqrt(sum(self.team.run(self._sum_slice)))
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise TrainingError(self._diagnosis(progress.step, loss, norm, state.rows[0]))
        lr = state.schedule.lr(progress.step)
        factor = clip_factor(norm, config.train.grad_clip)
        total, timestep = self.workspaces[0].gradient, progress.timestep + 1
        update = Update(lr, timestep, factor)
        self.team.run(
            lambda rank: update_(state.rows, total, self.parts[rank], self.layout, config.train, update)
        )
        progress.step += 1
        progress.timestep = timestep
        progress.tokens += count
        return Step(loss, norm, lr, count)

    def evaluate(
        self, state: TrainState, batches: Iterable[Batch], stop: Callable[[], bool] = lambda: False
    ) -> float | None:
        """Return the mean loss, in nats per target token, without dropout; NaN when there are no targets.

        `stop` is asked before each batch; None if it has answered true.
        """
        total, count = 0.0, 0
        for batch in batches:
            if stop():
                return None
            total += math.fsum(self._work(lambda rank, b=batch: self._loss(rank, state, b)))  # type: ignore[misc]
            count += batch.loss_tokens
        return total / count if count else math.nan

    def _gradients(self, rank: int, state: TrainState, batches: Sequence[Batch], scale: float) -> float:
        """Write this rank's share of the gradient into its row; return its sum of losses."""
        with self.queue.working(rank):
            work, share, train = self.workspaces[rank], self.shares[rank], state.config.train
            work.clear_gradients()
            total = 0.0
            for micro, batch in enumerate(batches):
                work.load(batch, share)
                first = micro * len(batch.tokens) + share.start  # sequence of the step
                rate, step = state.config.model.dropout, state.progress.step
                how = Pass(dropout.Address(rate, train.seed, step, first), products=self.products[rank])
                self.network.forward(state.params, work.memory, how)
                deferred = self.deferred[rank]._replace(add=micro > 0)
                self.network.backward(state.params, work.memory, how, scale, deferred)
                total += float(work.memory.losses.sum())
        return total

    def _loss(self, rank: int, state: TrainState, batch: Batch) -> float:
        work, how = self.workspaces[rank], Pass(products=self.products[rank])
        work.load(batch, self.shares[rank])
        self.network.forward(state.params, work.memory, how)
        self.network.loss(state.params, work.memory, how)
        return float(work.memory.losses.sum())

    def _sum_slice(self, rank: int) -> float:
        """Add the other workers' gradients to the first's, in order; return the slice's sum of squares."""
        part = self.parts[rank]
        total, squares = self.workspaces[0].gradient[part], math.nan
        if self.workers == 1:
            return float(sum_squares(total))
        for other in self.workspaces[1:]:
            squares = add_and_sum_squares(total, other.gradient[part])
        return squares

    def _diagnosis(self, step: int, loss: float, norm: float, params: Array) -> str:
        rows = ("parameter", params), ("gradient", self.workspaces[0].gradient)
        bad = (
            f"; the first bad tensor is the {what} of {name}"
            for what, row in rows
            for name, view in self.layout.named(row).items()
            if not np.isfinite(view).all()
        )
        where = next(bad, "")
        return (
            f"step {step}: loss {loss}, gradient norm {norm}: not finite{where}. Nothing was updated and "
            f"the checkpoints are intact: resume from one of them, or start over, with a lower --lr, "
            f"a longer --warmup or a lower --grad-clip"
        )


@contextmanager
def engine_of(state: TrainState, workers: int, blas_threads: int) -> Iterator[Engine]:
    """Yield the engine of a run on so many workers, with a thread for each BLAS thread of each."""
    with Team(min(workers * blas_threads, most_threads())) as team:
        yield Engine(state, team, workers, Purpose.of(state.config.train))
