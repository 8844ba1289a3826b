"""The first lines that a process writes into a run's log: where it resumes, and what simple models lose.

These are ln V, the loss of a model that has learnt nothing, and of the training tokens the entropy of one
token, and of one token given the one before it: the losses of models that know all frequencies of tokens, or
of pairs. A line per phase, as of step 0, so that a resume repeats what is there already.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from tinyllm.run.state import TrainState
from tinyllm.text.baselines import Counts
from tinyllm.text.batches import Dataset
from tinyllm.text.passages import Passages
from tinyllm.training.metrics import BASELINES, Metrics


def write_header(
    metrics: Metrics, state: TrainState, datasets: Mapping[str, Dataset], resumed: bool
) -> None:  # fmt: skip
    """Write the lines; of a large corpus evenly spread tokens are counted."""
    if resumed:
        metrics.write(step=state.progress.step, event="resume", phase=state.progress.phase)
    V = state.tokenizer.vocab_size
    for phase, dataset in datasets.items():
        passages = Passages.of(dataset.corpus, dataset.training, state.config.data.train_on_prompts)
        unigram, bigram = Counts.of(passages, V).entropies()
        metrics.write(
            step=0, event=BASELINES, phase=phase,
            baseline__uniform=math.log(V), baseline__unigram=unigram, baseline__bigram=bigram,
        )  # fmt: skip
