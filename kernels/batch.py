"""A batch of windows, gathered from a corpus in one pass: tokens, targets, and where each document begins."""

from __future__ import annotations

from .jit import Array, jit


@jit
def fill_batch(
    tokens: Array, targets: Array, starts: Array, corpus: Array, masked: Array, spans: Array, first: Array
) -> int:
    """Fill tokens, targets and starts (B, T) int32, and return how many targets carry loss.

    Row b holds the positions spans[first[b]:first[b + 1]] of the corpus (n,). A span (start, stop, joins) is
    [start, stop): a document of its own or, if `joins` is 1, one document with the span before it. `masked`
    are begin and end of each run of tokens without loss, ascending; the target is -1 there. The rest of a row
    is padding: token 0, target -1, and each position its own document. Shapes are trusted: a row's spans are
    at most T positions, all below n - 1.

    Example: corpus "abcdefg", masked [2, 3] (the c), one row of T = 6 with the spans (0, 3, 0) and (4, 6, 0):

        tokens    a   b   c   e   f   0
        targets   b  -1   d   f   g  -1
        starts    0   0   0   3   3   5      with (4, 6, 1):  0  0  0  0  0  5
    """
    B, T = tokens.shape
    count = 0
    for b in range(B):
        t = begin = 0  # the next free position of the row; where its document begins
        for s in range(first[b], first[b + 1]):
            stop = spans[s, 1]
            if spans[s, 2] == 0:
                begin = t
            # Entries of `masked` that are at most i + 1, the target of position i: an even number of them if
            # it lies outside all runs, an odd one inside. Found by bisection for the span's first position,
            # from there on by moving along.
            passed, high = 0, masked.size
            while passed < high:
                middle = (passed + high) // 2
                if masked[middle] <= spans[s, 0]:
                    passed = middle + 1
                else:
                    high = middle
            for i in range(spans[s, 0], stop):
                while passed < masked.size and masked[passed] <= i + 1:
                    passed += 1
                tokens[b, t] = corpus[i]
                starts[b, t] = begin
                if passed % 2 == 0:
                    targets[b, t] = corpus[i + 1]
                    count += 1
                else:
                    targets[b, t] = -1
                t += 1
        # Padding attends to itself only, so no query is without a key.
        for rest in range(t, T):
            tokens[b, rest] = 0
            targets[b, rest] = -1
            starts[b, rest] = rest
    return count
