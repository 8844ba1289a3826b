"""A model's parameters as the decoder needs them: named views, and where each begins in the one flat row."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tinyllm import model
from tinyllm.arena import Array, Layout
from tinyllm.config import ModelConfig

BLOCK = (
    "norm1.gain", "norm1.bias", "attention.qkv_weight", "attention.qkv_bias",
    "attention.out_weight", "attention.out_bias", "norm2.gain", "norm2.bias",
    "mlp.up_weight", "mlp.up_bias", "mlp.down_weight", "mlp.down_bias",
)  # fmt: skip
LAST = ("norm.gain", "norm.bias", "embedding.token")


class Weights(NamedTuple):
    """The parameters of a model; a change in the row is seen at once."""

    config: ModelConfig
    row: Array  # (size,)
    params: model.Params  # views of the row
    places: Array  # int64 (L + 1, 12), as the kernel `decode_` reads them

    @classmethod
    def of(cls, config: ModelConfig, layout: Layout, row: Array) -> Weights:
        """Return the parameters that lie in `row` (size,) as `layout` says."""
        start = {slot.name: slot.start for slot in layout.slots}
        places = np.zeros((config.n_layer + 1, len(BLOCK)), np.int64)
        for i in range(config.n_layer):
            places[i] = [start[f"blocks.{i}.{name}"] for name in BLOCK]
        places[-1, : len(LAST)] = [start[name] for name in LAST]
        return cls(config, row, layout.views(row), places)

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""
        return len(self.params.embedding.token)
