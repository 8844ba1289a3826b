"""A batch of windows, gathered from a corpus in one pass: tokens, targets, and where each document begins."""

from __future__ import annotations

from .jit import Array, jit


@jit
def fill_batch(
    tokens: Array, targets: Array, starts: Array, corpus: Array, silent: Array, spans: Array, first: Array
) -> int:
    """Fill tokens, targets and starts (B, T) int32, and return how many targets carry loss.

    Row b is made of the positions spans[first[b]:first[b + 1]] of the corpus (n,), each span [start, stop) a
    document of its own. Token i carries no loss as a target if an odd number of the ascending `silent` are
    at most i; the target is -1 then. What is left of a row is padding: token 0, target -1, and each position
    its own document. Shapes are trusted: a row's spans are at most T positions, all below n - 1.
    """
    B, T = tokens.shape
    count = 0
    for b in range(B):
        t = 0
        for s in range(first[b], first[b + 1]):
            begin, stop = t, spans[s, 1]
            low, high = 0, silent.size  # after the search: how many of `silent` are below the first target
            while low < high:
                middle = (low + high) // 2
                if silent[middle] <= spans[s, 0]:
                    low = middle + 1
                else:
                    high = middle
            for i in range(spans[s, 0], stop):
                while low < silent.size and silent[low] <= i + 1:
                    low += 1
                tokens[b, t] = corpus[i]
                starts[b, t] = begin
                if low % 2 == 0:
                    targets[b, t] = corpus[i + 1]
                    count += 1
                else:
                    targets[b, t] = -1
                t += 1
        for rest in range(t, T):
            tokens[b, rest] = 0
            targets[b, rest] = -1
            starts[b, rest] = rest
    return count
