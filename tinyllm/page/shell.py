"""What all pages share: one HTML file, no network, no library, all text in it escaped.

A page's content security policy forbids every request, and every script but its own. Order: escaping, the
whole page, its parts, writing it.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tinyllm import safe_files
from tinyllm.checkpoint import policy
from tinyllm.checkpoint.lock import LOCK_NAME
from tinyllm.escape import printable
from tinyllm.page.style import PAGE
from tinyllm.run import toml
from tinyllm.training import metrics

_START = (
    b'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    b'<meta http-equiv="Content-Security-Policy"'
)


class PageError(RuntimeError):
    """A page cannot be written; names the path."""


def escaped(value: object, most: int = 200) -> str:
    """Return `value` as one line of HTML of at most `most` characters, control characters made visible."""
    line = printable(value)
    return html.escape(line if len(line) <= most else line[: most - 1] + "…")


class Assets(NamedTuple):
    """What one kind of page adds to the shared parts: CSS, JavaScript, and JSON for it by element id."""

    style: str
    script: str
    data: Mapping[str, str]


def html_page(
    title: str, kind: str, notes: Sequence[str], body: str, assets: Assets, refresh: int = 0
) -> str:
    """Return the whole page; title and notes are text, the body is HTML.

    With `refresh` it reloads itself after so many seconds.
    """
    # The policy names the script by its digest, so that no script from the texts shown could ever run.
    digest = base64.b64encode(hashlib.sha256(assets.script.encode()).digest()).decode()
    allowed = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    reload = f'<meta http-equiv="refresh" content="{refresh}">\n' if refresh else ""
    data = "".join(
        f'<script type="application/json" id="{name}">{json}</script>\n' for name, json in assets.data.items()
    )
    return (
        f'{_START.decode()} content="{allowed}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n{reload}'
        f'<title>{escaped(title)} · {kind}</title>\n<link rel="icon" href="data:,">\n'
        f"<style>{PAGE}{assets.style}</style>\n</head>\n<body>\n"
        f"<header><h1>{escaped(title)}</h1><p>{' · '.join(map(escaped, notes))}</p></header>\n"
        f"{body}"
        '<output class="unseen" id="spoken" aria-live="polite"></output>\n'
        f"{data}<script>{assets.script}</script>\n</body>\n</html>\n"
    )


def headline(numbers: Iterable[tuple[str, str, str]]) -> str:
    """Return the key numbers of a page, each a (name, value, note)."""
    items = (
        f"<div><dt>{name}</dt><dd><b>{value}</b> <small>{note}</small></dd></div>\n"
        for name, value, note in numbers
    )
    return f'<dl class="numbers">\n{"".join(items)}</dl>\n'


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], numeric: Iterable[str] = (), caption: str = ""
) -> str:
    """Return a table of cells that are HTML already; the columns named in `numeric` are right-aligned."""
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


def write_page(page: str, kind: str, out: Path, force: bool = False) -> None:
    """Write the page to `out` completely or not at all.

    Raises PageError where that fails, where `out` is a name that runs use for other files, and, unless
    `force`, where it would replace anything but an earlier page of this kind.
    """
    names = (LOCK_NAME, metrics.FILE_NAME, toml.FILE_NAME)
    if out.name in names or out.suffix == ".tokens" or policy.label_of(out.name):
        raise PageError(f"{out}: runs give this name to a file of another kind; give another name")
    ending = f" · {kind}</title>".encode()
    try:
        safe_files.check_replaceable(
            out,
            f"a page of this kind ({kind})",
            lambda head: head.startswith(_START) and ending in head,
            force,
        )
        with safe_files.replacing(out) as file:
            file.write(page.encode())
    except FileExistsError as error:
        raise PageError(f"{out}: {error.strerror}") from error
    except OSError as error:
        raise PageError(f"{out}: cannot be written: {error.strerror or error}") from error
