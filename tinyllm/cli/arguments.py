"""The options that several programs share, and the bridge from the config's fields to argparse.

Order: the config of a run, the model, sampling. Nothing here imports NumPy, so `--help` is instant.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path
from typing import Any, get_args, get_type_hints

from tinyllm.cli.parser import Parser
from tinyllm.config import SECTIONS
from tinyllm.inference.settings import OPTIONS, Sampling, check
from tinyllm.option import flag, is_option
from tinyllm.parallel.threads import cores, most_threads

TITLES = {"model": "model", "train": "training", "data": "tokenizer and batches", "saving": "saving"}
LETTERS = {int: "N", float: "X", str: "NAME"}


def program(name: str, description: str, examples: str, **settings: Any) -> Parser:
    """Return the parser of `tinyllm NAME`, with --version, and --help that ends with the examples.

    Each line of `examples` is a command line without the name of the program.
    """
    lines = [f"  tinyllm {name} {line}" for line in examples.splitlines()]
    epilog = "\n".join(["examples:", *lines])
    if "epilog" in settings:
        epilog += "\n\n" + settings.pop("epilog")
    return Parser(f"tinyllm {name}", description=description, epilog=epilog, **settings)


def path(text: str) -> Path:
    """Return an option's path, ~ and ~user expanded, as a shell does not in `--option=~/x`.

    Raises ArgumentTypeError where there is no such user.
    """
    found = os.path.expanduser(text)
    if found.startswith("~"):
        raise argparse.ArgumentTypeError(f"{text}: found no such user; a file of that name is ./{text}")
    return Path(found)


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add one option per field of every section; absent options are left out of the namespace."""
    for section, kind in SECTIONS.items():
        group = parser.add_argument_group(TITLES[section])
        hints = get_type_hints(kind)
        for field in filter(is_option, dataclasses.fields(kind)):
            _add_field(group, field, hints[field.name])


def _add_field(group: argparse._ArgumentGroup, field: dataclasses.Field[Any], hint: Any) -> None:
    name, rule = flag(field.name), field.metadata
    if hint is bool:
        group.add_argument(
            name, action=argparse.BooleanOptionalAction, dest=field.name, default=argparse.SUPPRESS,
            help=f"{rule['help']} (default: {'on' if field.default else 'off'})",
        )  # fmt: skip
        return
    kind = next(each for each in get_args(hint) or (hint,) if each is not type(None))
    group.add_argument(
        name, type=kind, default=argparse.SUPPRESS, choices=rule["choices"],
        metavar=None if rule["choices"] else LETTERS[kind],
        help=rule["help"] if field.default in (None, "") else f"{rule['help']} (default: {field.default})",
    )  # fmt: skip


def given_config(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return the config options that were given on the command line, by section."""
    values = vars(args)
    return {
        section: {f.name: values[f.name] for f in dataclasses.fields(kind) if f.name in values}
        for section, kind in SECTIONS.items()
    }


def add_model(parser: argparse.ArgumentParser, phase: str = "its latest phase") -> None:
    """Add the model, of a folder that of a phase."""
    parser.add_argument(
        "model", type=path, metavar="MODEL",
        help=f"a .bin file (a checkpoint or exported weights); for a folder: the best checkpoint of {phase}, "
        f"or else its latest valid one",
    )  # fmt: skip


def add_writing(parser: argparse.ArgumentParser, defaults: Sampling, max_tokens: int, phase: str) -> None:
    """Add the model of a phase, one option per field of Sampling, the length and the threads."""
    add_model(parser, phase)
    parser.add_argument(
        "--max-tokens", type=int, default=max_tokens, metavar="N",
        help=f"maximum length of what is written, in tokens (default: {max_tokens})",
    )  # fmt: skip
    parser.add_argument(
        "--blas-threads", type=int, default=cores(), metavar="N",
        help="threads that compute each token (default: one per core, here %(default)s)",
    )  # fmt: skip
    group = parser.add_argument_group("sampling")
    for name, (letter, text) in OPTIONS.items():
        value = getattr(defaults, name)
        group.add_argument(
            flag(name), type=type(value), default=argparse.SUPPRESS, metavar=letter,
            help=f"{text} (default: {value:g})",
        )  # fmt: skip
    group.add_argument(
        "--seed", type=int, default=1337, metavar="N",
        help="random seed; the same seed gives the same text (default: 1337)",
    )  # fmt: skip


def given_sampling(args: argparse.Namespace) -> dict[str, Any]:
    """Return the sampling options that were given on the command line."""
    return {name: getattr(args, name) for name in OPTIONS if hasattr(args, name)}


def checked_sampling(args: argparse.Namespace, defaults: Sampling) -> Sampling:
    """Return the sampling asked for; ConfigError where an option of `add_writing` is out of range."""
    check("max_tokens", args.max_tokens, low=1)
    check("blas_threads", args.blas_threads, low=1, high=most_threads())
    check("seed", args.seed, low=0)
    return dataclasses.replace(defaults, **given_sampling(args))
