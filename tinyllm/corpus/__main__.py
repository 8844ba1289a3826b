"""Write the files that training reads, from the tables and forms: `python -m tinyllm.corpus`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tinyllm import safe_files
from tinyllm.corpus import world
from tinyllm.words import counted

FILES = {"pretraining.json": world.statements, "chat.json": world.dialogues}


def content(entries: Iterable[Any]) -> str:
    """Return a JSON array with one entry per line."""
    return "[\n" + ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries) + "\n]\n"


def main() -> None:
    """Write both files beside this one, and say how large they are."""
    for name, entries in FILES.items():
        text = content(entries())
        with safe_files.replacing(Path(__file__).parent / name) as file:
            file.write(text.encode())
        print(f"{name}: {counted(text.count(chr(10)) - 2, 'entry')}, {len(text.encode()):,} bytes")


if __name__ == "__main__":
    main()
