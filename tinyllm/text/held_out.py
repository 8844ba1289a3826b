"""Which documents are held out to validate on, and never trained on.

Order: chosen by what they say, drawn by their place (as earlier versions did), the split itself.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np

from tinyllm.arena import Array
from tinyllm.rng import key


def chosen(tokens: Array, documents: Array, fraction: float, address: tuple[int, *tuple[str, ...]]) -> Array:
    """Return which documents (n,) bool are held out: those whose hash is below the fraction.

    So equal documents are on one side, and no other document has a say; but at least one is held out, that
    of the lowest hash, and at least one is not. An address that names no phase holds out the same documents
    in all of them.
    """
    name = key(*address).to_bytes(8, "little")
    hashes = np.array(
        [
            int.from_bytes(blake2b(tokens[begin:end].tobytes(), digest_size=8, key=name).digest(), "little")
            for begin, end in documents.tolist()
        ],
        np.uint64,
    )
    held: Array = hashes < np.uint64(int(fraction * 2.0**64))
    if len(held):
        held[hashes.argmin()] = True  # the first of equal ones,
        held[len(held) - 1 - hashes[::-1].argmax()] = False  # the last
    return held


def drawn(n: int, fraction: float, rng: np.random.Generator) -> Array:
    """Return which of n documents (n,) bool are held out, drawn by their place: how earlier runs did it."""
    held = np.zeros(n, np.bool_)
    held[rng.permutation(n)[: min(max(int(fraction * n), 1), max(n - 1, 0))]] = True
    return held


def split(spans: Array, streams: Array, fraction: float, held: Array) -> tuple[Array, Array, Array]:
    """Hold out the documents (n,) of which `held` is true, and the end of every stream.

    Returns the spans to train on, which of them are streams, and the spans held out.
    """
    # Training and held-out documents both keep the order of the corpus.
    documents, (begin, end) = spans[~streams], spans[streams].T
    kept = documents[~held]
    # Each stream is cut in two; one so short that its fraction rounds to nothing holds out nothing.
    border = end - (fraction * (end - begin)).astype(np.int64)
    train = np.concatenate([kept, np.stack([begin, border], axis=1)])
    held_out = np.concatenate([documents[held], np.stack([border, end], axis=1)[border < end]])
    return train, np.arange(len(train)) >= len(kept), held_out
