"""Who is compared: one small file per framework, each at its best.

A file has `build(shape, threads, **options)`, which returns a function that makes one whole step, and a line
on what makes it. It is imported in a process of its own, so it may set what it likes.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any, NamedTuple

OURS, PROBE = "tinyllm", "sgemm"


class Competitor(NamedTuple):
    """A module with `build`, what it must find installed, and how it is set."""

    module: str
    package: str
    tuned: bool = False  # with benchmarks.peers.tuning's environment
    options: dict[str, Any] = {}  # noqa: RUF012  (never changed)

    @property
    def installed(self) -> bool:
        """Whether its package can be imported here."""
        return importlib.util.find_spec(self.package) is not None


COMPETITORS = {
    OURS: Competitor("benchmarks.peers.own", "tinyllm"),
    PROBE: Competitor("benchmarks.peers.sgemm", "numpy"),
    "torch": Competitor("benchmarks.peers.pytorch", "torch", options={"compiled": False}),
    "torch-compile": Competitor("benchmarks.peers.pytorch", "torch", options={"compiled": True}),
    "torch-tuned": Competitor("benchmarks.peers.pytorch", "torch", tuned=True, options={"compiled": False}),
    "torch-compile-tuned": Competitor(
        "benchmarks.peers.pytorch", "torch", tuned=True, options={"compiled": True}
    ),
    "jax": Competitor("benchmarks.peers.jax_jit", "jax"),
    "jax-tuned": Competitor("benchmarks.peers.jax_jit", "jax", tuned=True),
}
PEERS = tuple(name for name in COMPETITORS if name not in (OURS, PROBE))


def chosen(wanted: str, peers: Mapping[str, Competitor] | None = None) -> list[str]:
    """Return the peers meant by `none`, `all` (that are installed) or `NAME,NAME`; ValueError for others."""
    if peers is None:
        peers = {name: COMPETITORS[name] for name in PEERS}
    if wanted in ("none", "all"):
        return [name for name, peer in peers.items() if wanted == "all" and peer.installed]
    names = list(dict.fromkeys(wanted.split(",")))
    for name in names:
        if name not in peers:
            raise ValueError(f"--peers: found {name!r}, expected none, all or some of {', '.join(peers)}")
        if not peers[name].installed:
            package = peers[name].package
            raise ValueError(
                f"--peers {name}: {package} is not installed; pip install '.[bench]', or drop it"
            )
    return names
