"""What a page says of a change is seen: in a copy of the checkout the change is made, and its check run.

Under a heading with a check stands one change: all ```diff fences there, found in their files by their words
and not by line numbers. The check is the ```sh fence whose marker says that it is seen to pass or to fail
with the change; a ```text fence after it is what it prints then. Without the change it ends the other way,
or prints something else. Order: reading pages, making changes, the tests.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
from numba.core.caching import _CacheLocator

from tests.docs.page import parse
from tinyllm.kernels import CACHE_DIR

place = _CacheLocator.get_suitable_cache_subpath
ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "docs" / "tour.md", ROOT / "docs" / "exercises.md", *sorted(ROOT.glob("docs/exercises/*.md"))]
COPIED = ("tinyllm", "kernels", "tests", "benchmarks", "docs", "README.md", "setup.cfg", "pyproject.toml")
MARKER = "<!-- not run here: it needs the change; tests/test_exercises.py sees it "
CHECK = re.compile(
    re.escape(MARKER) + r"(pass|fail)(, slowly)? -->\n```sh\n(.*?)```\n(?:\n```text\n(.*?)```\n)?", re.DOTALL
)


class Exercise(NamedTuple):
    """A change and what is seen with it."""

    name: str  # page and heading
    change: str
    command: str
    passes: bool  # with the change
    prints: str  # with the change; `...` stands for any text, "" for whatever it is
    slow: bool


def sections(page: Path) -> list[str]:
    """Cut a page at its headings, those in fences excepted; a page with one check is one section."""
    text = page.read_text(encoding="utf-8")
    if len(CHECK.findall(text)) < 2:
        return [text]
    lines = text.splitlines(keepends=True)
    starts = [token.map[0] for token in parse(text) if token.type == "heading_open" and token.map]
    return ["".join(lines[a:b]) for a, b in pairwise([*starts, len(lines)])]


def exercises(page: Path) -> list[Exercise]:
    """Return the exercises of a page, in its order."""
    found = []
    for section in sections(page):
        for verdict, slow, command, prints in CHECK.findall(section):
            name = f"{page.stem}: {section.splitlines()[0].lstrip('# ')}"
            change = "".join(re.findall(r"(?ms)^```diff\n(.*?)^```$", section))
            found.append(Exercise(name, change, command, verdict == "pass", prints, bool(slow)))
    return found


def make(change: str, root: Path) -> None:
    """Make a change in the files below `root`; AssertionError where the old lines do not stand once."""
    for part in re.split(r"(?m)^(?=--- )", change)[1:]:
        before, after = (line[4:] for line in part.splitlines()[:2])
        hunks = re.split(r"(?m)^@@.*\n", part)[1:]
        path = root / after.removeprefix("b/")
        assert hunks, f"{path}: a change without a line"
        text = "" if before == "/dev/null" else path.read_text(encoding="utf-8")
        for hunk in hunks:
            lines = [(line[:1] or " ", line[1:] + "\n") for line in hunk.splitlines()]
            old = "".join(line for sign, line in lines if sign in " -")
            new = "".join(line for sign, line in lines if sign in " +")
            assert not old or text.count(old) == 1, f"{path}: found {text.count(old)} times:\n{old}"
            text = text.replace(old, new) if old else text + new
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def checked(exercise: Exercise, root: Path) -> tuple[bool, str]:
    """Return whether the check passes in a copy of the checkout, and prints what it should; and all of it."""
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    settings = {"PATH": programs, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1", "CI": "1"}
    if "b/kernels/" in exercise.change:
        settings["NUMBA_CACHE_DIR"] = str(root / "compiled")
    done = subprocess.run(
        ["sh", "-c", exercise.command], cwd=root, env={**os.environ, **settings, "COLUMNS": "200"},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600,
    )  # fmt: skip
    wanted = ".*".join(map(re.escape, exercise.prints.split("..."))) if exercise.prints else ".*"
    as_told = (done.returncode == 0) == exercise.passes and re.fullmatch(wanted, done.stdout, re.DOTALL)
    return bool(as_told), done.stdout


@contextmanager
def copy_of_the_checkout(root: Path) -> Iterator[Path]:
    """Copy what is changed and run, and let kernels that are the same be compiled already.

    Numba keeps compiled code in a folder named after the folder of its source.
    """
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, root / name)
    if CACHE_DIR is None:
        yield root
        return
    theirs, ours = (CACHE_DIR / place(str(base / "kernels" / "jit.py")) for base in (root, ROOT))
    theirs.symlink_to(ours, target_is_directory=True)
    try:
        yield root
    finally:
        theirs.unlink()


ALL = [exercise for page in PAGES if page.exists() for exercise in exercises(page)]


@pytest.mark.parametrize(
    "exercise",
    [pytest.param(e, id=e.name, marks=pytest.mark.slow if e.slow else ()) for e in ALL],
)
def test_a_change_does_what_the_page_says_and_without_it_that_is_not_seen(exercise, tmp_path):
    with copy_of_the_checkout(tmp_path) as root:
        # That a test of this suite passes without the change, the suite itself shows.
        if exercise.passes or "pytest" not in exercise.command:
            seen, output = checked(exercise, root)
            assert not seen, f"without the change it is seen too:\n{output}"
        make(exercise.change, root)
        seen, output = checked(exercise, root)
    assert seen, output


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_diff_of_a_page_is_of_a_change_that_is_checked(page):
    fences = re.findall(r"(?ms)^```diff\n(.*?)^```$", page.read_text(encoding="utf-8"))
    found = exercises(page)
    assert "".join(fences) == "".join(exercise.change for exercise in found)
    assert all(exercise.change for exercise in found)
    assert len({exercise.name for exercise in found}) == len(found)


def test_a_change_whose_lines_stand_nowhere_or_twice_is_refused(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\ny = 1\nx = 1\n", encoding="utf-8")
    for line in ("z = 1", "x = 1"):
        with pytest.raises(AssertionError, match=f"found {2 * (line[0] == 'x')} times"):
            make(f"--- a/a.py\n+++ b/a.py\n@@\n-{line}\n", tmp_path)
    make("--- a/a.py\n+++ b/a.py\n@@ -1,2 +1,2 @@\n x = 1\n-y = 1\n+y = 2\n", tmp_path)
    make("--- /dev/null\n+++ b/b/c.py\n@@ -0,0 +1 @@\n+x = 1\n", tmp_path)
    assert (tmp_path / "a.py").read_text(encoding="utf-8") == "x = 1\ny = 2\nx = 1\n"
    assert (tmp_path / "b" / "c.py").read_text(encoding="utf-8") == "x = 1\n"


def test_what_is_not_seen_fails(tmp_path):
    expected = Exercise("page: heading", "", "echo one; echo two; false", False, "one\n...", False)
    assert checked(expected, tmp_path)[0]
    assert not checked(expected._replace(prints="two\n"), tmp_path)[0]
    assert not checked(expected._replace(passes=True), tmp_path)[0]


def test_a_norm_takes_under_150_added_lines_and_no_file_that_the_tour_does_not_name():
    (exercise,) = exercises(ROOT / "docs" / "exercises" / "rmsnorm.md")
    assert len(re.findall(r"(?m)^\+(?!\+\+ )", exercise.change)) < 150
    links = re.findall(r"\]\(([^)#]+)", (ROOT / "docs" / "tour.md").read_text(encoding="utf-8"))
    named = {os.path.normpath(f"docs/{link}") for link in links} | {"docs/tour.md"}
    assert set(re.findall(r"(?m)^--- a/(.*)\n", exercise.change)) <= named
