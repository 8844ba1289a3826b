"""Checkpoints that survive any instant of dying; `CheckpointManager` is all that a trainer needs.

From the bottom up: metadata and plain (words), format and image (bytes), disk (the operating system),
commit, reader, store and newest (files), policy (decisions), writer (the thread), manager, the command line.
"""

from tinyllm.checkpoint.export import export_weights, load_weights
from tinyllm.checkpoint.manager import CheckpointManager
from tinyllm.checkpoint.metadata import CheckpointError, CheckpointMetadata
from tinyllm.checkpoint.policy import CheckpointStrategy
from tinyllm.checkpoint.writer import Save

__all__ = [
    "CheckpointError",
    "CheckpointManager",
    "CheckpointMetadata",
    "CheckpointStrategy",
    "Save",
    "export_weights",
    "load_weights",
]
