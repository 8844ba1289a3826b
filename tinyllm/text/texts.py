"""Files become documents here, one at a time, so a corpus may be larger than memory.

.txt              one stream of text, or documents: at blank lines (--documents, and always for dialogues),
                  at --separator; also .md, source files and others that are named, or listed in --suffix
.json, .jsonl     entries: see records.py
.csv, .parquet    a row is an entry

Each may be packed: .txt.gz, .jsonl.zst. Order: Text, Texts, and functions of all texts: their digest, a
sample of them.
"""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tinyllm.config import DataConfig
from tinyllm.text.dialogue import Segment, Turn, can_join, joined, parse, render, stripped, system_text
from tinyllm.text.files import PACKED, File, OnRead, paragraphs, pieces, refusal, separated
from tinyllm.text.findings import Findings
from tinyllm.text.forms import variants
from tinyllm.text.json_entries import json_entries
from tinyllm.text.records import Reading, is_message, read_entry
from tinyllm.text.tables import csv_rows, parquet_rows
from tinyllm.words import counted

SUFFIXES = (".txt", ".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
NO_TEXT = (  # of files that a person might name although they hold no text
    ".pdf", ".doc", ".docx", ".odt", ".rtf", ".epub", ".xls", ".xlsx", ".zip", ".tar", ".tgz", ".bz2", ".xz",
    ".7z", ".bin", ".npy", ".npz", ".pt", ".arrow", ".safetensors",
)  # fmt: skip
OnProgress = Callable[[int, int], None]  # receives the bytes read so far, and those of all files


class Text(NamedTuple):
    """A document, or a piece of one: if `ends` is false, the next Text continues it.

    A stream is running text, such as a book; training windows may begin anywhere in it. An epoch may take one
    of the `alternatives` for the segments. If a document `joins`, it may follow or precede another such one.
    """

    segments: tuple[Segment, ...]
    ends: bool = True
    stream: bool = False
    alternatives: tuple[tuple[Segment, ...], ...] = ()
    joins: bool = False


class Texts:
    """The texts of files and folders, in order; each iteration reads the files again.

    Of a folder, the files with a known suffix are read in natural order (a2 before a10); hidden ones, its
    subfolders, and those for which `is_ours` is true, are not. With `dialogues`, plain strings are parsed as
    conversations. During an iteration, `on_progress` is called after every read; after it, `notices` says
    what was left out or not understood, and `system` is the system text with which all dialogues begin, ""
    if they differ. Iterating raises DataError for anything that cannot be read, for a path without any text
    and, with `dialogues`, for a file without any conversation.
    """

    def __init__(
        self, paths: Sequence[Path], *, dialogues: bool, data: DataConfig | None = None,
        is_ours: Callable[[Path], bool] = lambda path: False,
    ) -> None:  # fmt: skip
        self.paths, self.dialogues, self.is_ours = tuple(paths), dialogues, is_ours
        self.data = data or DataConfig()
        self.notices: list[str] = []
        self._systems: set[str] = set()
        self.on_progress: OnProgress = lambda done, total: None
        self._found = Findings()

    def __iter__(self) -> Iterator[Text]:
        self.notices, self._found, self._systems = [], Findings(), set()
        if not self.paths:
            raise refusal("no text: expected at least one file or folder")
        files = [self._files(path) for path in self.paths]
        on_read = self._counter(sum(file.stat().st_size for inside in files for file in inside))
        for path, inside in zip(self.paths, files, strict=True):
            empty_path = True
            for file in inside:
                empty_file, self._found.conversations = True, 0
                for text in self._read(File(file, self.data.encoding, on_read)):
                    empty_path = empty_file = False
                    self._found.look(text, file)
                    yield text
                if empty_file:
                    self.notices.append(f"{file}: contains no text, skipped")
                elif self.dialogues and not self._found.conversations:
                    raise refusal(
                        f"{file}: found no conversation, expected questions with answers (用户：…助手：…, "
                        f"User: … Assistant: …, or fields such as prompt and response)"
                    )
            if empty_path:
                raise refusal(f"{path}: found no text, expected some in files {', '.join(SUFFIXES)}")
        self.notices += self._found.notices(bool(self.data.separator))

    @property
    def system(self) -> str:
        """The system text that all dialogues of the latest iteration share, or ""."""
        return next(iter(self._systems)) if len(self._systems) == 1 else ""

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
            inside = [file for file in inside if not self.is_ours(file)]
            files = [file for file in inside if self._is_read(file)]
            ignored = [file.name for file in inside if file not in files]
            if ignored:
                shown = ", ".join(ignored[:5]) + (", ..." if len(ignored) > 5 else "")
                known = ", ".join((*SUFFIXES, *self.data.suffixes))
                self.notices.append(
                    f"{path}: ignored {counted(len(ignored), 'entry')}, hidden or not {known}: {shown}"
                )
            return files
        if not path.exists():
            raise refusal(f"{path}: not found, expected a file or folder of texts")
        if not path.is_file():
            raise refusal(f"{path}: found a pipe or a device, expected a regular file or a folder")
        if form(path) in NO_TEXT:
            raise refusal(f"{path}: found the suffix {form(path)!r}, expected text or {', '.join(SUFFIXES)}")
        if not form(path):
            self.notices.append(f"{path}: has no suffix, read as plain text")
        return [path]

    def _is_read(self, file: Path) -> bool:
        """Return whether this entry of a folder is read."""
        known = form(file) in (*SUFFIXES, *self.data.suffixes)
        return known and file.is_file() and not file.name.startswith(".")

    def _read(self, file: File) -> Iterator[Text]:
        suffix, separator = form(file.path), self.data.separator
        if suffix in (".json", ".jsonl", ".ndjson"):
            entries: Iterator[tuple[str, Any]] = json_entries(file, is_message)
        elif suffix in (".csv", ".tsv"):
            entries = csv_rows(file, "\t" if suffix == ".tsv" else ",")
        elif suffix == ".parquet":
            entries = parquet_rows(file)
        elif separator:
            entries = (("", part) for part in separated(file, separator))
        elif self.documents:
            entries = (("", paragraph) for paragraph in paragraphs(file))
        else:
            yield from _stream(file)
            return
        for where, entry in entries:
            reading = read_entry(entry, f"{file.path}: {where}")
            self._found.add_unread(reading.unread)
            yield from self._documents(reading)

    @property
    def documents(self) -> bool:
        """Whether running text is split at blank lines."""
        return self.dialogues or self.data.documents

    def _documents(self, reading: Reading) -> Iterator[Text]:
        """Yield each document that an entry holds."""
        separator = self.data.separator
        if reading.turns:
            # A separator behind an answer says what end_of_text will.
            yield self._dialogue(*(
                stripped(Turn(role, text.strip().removesuffix(separator)) for role, text in turns)
                for turns in (reading.turns, *reading.others)
            ))  # fmt: skip
            return
        for part in _parts(reading.text, separator) if separator else (reading.text,):
            if self.dialogues and (turns := parse(part)):
                yield self._dialogue(turns)
            elif part:
                self._found.plain += self.dialogues
                yield Text((Segment(part),), joins=self.data.join_documents)

    def _dialogue(self, turns: Sequence[Turn], *others: Sequence[Turn]) -> Text:
        """Return the document of a dialogue in some forms; settings add others, and join it to more."""
        data, segments, forms = self.data, render(turns), [tuple(turns), *map(tuple, others)]
        self._found.conversations += (answered := any(segment.carries_loss for segment in segments))
        if len(self._systems) < 2 and (system := system_text(segments)) is not None:
            self._systems.add(system)
        if data.vary_questions and answered:
            forms += [variant for form in forms for variant in variants(form)]
        rendered = map(render, dict.fromkeys(forms))  # each form once
        document, *alternatives = (each if data.separate_markers else joined(each) for each in rendered)
        joins = data.join_dialogues and can_join(turns)
        return Text(document, alternatives=tuple(alternatives), joins=joins)


def _parts(text: str, separator: str) -> list[str]:
    """Return the parts between separators, without the empty lines around them and without blank ones."""
    return [part.strip("\n") for part in text.split(separator) if part.strip()]


def form(file: Path) -> str:
    """Return the suffix that says how a file is read, in lower case: .jsonl of a.jsonl, a.jsonl.gz.

    Where a symbolic link's own name has no known one, that of its target counts.
    """

    def of(path: Path) -> str:
        packed = path.suffix.lower() in PACKED
        return Path(path.stem).suffix.lower() if packed else path.suffix.lower()

    own = of(file)
    return of(file.resolve()) if own not in SUFFIXES and file.is_symlink() else own


def natural(path: Path) -> tuple[list[str | int], str]:
    """Return the sorting key under which a2 comes before a10: every run of digits is compared as a number."""
    parts = re.split(r"(\d+)", path.name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], path.name


def _stream(file: File) -> Iterator[Text]:
    """Yield the pieces of a file as one stream."""
    held = ""  # one piece behind, since only the last one `ends`
    for piece in pieces(file):
        if held:
            yield Text((Segment(held),), ends=False, stream=True)
        held = piece
    if held:
        yield Text((Segment(held),), stream=True)


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
            for number, segments in enumerate((text.segments, *text.alternatives)):
                if number:
                    sha.update(b"\xfc")
                for segment in segments:
                    sha.update(segment.text.encode("utf-8", "surrogatepass"))
                    if not text.stream:  # a stream's segments are where it happened to be cut
                        sha.update(b"\xff" if segment.carries_loss else b"\xfe")
            if text.joins:
                sha.update(b"\xfb")
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
    """Yield all text in strings of at most `longest` characters, for training a tokenizer.

    Of alternatives, this is what they do not share with their document: their questions.
    """
    for text in texts:
        others = [segment for each in text.alternatives for segment in each if segment not in text.segments]
        for segment in (*text.segments, *others):
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
