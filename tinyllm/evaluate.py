# PYTHON_ARGCOMPLETE_OK
"""`python -m tinyllm.evaluate MODEL [MODEL ...] [TEXT ...]`: how well models predict texts, as a table.

The table, or with --json the numbers, is written to stdout, everything else to stderr. Order: options,
the program, which texts, the rows of a table, writing it, main. NumPy is imported only after the options are
read.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tinyllm.cli import command
from tinyllm.cli.arguments import path, program
from tinyllm.cli.interrupt import exit_code
from tinyllm.cli.measuring import Progress, as_json, as_text
from tinyllm.escape import printable, reason
from tinyllm.inference.settings import check
from tinyllm.option import ConfigError
from tinyllm.parallel.threads import cores, most_threads, set_blas_threads

if TYPE_CHECKING:
    from tinyllm.cli.measuring import Table
    from tinyllm.inference.evaluation import Measures
    from tinyllm.inference.subject import Subject
    from tinyllm.text.passages import Passages

SHOWN = 5  # worst documents
DESCRIPTION = """\
Measure how well a model predicts texts: loss (nats per token), perplexity, bits per byte, top-1 accuracy, and
of dialogues how many answers are word for word those of the text; beside it a unigram and a bigram model,
counted on the training texts with the same tokenizer, and xz. Bits per byte can be compared between
tokenizers, the loss per token cannot. Several models make a table. Without texts: the held-out part of the
first model's own texts, or its training texts if nothing is held out."""
EXAMPLES = """\
checkpoints                           # the run's own texts
checkpoints book.txt
small large book.txt --json           # two models, as JSON
checkpoints --chat-data chats.jsonl"""


