# PYTHON_ARGCOMPLETE_OK
"""`python -m tinyllm.report RUN [RUN ...]`: a training run as one page that any browser opens, offline too.

RUN is the directory of a run, the one that holds metrics.jsonl and the checkpoints. The page is written as a
whole or not at all: RUN/report.html, or ./report.html where several runs are compared, or --out FILE. It
has curves over the steps (loss, learning rate, gradient norm, speed), events, checkpoints, configuration
and environment, never more than 500 kB: of a long run each column keeps its least and its greatest value.
With --watch the page is updated while the run logs more, and reloads itself in the browser.

Exit codes: 0, 1 if a run cannot be read or the page not written, 2 for wrong usage. Order: writing,
watching, the command line. Nothing heavy is imported before the options are read.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from tinyllm.cli.arguments import path, program
from tinyllm.cli.interrupt import exit_code
from tinyllm.escape import printable, reason

FILE_NAME = "report.html"
INTERVAL = 3.0  # seconds between looks at a growing file, and between reloads


class ReportError(RuntimeError):
    """A run cannot be read or its report not written; names the path and what to do."""


def write_report(directory: Path) -> Path:
    """Write the report of the run in `directory` and return its path.

    Raises ReportError where there are no metrics or nothing can be written.
    """
    write_runs([directory], directory / FILE_NAME)
    return directory / FILE_NAME


def is_due(directory: Path) -> bool:
    """Return whether a run was logged and finished in `directory`, but its report is older or missing."""
    final, report = directory / "model_final.bin", directory / FILE_NAME
    if not final.exists() or not (directory / "metrics.jsonl").exists():
        return False
    return not report.exists() or report.stat().st_mtime_ns < final.stat().st_mtime_ns


def try_to_write(directory: Path, notice: Callable[[str], None]) -> bool:
    """Write the report of a finished run; where that fails, say so and return False: the model is safe."""
    try:
        write_report(directory)
    except (ReportError, OSError, ValueError, MemoryError) as error:
        notice(f"warning: no report: {reason(error)}")
        return False
    return True


def write_runs(
    directories: Sequence[Path], out: Path, refresh: bool = False, force: bool = False
) -> bool:  # fmt: skip
    """Write one report of several runs to `out`; return whether all of them are finished; or ReportError.

    With `refresh` the page of unfinished runs reloads itself. Only an earlier report is replaced, unless
    `force`.
    """
    from tinyllm.page.history import read_run
    from tinyllm.page.report import KIND, report_page
    from tinyllm.page.shell import PageError, write_page

    runs = []
    for directory, name in zip(directories, _names(directories), strict=True):
        try:
            runs.append(read_run(directory, name))
        except (OSError, ValueError, TypeError, RecursionError, MemoryError) as error:
            raise ReportError(_unreadable(directory, error)) from error
    finished = all(run.finished for run in runs)
    reload = refresh and not finished
    if len(runs) == 1:
        title, notes = runs[0].name, [runs[0].status, _logged(directories[0])]
    else:
        title, notes = f"{len(runs)} runs", ["overlaid by step"]
    if reload:
        notes.append(f"reloads itself every {INTERVAL:g} seconds")
    try:
        write_page(report_page(runs, title, notes, int(INTERVAL) if reload else 0), KIND, out, force)
    except PageError as error:
        raise ReportError(str(error)) from error
    return finished


def _names(directories: Sequence[Path]) -> list[str]:
    """Return the directories' paths without what all have in common; of one, its last two parts."""
    parts = [directory.resolve().parts[1:] for directory in directories]
    if len(set(parts)) == 1:
        return ["/".join(each[-2:]) for each in parts]
    common = len(Path(os.path.commonpath([directory.resolve() for directory in directories])).parts) - 1
    return ["/".join(each[common:]) or each[-1] for each in parts]


def _logged(directory: Path) -> str:
    moment = time.localtime((directory / "metrics.jsonl").stat().st_mtime)
    return time.strftime("last line logged at %Y-%m-%d %H:%M:%S", moment)


def _unreadable(directory: Path, error: Exception) -> str:
    if not directory.exists():
        return f"{directory}: no such directory; give the --checkpoint-dir of a run"
    if not directory.is_dir():
        return f"{directory}: not a directory; give the --checkpoint-dir of a run"
    if isinstance(error, FileNotFoundError):
        return f"{directory}: no metrics.jsonl here: no run has logged into this directory"
    why = getattr(error, "strerror", None) or str(error) or "there is too little memory for it"
    return f"{directory}: metrics.jsonl cannot be read: {why}"


def watch(directories: Sequence[Path], out: Path) -> None:
    """Write the report again whenever a run has logged more, until all are finished."""
    before: object = None
    while True:
        now = [_stamp(directory / "metrics.jsonl") for directory in directories]
        took = 0.0
        if now != before:
            started = time.monotonic()
            if write_runs(directories, out, refresh=True):
                return
            took, before = time.monotonic() - started, now
        time.sleep(max(INTERVAL, 4 * took))  # at most a fifth of a core, however long the run


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = program(
        "report", "Plot a training run, or several to compare them, on one HTML page.",
        "checkpoints\nsmall large --out compared.html",
    )  # fmt: skip
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", type=path,
        help="the --checkpoint-dir of a run; several are compared",
    )  # fmt: skip
    parser.add_argument(
        "--out", metavar="FILE", type=path,
        help="where to write it (default: RUN/report.html, or ./report.html for several)",
    )  # fmt: skip
    parser.add_argument("--force", action="store_true", help="replace whatever file is there")
    parser.add_argument("--watch", action="store_true", help="update it while the run logs more; Ctrl-C ends")
    given = parser.parse_args(argv)
    out = given.out or (given.runs[0] if len(given.runs) == 1 else Path()) / FILE_NAME
    try:
        write_runs(given.runs, out, refresh=given.watch, force=given.force)
        rest = ", updated as the run logs more; Ctrl-C ends" if given.watch else ""
        print(f"{printable(out)}{rest}", flush=True)
        if given.watch:
            with suppress(KeyboardInterrupt):
                watch(given.runs, out)
            write_runs(given.runs, out)  # the last page must not continue to reload itself
    except ReportError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
