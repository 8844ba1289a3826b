"""What the command line of training asks for, as frozen values: a Request, and the Machine it is to run on.

Order: how a run starts (Fresh or Resume), which checkpoints it writes, the Request, the Machine. Nothing
here imports NumPy.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tinyllm.config import Changes, Config


def shell_quoted(path: Path) -> str:
    """Return a path as a shell must read it, and the program behind it not as an option or a home."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith(("-", "~")) else text)


@dataclass(frozen=True)
class Fresh:
    """A new run over the texts of each phase; `set_aside` moves an earlier run in the directory away."""

    config: Config
    sources: Mapping[str, list[str]]
    set_aside: bool


@dataclass(frozen=True)
class Resume:
    """An earlier run continued: its latest checkpoint, its best one, or the one at `source`."""

    source: Path | None  # a checkpoint or a directory of them; None: the directory of the run
    best: bool
    changes: Changes


@dataclass(frozen=True)
class Saving:
    """Which checkpoints are written, and how; 0 steps or minutes: never for that reason."""

    strategy: str  # parsed where checkpoints are known, since they import NumPy
    keep_best_n: int
    every_steps: int
    every_minutes: float
    asynchronous: bool


@dataclass(frozen=True)
class Request:
    """A run: how it starts, where and how it is saved, and what is shown of it."""

    start: Fresh | Resume
    directory: Path
    saving: Saving
    plain: bool
    samples: bool

    @property
    def resume_command(self) -> str:
        """The command line that resumes this run, for a shell."""
        place = f" --checkpoint-dir {shell_quoted(self.directory)}"
        if self.directory == Path("checkpoints"):
            place = ""
        return f"python -m tinyllm.train{place} --resume"


@dataclass(frozen=True)
class Machine:
    """What the run is computed on; None leaves the choice to the program."""

    workers: int | None
    blas_threads: int | None
    recompute: bool
