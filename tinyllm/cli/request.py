"""What the command line of training asks for, as frozen values: a Request, and the Machine it is to run on.

Order: how a run starts (Fresh or Resume), the Request, the Machine. Nothing
here imports NumPy.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyllm.config import Config, for_texts, replace
from tinyllm.run.changes import Changes

EXIT_UNFINISHED = 75  # saved when its time was up: EX_TEMPFAIL of sysexits.h, "try again"


def shell_quoted(path: Path) -> str:
    """Return a path as a shell must read it, and the program behind it not as an option or a home."""
    text = str(path)
    if text.startswith(("-", "~")):
        text = f"./{text}"
    if text.isprintable():
        return shlex.quote(text)
    return "$'" + "".join(f"\\x{byte:02x}" for byte in os.fsencode(text)) + "'"  # as bash and zsh read it


def absolute(source: Path) -> str:
    """Return a source's absolute path; a link keeps its own name, which may tell what the file is."""
    return str(source.parent.resolve() / source.name)


@dataclass(frozen=True)
class Fresh:
    """A new run over the texts of each phase; `set_aside` moves an earlier run in the directory away."""

    options: Mapping[str, Mapping[str, Any]]  # fields of the config that were given, by section
    sources: Mapping[str, list[str]]
    set_aside: bool = False
    initial: Path | None = None  # a model whose weights, tokenizer and shape it begins with

    @property
    def config(self) -> Config:
        """The config, but for what the initial model decides; ConfigError if it is impossible."""
        return replace(Config(), self.settings)

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """The options that were given, and what the bundled texts suggest for the others."""
        return for_texts(self.options, self.sources, trained=self.initial is not None)


@dataclass(frozen=True)
class Resume:
    """An earlier run continued: its latest checkpoint, its best one, or the one at `source`."""

    source: Path | None  # a checkpoint or a directory of them; None: the directory of the run
    best: bool
    changes: Changes
    otherwise: Fresh | None = None  # where there is no run yet


@dataclass(frozen=True)
class Request:
    """A run: how it starts, where it is kept, how long it may take, and what is shown of it."""

    start: Fresh | Resume
    directory: Path
    minutes: float | None  # until it is saved and ended, to be resumed later
    plain: bool
    samples: bool
    plan: bool = False  # only say how long it would take, and how much memory

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
