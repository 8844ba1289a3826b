"""Every random draw is a function of its address: there is no generator state to save."""

from __future__ import annotations

import hashlib

import numpy as np


def key(seed: int, *path: str | int) -> int:
    """Hash an address such as `(seed, "dropout", step, site, layer)` to 64 bits, equal on every machine."""
    address = repr((int(seed), *path)).encode()
    return int.from_bytes(hashlib.blake2b(address, digest_size=8).digest(), "little")


def generator(seed: int, *path: str | int) -> np.random.Generator:
    """Return a fresh generator for the address; two calls with the same address draw the same numbers.

    Philox is counter-based (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), so any
    key is a good one.
    """
    return np.random.Generator(np.random.Philox(key=key(seed, *path)))


def uniform(seed: int, *path: str | int) -> float:
    """Return the address's number, at least 0 and below 1: one draw, without the cost of a generator."""
    return (key(seed, *path) >> 11) * 2.0**-53
