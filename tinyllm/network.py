"""What a network offers, and what is passed to it; all but layers and models know a network only by this.

A network is one file beside model.py, built of layers, whose functions are those of `Network`; it is named in
`run.state.NETWORKS` and nowhere else. Order: what is passed, the protocol.

Letters: B sequences, T positions, N = B*T rows, C channels, H heads, V vocabulary, L blocks.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from tinyllm.arena import Array, Layout
from tinyllm.config import ModelConfig, TrainConfig
from tinyllm.layers import attention, dropout, linear


class Purpose(NamedTuple):
    """Which passes memory is laid out for."""

    backward: bool = True  # without: forward alone, from a Source that brings its own memory
    recompute: bool = False  # keep only the residual stream of each block, and recompute the rest
    accumulate: bool = True  # several micro-batches per step, hence memory to add their gradients with
    gradient: bool = True  # without: forward and loss alone, over whole batches, as training computes them
    all_rows: bool = False  # the head reads rows that carry no loss too, as in earlier runs
    own: bool = False  # matrix products are the kernels' own, which add without memory

    @classmethod
    def of(cls, config: TrainConfig) -> Purpose:
        """Return the purpose of a run's training."""
        return cls(
            recompute=config.recompute, accumulate=config.accumulate > 1, all_rows=config.all_rows,
            own=config.products == "own",
        )  # fmt: skip


TRAINING, READING = Purpose(), Purpose(backward=False)
SCORING = Purpose(recompute=True, accumulate=False, gradient=False)


class Inputs(NamedTuple):
    """A worker's share of a batch."""

    tokens: Array  # int32 (N,)
    positions: Array  # int32 (N,) place of each token in its own document
    targets: Array  # int32 (N,) the next token; -1 where there is no loss
    starts: Array  # int32 (B, T) index of the first token of each token's document


class Memory(NamedTuple):
    """All that a pass reads and writes besides the parameters; the trees are the network's own."""

    inputs: Inputs
    acts: Any  # what forward saves for backward
    scratch: Any  # working memory; its content matters within a pass only
    losses: Array  # float64 (N,) nats; 0 where there is no target
    grads: Any  # of the parameters


class Pass(NamedTuple):
    """How one forward pass, and its backward pass, are run."""

    drop: dropout.Address = dropout.OFF
    source: attention.Source | None = None  # None: the documents of the inputs, as training attends
    products: linear.Products = linear.BLAS


PLAIN = Pass()


class Network(Protocol):
    """The functions of a network's module; p are its parameters, m its memory."""

    def params(self, config: ModelConfig, V: int) -> Any:
        """Return the Specs of all parameters; their paths are the names in checkpoints."""

    def vocabulary(self, p: Any) -> int:
        """Return V."""

    def acts(self, config: ModelConfig, B: int, purpose: Purpose) -> Any:
        """Return the Specs of what forward saves for backward, for B sequences of block_size tokens."""

    def scratch(self, config: ModelConfig, V: int, B: int, purpose: Purpose) -> Any:
        """Return the Specs of working memory."""

    def share(self, a: Any, config: ModelConfig, purpose: Purpose) -> Any:
        """Return `a`, in which blocks that `purpose` does not lay out use the first block's memory."""

    def forward(self, p: Any, m: Memory, how: Pass) -> Array:
        """Return (N, C) from m.inputs, for `logits`; writes m.acts and m.scratch."""

    def loss(self, p: Any, m: Memory, how: Pass = PLAIN) -> None:
        """Write m.losses, after `forward` in memory laid out with backward."""

    def backward(
        self, p: Any, m: Memory, how: Pass, scale: float, deferred: linear.DeferredGradients
    ) -> None:
        """Write m.losses, and add the gradient of scale * sum(m.losses) to m.grads; after `forward`.

        Unless `deferred.add`, the gradients of matrices are overwritten, except those in `accumulators`,
        which the caller has cleared.
        """

    def accumulators(self, g: Any) -> tuple[Array, ...]:
        """Return the gradients of matrices that backward always adds to."""

    def logits(self, p: Any, y: Array, out: Array) -> Array:
        """Write the logits (n, V) of rows y (n, C) of `forward` into out, and return it."""

    def attention_weights(self, m: Memory) -> Array:
        """Return the attention weights (L, B, H, T, T) of the last forward pass, for inspection."""

    def embed(self, p: Any, x: Array, tokens: Array, positions: Array) -> None:
        """Write what enters the first block into x (n, C), for the decoding kernel."""

    def kernel_offsets(self, config: ModelConfig, layout: Layout) -> Array | None:
        """Return where the decoding kernel finds each tensor, int64 (L + 1, 12).

        None: it was not made for this network, whose tokens then come one by one through `forward`.
        """
