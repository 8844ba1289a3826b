"""How tokens are written on a page: spaces and ends of lines made visible, half characters by their bytes.

Order: a token alone, the tokens of a text.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from tinyllm.page.document import text

END = "⟨end⟩"
VISIBLE = str.maketrans({" ": "␣", "\n": "↵", "\t": "⇥"})
MOST = 24  # letters of a token


def token(piece: bytes, about: str = "", classes: str = "", style: str = "") -> str:
    """Return one token as HTML; `about` is shown where the mouse rests, and is text."""
    try:
        shown, kind = text(piece.decode().translate(VISIBLE), MOST) if piece else END, "" if piece else " end"
    except UnicodeDecodeError:
        shown, kind = piece.hex(" ").upper(), " bytes"
    return _chip(shown, about, f"{classes}{kind}", style)


def tokens(pieces: Sequence[bytes], abouts: Sequence[str], styles: Sequence[str]) -> list[str]:
    """Return the tokens of a text: a part of a character is that character and which of its bytes.

    Bytes that belong to no character are written as `token` writes them.
    """
    found, whole = [], b"".join(pieces)
    starts = {end: end for end in range(len(whole) + 1)}  # byte -> where the character that holds it starts
    characters: dict[int, bytes] = {}
    at = 0
    for character in whole.decode("utf-8", "surrogateescape"):
        data = character.encode("utf-8", "surrogateescape")
        characters[at] = data
        starts.update(dict.fromkeys(range(at, at + len(data)), at))
        at += len(data)
    at = 0
    for piece, about, style in zip(pieces, abouts, styles, strict=True):
        start = starts[at]
        character_, end = characters.get(start, b""), at + len(piece)
        if piece and len(character_) > len(piece) and end <= start + len(character_):
            first, last = at - start + 1, end - start
            which = f"{first}" if first == last else f"{first}–{last}"
            shown = f"{text(character_.decode())}<sub>{which}</sub>"
            says = f"bytes {piece.hex(' ').upper()}, {which} of {len(character_)}"
            found.append(_chip(shown, f"{says}; {about}" if about else says, "part", style))
        else:
            found.append(token(piece, about, "", style))
        at = end
    return found


def _chip(shown: str, about: str, classes: str, style: str) -> str:
    said = f' title="{html.escape(about)}"' if about else ""
    looks = f' style="{style}"' if style else ""
    return f'<span class="token {classes}"{said}{looks}>{shown}</span>'.replace("  ", " ").replace(
        'token "', 'token"'
    )
