"""Tokens as HTML: spaces and line ends made visible, incomplete characters as bytes.

Order: one token, the tokens of a text.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from tinyllm.page.shell import escaped

END = "⟨end⟩"
VISIBLE = str.maketrans({" ": "␣", "\n": "↵", "\t": "⇥"})
MAX_LETTERS = 24  # of a token


def token_html(piece: bytes, about: str = "", style: str = "") -> str:
    """Return one token as HTML; `about` is the text of its tooltip, `style` CSS."""
    if not piece:
        return _chip(END, "token end", about, style)
    try:
        return _chip(escaped(piece.decode().translate(VISIBLE), MAX_LETTERS), "token", about, style)
    except UnicodeDecodeError:
        return _chip(piece.hex(" ").upper(), "token bytes", about, style)


def tokens_html(pieces: Sequence[bytes], abouts: Sequence[str], styles: Sequence[str]) -> list[str]:
    """Return the tokens of a text; a token within one character shows it, and which of its bytes it has.

    Bytes that belong to no character are shown as in `token_html`.
    """
    found, end, characters = [], 0, _characters(b"".join(pieces))
    for piece, about, style in zip(pieces, abouts, styles, strict=True):
        begin, end = end, end + len(piece)
        start, character = characters[begin] if piece else (0, b"")
        if len(piece) < len(character) and end <= start + len(character):  # a proper part of a character
            which = f"{begin - start + 1}–{end - start}" if len(piece) > 1 else f"{end - start}"
            part = f"bytes {piece.hex(' ').upper()}, {which} of {len(character)}"
            shown = f"{escaped(character.decode())}<sub>{which}</sub>"
            found.append(_chip(shown, "token part", f"{part}; {about}" if about else part, style))
        else:
            found.append(token_html(piece, about, style))
    return found


def _characters(whole: bytes) -> list[tuple[int, bytes]]:
    """Return (start, bytes) of each byte's character; a byte that belongs to none stands for itself."""
    found: list[tuple[int, bytes]] = []
    for character in whole.decode("utf-8", "surrogateescape"):
        data = character.encode("utf-8", "surrogateescape")
        found += [(len(found), data)] * len(data)
    return found


def _chip(shown: str, classes: str, about: str, style: str) -> str:
    title = f' title="{html.escape(about)}"' if about else ""
    css = f' style="{style}"' if style else ""
    return f'<span class="{classes}"{title}{css}>{shown}</span>'
