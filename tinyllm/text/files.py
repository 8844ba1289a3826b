"""The bytes of a file become text, or an error that says where it is.

Files are UTF-8, or what their byte order mark says, or in the encoding that is named; .gz and .zst are
unpacked. They are read piece by piece, so they may be larger than memory. Every reader calls `on_read` with
the number of bytes of each read, so that the caller can show progress. Order: the error, bytes, text, its
pieces and documents.
"""

from __future__ import annotations

import codecs
import gzip
import importlib
import io
import zlib
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from tinyllm.text.bpe import last_safe_cut

PIECE = 1 << 18  # bytes per read
LONGEST_PIECE = 1 << 22  # characters after which a text is cut even if no cut is safe
LONGEST_ENTRY = 1 << 28  # characters of one entry or document, which is held in memory
MOST_EXPANSION = 200  # unpacked bytes per packed one, in a file of more than LONGEST_ENTRY unpacked bytes
BYTE_ORDER_MARKS = {  # the first that fits counts: that of UTF-32 begins with that of UTF-16
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
PACKED = (".gz", ".zst")
OnRead = Callable[[int], None]  # receives the number of bytes of a read


class DataError(ValueError):
    """A text cannot be used; names the file, the position, what was found and what is expected."""


def refusal(message: str) -> DataError:
    """Return the error for a file that cannot be read, with the way to the page that says which can."""
    return DataError(f"{message}; see docs/data.md")


class File(NamedTuple):
    """A file, the encoding of its text, and who hears of its reads."""

    path: Path
    encoding: str = "utf-8"
    on_read: OnRead = lambda count: None


def extra(module: str, path: Path, name: str) -> Any:
    """Return the module that reads this file; a refusal where the extra `name` is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise refusal(
            f"{path}: reading {path.suffix} needs {module}: pip install 'tinyllm[{name}]'"
        ) from None


def packing(path: Path) -> str:
    """Return which of PACKED a file's name, or that of a link's target, ends in; else the empty string."""
    names = (path, path.resolve()) if path.is_symlink() else (path,)
    return next((name.suffix.lower() for name in names if name.suffix.lower() in PACKED), "")


def _opened(path: Path, raw: BinaryIO) -> BinaryIO:
    """Return the file's unpacked bytes."""
    suffix = packing(path)
    if suffix == ".gz":
        return cast(BinaryIO, gzip.GzipFile(fileobj=raw))
    if suffix == ".zst":
        unpacker = extra("zstandard", path, "zstd").ZstdDecompressor()  # by itself limited to 128 MB windows
        return io.BufferedReader(unpacker.stream_reader(raw, read_across_frames=True))
    return raw


def _reads(file: File) -> Iterator[bytes]:
    """Yield the unpacked bytes of a file, at most PIECE at a time."""
    packed = packing(file.path)
    with file.path.open("rb") as raw:
        source, reported, unpacked = _opened(file.path, raw), 0, 0
        while True:
            try:
                read = source.read(PIECE)
            except (gzip.BadGzipFile, EOFError, zlib.error) as error:
                raise refusal(f"{file.path}: cannot be unpacked: {error}") from error
            except Exception as error:
                if type(error).__name__ != "ZstdError":
                    raise
                raise refusal(f"{file.path}: cannot be unpacked: {error}") from error
            file.on_read(raw.tell() - reported)
            reported, unpacked = raw.tell(), unpacked + len(read)
            if not read:
                return
            # Text never shrinks so much; such a file would fill the disk with tokens.
            if packed and unpacked > max(LONGEST_ENTRY, MOST_EXPANSION * reported):
                raise refusal(
                    f"{file.path}: unpacks to more than {MOST_EXPANSION} times its size, expected text"
                )
            yield read


def decoded(file: File) -> Iterator[str]:
    """Yield the text of each read, possibly empty, CRLF made LF.

    A character, or a CRLF, that a read cuts comes with the next one.
    """
    reads, head = _reads(file), b""
    while len(head) < 4 and (read := next(reads, None)) is not None:
        head += read
    mark = next((mark for mark in BYTE_ORDER_MARKS if head.startswith(mark)), b"")
    encoding = BYTE_ORDER_MARKS.get(mark, file.encoding)
    decoder = codecs.getincrementaldecoder(encoding)()
    position, held = len(mark), ""
    for read in chain([head[len(mark) :]], reads, [None]):
        waiting = len(decoder.getstate()[0])  # bytes of a character that the last read cut
        try:
            text = held + decoder.decode(read or b"", final=read is None)
        except UnicodeDecodeError as error:
            raise _not_decodable(file.path, position - waiting, encoding, error) from None
        except UnicodeError as error:
            raise refusal(f"{file.path}: cannot be read as {encoding}: {error}") from None
        position += len(read or b"")
        held = "\r" if read is not None and text.endswith("\r") else ""  # perhaps the first half of CRLF
        yield text.removesuffix(held).replace("\r\n", "\n")


def _not_decodable(path: Path, position: int, encoding: str, error: UnicodeDecodeError) -> DataError:
    name = encoding.upper()
    return refusal(
        f"{path}: found the byte 0x{error.object[error.start]:02x} at offset {position + error.start}, "
        f"expected {name} ({error.reason}); save the file as UTF-8, or name its encoding, such as "
        f"--encoding gb18030"
    )


def pieces(file: File) -> Iterator[str]:
    """Yield a text in pieces that are cut where it changes no token of BPE."""
    rest = ""
    for read in decoded(file):
        rest += read
        cut = last_safe_cut(rest) or (len(rest) if len(rest) > LONGEST_PIECE else 0)
        if cut:
            yield rest[:cut]
            rest = rest[cut:]
    if rest:
        yield rest


def paragraphs(file: File) -> Iterator[str]:
    """Yield the paragraphs of a text, which blank lines separate."""
    lines: list[str] = []
    for line in separated(file, "\n"):
        if line and not line.isspace():
            lines.append(line)
        elif lines:  # a blank line ends the paragraph, if there is one
            yield "\n".join(lines)
            lines = []
    if lines:
        yield "\n".join(lines)


def separated(file: File, separator: str) -> Iterator[str]:
    """Yield the parts of a text between separators, without these."""
    # Of a part that is not complete, only the end is searched again: the separator may be cut there.
    held: list[str] = []
    size, tail, kept = 0, "", len(separator) - 1
    for read in decoded(file):
        first, *others = (tail + read).split(separator)
        if others:
            yield "".join(held) + first
            yield from others[:-1]
            held, size, first = [], 0, others[-1]
        border = max(len(first) - kept, 0)
        held.append(first[:border])
        tail, size = first[border:], size + border
        if size > LONGEST_ENTRY:
            raise refusal(
                f"{file.path}: found a document of more than {LONGEST_ENTRY:,} characters, expected "
                f"shorter ones"
            )
    yield "".join(held) + tail
