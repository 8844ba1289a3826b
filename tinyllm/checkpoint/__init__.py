"""From a training state to files that survive a crash at any instant, and back.

From outside use the names below. Code that only reads may also use `policy`, `reader`, `format`, `metadata`
and a `Disk`; only the manager, `export_weights` and the command line write files.
From the bottom up: metadata and plain (values), format and image (bytes), disk (the operating system),
commit, reader, lock, store and newest (files), policy (decisions), writer (the thread), kept (what there is),
manager, the command line.
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
