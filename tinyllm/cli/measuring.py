"""The table of an evaluation: its rows, as text for a person or as JSON, and the progress of making it.

Order: progress, rows, the worst documents, text, JSON. Nothing here imports NumPy.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from tinyllm.escape import printable
from tinyllm.words import counted, duration, perplexity

if TYPE_CHECKING:
    from tinyllm.inference.evaluation import Exchange, Measures
    from tinyllm.text.passages import Passages
    from tinyllm.text.tokenizer import Tokenizer

HEARTBEAT = 10.0  # seconds between lines where no terminal shows one that changes
FRAME = 0.2  # seconds between changes of that one
BEGINNING = 60  # characters shown of a document


class Progress:
    """How much of a long piece of work is done, on `err`; nothing if it is short."""

    def __init__(self, what: str, err: TextIO) -> None:
        self.what, self.err, self.live = what, err, err.isatty()
        self.started = time.monotonic()
        self.next = self.started + (1.0 if self.live else HEARTBEAT)
        self.drawn = False

    def __call__(self, done: int, total: int) -> None:
        """Show it, if it is time to."""
        now = time.monotonic()
        if now < self.next or done >= total:
            return
        rest = duration((now - self.started) / max(done, 1) * (total - done))
        line = f"{self.what} {done:,} of {total:,}, ETA {rest}"
        if self.live:
            self.err.write(f"\r{line[-78:]}\x1b[K")
            self.drawn = True
        else:
            self.err.write(f"{line}\n")
        self.err.flush()
        self.next = now + (FRAME if self.live else HEARTBEAT)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.drawn:
            self.err.write("\r\x1b[K")
            self.err.flush()


class Document(NamedTuple):
    """One of those that are hardest for a model."""

    loss: float  # nats per token
    tokens: int
    beginning: str


class Row(NamedTuple):
    """One model, large or simple; None where a measure does not apply to it."""

    name: str
    bits_per_byte: float
    tokens: int | None = None
    loss: float | None = None
    perplexity: float | None = None
    accuracy: float | None = None
    exact: int | None = None  # answers word for word as expected
    answers: int | None = None
    worst: tuple[Document, ...] = ()

    @classmethod
    def of(cls, name: str, measures: Measures, said: Sequence[Exchange]) -> Row:
        """Return the row of a model, with its answers if there are any."""
        exact = sum(each.said == each.expected for each in said)
        return cls(
            name, measures.bits_per_byte, measures.tokens, measures.loss, measures.perplexity,
            measures.accuracy, *((exact, len(said)) if said else ()),
        )  # fmt: skip

    @classmethod
    def of_nats(cls, name: str, nats: float, measures: Measures) -> Row:
        """Return the row of a model that loses so many nats on the targets of `measures`."""
        from tinyllm.inference.evaluation import bits_per_byte

        loss = nats / measures.tokens
        bits = bits_per_byte(nats, measures.text_bytes)
        return cls(name, bits, measures.tokens, loss, perplexity(loss))

    @classmethod
    def of_bytes(cls, name: str, size: int, text_bytes: int) -> Row:
        """Return the row of a compressor."""
        return cls(name, 8 * size / text_bytes if text_bytes else math.nan)


class Table(NamedTuple):
    """What was measured on one set of texts."""

    title: str
    documents: int
    text_bytes: int
    rows: tuple[Row, ...]


def worst_documents(
    measures: Measures, passages: Passages, tokenizer: Tokenizer, count: int
) -> tuple[Document, ...]:
    """Return the documents with the highest loss per token, the highest first."""
    found = []
    for number in measures.worst(count):
        start, stop = passages.spans[number].tolist()
        beginning = tokenizer.decode(passages.tokens[start : min(stop + 1, start + 4 * BEGINNING)])
        tokens = int(measures.counts[number])
        found.append(Document(float(measures.losses[number]) / tokens, tokens, beginning[:BEGINNING]))
    return tuple(found)


# ---- text

COLUMNS = ("tokens", "nats/token", "perplexity", "bits/byte", "top-1", "exact answers")


def as_text(tables: Sequence[Table]) -> str:
    """Return the tables as a person reads them."""
    return "\n\n".join(map(_table_text, tables))


def _table_text(table: Table) -> str:
    cells = [_cells(row) for row in table.rows]
    columns = [i for i in range(len(COLUMNS)) if any(row[i] for row in cells)]
    first = max(len(row.name) for row in table.rows)
    widths = {i: max(len(COLUMNS[i]), *(len(row[i]) for row in cells)) for i in columns}

    def line(name: str, values: Sequence[str]) -> str:
        return f"  {name:<{first}}" + "".join(f"  {values[i]:>{widths[i]}}" for i in columns).rstrip()

    sizes = f"{counted(table.documents, 'document')}, {counted(table.text_bytes, 'byte')}"
    rows = [f"{printable(table.title)}: {sizes}"]
    rows.append(line("", COLUMNS))
    rows += [line(row.name, values) for row, values in zip(table.rows, cells, strict=True)]
    for row in table.rows:
        if row.worst:
            rows.append(f"  highest loss per token ({row.name}):")
            rows += [f"  {_loss(each.loss):>9}  {printable(each.beginning)}" for each in row.worst]
    return "\n".join(rows)


def _cells(row: Row) -> tuple[str, ...]:
    """Return the row's values as they are written, empty where there is none; in the order of COLUMNS."""
    return (
        "" if row.tokens is None else f"{row.tokens:,}",
        "" if row.loss is None else _loss(row.loss),
        "" if row.perplexity is None else _perplexity(row.perplexity),
        "-" if math.isnan(row.bits_per_byte) else f"{row.bits_per_byte:.3f}",
        "" if row.accuracy is None else f"{100 * row.accuracy:.1f} %",
        "" if row.exact is None else f"{row.exact:,} of {row.answers:,}",
    )


def _loss(value: float) -> str:
    return f"{value:.4f}"


def _perplexity(value: float) -> str:
    return f"{value:,.2f}" if value < 1e6 else f"{value:.2e}"


# ---- JSON


def as_json(tables: Sequence[Table]) -> str:
    """Return the tables as a list of objects; a measure that a row does not have, or that is NaN, is null."""
    found = [
        table._asdict()
        | {"rows": [row._asdict() | {"worst": [each._asdict() for each in row.worst]} for row in table.rows]}
        for table in tables
    ]
    return json.dumps(_finite(found), ensure_ascii=True, allow_nan=False, indent=2)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
