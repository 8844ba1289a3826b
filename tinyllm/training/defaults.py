"""What an option that is not given means for a run: decided when it starts, stored in its config.

Order: the tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping

from tinyllm.config import BUNDLED, HAN_RUN, Config, replace

BUNDLED_HAN_RUN = HAN_RUN


def with_tokenizer(config: Config, sources: Mapping[str, list[str]]) -> Config:
    """Return `config` with the --han-run of these texts, unless it is given or no BPE will be trained."""
    if config.data.tokenizer != "bpe" or config.data.han_run is not None:
        return config
    han_run = BUNDLED_HAN_RUN if are_bundled(sources) else HAN_RUN
    return replace(config, {"data": {"han_run": han_run}})


def are_bundled(sources: Mapping[str, list[str]]) -> bool:
    """Return whether all texts of a run are those that come with tinyllm."""
    return all(paths == [BUNDLED[phase]] for phase, paths in sources.items())
