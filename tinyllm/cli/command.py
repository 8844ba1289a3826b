"""What generate, chat and explain share as programs: streams, exit codes, the model; nothing heavy."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from tinyllm.config import ConfigError
from tinyllm.parallel.threads import set_blas_threads

if TYPE_CHECKING:
    from tinyllm.inference.language_model import LanguageModel

INTERRUPTED = 130  # 128 + SIGINT
PIPE_CLOSED = 141  # 128 + SIGPIPE


def prepare_streams() -> None:
    """Write `?` for a character that a stream cannot say, instead of failing in mid-sentence.

    Bytes of stdin that are not UTF-8 become surrogates; whoever reads a text decides about them.
    """
    for stream, errors in (
        (sys.stdin, "surrogateescape"), (sys.stdout, "replace"), (sys.stderr, "backslashreplace"),
    ):  # fmt: skip
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=errors)


def run(
    body: Callable[[argparse.Namespace, TextIO, TextIO, TextIO], int], args: argparse.Namespace,
    blas_threads: int, stdin: TextIO | None, out: TextIO | None, err: TextIO | None,
) -> int:  # fmt: skip
    """Return the exit code of `body`: its own, 1 if it fails, 2 for an option, 130 for Ctrl-C.

    Streams that are None are the process's. A failure is one line on `err`. A reader that closes the pipe
    (`| head`) is told nothing.
    """
    set_blas_threads(blas_threads)
    prepare_streams()
    err = err or sys.stderr
    try:
        return body(args, stdin or sys.stdin, out or sys.stdout, err)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # What is still in the buffer would fail once more, with a traceback, when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except (ValueError, RuntimeError, OSError, MemoryError) as error:
        print(f"error: {error or type(error).__name__}", file=err)
        return 2 if isinstance(error, ConfigError) else 1


def text_of(option: str, stdin: TextIO) -> str:
    """Return the text of a --prompt, `-` all of stdin without its last newline; ConfigError if not UTF-8."""
    text = stdin.read().removesuffix("\n") if option == "-" else option
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ConfigError("--prompt: found bytes that are not UTF-8")
    return text


def note(text: str, err: TextIO) -> None:
    """Say something that is no part of the answer."""
    print(f"note: {text}", file=err, flush=True)


def load(args: argparse.Namespace, err: TextIO) -> LanguageModel:
    """Return the model that the options name, ready to write; CheckpointError if there is none."""
    from tinyllm.inference import language_model
    from tinyllm.kernels import compile_decoding, is_decoding_warm

    model = language_model.load_model(Path(args.model), lambda text: note(text, err), args.blas_threads)
    if not is_decoding_warm():
        note("compiling what makes texts; it takes some seconds, once", err)
    compile_decoding()
    return model
