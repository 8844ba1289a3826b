# PYTHON_ARGCOMPLETE_OK
"""`tinyllm train|generate|chat|...`: one name for the programs of this package.

It imports little, so that Ctrl-C is heard early.
"""

from __future__ import annotations

import sys
from importlib import import_module

from tinyllm.cli.completion import typed_program
from tinyllm.cli.interrupt import exit_code

PROGRAMS = {
    "train": "train a model, or resume a run",
    "generate": "continue a text",
    "chat": "talk to a model",
    "evaluate": "measure how well models predict texts",
    "checkpoint": "list, show, verify, export and remove checkpoints",
    "report": "plot the curves of a run on one HTML page",
    "explain": "show a model's attention, predictions and norms on one HTML page",
    "tokenize": "show a text as a model's tokens, or ids as text",
}
MODULES = {"checkpoint": "checkpoint.__main__", "tokenize": "encode"}  # where not named as the program is
ALIASES = {"inspect": "explain"}  # its earlier name
OTHER_NAMES = {
    "sample": "generate",
    "talk": "chat",
    "resume": "train",
    "ls": "checkpoint",
    "encode": "tokenize",
    "eval": "evaluate",
}


def main(argv: list[str] | None = None) -> int:
    """Hand the arguments to the program that the first one names; return its exit code.

    Without `argv` this is the process's own command line, and the process ends with it.
    """
    if argv is None:
        return exit_code(lambda: main(typed_program(PROGRAMS) or sys.argv[1:]))
    name = ALIASES.get(argv[0], argv[0]) if argv else ""
    if name in PROGRAMS:
        code: int = import_module(f"tinyllm.{MODULES.get(name, name)}").main(argv[1:])
        return code
    usage = "usage: tinyllm PROGRAM [options]\n\n" + "".join(f"  {p:<12}{t}\n" for p, t in PROGRAMS.items())
    if argv in (["-h"], ["--help"]):
        print(f"{usage}\ntinyllm PROGRAM --help lists its options. python -m tinyllm.PROGRAM is the same;")
        print("for tokenize it is python -m tinyllm.encode.")
        return 0
    if argv == ["--version"]:
        from tinyllm import __version__

        print(f"tinyllm {__version__}")
        return 0
    print(_unknown(argv[0]) if argv else usage, end="", file=sys.stderr)
    return 2


def _unknown(name: str) -> str:
    from tinyllm.cli.spellings import closest

    found = OTHER_NAMES.get(name) or closest(name, PROGRAMS)
    hint = f"; did you mean {found}?" if found else ""
    return f"error: unknown program {name!r}{hint}\ntinyllm --help lists the programs\n"
