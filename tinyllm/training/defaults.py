"""What an option that is not given means for a run: decided when it starts, stored in its config.

Order: the tokenizer, the part held out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from tinyllm.config import HAN_RUN, Config, is_bundled, replace
from tinyllm.text.batches import Dataset
from tinyllm.text.tokens import STREAM
from tinyllm.words import counted

BUNDLED_FRACTION, FRACTION = 0.05, 0.1  # held out of the bundled texts, and of others
ENOUGH = 100  # windows, and documents where there are any, of which a tenth is held out


def with_tokenizer(config: Config) -> Config:
    """Return `config` with its --han-run, unless it is given or no BPE will be trained."""
    if config.data.tokenizer != "bpe" or config.data.han_run is not None:
        return config
    return replace(config, {"data": {"han_run": HAN_RUN}})


def with_validation(
    config: Config,
    sources: Mapping[str, list[str]],
    datasets: Mapping[str, Dataset],
    notice: Callable[[str], None],
) -> Config:
    """Return `config` with --val-fraction and --monitor; of `datasets`, by phase, nothing is held out yet.

    All phases have one fraction. That of texts of one's own is 0, as a notice says, if those of any phase are
    too small to spare a tenth. ConfigError for options that then have no validation data.
    """
    own = {phase: each for phase, each in datasets.items() if not is_bundled(phase, sources[phase])}
    small = [phase for phase, each in own.items() if not is_large(each)]
    fraction = config.data.val_fraction
    if fraction is None:
        fraction = 0.0 if small else FRACTION if own else BUNDLED_FRACTION
    monitor = config.train.monitor or ("val" if fraction else "train")
    decided = replace(config, {"data": {"val_fraction": fraction}, "train": {"monitor": monitor}})
    if small and config.data.val_fraction is None:
        first = own[small[0]]
        sizes = f"{counted(first.windows, 'window')}, {counted(first.documents, 'document')}"
        notice(
            f"note: nothing is held out for validation: the texts of {small[0]} are small ({sizes}); "
            f"--val-fraction {FRACTION} holds out a tenth"
        )
    return decided


def is_large(dataset: Dataset) -> bool:
    """Return whether a tenth of the data can be held out, and is enough to measure a loss with."""
    # Of a stream, the end is held out, so their number does not matter.
    documents = dataset.documents - int(np.count_nonzero(dataset.corpus.kinds == STREAM))
    return dataset.windows >= ENOUGH and (not documents or documents >= ENOUGH)
