"""`python -m tests.docs` lists what pages quote, run and do not run; `--write` copies quotes again."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.docs.page import ROOT, is_run, pages, read
from tests.docs.quotes import write


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.docs", description=__doc__.split("\n")[0])
    parser.add_argument("--write", action="store_true", help="copy quoted code from its source again")
    parser.add_argument("pages", nargs="*", type=Path, help="all by default")
    args = parser.parse_args(argv)
    for path in args.pages or pages():
        if args.write:
            if write(path):
                print(f"{path}: written")
            continue
        fences = read(path).fences
        quoted, ran = sum("quote" in f.marks for f in fences), sum(map(is_run, fences))
        print(f"{path.resolve().relative_to(ROOT)}: {quoted} quoted, {ran} run")
        for fence in fences:
            if "not run here:" in fence.marks:
                print(f"    line {fence.line} not run: {fence.marks['not run here:']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
