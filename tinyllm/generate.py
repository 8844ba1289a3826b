# PYTHON_ARGCOMPLETE_OK
"""Let a model write: `python -m tinyllm.generate MODEL --prompt TEXT`.

The text is written to stdout, everything else to stderr. Order: options, the program, its parts, main. NumPy
is imported only after the options are read.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from tinyllm.cli import command
from tinyllm.cli.arguments import add_writing, checked_sampling, given_sampling, program
from tinyllm.cli.interrupt import exit_code
from tinyllm.inference.settings import TEXT, check
from tinyllm.option import ConfigError, flag
from tinyllm.words import counted

if TYPE_CHECKING:
    from tinyllm.arena import Array
    from tinyllm.inference.language_model import LanguageModel

DESCRIPTION = """\
Continue a prompt. stdout gets what the model writes and a newline; with --echo, the prompt before it. The
text ends where the model ends it, or at --max-tokens. Of a prompt longer than the model's context window
only the end is used, and the window slides with the text."""
EXAMPLES = """\
checkpoints --prompt "The sun"
checkpoints --prompt "The sun" --temperature 0
book --prompt "It was" --num-samples 3 --stream"""


def options(argv: list[str] | None) -> argparse.Namespace:
    """Parse, check and add `sampling`; any mistake ends the program with exit code 2 and a message."""
    parser = program("generate", DESCRIPTION, EXAMPLES)
    parser.add_argument(
        "--prompt", action="append", metavar="TEXT",
        help="text to continue; - reads stdin, without its last newline; repeat the option for several texts "
        "one below the other (default: none, the model starts a text of its own)",
    )  # fmt: skip
    parser.add_argument(
        "--num-samples", type=int, default=1, metavar="N",
        help="texts per prompt, written one below the other (default: 1)",
    )  # fmt: skip
    parser.add_argument("--echo", action="store_true", help="also write the prompt, before the text")
    parser.add_argument("--stream", action="store_true", help="write each character as soon as it is known")
    parser.add_argument("--ignore-end", action="store_true", help="do not let the model end the text early")
    add_writing(parser, TEXT, max_tokens=200, phase="pretraining")
    search = parser.add_argument_group("beam search, instead of sampling")
    search.add_argument(
        "--beams", type=int, default=1, metavar="N",
        help="search for the most probable text with N beams (default: 1, off)",
    )  # fmt: skip
    search.add_argument(
        "--length-penalty", type=float, default=1.0, metavar="X",
        help="rank texts by log P / length^X: 0 favours short texts, 1 the best mean per token (default: 1)",
    )  # fmt: skip
    args = parser.parse_args(argv)
    try:
        args.sampling = checked_sampling(args, TEXT)
        _check(args)
    except ConfigError as error:
        parser.error(str(error))
    return args


def _check(args: argparse.Namespace) -> None:
    check("num_samples", args.num_samples, low=1, high=100_000)
    check("beams", args.beams, low=1, high=1000)
    check("length_penalty", args.length_penalty, low=0)
    if args.beams > 1:
        others = [*given_sampling(args), *(name for name in ("stream", "ignore_end") if getattr(args, name))]
        others += ["num_samples"] * (args.num_samples > 1)
        if others:
            names = ", ".join(map(flag, others))
            raise ConfigError(f"--beams searches for one text and writes it at the end: drop {names}")


def _run(args: argparse.Namespace, streams: command.Streams) -> int:
    prompts = [command.text_of(option, streams.stdin) for option in args.prompt or [""]]
    model = command.load(args.model, args.blas_threads, streams, "pretraining")
    asked = [(text, model.prompt(text)) for text in prompts]
    asked = [each for each in asked for _ in range(args.num_samples)]
    texts = _texts(args, model, [prompt for _, prompt in asked])
    for (text, prompt), pieces in zip(asked, texts, strict=True):
        if prompt.size > model.config.block_size:
            streams.note(f"the prompt has {counted(prompt.size, 'token')}; the model sees only the end of it")
        if args.echo:
            streams.write(text)
        empty = True
        for piece in pieces:
            empty = False
            streams.write(piece)
            if args.stream:
                streams.out.flush()
        streams.out.write("\n")
        streams.out.flush()
        if empty:
            few = ", or --max-tokens cut its first character" * (args.max_tokens < 4)
            streams.note(f"the model ended the text at once{few}; with --ignore-end it must continue")
    return 0


def _texts(args: argparse.Namespace, model: LanguageModel, prompts: list[Array]) -> Iterable[Iterable[str]]:
    """Return the pieces of each prompt's text."""
    if args.beams > 1:
        return (_most_probable(args, model, prompt) for prompt in prompts)
    min_tokens = args.max_tokens if args.ignore_end else 0
    texts = model.generate_all(prompts, args.sampling, args.max_tokens, args.seed, min_tokens=min_tokens)
    return map(model.tokenizer.stream, texts)


def _most_probable(args: argparse.Namespace, model: LanguageModel, prompt: Array) -> Iterable[str]:
    from tinyllm.inference.beam import beam_search

    found = beam_search(
        model.decoder(args.beams), prompt, model.tokenizer.end_of_text, args.max_tokens,
        args.length_penalty, model.tokenizer.states,
    )  # fmt: skip
    return model.tokenizer.stream(found[0].tokens)


main = command.door(options, _run, lambda args: args.blas_threads)


if __name__ == "__main__":
    sys.exit(exit_code(main))
