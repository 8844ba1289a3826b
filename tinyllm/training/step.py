"""One training step over all ranks: forward, backward, sum, clip, Adam.

Each worker runs the whole model on its share of the sequences with a Workspace of its own; one that has
ended makes weight gradients that slower ones have left, in their rows. Then every rank of the team, of which
the workers are the first, sums the gradients of, clips and updates its slice of the rows. The result depends
on the numbers of workers and of ranks and on nothing else about them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from tinyllm import model
from tinyllm.arena import Array, Layout
from tinyllm.config import ModelConfig
from tinyllm.kernels import add_and_sum_squares, sum_squares
from tinyllm.layers import dropout, linear
from tinyllm.parallel.team import Spare, Team
from tinyllm.run.state import TrainState, Workspace
from tinyllm.text.batches import Batch
from tinyllm.training.optim import clip_factor, slices, update_

R = TypeVar("R")


class TrainingError(RuntimeError):
    """Training cannot go on: a loss or gradient is not a finite number."""


class Step(NamedTuple):
    """What one update reports."""

    loss: float  # nats per target token, before the update
    grad_norm: float  # global norm before clipping
    lr: float
    tokens: int  # target tokens


class Engine:
    """The ranks' workspaces for batches of `batch_size` sequences, made once for a run."""

    def __init__(
        self, config: ModelConfig, V: int, batch_size: int, layout: Layout, team: Team,
        workers: int | None = None, recompute: bool = False, accumulate: bool = True,
    ) -> None:  # fmt: skip
        """Allocate for `workers` of the team's ranks, all by default; the batch is shared out among them.

        With `recompute`, activations take a fraction of the memory, and a step a quarter more time. Without
        `accumulate`, a step takes one micro-batch and no memory to add others with.
        """
        self.config, self.layout, self.team, self.workers = config, layout, team, workers or team.size
        self.accumulate = accumulate
        borders = [batch_size * rank // self.workers for rank in range(self.workers + 1)]
        self.shares = [slice(a, b) for a, b in itertools.pairwise(borders)]
        self.parts = slices(layout.size, team.size)
        counts = [share.stop - share.start for share in self.shares]
        self.workspaces = self._work(
            lambda rank: Workspace(
                config, V, counts[rank], layout, recompute=recompute, accumulate=accumulate
            )
        )
        self.spare = Spare(self.workers)
        products = [work.scratch.product for work in self.workspaces]
        # One worker alone makes each gradient at once, while what it is made of is in the cache.
        helped = self.spare if self.workers > 1 else None
        self.laters = [linear.Later(products, spare=helped, rank=rank) for rank in range(self.workers)]

    def _work(self, task: Callable[[int], R]) -> list[R]:
        return self.team.run(task, self.workers)

    def train(self, state: TrainState, batches: Sequence[Batch]) -> Step:
        """Make one update of `state` from `batches`, whose gradients are summed, and count it in progress.

        Raises TrainingError, before anything is updated, where loss or gradient is not finite, and ValueError
        for more batches than the engine was made for.
        """
        progress, config = state.progress, state.config
        if len(batches) > 1 and not self.accumulate:
            raise ValueError(f"batches: found {len(batches)}, expected 1 of an engine made not to accumulate")
        count = sum(batch.loss_tokens for batch in batches)
        if not count:
            raise TrainingError(f"step {progress.step}: the batch has no target tokens")
        self.spare.begin()
        losses = self._work(lambda rank: self._gradients(rank, state, batches, 1 / count))
        loss = math.fsum(losses) / count
        norm = math.sqrt(sum(self.team.run(self._sum_slice)))
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise TrainingError(self._diagnosis(progress.step, loss, norm, state.rows[0]))
        lr = state.schedule.lr(progress.step)
        factor = clip_factor(norm, config.train.grad_clip)
        total, timestep = self.workspaces[0].gradient, progress.timestep + 1
        self.team.run(
            lambda rank: update_(
                state.rows, total, self.parts[rank], self.layout, config.train, lr, timestep, factor
            )
        )
        progress.step += 1
        progress.timestep = timestep
        progress.tokens += count
        return Step(loss, norm, lr, count)

    def evaluate(self, state: TrainState, batches: Iterable[Batch]) -> float:
        """Return the mean loss, in nats per target token, without dropout; NaN when there are no targets."""
        total, count = 0.0, 0
        for batch in batches:
            total += math.fsum(self._work(lambda rank, b=batch: self._loss(rank, state, b)))  # type: ignore[misc]
            count += batch.loss_tokens
        return total / count if count else math.nan

    def _gradients(self, rank: int, state: TrainState, batches: Sequence[Batch], scale: float) -> float:
        """Write this rank's share of the gradient into its row; return its sum of losses."""
        with self.spare.working(rank):
            work, share, params = self.workspaces[rank], self.shares[rank], state.params
            rate, seed, step = self.config.dropout, state.config.train.seed, state.progress.step
            work.begin()
            total = 0.0
            for micro, batch in enumerate(batches):
                load(work, batch, share)
                drop = dropout.Address(rate, seed, step, micro * len(batch.tokens) + share.start)
                model.forward(params, work.acts, work.scratch, work.inputs, drop)
                model.backward(
                    params, work.grads, work.acts, work.scratch, work.losses, work.inputs, drop, scale,
                    micro == 0, self.laters[rank],
                )  # fmt: skip
                total += float(work.losses.sum())
        return total

    def _loss(self, rank: int, state: TrainState, batch: Batch) -> float:
        work, params = self.workspaces[rank], state.params
        load(work, batch, self.shares[rank])
        model.forward(params, work.acts, work.scratch, work.inputs, dropout.OFF)
        model.loss(params, work.acts, work.scratch, work.losses, work.inputs)
        return float(work.losses.sum())

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
        for what, row in (("parameter", params), ("gradient", self.workspaces[0].gradient)):
            for name, view in self.layout.named(row).items():
                if not np.isfinite(view).all():
                    where = f"; the first bad tensor is the {what} of {name}"
                    break
            else:
                continue
            break
        else:
            where = ""
        return (
            f"step {step}: loss {loss}, gradient norm {norm}: not finite{where}. Nothing was updated and "
            f"every checkpoint is as it was: go on from one of them, or begin anew, with a lower --lr, "
            f"a longer --warmup or a lower --grad-clip"
        )


def load(work: Workspace, batch: Batch, share: slice) -> None:
    """Copy a share of the batch's sequences into a worker's inputs."""
    inputs = work.inputs
    B, T = inputs.starts.shape
    np.copyto(inputs.tokens.reshape(B, T), batch.tokens[share])
    np.copyto(inputs.targets.reshape(B, T), batch.targets[share])
    np.copyto(inputs.starts, batch.starts[share])
    np.subtract(work.places, inputs.starts, out=inputs.positions.reshape(B, T))
