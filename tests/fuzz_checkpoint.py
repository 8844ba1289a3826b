"""Let a coverage-guided fuzzer write checkpoints, their checksums put right, and load each.

    pip install -e '.[fuzz]' && python -m tests.fuzz_checkpoint CORPUS -max_total_time=100

CORPUS is a folder that keeps what was found; the small bombs are put into it. What follows it are libFuzzer's
options; it prints the executions per second, and ends with the input where anything but a CheckpointError
that names the file was raised, or where one took 10 s or too much memory.
"""

from __future__ import annotations

import hashlib
import resource
import sys
from pathlib import Path

import atheris  # type: ignore[import-not-found]

from tinyllm import kernels

kernels.compile_all()  # before, since Numba cannot compile what atheris has changed
with atheris.instrument_imports(include=["tinyllm.checkpoint"]):
    from tests import bombs
    from tests.opener import SPARE_BYTES, status
    from tests.standin import Standin, file_bytes
    from tests.test_checkpoint_rot import FILE, InMemory
    from tinyllm.checkpoint import CheckpointError, reader
    from tinyllm.checkpoint.format import HEADER_BYTES

DATA = file_bytes(Standin(1))  # small, so that there are many inputs a second
HEADER = reader.read_head(FILE, InMemory(DATA)).header
END = HEADER.index_at + HEADER.index_bytes
MAP, INDEX, REST = DATA[HEADER_BYTES : HEADER.index_at], DATA[HEADER.index_at : END], DATA[END:]
LONGEST = 4096


def build(data: bytes) -> bytes:
    """Return a file: by the first byte, the rest is its map, its index, both, or all of it."""
    kind, rest = data[:1], data[1:]
    if kind == b"m":
        return bombs.forge(rest, INDEX, REST)
    if kind == b"i":
        return bombs.forge(MAP, rest, REST)
    if kind == b"b":
        packed_map, _, packed_index = rest.partition(b"\0\0\0\0")
        return bombs.forge(packed_map, packed_index)
    return rest


def opened(file: bytes) -> None:
    """Load the file; it succeeds, or CheckpointError names the file on one printable line."""
    try:
        reader.read_state(FILE, InMemory(file), Standin)
    except CheckpointError as error:
        assert str(error).startswith(f"{FILE}: ") and str(error).isprintable()


def main() -> None:
    """Seed the corpus, and fuzz."""
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    corpus = Path(sys.argv[1])
    corpus.mkdir(parents=True, exist_ok=True)
    parts = [b"m" + MAP, b"i" + INDEX, b"f" + DATA, *(b"f" + data for data in bombs.small().values())]
    parts += [b"m" + packed for packed in bombs.maps().values()]
    parts += [b"i" + packed for packed in bombs.indexes().values()]
    parts = [part for part in parts if len(part) <= LONGEST]
    for part in parts:
        (corpus / hashlib.sha256(part).hexdigest()[:16]).write_bytes(part)
    for part in parts:
        opened(build(part))  # what is loaded at the first file is no file's fault
    limit = (
        status("VmSize") + 4 * SPARE_BYTES
    )  # the fuzzer's own tables, its corpus, and what a file may take
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    rss = (status("VmRSS") + 2 * SPARE_BYTES) >> 20
    atheris.Setup(
        [*sys.argv, "-timeout=10", f"-rss_limit_mb={rss}", f"-max_len={LONGEST}"],
        lambda data: opened(build(data)),
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
