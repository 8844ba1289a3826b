"""Let a model write: `python -m tinyllm.generate MODEL --prompt TEXT`.

Text goes to stdout, all else to stderr. Order: options, main, its parts. NumPy is imported only after the
options are read.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, TextIO

from tinyllm import __version__
from tinyllm.cli import command
from tinyllm.config import ConfigError
from tinyllm.inference.settings import (
    Sampling,
    add_model_arguments,
    add_sampling_arguments,
    check,
    check_common,
    given_sampling,
)

if TYPE_CHECKING:
    from tinyllm.arena import Array
    from tinyllm.inference.language_model import LanguageModel

DEFAULTS = Sampling(temperature=0.8, top_p=0.95)
DESCRIPTION = """\
Write a text that goes on from a prompt. stdout gets what the model writes and a newline; with
--echo, the prompt before it. The text ends where the model ends it, or at --max-tokens. A prompt
longer than the model's window is seen by its newest part, and the window slides with the text."""


def options(argv: list[str] | None) -> argparse.Namespace:
    """Parse, check and add `sampling`; any mistake ends the program with exit code 2 and a message."""
    top = argparse.ArgumentParser("tinyllm generate", description=DESCRIPTION, allow_abbrev=False)
    top.add_argument("--version", action="version", version=f"tinyllm {__version__}")
    top.add_argument(
        "--prompt", action="append", metavar="TEXT",
        help="what to go on from; - reads stdin, without its last newline; give several for several texts, "
        "one below the other (default: nothing, the model begins a text of its own)",
    )  # fmt: skip
    top.add_argument(
        "--num-samples", type=int, default=1, metavar="N",
        help="write N texts for each prompt, one below the other (default: 1)",
    )  # fmt: skip
    top.add_argument("--echo", action="store_true", help="write the prompt too, before the text")
    top.add_argument("--stream", action="store_true", help="write each character as soon as it is known")
    top.add_argument("--ignore-end", action="store_true", help="do not let the model end the text early")
    add_model_arguments(top, max_tokens=200)
    add_sampling_arguments(top, DEFAULTS)
    search = top.add_argument_group("searching, in place of sampling")
    search.add_argument(
        "--beams",
        type=int,
        default=1,
        metavar="N",
        help="find the likeliest text with N beams (default: 1, off)",
    )
    search.add_argument(
        "--length-penalty", type=float, default=1.0, metavar="X",
        help="compare log P / length^X: 0 favours short texts, 1 the best mean per token (default: 1)",
    )  # fmt: skip
    args = top.parse_args(argv)
    try:
        _check(args)
        args.sampling = Sampling(**{**vars(DEFAULTS), **given_sampling(args)})
    except ConfigError as error:
        top.error(str(error))
    return args


def _check(args: argparse.Namespace) -> None:
    check_common(args)
    check("num_samples", args.num_samples, low=1)
    check("beams", args.beams, low=1)
    check("length_penalty", args.length_penalty, low=0)
    if args.beams > 1:
        others = [*given_sampling(args), *(name for name in ("stream", "ignore_end") if getattr(args, name))]
        others += ["num_samples"] * (args.num_samples > 1)
        if others:
            names = ", ".join("--" + name.replace("_", "-") for name in others)
            raise ConfigError(f"--beams searches, and shows its text when it is done: drop {names}")


def main(
    argv: list[str] | None = None,
    stdin: TextIO | None = None,
    out: TextIO | None = None,
    err: TextIO | None = None,
) -> int:
    """Run the command line; return the exit code: 0 done, 1 failed, 2 wrong options, 130 interrupted."""
    args = options(argv)
    return command.run(_run, args, args.blas_threads, stdin, out, err)


def _run(args: argparse.Namespace, stdin: TextIO, out: TextIO, err: TextIO) -> int:
    prompts = [command.text_of(option, stdin) for option in args.prompt or [""]]
    model = command.load(args, err)
    asked = [(text, model.prompt(text)) for text in prompts]
    asked = [each for each in asked for _ in range(args.num_samples)]
    texts = _texts(args, model, [prompt for _, prompt in asked])
    for (text, prompt), pieces in zip(asked, texts, strict=True):
        if prompt.size > model.config.block_size:
            command.note(f"the prompt has {prompt.size} tokens; the model sees the end of it only", err)
        if args.echo:
            out.write(text)
        empty = True
        for piece in pieces:
            empty = False
            out.write(piece)
            if args.stream:
                out.flush()
        out.write("\n")
        out.flush()
        if empty:
            command.note("the model ended the text at once; --ignore-end lets it go on", err)
    return 0


def _texts(args: argparse.Namespace, model: LanguageModel, prompts: list[Array]) -> Iterable[Iterable[str]]:
    """Return the pieces of each prompt's text."""
    if args.beams > 1:
        return (_likeliest(args, model, prompt) for prompt in prompts)
    min_tokens = args.max_tokens if args.ignore_end else 0
    texts = model.generate_all(prompts, args.sampling, args.max_tokens, args.seed, min_tokens=min_tokens)
    return map(model.tokenizer.stream, texts)


def _likeliest(args: argparse.Namespace, model: LanguageModel, prompt: Array) -> Iterable[str]:
    from tinyllm.inference.beam import beam_search

    end = model.tokenizer.end_of_text
    found = beam_search(model.decoder(args.beams), prompt, end, args.max_tokens, args.length_penalty)
    return filter(None, [model.tokenizer.decode(found[0].tokens)])


if __name__ == "__main__":
    sys.exit(main())
