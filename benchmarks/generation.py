"""What is compared in generating: the models, the work, and weights that are the same for every competitor.

Order: the models, the work, the weights and prompts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from benchmarks.peers import OURS, Competitor
from benchmarks.shapes import CONFIGS as TRAINED
from benchmarks.shapes import Shape

if TYPE_CHECKING:
    from tinyllm.arena import Array, Layout

CONFIGS = {"S": TRAINED["S"], "GPT2": Shape(V=50257, T=1024, B=1, L=12, H=12, C=768)}
PEERS = {
    "torch": Competitor("benchmarks.peers.pytorch_generate", "torch"),
    "transformers": Competitor("benchmarks.peers.transformers_generate", "transformers"),
}
COMPETITORS = {OURS: Competitor("benchmarks.peers.own_generate", "tinyllm"), **PEERS}


class Work(NamedTuple):
    """After a prompt of `prompt` tokens, `tokens` new ones, always the most probable, for several texts."""

    sequences: int
    prompt: int
    tokens: int
    counted: int  # tokens that the work is said to be: those of the prompts, or the new ones


def works(shape: Shape, tokens: int) -> dict[str, Work]:
    """Return what is timed: reading a prompt, and writing one text and eight."""
    read, before = min(512, shape.T - 1), 16
    tokens = min(tokens, shape.T - before)
    return {
        "prompt": Work(1, read, 1, read),
        "1 text": Work(1, before, tokens, tokens),
        "8 texts": Work(8, before, tokens, 8 * tokens),
    }


def weights(shape: Shape) -> tuple[Layout, Array]:
    """Return a model's layout and its row of parameters, as training begins with them."""
    import numpy as np

    from tinyllm.arena import aligned_empty
    from tinyllm.config import ModelConfig
    from tinyllm.run.state import layout_of

    config = ModelConfig(n_layer=shape.L, n_head=shape.H, n_embd=shape.C, block_size=shape.T)
    layout = layout_of(config, shape.V)
    row = aligned_empty(layout.size, np.float32)
    row[:] = 0
    rng = np.random.default_rng(0)  # quicker than Layout.initialise, which draws 124 M numbers in float64
    for slot in layout.slots:
        view = row[slot.start : slot.stop]
        view[:] = slot.spec.fill
        if slot.spec.std:
            view += slot.spec.std * rng.standard_normal(view.size, dtype=np.float32)
    return layout, row


def prompts(shape: Shape, work: Work) -> Array:
    """Return int64 (sequences, prompt) tokens."""
    import numpy as np

    return np.random.default_rng(1).integers(0, shape.V, (work.sequences, work.prompt))
