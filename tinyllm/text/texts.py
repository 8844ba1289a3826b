"""Files become documents here, one at a time, so a corpus may be larger than memory.

.txt      one stream of text, or documents between blank lines (--documents, and always for dialogues)
.json     an array of entries
.jsonl    one entry per line
entry     "text", {"text"}, {"prompt", "response"} or {"messages": [{"role", "content"}]}

Order: Text, Texts, and functions of all texts: their digest, a sample of them.
"""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tinyllm.text.dialogue import ROLES, Segment, Turn, parse, render, stripped
from tinyllm.text.files import DataError, OnRead, described, json_array, json_lines, paragraphs, pieces

SUFFIXES = (".txt", ".json", ".jsonl")
OnProgress = Callable[[int, int], None]  # receives the bytes read so far, and those of all files


class Text(NamedTuple):
    """A document, or a piece of one: if `ends` is false, the next Text continues it.

    A stream is running text, such as a book; training windows may begin anywhere in it.
    """

    segments: tuple[Segment, ...]
    ends: bool = True
    stream: bool = False


class Texts:
    """The texts of files and folders, in order; each iteration reads the files again.

    Of a folder, the files with a known suffix are read in natural order (a2 before a10), its subfolders are
    not. With `dialogues`, plain strings are parsed as conversations; with `documents`, .txt files are split
    at blank lines. During an iteration, `on_progress` is called after every read; after it, `notices` says
    what was left out or not understood. Iterating raises DataError for anything that cannot be read, and for
    a path without any text.
    """

    def __init__(self, paths: Sequence[Path], *, dialogues: bool, documents: bool) -> None:
        self.paths, self.dialogues, self.documents = tuple(paths), dialogues, documents
        self.notices: list[str] = []
        self.on_progress: OnProgress = lambda done, total: None
        self._unmarked = 0

    def __iter__(self) -> Iterator[Text]:
        self.notices, self._unmarked = [], 0
        if not self.paths:
            raise DataError("no text: expected at least one file or folder")
        files = [self._files(path) for path in self.paths]
        on_read = self._counter(sum(file.stat().st_size for inside in files for file in inside))
        for path, inside in zip(self.paths, files, strict=True):
            empty_path = True
            for file in inside:
                empty_file = True
                for text in self._read(file, on_read):
                    empty_path = empty_file = False
                    yield text
                if empty_file:
                    self.notices.append(f"{file}: contains no text, skipped")
            if empty_path:
                raise DataError(f"{path}: found no text, expected some in files {', '.join(SUFFIXES)}")
        if self._unmarked:
            self.notices.append(
                f"{self._unmarked} entries are not conversations (用户：…助手：… or User: … Assistant: …): "
                f"they are trained on as plain text"
            )

    def _counter(self, total: int) -> OnRead:
        """Return a callback that adds up the bytes of all reads, and reports them to `on_progress`."""
        done = 0

        def on_read(count: int) -> None:
            nonlocal done
            done += count
            self.on_progress(done, total)

        return on_read

    def _files(self, path: Path) -> list[Path]:
        if path.is_dir():
            inside = sorted(path.iterdir(), key=natural)
            files = [file for file in inside if file.is_file() and file.suffix.lower() in SUFFIXES]
            ignored = [file.name for file in inside if file not in files]
            if ignored:
                shown = ", ".join(ignored[:5]) + (", ..." if len(ignored) > 5 else "")
                self.notices.append(
                    f"{path}: ignored {len(ignored)} entries that are not {', '.join(SUFFIXES)}: {shown}"
                )
            return files
        if not path.exists():
            raise DataError(f"{path}: not found, expected a file or folder of texts")
        if not path.is_file():
            raise DataError(f"{path}: found a pipe, device or socket, expected a file or folder of texts")
        if path.suffix.lower() not in SUFFIXES:
            raise DataError(
                f"{path}: found the suffix {path.suffix!r}, expected one of {', '.join(SUFFIXES)}"
            )
        return [path]

    def _read(self, file: Path, on_read: OnRead) -> Iterator[Text]:
        suffix = file.suffix.lower()
        if suffix == ".txt" and not (self.documents or self.dialogues):
            yield from _stream(file, on_read)
            return
        if suffix == ".txt":
            documents = (self._plain(paragraph) for paragraph in paragraphs(file, on_read))
        elif suffix == ".json":
            documents = (self._entry(entry, f"{file}: entry {i}") for i, entry in json_array(file, on_read))
        else:
            documents = (self._entry(entry, f"{file}: line {i}") for i, entry in json_lines(file, on_read))
        for segments in documents:
            if segments:
                yield Text(segments)

    def _plain(self, text: str) -> tuple[Segment, ...]:
        if self.dialogues and text:
            if turns := parse(text):
                return render(turns)
            self._unmarked += 1
        return (Segment(text),) if text else ()

    def _entry(self, entry: Any, where: str) -> tuple[Segment, ...]:
        if isinstance(entry, str):
            return self._plain(entry)
        if isinstance(entry, dict):
            if isinstance(entry.get("messages"), list):
                return render(stripped(_turn(message, where) for message in entry["messages"]))
            if isinstance(entry.get("prompt"), str) and isinstance(entry.get("response"), str):
                turns = Turn("user", entry["prompt"]), Turn("assistant", entry["response"])
                return render(stripped(turns))
            if isinstance(entry.get("text"), str):
                return self._plain(entry["text"])
        raise DataError(
            f"{where}: found {described(entry)}, expected a string or an object with text, with prompt and "
            f"response, or with messages"
        )


