"""The command line of training: what can be asked for, and which requests contradict each other.

Nothing here imports NumPy, so `--help` is instant.
"""

from __future__ import annotations

import argparse

from tinyllm import __version__
from tinyllm.config import PHASES, Config, ConfigError, add_arguments, flag, given, replace

DESCRIPTION = """\
Train a GPT on a CPU. With no options: tokenizer, pretraining and instruction tuning on the bundled
texts, checkpoints in checkpoints/, then a few questions answered. Kill it at any instant; --resume
goes on with the same bits."""


def parser() -> argparse.ArgumentParser:
    """Return the options of a training run."""
    top = argparse.ArgumentParser("tinyllm train", description=DESCRIPTION, allow_abbrev=False)
    top.add_argument("--version", action="version", version=f"tinyllm {__version__}")
    texts = top.add_argument_group(
        "texts", "files or folders of .txt, .json or .jsonl; docs/data.md says more"
    )
    texts.add_argument("--pretraining-data", nargs="+", metavar="PATH", help="texts of the first phase")
    texts.add_argument("--chat-data", nargs="+", metavar="PATH", help="dialogues of the second phase")
    texts.add_argument("--data", nargs="+", metavar="PATH", help="pretrain on these and do nothing else")
    texts.add_argument("--phase", choices=PHASES, help="run this phase alone; with --resume, go to it")
    keep = top.add_argument_group("checkpoints")
    keep.add_argument("--checkpoint-dir", default="checkpoints", metavar="DIR", help="(default: checkpoints)")
    keep.add_argument(
        "--strategy", default="best-and-last", metavar="NAME",
        help="best, last, periodic:N, best-and-last (the default) or best-and-periodic:N, with N in epochs",
    )  # fmt: skip
    keep.add_argument(
        "--keep-best-n", type=int, default=3, metavar="N", help="best checkpoints kept a phase (default: 3)"
    )
    keep.add_argument(
        "--save-every-steps", type=int, default=0, metavar="N", help="also save checkpoint_last this often"
    )
    keep.add_argument(
        "--save-every-minutes", type=float, default=5, metavar="X",
        help="also save checkpoint_last this often; 0 turns it off (default: 5)",
    )  # fmt: skip
    keep.add_argument(
        "--no-async", action="store_true", help="wait for each save instead of writing beside the training"
    )
    again = top.add_argument_group(
        "going on", "options given besides are changes, and are printed as old -> new"
    )
    again.add_argument("--resume", action="store_true", help="go on from the newest valid checkpoint")
    again.add_argument("--resume-from", metavar="PATH", help="go on from this checkpoint")
    again.add_argument(
        "--resume-best", action="store_true", help="go on from the best checkpoint of the latest phase"
    )
    again.add_argument(
        "--allow-new-data", action="store_true", help="go on although the texts are not the checkpoint's"
    )
    again.add_argument(
        "--fresh", action="store_true", help="set an earlier run in --checkpoint-dir aside and begin anew"
    )
    run = top.add_argument_group("the machine")
    run.add_argument(
        "--workers", type=int, metavar="N", help="threads that share each batch (default: one a core)"
    )
    run.add_argument(
        "--blas-threads", type=int, metavar="N",
        help="BLAS threads of each worker (default: the cores that a batch smaller than their number leaves)",
    )  # fmt: skip
    run.add_argument(
        "--recompute", action="store_true",
        help="keep only the residual stream of each block and compute the rest again in backward: "
        "a fraction of the memory for a quarter more time",
    )  # fmt: skip
    run.add_argument("--plain", action="store_true", help="plain lines, no progress bar")
    run.add_argument("--no-samples", action="store_true", help="ask the finished model no questions")
    add_arguments(top)
    return top


def options(argv: list[str] | None) -> argparse.Namespace:
    """Parse and check; any mistake ends the program with exit code 2 and a message.

    Adds to the namespace: `resuming`, `changes` (the config options that were given) and, for a fresh
    run, `config`.
    """
    top = parser()
    args = top.parse_args(argv)
    args.resuming = args.resume or bool(args.resume_from) or args.resume_best
    args.changes = given(args)
    try:
        _check(args)
        if not args.resuming:  # else the changes are checked against the checkpoint's config
            args.config = replace(Config(), args.changes)
    except ConfigError as error:
        top.error(str(error))
    return args


LOWEST = {"keep_best_n": 1, "save_every_steps": 0, "save_every_minutes": 0, "workers": 1, "blas_threads": 1}


def _check(args: argparse.Namespace) -> None:
    """Raise ConfigError for options that contradict each other or are out of range."""
    if args.data and (args.pretraining_data or args.chat_data):
        raise ConfigError("--data is all there is to train on: drop --pretraining-data and --chat-data")
    if args.data and args.phase == "instruction_tuning":
        raise ConfigError("--data is for pretraining: give --chat-data for instruction tuning")
    if args.pretraining_data and args.phase == "instruction_tuning":
        raise ConfigError("--phase instruction_tuning reads no --pretraining-data: drop one of them")
    if args.chat_data and args.phase == "pretraining" and not args.resuming:
        raise ConfigError("--phase pretraining reads no --chat-data: drop one of them")
    if args.resume_from and args.resume_best:
        raise ConfigError("--resume-from and --resume-best name different checkpoints: give one of them")
    if args.resuming and args.fresh:
        raise ConfigError("--fresh begins anew and --resume goes on: give one of them")
    if {"epochs", "max_steps"} <= set(args.changes["train"]):
        raise ConfigError("--epochs and --max-steps both bound a phase: give one of them")
    for name, low in LOWEST.items():
        value = getattr(args, name)
        if value is not None and not low <= value < float("inf"):
            raise ConfigError(f"{flag(name)}: found {value}, expected at least {low}")
