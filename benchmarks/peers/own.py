"""tinyllm itself: the engine that trains, on the threads that its command line would choose."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.shapes import BATCHES, BETA1, BETA2, CLIP, LEARNING_RATE, WEIGHT_DECAY, Shape


def choose_threads(
    shape: Shape, cores: int, workers: int | None, blas_threads: int | None
) -> tuple[int, int]:
    """Return the workers and their BLAS threads: the program's choice where none is given.

    The only place that knows how the program chooses. Sets BLAS's threads, so NumPy must not be loaded yet.
    """
    from tinyllm.parallel.threads import choose, set_blas_threads

    chosen = choose(shape.B, cores, workers, blas_threads)
    set_blas_threads(chosen[1])
    return chosen


def build(
    shape: Shape, threads: int, workers: int | None = None, blas_threads: int | None = None,
    recompute: bool = False, products: str = "blas",
) -> tuple[Callable[[], float], str]:  # fmt: skip
    """Return a step that trains and returns the loss, and what makes it; `threads` counts the cores."""
    workers, blas_threads = choose_threads(shape, threads, workers, blas_threads)
    import numba
    import numpy as np

    from tinyllm.arena import aligned_empty
    from tinyllm.config import Config, ModelConfig, TrainConfig
    from tinyllm.kernels import compile_all, is_warm
    from tinyllm.network import Purpose
    from tinyllm.parallel.team import Team
    from tinyllm.run.schedule import Schedule
    from tinyllm.run.state import TrainState, layout_of
    from tinyllm.text.batches import Batch
    from tinyllm.text.tokenizer import CharTokenizer
    from tinyllm.training.step import Engine

    model = ModelConfig(n_layer=shape.L, n_head=shape.H, n_embd=shape.C, block_size=shape.T)
    train = TrainConfig(
        batch_size=shape.B, lr=LEARNING_RATE, beta1=BETA1, beta2=BETA2, weight_decay=WEIGHT_DECAY,
        grad_clip=CLIP,
    )  # fmt: skip
    kernels = "kernels found compiled" if is_warm() else "kernels compiled before the first step"
    compile_all()
    layout = layout_of(model, shape.V)
    rows = aligned_empty(3 * layout.size, np.float32).reshape(3, layout.size)
    layout.initialise(rows[0], train.seed)
    rows[1:] = 0
    schedule = Schedule(LEARNING_RATE, LEARNING_RATE, 0, 0, 1)
    state = TrainState(
        Config(model, train), CharTokenizer((ord("a"),)), rows, layout, schedule, ("pretraining",)
    )
    team = Team(workers * blas_threads)
    purpose = Purpose(recompute=recompute, accumulate=False, own=products == "own")
    engine = Engine(state, team, workers, purpose)
    draws = np.random.default_rng(0).integers(0, shape.V, (BATCHES, shape.B, shape.T + 1)).astype(np.int32)
    starts = np.zeros((shape.B, shape.T), np.int32)
    batches = [Batch.of(draw[:, :-1].copy(), draw[:, 1:].copy(), starts) for draw in draws]

    def step() -> float:
        return engine.train(state, [batches[state.progress.step % BATCHES]]).loss

    by = "own products" if engine.purpose.own else "BLAS"
    threading = f"{by}, {workers} workers x {blas_threads} BLAS threads"
    return step, f"NumPy {np.__version__}, Numba {numba.__version__}, {threading}, {kernels}"
