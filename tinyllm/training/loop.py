"""The training loop: step, close the epoch, evaluate, judge, save, next phase.

The loop asks the state what is due, does it, and asks again; it remembers nothing of its own. So a
state that was saved between any two actions continues exactly where it was. Order: what is due, what is
done, saving.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

import numpy as np

from tinyllm.checkpoint import CheckpointMetadata, Save
from tinyllm.run.phases import enter_phase, phase_end, steps_per_epoch
from tinyllm.run.state import TrainState
from tinyllm.text.batches import Batch, Dataset
from tinyllm.training.control import Control, Outputs
from tinyllm.training.samples import sample_if_due
from tinyllm.training.step import Engine, Step
from tinyllm.words import counted


class Loop:
    """Drives a TrainState to the end of its last phase, or until `control.stop()` is true."""

    def __init__(
        self, state: TrainState, datasets: Mapping[str, Dataset], engine: Engine, outputs: Outputs,
        control: Control,
    ) -> None:  # fmt: skip
        self.state, self.datasets, self.engine, self.outputs = state, datasets, engine, outputs
        self.manager, self.metrics, self.watcher = outputs.manager, outputs.metrics, outputs.watcher
        self.clock, self.stop, self.rhythm = control.clock, control.stop, control.rhythm
        self.last_step: Step | None = None
        self.buffers: list[Batch] = []  # of the micro-batches; each step overwrites them
        self.saved_step, self.saved_time = state.progress.step, self.clock.seconds()
        self.flushed_time = self.saved_time
        self.epoch_tokens, self.epoch_seconds = 0, 0.0
        self.whole = True  # whether the state is one that the run passes through, and may be saved

    def run(self) -> bool:
        """Return True when the run is finished, False when it was stopped and saved."""
        with self._saved_at_an_error():
            self._announce()
            while not self.stop():
                if self._epoch_is_complete():  # only in checkpoints of earlier versions; see _step
                    self._close_epoch()
                elif self._evaluation_is_due():
                    self._evaluate()
                elif self._judgement_is_due():
                    self._judge()
                elif self.phase_is_over():
                    if not self._next_phase():
                        self._finish()
                        return True
                else:
                    self._step()
                self._save_if_due()
            self.save()
        return False

    def save(self) -> None:
        """Save checkpoint_last, and return when it is durable."""
        self._save(forced=True).result()

    # What is due: questions to the state alone.

    def phase_is_over(self) -> bool:
        """Return whether the current phase has stopped early or used up its epochs or steps."""
        progress = self.state.progress
        config = self.state.config.train.of(progress.phase)
        if progress.status in ("early_stopped", "rolled_back"):
            return True
        if config.max_steps:
            return progress.step - progress.phase_start >= config.max_steps
        return progress.phase_epoch >= config.epochs

    def _epoch_is_complete(self) -> bool:
        return self.state.progress.index >= steps_per_epoch(self.state.config.train, self.dataset.windows)

    def _at_epoch_end(self) -> bool:
        return self.state.progress.index == 0 and self.state.progress.phase_epoch > 0

    def _evaluation_is_due(self) -> bool:
        progress, every = self.state.progress, self.state.config.train.eval_every
        if not self.state.config.data.val_fraction or progress.evaluated == progress.step:
            return False
        done = progress.step - progress.phase_start
        return self._at_epoch_end() or self.phase_is_over() or bool(every and done and done % every == 0)

    def _judgement_is_due(self) -> bool:
        if self.state.progress.judged == self.state.progress.step:
            return False
        return self._at_epoch_end() or self.phase_is_over() or self._is_judged_between_epochs()

    def _is_judged(self) -> bool:
        return self.state.progress.judged == self.state.progress.step > self.state.progress.phase_start

    def _is_judged_between_epochs(self) -> bool:
        return self._counts_evaluations() and self.state.progress.evaluated == self.state.progress.step

    def _counts_evaluations(self) -> bool:
        """Return whether every evaluation decides about best and patience, instead of every epoch."""
        config = self.state.config.train
        return bool(config.eval_every) and config.monitor == "val"

    @property
    def dataset(self) -> Dataset:
        """The current phase's data."""
        return self.datasets[self.state.progress.phase]

    # What is done.

    def _step(self) -> None:
        state, progress, config = self.state, self.state.progress, self.state.config.train
        started = self.clock.seconds()
        batches = self.dataset.micro_batches(config, progress.phase_epoch, progress.index, self.buffers)
        with self._changing():
            step, epoch = self.engine.train(state, batches), progress.epoch
            progress.index += 1
            progress.loss_sum += step.loss * step.tokens
            progress.loss_tokens += step.tokens
            if self._epoch_is_complete():  # with its last update, so that a save after it counts it
                self._close_epoch()
        now = self.clock.seconds()
        seconds = now - started
        speed = _speed(step.tokens, seconds)
        self.last_step = step
        self.epoch_tokens += step.tokens
        self.epoch_seconds += seconds
        self.metrics.write(
            step=progress.step, epoch=epoch, phase=progress.phase, tokens=progress.tokens,
            train__loss=step.loss, train__lr=step.lr, train__grad_norm=step.grad_norm,
            train__tokens_per_second=round(speed, 1),
        )  # fmt: skip
        if now - self.flushed_time > 1:
            self.metrics.flush()
            self.flushed_time = now
        self.watcher.step(state, step, speed)
        sample_if_due(state, self.outputs)

    def _close_epoch(self) -> None:
        progress = self.state.progress
        progress.train_loss = progress.loss_sum / progress.loss_tokens
        progress.loss_sum, progress.loss_tokens, progress.index = 0.0, 0, 0
        progress.epoch += 1
        progress.phase_epoch += 1

    def _evaluate(self) -> None:
        state, progress = self.state, self.state.progress
        batches = self.dataset.validation(state.config.train.batch_size)
        loss = self.engine.evaluate(state, batches, self.stop)
        if loss is None:  # stopped: it is still due, and made again after a resume
            return
        progress.eval_loss, progress.evaluated = loss, progress.step
        self.metrics.write(
            step=progress.step, epoch=progress.epoch, phase=progress.phase, tokens=progress.tokens,
            eval__loss=loss,
        )  # fmt: skip
        self.watcher.evaluated(state, loss)

    def _judge(self) -> None:
        state, progress, config = self.state, self.state.progress, self.state.config.train
        loss, epoch_end = self._monitored_loss(), self._at_epoch_end()
        state.stopping = state.stopping.update(progress.epoch, progress.step, loss, config.min_delta)
        progress.judged = progress.step
        if state.stopping.is_over(config.patience):
            progress.status = "early_stopped"
        self._save(forced=progress.status == "early_stopped", epoch_end=epoch_end, judged=True)
        if epoch_end or not self._is_judged_between_epochs():
            speed = _speed(self.epoch_tokens, self.epoch_seconds)
            self.epoch_tokens, self.epoch_seconds = 0, 0.0
            self.watcher.epoch_ended(state, loss, self.last_step, speed)

    def _next_phase(self) -> bool:
        """Enter the next phase, from the best state if this one stopped early; False after the last."""
        state, progress = self.state, self.state.progress
        if progress.status == "early_stopped":
            with self._changing():
                self._roll_back()
        following = state.phases[state.phases.index(progress.phase) + 1 :]
        if not following:
            return False
        enter_phase(state, following[0], self.datasets[following[0]].windows)
        self._announce()
        return True

    def _roll_back(self) -> None:
        """Take the best state's parameters, moments and timestep; the step count is not rolled back."""
        state, progress = self.state, self.state.progress
        path = self.manager.get_best_checkpoint(progress.phase)
        progress.status = "rolled_back"
        self.metrics.write(step=progress.step, event="early_stop", phase=progress.phase, epoch=progress.epoch)
        stopped = (
            f"{progress.phase} stopped early: no improvement of {state.config.train.min_delta} for "
            + counted(state.stopping.counter, "evaluation" if self._counts_evaluations() else "epoch")
        )
        if path is None or state.stopping.best_step == progress.step:
            self.watcher.notice(f"{stopped}; no earlier checkpoint is better")
            return
        best, metadata = self.manager.load_checkpoint(path)
        np.copyto(state.rows, best.rows)
        progress.timestep = best.progress.timestep
        self.metrics.write(step=progress.step, event="rollback", phase=progress.phase, epoch=metadata.epoch)
        self.watcher.notice(f"{stopped}; rolled back to epoch {metadata.epoch}, loss {metadata.loss:.4f}")
        if metadata.loss != state.stopping.best:
            self.watcher.notice(
                f"note: the best was epoch {state.stopping.best_epoch}, loss {state.stopping.best:.4f}, "
                f"which is not in {self.manager.directory} (the strategy is {self.manager.strategy})"
            )

    def _finish(self) -> None:
        progress, status = self.state.progress, self.state.progress.status
        try:
            if status != "rolled_back":
                progress.status = "finished"
            self.metrics.write(step=progress.step, event="finished", phase=progress.phase)
            self.metrics.flush()
            self.manager.save_final(self.state, self._metadata())
        except Exception:
            self.whole = status != "rolled_back"  # else what was saved before the rollback is the one to keep
            progress.status = status  # a resume finishes it
            raise

    def _announce(self) -> None:
        progress = self.state.progress
        end = phase_end(progress, self.state.config.train.of(progress.phase), self.dataset.windows)
        self.watcher.phase(self.state, end - progress.phase_start)

    # Saving.

    def _save_if_due(self) -> None:
        rhythm, step = self.rhythm, self.state.progress.step
        by_steps = rhythm.steps and step > self.saved_step and step % rhythm.steps == 0
        by_time = rhythm.minutes and self.clock.seconds() - self.saved_time >= 60 * rhythm.minutes
        if by_steps or (by_time and step > self.saved_step):
            self._save(forced=True)
        self.manager.poll()

    def _save(self, forced: bool, epoch_end: bool = False, judged: bool = False) -> Save:
        self.metrics.flush()  # no kill may leave a checkpoint that is newer than the lines before it
        saved = self.manager.save_checkpoint(
            self.state, self._metadata(), epoch_end=epoch_end, judged=judged, last=forced
        )
        self.saved_step, self.saved_time = self.state.progress.step, self.clock.seconds()
        return saved

    @contextmanager
    def _saved_at_an_error(self) -> Iterator[None]:
        """Save once more, perhaps as the best, before an error of the log, the screen or a save is raised."""
        try:
            yield
        except Exception:
            if self.whole:
                with suppress(Exception):  # the error that made it necessary is the one to be seen
                    self.manager.save_checkpoint(
                        self.state, self._metadata(), last=True,
                        epoch_end=self._at_epoch_end(), judged=self._is_judged(),
                    ).result()  # fmt: skip
                    self.watcher.notice(
                        f"note: saved at step {self.state.progress.step:,} because of an error"
                    )
            raise

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Declare the state unfit to be saved if the block does not come to its end."""
        self.whole = False
        yield
        self.whole = True

    def _metadata(self) -> CheckpointMetadata:
        progress = self.state.progress
        return CheckpointMetadata(
            epoch=progress.epoch, loss=self._monitored_loss(),
            learning_rate=self.state.schedule.lr(max(progress.step - 1, 0)),
            timestamp=self.clock.date().strftime("%Y-%m-%d %H:%M:%S"), phase=progress.phase,
        )  # fmt: skip

    def _monitored_loss(self) -> float:
        """Return the latest evaluation, or the mean loss of the epoch so far, or of the one just ended."""
        progress = self.state.progress
        if self.state.config.train.monitor == "val":
            return progress.eval_loss
        return progress.loss_sum / progress.loss_tokens if progress.loss_tokens else progress.train_loss


def _speed(tokens: int, seconds: float) -> float:
    """Return tokens per second; NaN where there was no step, or the clock did not move."""
    return tokens / seconds if seconds else math.nan
