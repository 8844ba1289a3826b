"""`tinyllm train|generate|chat|checkpoint|report|explain`: one name for the programs of this package."""

from __future__ import annotations

import sys
from importlib import import_module

PROGRAMS = {
    "train": "train a model, or resume a run",
    "generate": "continue a text",
    "chat": "talk to a model",
    "checkpoint": "list, show, verify, export and remove checkpoints",
    "report": "plot the curves of a run on one HTML page",
    "explain": "show a model's attention, predictions and norms on one HTML page",
}
ALIASES = {"inspect": "explain"}  # its earlier name


def main(argv: list[str] | None = None) -> int:
    """Hand the arguments to the program that the first one names; return its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments and arguments[0] in ALIASES:
        arguments = [ALIASES[arguments[0]], *arguments[1:]]
    if arguments and arguments[0] in PROGRAMS:
        name = "tinyllm.checkpoint.__main__" if arguments[0] == "checkpoint" else f"tinyllm.{arguments[0]}"
        code: int = import_module(name).main(arguments[1:])
        return code
    usage = "usage: tinyllm PROGRAM [options]\n\n" + "".join(f"  {p:<12}{t}\n" for p, t in PROGRAMS.items())
    if arguments in (["-h"], ["--help"]):
        print(f"{usage}\ntinyllm PROGRAM --help lists its options; python -m tinyllm.PROGRAM is the same.")
        return 0
    if arguments == ["--version"]:
        from tinyllm import __version__

        print(f"tinyllm {__version__}")
        return 0
    found = f"error: unknown program {arguments[0]!r}\n" if arguments else ""
    print(f"{found}{usage}", end="", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
