# PYTHON_ARGCOMPLETE_OK
"""`tinyllm tokenize MODEL`: a text as the tokens that a model sees, and ids back as text.

The file is not named tokenize.py: run as a script, it would take the place of the standard library's module.
Order: options, the program, its parts, main. NumPy is imported only after the options are read.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tinyllm.cli import command
from tinyllm.cli.arguments import add_model, program
from tinyllm.cli.interrupt import exit_code
from tinyllm.option import ConfigError
from tinyllm.words import counted

if TYPE_CHECKING:
    from tinyllm.text.tokenizer import Tokenizer

DESCRIPTION = """\
Show how a model's tokenizer splits a text: the tokens, their ids and bytes, and how many bytes a token has on
average. Quotes are Python's: '...' is text, b'...' the bytes of a part of a character."""
EXAMPLES = """\
checkpoints --prompt "The sun"
checkpoints --ids < book.txt
checkpoints --decode 72 105"""


def options(argv: list[str] | None) -> argparse.Namespace:
    """Parse and check; any mistake ends the program with exit code 2 and a message."""
    parser = program("tokenize", DESCRIPTION, EXAMPLES)
    add_model(parser)
    parser.add_argument(
        "--prompt", metavar="TEXT",
        help="the text; - reads stdin, without its last newline, as without --prompt",
    )  # fmt: skip
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--ids", action="store_true", help="print the ids alone, on one line")
    form.add_argument(
        "--decode", nargs="+", metavar="ID",
        help="print the text of these ids instead; - reads them from stdin",
    )  # fmt: skip
    args = parser.parse_args(argv)
    if args.decode and args.prompt is not None:
        parser.error("--decode prints ids as text, --prompt a text as tokens: give one of them")
    return args


def _run(args: argparse.Namespace, streams: command.Streams) -> int:
    if args.decode:
        ids = _numbers(streams.stdin.read() if args.decode == ["-"] else " ".join(args.decode))
        streams.write(_tokenizer(args.model).decode(ids) + "\n")
        return 0
    text = command.text_of("-" if args.prompt is None else args.prompt, streams.stdin)
    tokenizer = _tokenizer(args.model)
    found: list[int] = tokenizer.encode(text).tolist()
    if args.ids:
        streams.write(" ".join(map(str, found)) + "\n")
        return 0
    pieces = [tokenizer.pieces[token] for token in found]
    streams.write("|".join(_quoted(piece).removeprefix("b")[1:-1] for piece in pieces) + "\n\n")
    streams.write("     id  bytes  token\n")
    for token, piece in zip(found, pieces, strict=True):
        streams.write(f"{token:>7}  {len(piece):>5}  {_quoted(piece)}\n")
    size = sum(map(len, pieces))
    average = f": {size / len(found):.2f} bytes per token" if found else ""
    sizes = counted(len(text), "character"), counted(size, "byte"), counted(len(found), "token")
    streams.write(f"\n{', '.join(sizes)}{average}\n")
    return 0


def _tokenizer(model: Path) -> Tokenizer:
    """Return a model's tokenizer, for which only the head of the file is read; or raise CheckpointError."""
    from tinyllm.checkpoint import CheckpointError
    from tinyllm.checkpoint.disk import Disk
    from tinyllm.checkpoint.newest import read_newest
    from tinyllm.checkpoint.reader import read_head
    from tinyllm.text.tokenizer import Tokenizer, TokenizerError

    disk = Disk()
    file, head = read_newest(model, disk, lambda path: read_head(path, disk))
    try:
        return Tokenizer.from_dict(head.fields.get("tokenizer"))
    except TokenizerError as error:
        raise CheckpointError(f"{file}: document: {error}") from error


def _numbers(text: str) -> list[int]:
    """Return the ids in a text, between which there are spaces or commas; ConfigError for other words."""
    words = text.replace(",", " ").split()
    for word in words:
        if not (word.isascii() and word.isdigit() and len(word) < 10):
            raise ConfigError(f"--decode: found {word!r:.40}, expected ids, such as 72 105")
    return list(map(int, words))


def _quoted(piece: bytes) -> str:
    """Return the bytes of a token on one line, as text if they are whole characters."""
    try:
        return repr(piece.decode())
    except UnicodeDecodeError:
        return repr(piece)


main = command.door(options, _run)


if __name__ == "__main__":
    sys.exit(exit_code(main))
