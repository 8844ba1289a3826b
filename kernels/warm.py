"""Compile every kernel before the first step, and know beforehand whether that will take seconds or none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from .adam import adam_
from .attention import attention_backward, attention_delta, attention_forward, copy_heads, transpose_heads
from .cross_entropy import cross_entropy_backward, cross_entropy_forward
from .dropout import dropout_forward
from .embedding import embedding_backward, embedding_forward
from .gelu import bias_gelu_backward, bias_gelu_forward
from .jit import CACHE_DIR
from .layernorm import layernorm_backward, layernorm_forward
from .norms import add_and_sum_squares, add_bias_, bias_backward, sum_squares
from .residual_norm import residual_norm_backward, residual_norm_forward


def _mark(directory: Path, dtype: npt.DTypeLike) -> Path:
    return directory / f"{np.dtype(dtype).name}.compiled"


def is_warm(dtype: npt.DTypeLike = np.float32) -> bool:
    """Tell whether an earlier `compile_all` left its results on disk; if not, the next takes seconds."""
    return CACHE_DIR is not None and _mark(CACHE_DIR, dtype).exists()


def compile_all(dtype: npt.DTypeLike = np.float32) -> None:
    """Call every kernel once, on one row of one element, with the argument types of training."""
    row, table = np.ones(1, dtype), np.ones((1, 1), dtype)
    square, cube, key = np.ones((1, 1, 1, 1), dtype), np.ones((1, 1, 1), dtype), np.uint64(0)
    index, starts = np.zeros(1, np.int32), np.zeros((1, 1), np.int32)

    embedding_forward(table, index, index, table, table)
    embedding_backward(table, table, table, index, index)
    layernorm_forward(table, row, row, table, row, row)
    layernorm_backward(table, row, row, table, table, row, row, row)
    add_bias_(table, row)
    bias_backward(row, table)
    attention_forward(square, cube, starts, 0, 0, 1.0, key, 0, 0.5)
    attention_backward(square, square, cube, cube, starts, 0, 0, 1.0, key, 0, 0.5)
    attention_delta(cube, table, table)
    heads = np.ones((1, 2, 2, 2), dtype)[:, :1, :1, :1]  # a view with gaps, as heads are
    transpose_heads(square, heads)
    copy_heads(square, heads)
    bias_gelu_forward(table, table, row)
    bias_gelu_backward(table, table, row, table, row)
    residual_norm_forward(table, table, row, row, table, table, row, row, row, key, 0, 0.5)
    residual_norm_backward(table, table, row, row, row, table, table, row, row, row, key, 0, 0.5)
    dropout_forward(table, table, 0, 0, 0.5)  # backward is the same kernel
    cross_entropy_forward(np.zeros(1), table, index)
    cross_entropy_backward(np.zeros(1), table, index, 1.0)
    sum_squares(row)
    add_and_sum_squares(row, row)
    adam_(row, row, row, row, 0.1, 0.9, 0.999, 1e-8, 0.1, 0.001, 0.0, 1.0)
    if CACHE_DIR is not None:
        _mark(CACHE_DIR, dtype).touch()