def natural(path: Path) -> tuple[list[str | int], str]:
    """Return the sorting key under which a2 comes before a10: every run of digits is compared as a number."""
    parts = re.split(r"(\d+)", path.name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], path.name


def _stream(file: Path, on_read: OnRead) -> Iterator[Text]:
    """Yield the pieces of a file as one stream."""
    held = ""  # one piece behind, since only the last one `ends`
    for piece in pieces(file, on_read):
        if held:
            yield Text((Segment(held),), ends=False, stream=True)
        held = piece
    if held:
        yield Text((Segment(held),), stream=True)


def _turn(message: Any, where: str) -> Turn:
    if isinstance(message, dict):
        role, content = message.get("role"), message.get("content")
        if role in ROLES and isinstance(content, str):
            return Turn(role, content)
        if isinstance(role, str) and isinstance(content, str):
            raise DataError(f"{where}: found the role {role!r}, expected {', '.join(ROLES)}")
    raise DataError(f"{where}: found the message {described(message)}, expected strings role and content")


class Digest:
    """The SHA-256 of documents, however they are cut into pieces.

    Segments and documents end in bytes that UTF-8 never uses, so no two corpora have the same bytes.
    """

    def __init__(self) -> None:
        self._sha = hashlib.sha256()

    def of(self, texts: Iterable[Text]) -> Iterator[Text]:
        """Yield the texts, adding each to the digest."""
        sha = self._sha
        for text in texts:
            for segment in text.segments:
                sha.update(segment.text.encode("utf-8", "surrogatepass"))
                if not text.stream:  # a stream's segments are where it happened to be cut
                    sha.update(b"\xff" if segment.carries_loss else b"\xfe")
            if text.ends:
                sha.update(b"\xfd")
            yield text

    def hexadecimal(self) -> str:
        """Return the digest of all texts added so far."""
        return self._sha.hexdigest()


def digest(texts: Iterable[Text]) -> str:
    """Return the `Digest` of all texts, in hexadecimal."""
    whole = Digest()
    deque(whole.of(texts), maxlen=0)
    return whole.hexadecimal()


def strings(texts: Iterable[Text], longest: int = 1 << 16) -> Iterator[str]:
    """Yield all text in strings of at most `longest` characters, for training a tokenizer."""
    for text in texts:
        for segment in text.segments:
            for start in range(0, len(segment.text), longest):
                yield segment.text[start : start + longest]


def training_sample(texts: Iterable[Text], limit: int = 1 << 24) -> list[str]:
    """Return the strings of all texts, or evenly spread ones of at most `limit` characters in all."""
    # Keeps every stride-th string. When they become too many, every second of them is dropped and the stride
    # doubled: one pass, bounded memory, and the same sample of the same texts in every run.
    kept: list[str] = []
    size, stride = 0, 1
    for i, string in enumerate(strings(texts)):
        if i % stride:
            continue
        kept.append(string)
        size += len(string)
        while size > limit and len(kept) > 1:
            kept, stride = kept[::2], 2 * stride
            size = sum(map(len, kept))
    return kept
