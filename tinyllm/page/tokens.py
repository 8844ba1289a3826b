"""How tokens are written on a page: spaces and ends of lines made visible, half characters by their bytes.

Order: a token alone, the tokens of a text.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from tinyllm.page.shell import text

END = "⟨end⟩"
VISIBLE = str.maketrans({" ": "␣", "\n": "↵", "\t": "⇥"})
MOST = 24  # letters of a token


def token(piece: bytes, about: str = "", style: str = "") -> str:
    """Return one token as HTML; `about` is text, shown where the mouse rests, `style` CSS."""
    if not piece:
        return _chip(END, "token end", about, style)
    try:
        return _chip(text(piece.decode().translate(VISIBLE), MOST), "token", about, style)
    except UnicodeDecodeError:
        return _chip(piece.hex(" ").upper(), "token bytes", about, style)


def tokens(pieces: Sequence[bytes], abouts: Sequence[str], styles: Sequence[str]) -> list[str]:
    """Return the tokens of a text: a part of a character is that character and which of its bytes.

    Bytes that belong to no character are written as `token` writes them.
    """
    found, end, held = [], 0, _characters(b"".join(pieces))
    for piece, about, style in zip(pieces, abouts, styles, strict=True):
        begin, end = end, end + len(piece)
        start, character = held[begin] if piece else (0, b"")
        if len(piece) < len(character) and end <= start + len(character):
            which = f"{begin - start + 1}–{end - start}" if len(piece) > 1 else f"{end - start}"
            says = f"bytes {piece.hex(' ').upper()}, {which} of {len(character)}"
            shown = f"{text(character.decode())}<sub>{which}</sub>"
            found.append(_chip(shown, "token part", f"{says}; {about}" if about else says, style))
        else:
            found.append(token(piece, about, style))
    return found


def _characters(whole: bytes) -> list[tuple[int, bytes]]:
    """Return for each byte the character it is a part of, and where that starts; a stray byte is alone."""
    found: list[tuple[int, bytes]] = []
    for character in whole.decode("utf-8", "surrogateescape"):
        data = character.encode("utf-8", "surrogateescape")
        found += [(len(found), data)] * len(data)
    return found


def _chip(shown: str, classes: str, about: str, style: str) -> str:
    said = f' title="{html.escape(about)}"' if about else ""
    looks = f' style="{style}"' if style else ""
    return f'<span class="{classes}"{said}{looks}>{shown}</span>'
