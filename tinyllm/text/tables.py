"""The rows of a table become entries, their fields named by the header: CSV, and Parquet with the extra.

Order: CSV, Parquet.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Any

from tinyllm.text import files
from tinyllm.text.files import File, extra, refusal, separated
from tinyllm.words import counted

ROWS = 256  # of Parquet that are in memory as Python's objects at a time


def csv_rows(file: File, delimiter: str = ",") -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (where, row) of a file whose first row names the fields; a refusal where it is no CSV."""
    csv.field_size_limit(files.LONGEST_ENTRY)
    rows = csv.reader((line + "\n" for line in separated(file, "\n")), delimiter=delimiter, strict=True)
    try:
        header = next(rows, [])
        if len(set(header)) < len(header):
            raise refusal(f"{file.path}: found a header with one name twice: {', '.join(header[:9])}")
        for row in rows:
            if row and len(row) != len(header):
                raise refusal(
                    f"{file.path}: line {rows.line_num}: found a row of {counted(len(row), 'value')}, "
                    f"expected {len(header)}, as in the header ({', '.join(header[:6])})"
                )
            if row:
                yield f"line {rows.line_num}", dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise refusal(f"{file.path}: line {rows.line_num}: found invalid CSV: {error}") from None


def parquet_rows(file: File) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (where, row) of a file, of which one row group is in memory at a time."""
    parquet = extra("pyarrow.parquet", file.path, "parquet")
    size, done, reported = file.path.stat().st_size, 0, 0
    try:
        with parquet.ParquetFile(file.path) as table:
            for batch in table.iter_batches(batch_size=ROWS, use_threads=False):
                for row in batch.to_pylist():
                    done += 1
                    yield f"row {done}", row
                now = size * done // max(table.metadata.num_rows, 1)
                file.on_read(now - reported)
                reported = now
    except (OSError, extra("pyarrow", file.path, "parquet").ArrowException) as error:
        raise refusal(f"{file.path}: found Parquet that cannot be read: {error}") from error
    file.on_read(size - reported)
