"""The command line of training: parsed once, here, into a Request and a Machine.

Order: the options in their groups, the checks, the values. Nothing here imports NumPy, so `--help` is
instant.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from tinyllm.cli import config_file
from tinyllm.cli.arguments import add_config, given_config, path, program
from tinyllm.cli.request import EXIT_UNFINISHED, Fresh, Machine, Request, Resume, absolute
from tinyllm.config import BUNDLED, PHASES, Config, replace
from tinyllm.inference.settings import check
from tinyllm.option import ConfigError
from tinyllm.parallel.threads import most_threads
from tinyllm.run.changes import Changes

DESCRIPTION = """\
Train a GPT on a CPU. With no options: tokenizer, pretraining and instruction tuning on the bundled
texts, checkpoints in checkpoints/, then answers to some training questions. Kill it at any moment;
--resume continues with the same bits."""

EXAMPLES = """\
--data book.txt --checkpoint-dir book
--resume --epochs 40
--n-layer 4 --n-head 4 --n-embd 128 --block-size 64 --lr 0.002"""
MOST_USED = (
    "--data", "--chat-data", "--checkpoint-dir", "--resume", "--epochs", "--lr", "--n-layer", "--n-head",
    "--n-embd", "--block-size",
)  # fmt: skip


def options(argv: list[str] | None) -> tuple[Request, Machine]:
    """Parse and check; any mistake ends the program with exit code 2 and a message."""
    parser = program("train", DESCRIPTION, EXAMPLES, usage="%(prog)s [options]")
    for add in (_add_data, _add_resuming, add_config, _add_hardware, _add_output):
        add(parser)
    parser.put_first("the most used options", MOST_USED)
    parser.set_defaults(only_these=False)
    args = parser.parse_args(argv)
    try:
        _check(args)
        texts = _texts(args)
        if args.config is not None:
            texts = _fill_in(args, config_file.read(args.config), texts)
        return _request(args, texts), Machine(args.workers, args.blas_threads)
    # A path may be one that cannot be resolved.
    except (ConfigError, OSError, RuntimeError, argparse.ArgumentTypeError) as error:
        parser.error(str(error))


def _add_data(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "data",
        "files or folders of .txt, .json, .jsonl, .csv or .parquet, also packed (.gz, .zst); "
        "docs/data.md describes the formats",
    )
    group.add_argument("--pretraining-data", nargs="+", metavar="PATH", help="texts for pretraining")
    group.add_argument("--chat-data", nargs="+", metavar="PATH", help="dialogues for instruction tuning")
    group.add_argument("--data", nargs="+", metavar="PATH", help="pretrain on these texts only")
    group.add_argument(
        "--phase", choices=PHASES, help="run only this phase; with --resume, switch to this phase"
    )


def _add_resuming(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "resuming", "other options override the checkpoint's; changes are printed as old -> new"
    )
    group.add_argument(
        "--resume", nargs="?", const="always", choices=("always", "auto"), metavar="auto",
        help="continue from the latest valid checkpoint; with auto, begin if there is none",
    )  # fmt: skip
    group.add_argument(
        "--resume-from", metavar="PATH",
        help="continue from this checkpoint; for a folder: from its latest valid one",
    )  # fmt: skip
    group.add_argument(
        "--resume-best", action="store_true", help="continue from the best checkpoint of the latest phase"
    )
    group.add_argument("--allow-new-data", action="store_true", help="resume even if the texts differ")
    group.add_argument(
        "--fresh", action="store_true",
        help="start from scratch; an earlier run in --checkpoint-dir is moved to previous-N/",
    )  # fmt: skip
    group.add_argument(
        "--init-from", type=path, metavar="MODEL",
        help="start a new run from the weights, tokenizer and shape of this .bin, or folder of checkpoints",
    )  # fmt: skip
    group.add_argument(
        "--max-minutes", type=float, metavar="X",
        help=f"save and end after X minutes, with exit code {EXIT_UNFINISHED} if the run is not finished",
    )  # fmt: skip


def _add_hardware(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("hardware")
    group.add_argument(
        "--workers", type=int, metavar="N", help="threads that split each batch (default: one per core)"
    )
    group.add_argument(
        "--blas-threads", type=int, metavar="N",
        help="BLAS threads per worker (default: 1, or more if the batch is smaller than the number of cores)",
    )  # fmt: skip


def _add_output(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument(
        "--checkpoint-dir", type=path, default=Path("checkpoints"), metavar="DIR",
        help="where checkpoints, metrics and the report are kept (default: checkpoints)",
    )  # fmt: skip
    group.add_argument(
        "--config", type=path, metavar="FILE",
        help="take settings from this TOML file, such as the config.toml that each run writes; "
        "other options override it",
    )  # fmt: skip
    group.add_argument(
        "--plan", action="store_true",
        help="train nothing, write nothing: print the run's size, memory and time, from a probe of 2 s",
    )  # fmt: skip
    group.add_argument("--plain", action="store_true", help="plain lines, no progress bar")
    group.add_argument("--no-samples", action="store_true", help="skip the samples at the end")


def _is_resume(args: argparse.Namespace) -> bool:
    return bool(args.resume or args.resume_from is not None or args.resume_best)


RANGES = {"workers": (1, most_threads()), "blas_threads": (1, most_threads()), "max_minutes": (0, math.inf)}


def _check(args: argparse.Namespace) -> None:
    """Raise ConfigError for options that contradict each other or are out of range."""
    if args.data and (args.pretraining_data or args.chat_data):
        raise ConfigError("--data replaces --pretraining-data and --chat-data: give one or the other")
    if args.data and args.phase == "instruction_tuning":
        raise ConfigError("--data is for pretraining: give --chat-data for instruction tuning")
    if args.pretraining_data and args.phase == "instruction_tuning":
        raise ConfigError("--phase instruction_tuning reads no --pretraining-data: drop one of them")
    if args.chat_data and args.phase == "pretraining" and not _is_resume(args):
        raise ConfigError("--phase pretraining reads no --chat-data: drop one of them")
    if args.resume_from == "":
        raise ConfigError("--resume-from: found no path, expected a checkpoint or a folder of them")
    if args.resume_from and args.resume_best:
        raise ConfigError("--resume-from and --resume-best name different checkpoints: give one of them")
    if args.fresh and _is_resume(args):
        raise ConfigError("--fresh starts from scratch, --resume continues a run: give one of them")
    if args.resume == "auto" and (args.resume_from is not None or args.resume_best):
        raise ConfigError("--resume auto takes the latest checkpoint: drop --resume-from and --resume-best")
    if args.init_from and _is_resume(args) and args.resume != "auto":
        raise ConfigError("--init-from starts a new run, --resume continues one: give one of them")
    if hasattr(args, "epochs") and hasattr(args, "max_steps"):
        raise ConfigError("--epochs and --max-steps both limit a phase: give one of them")
    for name, (low, high) in RANGES.items():
        if getattr(args, name) is not None:
            check(name, getattr(args, name), low=low, high=high)


def _texts(args: argparse.Namespace) -> dict[str, list[str]]:
    """Return the absolute paths that were typed, by phase."""
    named = {"pretraining": args.data or args.pretraining_data, "instruction_tuning": args.chat_data}
    return {phase: [absolute(path(text)) for text in texts] for phase, texts in named.items() if texts}


def _fill_in(
    args: argparse.Namespace, given: config_file.Given, texts: dict[str, list[str]]
) -> dict[str, list[str]]:
    """Set what was not typed to what the --config file has; return the texts, all replaced by --data."""
    config_file.fill_in(args, given)
    if args.data or not given.sources:
        return texts
    args.only_these = True  # the phases of the file are those of its run
    found = {**given.sources, **texts}
    if args.phase and args.phase not in found:
        raise ConfigError(f"--phase {args.phase}: {args.config} names no texts for it; give them too")
    return {phase: found[phase] for phase in PHASES if phase in found}


def _request(args: argparse.Namespace, sources: dict[str, list[str]]) -> Request:
    """Return what the checked options ask for; ConfigError where the config of a fresh run is impossible."""
    given = given_config(args)
    fresh = Fresh(given, _all_sources(args, sources), args.fresh, args.init_from)
    start: Fresh | Resume = fresh
    auto = args.resume == "auto"
    if auto or not _is_resume(args):
        replace(Config(), given)  # those of a resume are checked later, together with its checkpoint's
    if _is_resume(args):
        changes = Changes(given, sources, None if auto else args.phase, args.allow_new_data)
        source = None if args.resume_from is None else path(args.resume_from)
        start = Resume(source, args.resume_best, changes, fresh if auto else None)
    return Request(start, args.checkpoint_dir, args.max_minutes, args.plain, not args.no_samples, args.plan)


def _all_sources(args: argparse.Namespace, given: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return the texts of a fresh run: those given, and the bundled ones of the other phases."""
    sources = given if args.data or args.only_these else {**BUNDLED, **given}
    return {args.phase: sources[args.phase]} if args.phase else sources
