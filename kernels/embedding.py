"""Embeddings: a token's row plus its position's row; backward adds each gradient to the rows it came from."""

from __future__ import annotations

from .jit import Array, jit


@jit
def embedding_forward(
    x: Array, tokens: Array, positions: Array, token_table: Array, position_table: Array
) -> None:
    """x (N, C) = token_table (V, C)[tokens] + position_table (T, C)[positions]; both indices (N,) int32.

    Raises IndexError for an index outside its table, before anything is written.
    """
    N, C = x.shape
    for n in range(N):
        if tokens[n] < 0 or tokens[n] >= token_table.shape[0]:
            raise IndexError("tokens: expected 0 <= token < rows of token_table")
        if positions[n] < 0 or positions[n] >= position_table.shape[0]:
            raise IndexError("positions: expected 0 <= position < rows of position_table")
    for n in range(N):
        token, position = tokens[n], positions[n]
        for c in range(C):
            x[n, c] = token_table[token, c] + position_table[position, c]


@jit
def embedding_backward(
    dtoken_table: Array, dposition_table: Array, dx: Array, tokens: Array, positions: Array
) -> None:
    """dtoken_table (V, C)[tokens] += dx (N, C) and dposition_table (T, C)[positions] += dx.

    Indices (N,) may be repeated.
    """
    N, C = dx.shape
    for n in range(N):
        token, position = tokens[n], positions[n]
        for c in range(C):
            dtoken_table[token, c] += dx[n, c]
            dposition_table[position, c] += dx[n, c]
