"""The code of a page runs, fence after fence, and prints what the page says."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.docs.page import ROOT, Fence, Page, is_run
from tests.timing import PATIENCE


def run(page: Page, directory: Path) -> list[str]:
    """Run a page's fences in order, in one directory; name those that print what the page does not say."""
    found, names, printed = [], {"__name__": "__main__"}, None
    for fence in page.fences:
        if is_run(fence):
            printed = (
                _python(page, fence, names) if fence.language == "python" else _sh(page, fence, directory)
            )
            continue
        compared = fence.language == "text" and fence.follows and "output varies" not in fence.marks
        if compared and printed is not None and not agree(fence.code, printed):
            found.append(f"{page.path.name}:{fence.line}: printed\n{printed}")
        printed = None
    return found


def agree(expected: str, printed: str) -> bool:
    """Tell whether `printed` is as expected; a line of three dots stands for any lines."""
    lines = [line.rstrip() for line in expected.strip().splitlines()]
    pattern = "".join(r"(?:.*\n)*?" if line == "..." else re.escape(f"{line}\n") for line in lines)
    return bool(re.fullmatch(pattern, "".join(f"{line.rstrip()}\n" for line in printed.strip().splitlines())))


def _python(page: Page, fence: Fence, names: dict[str, str]) -> str:
    """Run in this process, which has the kernels; a traceback shows the page's own lines."""
    code = compile("\n" * (fence.line - 1) + fence.code, str(page.path), "exec", dont_inherit=True)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(code, names)
    return out.getvalue()


def _sh(page: Page, fence: Fence, directory: Path) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", fence.code], cwd=directory, timeout=PATIENCE, text=True,
        env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "100"},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, f"{page.path.name}:{fence.line}: exit code {done.returncode}\n{done.stdout}"
    return done.stdout
