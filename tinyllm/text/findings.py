"""What a person should know of the texts of a run, gathered in memory that does not grow with them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from tinyllm.words import counted

if TYPE_CHECKING:
    from tinyllm.text.texts import Text

# Written between the texts of files made for other programs: here they would be learnt letter by letter.
END_MARKERS = ("<|endoftext|>", "</s>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<eos>")


class Findings:
    """Counts and names, gathered while the texts are read."""

    def __init__(self) -> None:
        self.plain = self.conversations = 0  # of the texts of dialogues; of those of the latest file
        self.unread: set[str] = set()  # names of fields
        self.markers: dict[str, Path] = {}  # the first file of each

    def add_unread(self, names: Iterable[str]) -> None:
        """Note names of fields that were not read, the first hundred."""
        if len(self.unread) < 100:
            self.unread.update(names)

    def look(self, text: Text, file: Path) -> None:
        """Note the ends of text that are spelled out."""
        for segment in text.segments:
            if "<" in segment.text:
                for marker in END_MARKERS:
                    if marker in segment.text:
                        self.markers.setdefault(marker, file)

    def notices(self, separated: bool) -> list[str]:
        """Return what a person should know of the texts."""
        found = []
        if self.plain:
            found.append(
                f"{counted(self.plain, 'entry')} without the form of a conversation (用户：…助手：… or "
                f"User: … Assistant: …): trained on as plain text"
            )
        if self.unread:
            names = sorted(self.unread)
            more = ", ..." if len(names) > 6 else ""
            found.append(f"fields that are not read: {', '.join(map(repr, names[:6]))}{more}")
        for marker, file in self.markers.items():
            way = "" if separated else f"; --separator '{marker}' splits texts there"
            found.append(f"{file}: {marker} is in the text as ordinary characters{way}")
        return found
