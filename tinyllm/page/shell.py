"""What all pages are: one HTML file, no network, no library, nothing in it that was not escaped.

A page's own policy forbids every request, and every script but its own. Order: escaping, the whole, its
parts, writing it.
"""

from __future__ import annotations

import base64
import hashlib
import html
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tinyllm.checkpoint.metadata import printable
from tinyllm.page.style import PAGE


class PageError(RuntimeError):
    """A page cannot be written; names the path."""


def text(value: object, most: int = 200) -> str:
    """Return `value` as one line of HTML: escaped, control characters spelt out, not without end."""
    line = printable(value)
    return html.escape(line if len(line) <= most else line[: most - 1] + "…")


def document(
    title: str, kind: str, notes: Sequence[str], body: str, style: str, script: str, data: Mapping[str, str],
    refresh: int = 0,
) -> str:  # fmt: skip
    """Return the whole page: title and notes are text, the body HTML, `data` JSON for the script by id.

    With `refresh` it reloads itself after so many seconds.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    again = f'<meta http-equiv="refresh" content="{refresh}">\n' if refresh else ""
    held = (f'<script type="application/json" id="{name}">{json}</script>\n' for name, json in data.items())
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n{again}'
        f'<title>{text(title)} · {kind}</title>\n<link rel="icon" href="data:,">\n'
        f"<style>{PAGE}{style}</style>\n</head>\n<body>\n"
        f"<header><h1>{text(title)}</h1><p>{' · '.join(map(text, notes))}</p></header>\n"
        f"{body}"
        '<output class="unseen" id="spoken" aria-live="polite"></output>\n'
        f"{''.join(held)}<script>{script}</script>\n</body>\n</html>\n"
    )


def headline(numbers: Iterable[tuple[str, str, str]]) -> str:
    """Return the (name, value, note) of what a person asks first."""
    items = (
        f"<div><dt>{name}</dt><dd><b>{value}</b> <small>{note}</small></dd></div>\n"
        for name, value, note in numbers
    )
    return f'<dl class="numbers">\n{"".join(items)}</dl>\n'


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], numeric: Iterable[str] = (), caption: str = ""
) -> str:
    """Return a table of cells that are HTML already; the columns named `numeric` are aligned right."""
    right = [' class="n"' if name in set(numeric) else "" for name in head]

    def row(cells: Sequence[str], tag: str) -> str:
        inner = (f"<{tag}{side}>{cell}</{tag}>" for cell, side in zip(cells, right, strict=True))
        return f"<tr>{''.join(inner)}</tr>\n"

    title = f"<caption>{caption}</caption>" if caption else ""
    body = "".join(row(cells, "td") for cells in rows)
    return (
        f'<div class="scroll" tabindex="0"><table>{title}\n<thead>{row(head, "th")}</thead>\n'
        f"<tbody>{body}</tbody></table></div>\n"
    )


def write(page: str, out: Path) -> None:
    """Write the page to `out` as a whole or not at all. Raises PageError."""
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(out)
    except OSError as error:
        raise PageError(f"{out}: cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()
