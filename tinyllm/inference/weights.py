"""A model's parameters for generation: named views, and where each begins in the one flat row."""

from __future__ import annotations

from typing import Any, NamedTuple

from tinyllm.arena import Array, Layout
from tinyllm.config import ModelConfig
from tinyllm.network import Network
from tinyllm.run.state import network_of


class Weights(NamedTuple):
    """The parameters of a model; a change in the row is seen at once."""

    config: ModelConfig
    network: Network
    layout: Layout
    row: Array  # (size,)
    params: Any  # the network's, views of the row
    offsets: Array | None  # int64 (L + 1, 12), as the kernel `decode_` reads them; None: it cannot

    @classmethod
    def of(cls, config: ModelConfig, layout: Layout, row: Array) -> Weights:
        """Return the parameters that lie in `row` (size,) as `layout` says."""
        network = network_of(config)
        return cls(config, network, layout, row, layout.views(row), network.kernel_offsets(config, layout))

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""
        return self.network.vocabulary(self.params)
