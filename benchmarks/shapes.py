"""What is benchmarked: the four models of the comparison, and how many operations a step of each costs.

A step is forward + backward + clipping to a global norm of 1 + AdamW, in float32, without dropout, on random
tokens, one stream a sequence. Imports nothing: threads must be settled before NumPy loads.
"""

from __future__ import annotations

from typing import NamedTuple

LEARNING_RATE, BETA1, BETA2, WEIGHT_DECAY, CLIP = 1e-5, 0.9, 0.99, 0.1, 1.0
BATCHES = 16  # drawn once and met in turn; with the low rate nothing is learnt by heart


class Shape(NamedTuple):
    """A model and its batch: V tokens, T positions, B sequences, L blocks of H heads, C channels."""

    V: int
    T: int
    B: int
    L: int
    H: int
    C: int

    @property
    def tokens(self) -> int:
        """Tokens of one step."""
        return self.B * self.T

    @property
    def parameters(self) -> int:
        """Parameters, with the tied vocabulary matrix, without the positions."""
        block = 12 * self.C**2 + 13 * self.C  # weights 3 + 1 + 4 + 4; biases 3 + 1 + 4 + 1, norms 4
        return self.V * self.C + self.L * block + 2 * self.C

    @property
    def flops(self) -> int:
        """Operations of one step: 6 a parameter and token, and attention's T keys a query, none masked.

        Kaplan et al. 2020, arXiv:2001.08361, section 2.1, with attention counted as PaLM does (Chowdhery et
        al. 2022, arXiv:2204.02311, appendix B): what the causal mask saves counts as done.
        """
        return self.tokens * (6 * self.parameters + 12 * self.L * self.T * self.C)


CONFIGS = {
    "XS": Shape(V=96, T=64, B=12, L=4, H=4, C=128),
    "S": Shape(V=2048, T=128, B=16, L=2, H=8, C=256),
    "M": Shape(V=256, T=256, B=16, L=6, H=6, C=384),
    "L": Shape(V=50304, T=64, B=4, L=12, H=12, C=768),
}
