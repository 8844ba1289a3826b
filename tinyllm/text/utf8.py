"""Which tokens may continue a text in UTF-8: a table, so that each decision is one look-up.

The automaton that reads UTF-8 byte by byte has a few states, of which BOUNDARY is the one between two
characters (RFC 3629, section 4). A token is a string of bytes and takes it from one state to another, or
nowhere. Surrogates are no text, and neither is U+FFFD, which stands for bytes that were none. Order: the
automaton, the table of tokens, decoding with errors.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

import numpy as np

from tinyllm.arena import Array

BOUNDARY = 0
NOWHERE = -1
# Of each state, the bytes that it expects, and the state that each range of them leads to: 1 to 3 expect
# one to three more bytes of any value, the others are stricter about the next one.
_RANGES: tuple[tuple[tuple[int, int, int], ...], ...] = (
    (
        (0x00, 0x7F, 0), (0xC2, 0xDF, 1), (0xE0, 0xE0, 4), (0xE1, 0xEC, 2), (0xED, 0xED, 5), (0xEE, 0xEE, 2),
        (0xEF, 0xEF, 6), (0xF0, 0xF0, 8), (0xF1, 0xF3, 3), (0xF4, 0xF4, 9),
    ),
    ((0x80, 0xBF, 0),),
    ((0x80, 0xBF, 1),),
    ((0x80, 0xBF, 2),),
    ((0xA0, 0xBF, 1),),  # after E0, or it would be longer than it must be
    ((0x80, 0x9F, 1),),  # after ED, or it would be a surrogate
    ((0x80, 0xBE, 1), (0xBF, 0xBF, 7)),  # after EF
    ((0x80, 0xBC, 0), (0xBE, 0xBF, 0)),  # after EF BF: BD would make it U+FFFD
    ((0x90, 0xBF, 2),),  # after F0, or it would be longer than it must be
    ((0x80, 0x8F, 2),),  # after F4, or it would be beyond U+10FFFF
)  # fmt: skip
STATES = len(_RANGES)


def _automaton() -> Array:
    """Return the state (STATES + 1, 256) int8 that each byte leads to; the last row is that of NOWHERE."""
    table = np.full((STATES + 1, 256), NOWHERE, np.int8)
    for state, ranges in enumerate(_RANGES):
        for first, last, following in ranges:
            table[state, first : last + 1] = following
    return table


def following_states(pieces: Sequence[bytes]) -> Array:
    """Return the state (STATES, V) int8 that each token leads to from each state, NOWHERE where it must not.

    The last of the `pieces` (V,) is the end of the text, which stands between characters only.
    """
    automaton = _automaton()
    lengths = np.array([len(piece) for piece in pieces])
    starts, data = np.cumsum(lengths) - lengths, np.frombuffer(b"".join(pieces), np.uint8)
    states = np.repeat(np.arange(STATES, dtype=np.int8)[:, None], len(pieces), axis=1)
    for i in range(int(lengths.max(initial=0))):
        longer = np.flatnonzero(lengths > i)
        states[:, longer] = automaton[states[:, longer], data[starts[longer] + i]]
    states[BOUNDARY + 1 :, -1] = NOWHERE
    return states


def _surrogate_or_replacement(error: UnicodeError) -> tuple[str | bytes, int]:
    """Decode a lone surrogate, which tokenizers encode, as itself, and what else is not UTF-8 as U+FFFD."""
    try:
        return codecs.lookup_error("surrogatepass")(error)
    except UnicodeError:
        return codecs.lookup_error("replace")(error)


ERRORS = "tinyllm.surrogate_or_replacement"  # the name of this way to decode
codecs.register_error(ERRORS, _surrogate_or_replacement)
