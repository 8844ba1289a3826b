"""What the programs that read a model share: their main, streams, exit codes, loading the model.

Nothing here imports NumPy before a program runs; cli/streams.py sets up the process's streams.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TextIO

from tinyllm.cli.interrupt import INTERRUPTED
from tinyllm.cli.output import PIPE_CLOSED
from tinyllm.escape import legible, printable, reason
from tinyllm.option import ConfigError
from tinyllm.parallel.threads import set_blas_threads

if TYPE_CHECKING:
    from tinyllm.inference.language_model import LanguageModel


class Streams(NamedTuple):
    """Where a program reads and writes: `out` is for its result alone, `err` for everything else."""

    stdin: TextIO
    out: TextIO
    err: TextIO

    def note(self, text: str) -> None:
        """Write something that is not part of the result."""
        print(f"note: {printable(text)}", file=self.err, flush=True)

    def write(self, text: str) -> None:
        """Write a piece of the result: as it is, but legible where a terminal would obey it."""
        self.out.write(legible(text) if self.out.isatty() else text)


def streams_of(stdin: TextIO | None, out: TextIO | None, err: TextIO | None) -> Streams:
    """Return the given streams, and those of the process where one is None."""
    return Streams(stdin or sys.stdin, out or sys.stdout, err or sys.stderr)


def door(
    options: Callable[[list[str] | None], argparse.Namespace],
    body: Callable[[argparse.Namespace, Streams], int],
    blas_threads: Callable[[argparse.Namespace], int] = lambda _: 1,
) -> Callable[..., int]:
    """Return the `main` of a program: it parses a command line and runs `body` on what it says."""

    def main(
        argv: list[str] | None = None,
        stdin: TextIO | None = None,
        out: TextIO | None = None,
        err: TextIO | None = None,
    ) -> int:
        """Run the command line; return the exit code: 0 done, 1 failed, 2 wrong options, 130 interrupted."""
        args = options(argv)
        return run_program(partial(body, args), blas_threads(args), streams_of(stdin, out, err))

    return main


def run_program(body: Callable[[Streams], int], blas_threads: int, streams: Streams) -> int:
    """Return the exit code of `body`: its own, 1 if it fails, 2 for an option, 130 for Ctrl-C.

    A failure is one line on `err`; a reader that closes the pipe (`| head`) causes no message and 141.
    """
    set_blas_threads(blas_threads)
    import numpy as np

    try:
        # A warning of overflow would name a line of code; where a result is not finite, an error says so.
        with np.errstate(all="ignore"):
            return body(streams)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return PIPE_CLOSED
    except (ValueError, RuntimeError, OSError, MemoryError) as error:
        print(f"error: {reason(error)}", file=streams.err)
        return 2 if isinstance(error, ConfigError) else 1


def text_of(option: str, stdin: TextIO) -> str:
    """Return the text of a --prompt, `-` all of stdin without its last newline; ConfigError if not UTF-8."""
    text = stdin.read().removesuffix("\n") if option == "-" else option
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ConfigError("--prompt: found bytes that are not UTF-8")
    return text


def load(model: Path, blas_threads: int, streams: Streams, phase: str | None = None) -> LanguageModel:
    """Return the model at a path, of a folder that of the phase, ready to write, or raise CheckpointError."""
    from tinyllm.inference import language_model
    from tinyllm.kernels import compile_decoding, is_decoding_warm

    found = language_model.load_model(model, streams.note, blas_threads, phase)
    note_compiling("the generation kernels", is_decoding_warm(), streams)
    compile_decoding()
    return found


def note_compiling(what: str, warm: bool, streams: Streams) -> None:
    """Say that kernels are compiled, unless an earlier process has, and why they are not kept, if so."""
    from tinyllm.kernels import CACHE_PROBLEM

    if not warm:
        streams.note(f"compiling {what}, once; this takes a few seconds")
    if CACHE_PROBLEM:
        streams.note(CACHE_PROBLEM)
