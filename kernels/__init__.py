"""The compiled loops live here, arrays in and arrays out; import the names below, as `tinyllm.kernels`.

They are the loops that NumPy cannot fuse, compiled by Numba. One file is one operation, forward and
backward; `reference.py` holds every kernel again in plain NumPy, and tests compare them.
Outputs come first, then inputs, then scalars. A trailing underscore changes the first argument;
parameter gradients are added to, everything else is overwritten unless the docstring says otherwise.
Kernels trust the shapes they are given (the layers' own) and check what comes from data: tokens,
positions, targets and document starts.
"""

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
from .bpe import KINDS, LONGEST_CHUNK, LONGEST_NUMBER, LONGEST_RUN, bpe_encode, bpe_merge, merge_table
from .checksum import all_finite, crc32
from .cross_entropy import cross_entropy_backward, cross_entropy_forward
from .decode import decode_
from .dropout import dropout_backward, dropout_forward
from .embedding import embedding_backward, embedding_forward
from .gelu import bias_gelu_backward, bias_gelu_forward
from .jit import CACHE_DIR, CACHE_PROBLEM
from .layernorm import layernorm_backward, layernorm_forward
from .norms import add_and_sum_squares, add_bias_, bias_backward, sum_squares
from .product import FUSES, ROOM, multiply
from .residual_norm import residual_norm_backward, residual_norm_forward
from .warm import compile_all, compile_decoding, is_decoding_warm, is_warm

__all__ = [
    "CACHE_DIR",
    "CACHE_PROBLEM",
    "FUSES",
    "KINDS",
    "LONGEST_CHUNK",
    "LONGEST_NUMBER",
    "LONGEST_RUN",
    "ROOM",
    "adam_",
    "add_and_sum_squares",
    "add_bias_",
    "add_heads_",
    "all_finite",
    "attention_backward",
    "attention_delta",
    "attention_forward",
    "bias_backward",
    "bias_gelu_backward",
    "bias_gelu_forward",
    "bpe_encode",
    "bpe_merge",
    "compile_all",
    "compile_decoding",
    "copy_heads",
    "crc32",
    "cross_entropy_backward",
    "cross_entropy_forward",
    "decode_",
    "dropout_backward",
    "dropout_forward",
    "embedding_backward",
    "embedding_forward",
    "fill_batch",
    "is_decoding_warm",
    "is_warm",
    "layernorm_backward",
    "layernorm_forward",
    "merge_table",
    "multiply",
    "residual_norm_backward",
    "residual_norm_forward",
    "sum_squares",
    "transpose_heads",
]
