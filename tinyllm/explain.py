"""`python -m tinyllm.explain MODEL --prompt TEXT`: one page that shows what a model does with a text.

The page needs no network: every head's attention, what the model expects after each token, and the norms of
parameters, gradient and Adam's moments. Order: options, main, its parts. NumPy is imported only after the
options are read.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from tinyllm import __version__
from tinyllm.cli import command
from tinyllm.config import ConfigError
from tinyllm.inference.settings import add_model_argument, check
from tinyllm.parallel.threads import cores

if TYPE_CHECKING:
    from tinyllm.inference.language_model import LanguageModel

FILE_NAME = "explain.html"
DESCRIPTION = """\
Write a page that shows what happens inside a model while it reads a prompt: the attention of every
head, the tokens it expects after each position, and the norms of parameters, of the gradient of the
prompt's loss and of Adam's moments. stdout gets the page's path."""


def options(argv: list[str] | None) -> argparse.Namespace:
    """Parse and check; any mistake ends the program with exit code 2 and a message."""
    top = argparse.ArgumentParser("tinyllm explain", description=DESCRIPTION, allow_abbrev=False)
    top.add_argument("--version", action="version", version=f"tinyllm {__version__}")
    add_model_argument(top)
    top.add_argument(
        "--prompt", required=True, metavar="TEXT",
        help="what the model reads; - reads stdin, without its last newline",
    )  # fmt: skip
    top.add_argument("--out", metavar="FILE", type=Path, help=f"default: {FILE_NAME} beside the model")
    top.add_argument(
        "--top", type=int, default=5, metavar="K", help="tokens to show at each position (default: 5)"
    )
    args = top.parse_args(argv)
    try:
        check("top", args.top, low=1, high=100)
    except ConfigError as error:
        top.error(str(error))
    return args


def main(
    argv: list[str] | None = None,
    stdin: TextIO | None = None,
    out: TextIO | None = None,
    err: TextIO | None = None,
) -> int:
    """Run the command line; return the exit code: 0 done, 1 failed, 2 wrong options, 130 interrupted."""
    args = options(argv)
    return command.run(_run, args, cores(), stdin, out, err)


def _run(args: argparse.Namespace, stdin: TextIO, out: TextIO, err: TextIO) -> int:
    text = command.text_of(args.prompt, stdin)
    from tinyllm.inference import language_model
    from tinyllm.inference.tracing import trace
    from tinyllm.kernels import compile_all, is_warm
    from tinyllm.page.explain import explain_page
    from tinyllm.page.shell import write_page

    model, file = language_model.load_model_with_file(Path(args.model), lambda said: command.note(said, err))
    if not is_warm():
        command.note("compiling the kernels; it takes some seconds, once", err)
    compile_all()
    prompt = model.prompt(text)
    found = trace(model.weights, prompt, args.top, file)
    notes = [str(file)]
    if len(found.tokens) < len(prompt):
        notes.append(_shortened(model, len(prompt), len(found.tokens)))
        command.note(notes[-1], err)
    path = args.out or (Path(args.model) if Path(args.model).is_dir() else file.parent) / FILE_NAME
    title = "/".join(file.resolve().parts[-2:])
    write_page(explain_page(found, model.tokenizer.pieces, title, notes), path)
    print(path, file=out, flush=True)
    return 0


def _shortened(model: LanguageModel, size: int, shown: int) -> str:
    limit = (
        "the model sees" if shown == model.config.block_size else "a page has room for, with so many heads"
    )
    return (
        f"the prompt has {size:,} tokens, shown are the first {shown:,}, as many as {limit}; "
        "what comes later changes nothing before it"
    )


if __name__ == "__main__":
    sys.exit(main())
