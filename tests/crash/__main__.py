"""`python -m tests.crash [--write FILE]`: compute the crash matrix and print or write its page."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from tests.crash.page import page


def main() -> int:
    """Print the page, or write it; 1 if anything is broken in it."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__, allow_abbrev=False)
    parser.add_argument("--write", type=Path, metavar="FILE", help="write it there instead of printing it")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="default: one a core")
    args = parser.parse_args()
    text = page(args.processes, lambda line: print(line, file=sys.stderr, flush=True))
    if args.write:
        args.write.write_text(text, encoding="utf-8")
    else:
        print(text, end="")
    return int(" broken: " in text)


if __name__ == "__main__":
    sys.exit(main())
