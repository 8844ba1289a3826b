"""tinyllm itself, writing texts as its command line does."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.generation import Work, prompts, weights
from benchmarks.shapes import Shape


def build(shape: Shape, threads: int, work: list[int]) -> tuple[Callable[[], float], str]:
    """Return a step that does the work and returns the sum of the new tokens, and what makes it."""
    from tinyllm.parallel.threads import set_blas_threads

    set_blas_threads(threads)
    import numba
    import numpy as np

    from tinyllm.config import ModelConfig
    from tinyllm.inference import writing
    from tinyllm.inference.decode import Decoder
    from tinyllm.inference.settings import GREEDY
    from tinyllm.inference.weights import Weights

    todo = Work(*work)
    config = ModelConfig(n_layer=shape.L, n_head=shape.H, n_embd=shape.C, block_size=shape.T)
    decoder = Decoder(Weights.of(config, *weights(shape)), todo.sequences, threads)
    begun = prompts(shape, todo).astype(np.int32)

    def step() -> float:
        texts = [
            writing.Continuation(prompt, GREEDY, (0, i), -1, todo.tokens) for i, prompt in enumerate(begun)
        ]
        return sum(token or 0 for _, token in writing.generate_all(decoder, texts))

    return step, f"NumPy {np.__version__}, Numba {numba.__version__}"
