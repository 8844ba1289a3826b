"""A line that the model writes every so many updates, on the screen and in the log.

It belongs to its update: the loop does both in one action, so that no save lies between them, and a run that
is resumed before an update repeats both. Nothing of the state is changed, and no number depends on it.
"""

from __future__ import annotations

from tinyllm.run.state import TrainState
from tinyllm.training.control import Outputs

EVENT = "sample"


def sample_if_due(state: TrainState, outputs: Outputs) -> None:
    """Let the model write after an update, if it is one of every `--sample-every`."""
    every, progress = state.config.saving.sample_every, state.progress
    if not every or progress.step % every or outputs.sampler is None:
        return
    prompt, text = outputs.sampler(state)
    outputs.metrics.write(
        step=progress.step, event=EVENT, phase=progress.phase, epoch=progress.epoch, prompt=prompt, text=text
    )
    outputs.watcher.sampled(state, prompt, text)
