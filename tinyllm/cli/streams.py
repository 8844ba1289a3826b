"""The process's streams, set up once for all programs: no text that is shown or typed ends one with an error.

A terminal or a log may have an encoding without Chinese, and a text may hold a lone surrogate, which no
encoding has.
"""

from __future__ import annotations

import sys


def prepare_streams() -> None:
    """Let stdout write `?` and stderr an escape sequence for a character that it cannot encode.

    Bytes of stdin that it cannot decode become surrogates; the program decides about them.
    """
    for stream, errors in (
        (sys.stdin, "surrogateescape"), (sys.stdout, "replace"), (sys.stderr, "backslashreplace"),
    ):  # fmt: skip
        if hasattr(stream, "reconfigure"):  # not every substitute can, and a closed stream is None
            stream.reconfigure(errors=errors)