def options(argv: list[str] | None) -> argparse.Namespace:
    """Parse, check and tell models from texts; any mistake ends the program with exit code 2."""
    parser = program("evaluate", DESCRIPTION, EXAMPLES)
    parser.add_argument(
        "model", type=_source, metavar="MODEL",
        help="a .bin file; for a folder: the best checkpoint of its latest phase, or else its latest valid "
        "one",
    )  # fmt: skip
    parser.add_argument(
        "others", nargs="*", default=[], type=_source, metavar="MODEL|TEXT",  # else argparse calls it missing
        help="more models (.bin files, folders with any) and texts (everything else), read like --data",
    )  # fmt: skip
    parser.add_argument(
        "--data", nargs="+", default=[], type=_source, metavar="TEXT",
        help="texts, in the forms that train --data reads: files, folders, bundled:NAME",
    )  # fmt: skip
    parser.add_argument(
        "--chat-data", nargs="+", default=[], type=_source, metavar="TEXT",
        help="dialogues, in the forms that train --chat-data reads; only the answers are measured",
    )  # fmt: skip
    parser.add_argument(
        "--answers", type=int, default=1000, metavar="N",
        help="let each model write at most N answers of dialogues, evenly spread; 0 turns it off "
        "(default: 1000)",
    )  # fmt: skip
    parser.add_argument(
        "--worst", type=int, metavar="N",
        help=f"list the N documents with the highest loss (default: {SHOWN} for one model, 0 for several)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="write the numbers as JSON")
    parser.add_argument(
        "--workers", type=int, default=cores(), metavar="N",
        help="threads that share the work; no number depends on it (default: one per core, here %(default)s)",
    )  # fmt: skip
    args = parser.parse_args(argv)
    args.models = [Path(each) for each in [args.model, *args.others] if each is args.model or _is_model(each)]
    args.data = [each for each in args.others if not _is_model(each)] + args.data
    args.worst = args.worst if args.worst is not None else SHOWN * (len(args.models) == 1)
    try:
        check("workers", args.workers, low=1, high=most_threads())
        check("answers", args.answers, low=0)
        check("worst", args.worst, low=0)
    except ConfigError as error:
        parser.error(str(error))
    return args


def _source(text: str) -> str:
    """Return a path, ~ expanded, or the name of a bundled text."""
    return text if text.startswith("bundled:") else str(path(text))


def _is_model(text: str) -> bool:
    found = Path(text)
    try:
        return found.suffix == ".bin" or (found.is_dir() and any(found.glob("*.bin")))
    except OSError:  # a name that is too long, a folder above that may not be searched: reading it says so
        return False


def _run(args: argparse.Namespace, streams: command.Streams) -> int:
    from tinyllm.inference.subject import Subject
    from tinyllm.kernels import compile_all, compile_decoding, is_warm

    set_blas_threads(1)  # whatever the environment says: other numbers give other last bits
    subjects = [Subject.load(model, streams.note, args.workers) for model in args.models]
    command.note_compiling("the kernels", is_warm(), streams)
    compile_all()
    compile_decoding()
    with tempfile.TemporaryDirectory(prefix="tinyllm-") as scratch:
        tables = _tables(args, subjects, Path(scratch), streams)
    print((as_json if args.json else as_text)(tables), file=streams.out, flush=True)
    return 0


def _tables(
    args: argparse.Namespace, subjects: list[Subject], scratch: Path, streams: command.Streams
) -> list[Table]:
    """Return a table for the texts of each kind that were given, or of each phase of the run."""
    from tinyllm.inference.subject import given_texts

    tables, like = [], subjects[0].config
    for phase, texts in (("pretraining", args.data), ("instruction_tuning", args.chat_data)):
        if texts:
            found = [given_texts(subject, like, phase, texts, scratch) for subject in subjects]
            tables.append(_table(args, ", ".join(texts), phase, (subjects, found), (scratch, streams)))
    if tables:
        return tables
    if not subjects[0].sources:
        raise ConfigError(
            f"{args.models[0]}: does not say which texts it was trained on; give some with --data"
        )
    for phase in subjects[0].sources:
        title, found = _own(args, subjects, phase, scratch)
        tables.append(_table(args, title, phase, (subjects, found), (scratch, streams)))
    return tables


def _own(
    args: argparse.Namespace, subjects: list[Subject], phase: str, scratch: Path
) -> tuple[str, list[Passages]]:
    """Return what the models' own texts of a phase are called, and the part that is measured.

    Raises ConfigError where they are not the same for all models.
    """
    from tinyllm.inference.subject import own_texts
    from tinyllm.text.files import DataError

    try:
        found = [own_texts(subject, phase, scratch) for subject in subjects if phase in subject.sources]
    except (OSError, DataError) as error:
        raise DataError(
            f"the texts of {phase} cannot be used: {reason(error)}; give some with --data"
        ) from error
    if len(found) < len(subjects) or len({each.identity for each in found}) > 1:
        raise ConfigError(
            f"{', '.join(map(str, args.models))}: these models have other texts of {phase}, or hold out "
            f"other parts of them, so their losses cannot be compared; give the same texts with --data"
        )
    part = "the held-out part" if found[0].held_out else "the training texts (nothing is held out)"
    return f"{phase}, {part}", [each.measured for each in found]


def _table(
    args: argparse.Namespace, title: str, phase: str, measured: tuple[list[Subject], list[Passages]],
    outside: tuple[Path, command.Streams],
) -> Table:  # fmt: skip
    """Return the rows of all models, and of the simple ones that they are compared with."""
    from tinyllm.cli.measuring import Row, Table, worst_documents
    from tinyllm.inference.evaluation import answers, evaluate
    from tinyllm.text.baselines import xz_size

    (subjects, found), (scratch, streams) = measured, outside
    rows: list[Row] = []
    simple: dict[object, tuple[str, tuple[float, float] | None, Measures]] = {}
    for name, subject, passages in zip(map(printable, args.models), subjects, found, strict=True):
        with Progress(f"{name}: windows", streams.err) as progress:
            measures = evaluate(subject.model, passages, args.workers, progress)
        if not measures.tokens:
            raise ConfigError(f"{title}: found no token with loss, expected some text")
        with Progress(f"{name}: answers", streams.err) as progress:
            said = answers(subject.model, passages, args.answers, progress) if args.answers else []
        worst = worst_documents(measures, passages, subject.model.tokenizer, args.worst)
        rows.append(Row.of(name, measures, said)._replace(worst=worst))
        key, losses = _ngrams(subject, phase, passages, scratch, streams)
        simple.setdefault(key, (name, losses, measures))
    for kind in (1, 0):
        for name, losses, measures in simple.values():
            if losses:
                of = f" ({name})" if len(simple) > 1 else ""
                rows.append(Row.of_nats(("unigram", "bigram")[kind] + of, losses[kind], measures))
    decode = subjects[0].model.tokenizer.decode_bytes
    size = xz_size(decode(targets) for _, targets in found[0].transitions())
    rows.append(Row.of_bytes("xz", size, measures.text_bytes))
    documents = int((measures.counts > 0).sum())
    return Table(title, documents, measures.text_bytes, tuple(rows))


def _ngrams(
    subject: Subject, phase: str, passages: Passages, scratch: Path, streams: command.Streams
) -> tuple[object, tuple[float, float] | None]:
    """Return what a unigram and a bigram model of the run's training texts lose, in nats, and their identity.

    None, with a note, where those texts are not there.
    """
    from tinyllm.inference.subject import own_texts
    from tinyllm.text.baselines import Counts, ngram_losses
    from tinyllm.text.files import DataError

    phase = phase if phase in subject.sources else next(iter(subject.sources), "")
    try:
        if not phase:
            raise DataError(f"{subject.file} does not name them")
        own = own_texts(subject, phase, scratch)
    except (OSError, DataError) as error:
        streams.note(f"no unigram and bigram: the training texts cannot be used: {reason(error)}")
        return subject.file, None
    counts = Counts.of(own.training, subject.model.tokenizer.vocab_size)
    return own.identity, ngram_losses(counts, passages)


main = command.door(options, _run)


if __name__ == "__main__":
    sys.exit(exit_code(main))
