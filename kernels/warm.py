"""Compile every kernel before the first step, and know beforehand whether that will take seconds or none."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .adam import adam_
from .attention import (
    add_heads_,
    attention_backward,
    attention_delta,
    attention_forward,
    copy_heads,
    transpose_heads,
)
from .batch import fill_batch
from .bpe import bpe_encode, bpe_merge
from .checksum import BLOCK_BYTES, all_finite, crc32
from .cross_entropy import cross_entropy_backward, cross_entropy_forward
from .decode import decode_
from .dropout import dropout_forward
from .embedding import embedding_backward, embedding_forward
from .gelu import bias_gelu_backward, bias_gelu_forward
from .jit import CACHE_DIR, Array
from .layernorm import layernorm_backward, layernorm_forward
from .norms import add_and_sum_squares, add_bias_, bias_backward, sum_squares
from .product import ROOM, multiply
from .residual_norm import residual_norm_backward, residual_norm_forward


def _mark(directory: Path, dtype: npt.DTypeLike) -> Path:
    return directory / f"{np.dtype(dtype).name}.compiled"


def is_warm(dtype: npt.DTypeLike = np.float32) -> bool:
    """Tell whether an earlier `compile_all` left its results on disk; if not, the next takes seconds."""
    return CACHE_DIR is not None and _mark(CACHE_DIR, dtype).exists()


def is_decoding_warm(dtype: npt.DTypeLike = np.float32) -> bool:
    """Tell whether an earlier `compile_decoding` left its result on disk."""
    return CACHE_DIR is not None and _mark(CACHE_DIR, dtype).with_suffix(".decoding").exists()


def compile_decoding(dtype: npt.DTypeLike = np.float32) -> None:
    """Call the generation kernel, on a model of one channel; training does without it."""
    _, table, index, _, cube, *_ = _arguments(dtype)
    cache, wide, params = np.ones((1, 2, 1, 1, 1, 1), dtype), np.ones((1, 4), dtype), np.ones(16, dtype)
    counters, offsets = np.zeros((6, 2), np.int64), np.zeros((2, 12), np.int64)
    decode_(cache, table, table, cube, wide, table, table, counters, params, offsets, index, index, 0)
    if CACHE_DIR is not None:
        _mark(CACHE_DIR, dtype).with_suffix(".decoding").touch()


def compile_all(dtype: npt.DTypeLike = np.float32) -> None:
    """Call every kernel once, on arrays of one element, with the argument types of training.

    Kernels that are not on disk yet are compiled, half of them by a second process, since Numba compiles one
    function at a time and the machine has more than one core. A compiler's many small objects live to its
    end, so collecting garbage among them, a twentieth of the time, is switched off.
    """
    other = None if is_warm(dtype) else _start_other_half(dtype)
    collects = gc.isenabled()
    gc.disable()
    try:
        _call_one_half(dtype)
        if other is not None:
            other.wait()  # if it failed, its half is compiled here
        _call_other_half(dtype)
    finally:
        if collects:
            gc.enable()
    if CACHE_DIR is not None:
        _mark(CACHE_DIR, dtype).touch()


def _start_other_half(dtype: npt.DTypeLike) -> subprocess.Popen[bytes] | None:
    if CACHE_DIR is None or not sys.executable or (os.cpu_count() or 1) < 2:
        return None
    program = f"import gc; gc.disable(); from {__name__} import _call_other_half; "
    program += f"_call_other_half({np.dtype(dtype).name!r})"
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(path or os.curdir for path in sys.path)}
    try:
        return subprocess.Popen(
            [sys.executable, "-c", program], env=variables, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    except OSError:
        return None


def _call_one_half(dtype: npt.DTypeLike) -> None:
    """Call kernels that take half of the time to compile: forward, the update, most gradients."""
    row, table, index, starts, cube, square, key = _arguments(dtype)
    embedding_forward(table, index, index, table, table)
    layernorm_forward(table, row, row, table, row, row)
    add_bias_(table, row)
    # Heads are views with gaps, which are another type to Numba than contiguous arrays.
    heads, contiguous = np.ones((2, 2, 2, 4), dtype)[..., :2], np.ones((2, 2, 2, 2), dtype)
    transpose_heads(contiguous, heads)
    copy_heads(contiguous, heads)
    add_heads_(heads, heads)
    attention_forward(square, cube, starts, 0, 0, 1.0, key, 0, 0.5)
    bias_gelu_forward(table, table, row)
    residual_norm_forward(table, table, row, row, table, table, row, row, row, key, 0, 0.5)
    dropout_forward(table, table, 0, 0, 0.5)  # backward is the same kernel
    cross_entropy_forward(np.zeros(1), table, index)
    sum_squares(row)
    add_and_sum_squares(row, row)
    adam_(row, row, row, row, 0.1, 0.9, 0.999, 1e-8, 0.1, 0.001, 0.0, 1.0)
    layernorm_backward(table, row, row, table, table, row, row, row)
    embedding_backward(table, table, table, index, index)
    residual_norm_backward(table, table, row, row, row, table, table, row, row, row, key, 0, 0.5)
    bias_gelu_backward(table, table, row, table, row)
    bias_backward(row, table)
    attention_delta(cube, table, table)
    all_finite(row)


def _call_other_half(dtype: npt.DTypeLike) -> None:
    """Call the others: matrix products, two gradients, and the kernels that read texts and check files."""
    _, table, index, starts, cube, square, key = _arguments(dtype)
    attention_backward(square, square, cube, cube, starts, 0, 0, 1.0, key, 0, 0.5)
    cross_entropy_backward(np.zeros(1), table, index, 1.0)
    multiply(table, table, table, np.ones(ROOM, dtype))
    _call_data()


def _call_data() -> None:
    """Call the kernels of texts, batches and checkpoints; what comes from a file or a string is read-only."""
    rows, row = np.zeros((1, 1), np.int32), np.zeros(2, np.int64)
    corpus, masked = _read_only(np.uint16, 2), _read_only(np.int64, 0)
    fill_batch(rows, rows, rows, corpus, masked, np.zeros((1, 3), np.int64), row)
    crc32(np.zeros(2 * BLOCK_BYTES, np.uint8), 0)
    ids = np.zeros(1, np.int32)
    bpe_encode(ids, row, _read_only(np.int32, 1), row[:0], np.zeros(1, np.uint8), ids, row, 1)
    bpe_merge(row[:0], row, ids, row, row, row, 0, 0, 0, 0)


def _read_only(dtype: npt.DTypeLike, size: int) -> Array:
    array = np.zeros(size, dtype)
    array.flags.writeable = False
    return array


def _arguments(dtype: npt.DTypeLike) -> tuple[Any, ...]:
    row, table = np.ones(1, dtype), np.ones((1, 1), dtype)
    cube, square = np.ones((1, 1, 1), dtype), np.ones((1, 1, 1, 1), dtype)
    return row, table, np.zeros(1, np.int32), np.zeros((1, 1), np.int32), cube, square, np.uint64(0)
