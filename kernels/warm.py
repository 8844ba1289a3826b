"""Compile every kernel before the first step, and know beforehand whether that will take seconds or none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from .adam import adam_
from .attention import causal_softmax_backward, causal_softmax_forward
from .batch import fill_batch
from .cross_entropy import cross_entropy_backward, cross_entropy_forward
from .dropout import dropout_forward
from .embedding import embedding_backward, embedding_forward
from .gelu import bias_gelu_backward, bias_gelu_forward
from .jit import CACHE_DIR, Array
from .layernorm import layernorm_backward, layernorm_forward
from .norms import add_, add_and_clear_, add_bias_, bias_backward, sum_squares


def _mark(directory: Path, dtype: npt.DTypeLike) -> Path:
    return directory / f"{np.dtype(dtype).name}.compiled"


def is_warm(dtype: npt.DTypeLike = np.float32) -> bool:
    """Tell whether an earlier `compile_all` left its results on disk; if not, the next takes seconds."""
    return CACHE_DIR is not None and _mark(CACHE_DIR, dtype).exists()


def compile_all(dtype: npt.DTypeLike = np.float32) -> None:
    """Call every kernel once, on one row of one element, with the argument types of training."""
    row, table = np.ones(1, dtype), np.ones((1, 1), dtype)
    square = np.ones((1, 1, 1, 1), dtype)
    index, starts = np.zeros(1, np.int32), np.zeros((1, 1), np.int32)

    embedding_forward(table, index, index, table, table)
    embedding_backward(table, table, table, index, index)
    layernorm_forward(table, row, row, table, row, row)
    layernorm_backward(table, row, row, table, table, row, row, row)
    add_bias_(table, row)
    bias_backward(row, table)
    causal_softmax_forward(square, starts, 1.0)
    causal_softmax_backward(square, square, starts, 1.0)
    bias_gelu_forward(table, table, row)
    bias_gelu_backward(table, row, table, table, row)
    dropout_forward(table, table, 0, 0, 0.5)  # backward is the same kernel
    add_(table, table)
    cross_entropy_forward(np.zeros(1), table, index)
    cross_entropy_backward(table, index, 1.0)
    sum_squares(row)
    add_and_clear_(row, row)
    adam_(row, row, row, row, 0.1, 0.9, 0.999, 1e-8, 0.1, 0.001, 0.0, 1.0)
    compile_data()
    if CACHE_DIR is not None:
        _mark(CACHE_DIR, dtype).touch()


def compile_data() -> None:
    """The same for the kernels of texts and batches; what comes from a file or a string is read-only."""
    rows, places = np.zeros((1, 1), np.int32), np.zeros(2, np.int64)
    corpus, silent = _read_only(np.uint16, 2), _read_only(np.int64, 0)
    fill_batch(rows, rows, rows, corpus, silent, places.reshape(1, 2), places)


def _read_only(dtype: npt.DTypeLike, size: int) -> Array:
    array = np.zeros(size, dtype)
    array.flags.writeable = False
    return array
