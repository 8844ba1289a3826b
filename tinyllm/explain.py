# PYTHON_ARGCOMPLETE_OK
"""`python -m tinyllm.explain MODEL --prompt TEXT`: one page that shows what a model does with a text.

The page needs no network. It has every head's attention, the model's predictions after each token, and the
norms of parameters, gradient and Adam's moments. Order: options, the program, its parts, main. NumPy is
imported only after the options are read.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from tinyllm.cli import command
from tinyllm.cli.arguments import add_model, path, program
from tinyllm.cli.interrupt import exit_code
from tinyllm.escape import printable
from tinyllm.inference.settings import check
from tinyllm.option import ConfigError
from tinyllm.parallel.threads import cores
from tinyllm.words import counted

if TYPE_CHECKING:
    from tinyllm.inference.language_model import LanguageModel

FILE_NAME = "explain.html"
DESCRIPTION = """\
Write an HTML page that shows what happens inside a model while it reads a prompt: the attention of every
head, its predictions after each token, and the norms of the parameters, of the gradient of the prompt's
loss and of Adam's moments. The page's path is written to stdout."""
EXAMPLES = 'checkpoints --prompt "The sun"'


def options(argv: list[str] | None) -> argparse.Namespace:
    """Parse and check; any mistake ends the program with exit code 2 and a message."""
    parser = program("explain", DESCRIPTION, EXAMPLES)
    add_model(parser)
    parser.add_argument(
        "--prompt", required=True, metavar="TEXT",
        help="what the model reads; - reads stdin, without its last newline",
    )  # fmt: skip
    parser.add_argument(
        "--out", metavar="FILE", type=path, help=f"where to write it (default: {FILE_NAME} beside the model)"
    )
    parser.add_argument("--force", action="store_true", help="replace whatever file is there")
    parser.add_argument(
        "--top", type=int, default=5, metavar="K", help="predictions shown per position (default: 5)"
    )
    args = parser.parse_args(argv)
    try:
        check("top", args.top, low=1, high=100)
    except ConfigError as error:
        parser.error(str(error))
    return args


def _run(args: argparse.Namespace, streams: command.Streams) -> int:
    text = command.text_of(args.prompt, streams.stdin)
    from tinyllm.inference import language_model
    from tinyllm.inference.tracing import trace
    from tinyllm.kernels import compile_all, is_warm
    from tinyllm.page.explain import KIND, explain_page
    from tinyllm.page.shell import write_page

    model, file = language_model.load_model_with_file(args.model, streams.note)
    path = args.out or (args.model if args.model.is_dir() else file.parent) / FILE_NAME
    if path.exists() and path.samefile(file):
        raise ConfigError(f"{path}: this is the model itself; give another --out")
    command.note_compiling("the kernels", is_warm(), streams)
    compile_all()
    prompt = model.prompt(text)
    found = trace(model.weights, prompt, args.top, file)
    notes = [str(file)]
    if len(found.tokens) < len(prompt):
        notes.append(_shortened(model, len(prompt), len(found.tokens)))
        streams.note(notes[-1])
    title = "/".join(file.resolve().parts[-2:])
    write_page(explain_page(found, model.tokenizer.pieces, title, notes), KIND, path, args.force)
    print(printable(path), file=streams.out, flush=True)
    return 0


def _shortened(model: LanguageModel, size: int, shown: int) -> str:
    limit = (
        "fit the model's context window"
        if shown == model.config.block_size
        else "fit a page of so many heads"
    )
    return (
        f"the prompt has {counted(size, 'token')}; only the first {shown:,} are shown, as many as {limit}; "
        "later tokens change nothing before them"
    )


main = command.door(options, _run, lambda _: cores())


if __name__ == "__main__":
    sys.exit(exit_code(main))
