"""What the pages say is so: quotes are the source, code runs and prints what is shown, links lead."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from tests.docs import commands
from tests.docs.__main__ import main
from tests.docs.page import ROOT, Page, is_run, misread, pages, read
from tests.docs.prose import broken_links, broken_math, differences, unreachable
from tests.docs.quotes import stale, write
from tests.docs.running import run

PAGES = {str(path.relative_to(ROOT)): path for path in pages()}
TRANSLATIONS = {name: path for name, path in PAGES.items() if path.name.endswith(".zh.md")}
# What runs in a translation is what runs on the English page.
RUN = [name for name in PAGES if name not in TRANSLATIONS and any(map(is_run, read(PAGES[name]).fences))]


@pytest.mark.parametrize("name", PAGES)
def test_every_fence_says_what_it_is(name):
    assert not misread(read(PAGES[name]))


@pytest.mark.parametrize("name", PAGES)
def test_quoted_code_is_the_source(name):
    assert not stale(read(PAGES[name]))


@pytest.mark.parametrize("name", RUN)
def test_code_runs_and_prints_what_the_page_says(name, tmp_path):
    with contextlib.chdir(tmp_path):
        assert not run(read(PAGES[name]), tmp_path)


@pytest.mark.parametrize("name", PAGES)
def test_every_link_and_anchor_leads_somewhere(name):
    assert not broken_links(read(PAGES[name]))


def test_every_page_is_reached_from_the_readme():
    assert not unreachable()


def test_every_test_that_a_page_names_is_there():
    named = {command for path in PAGES.values() for command in commands.commands(read(path))}
    ids = commands.collect(sorted({file for command in named for file in commands.files(command)}))
    assert not [command for command in named if not commands.finds(command, ids)]


@pytest.mark.parametrize("name", PAGES)
def test_formulas_survive_markdown(name):
    assert not broken_math(read(PAGES[name]))


@pytest.mark.parametrize("name", TRANSLATIONS)
def test_a_translation_says_what_the_page_says(name):
    path = TRANSLATIONS[name]
    assert not differences(read(path.with_name(path.name.replace(".zh", ""))), read(path))


def made(directory: Path, text: str, name: str = "page.md") -> Page:
    (directory / name).write_text(text, encoding="utf-8")
    return read(directory / name)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("<!-- not run here: it sleeps -->\n```sh\nsleep 9\n```", 0),
        ("<!-- not run here: -->\n```sh\nsleep 9\n```", 1),
        ("<!-- not run -->\n```sh\nsleep 9\n```", 1),
        ("<!-- quote -->\n```python\n```", 1),
        ("```bash\nsleep 9\n```", 1),
    ],
)
def test_a_marker_that_says_nothing_is_found(tmp_path, text, wrong):
    assert len(misread(made(tmp_path, text))) == wrong


SOURCE = """\
import os

LIMIT = 3


class A:
    @property
    def b(self):
        return 1


def c():
    pass
"""


@pytest.mark.parametrize(
    ("names", "code"),
    [
        ("", SOURCE),
        (" LIMIT", "LIMIT = 3\n"),
        (" c", "def c():\n    pass\n"),
        (" A.b", "@property\ndef b(self):\n    return 1\n"),
        (" LIMIT c", "LIMIT = 3\n\n\ndef c():\n    pass\n"),
    ],
)
def test_a_quote_is_written_and_a_stale_one_found(tmp_path, names, code):
    (tmp_path / "code.py").write_text(SOURCE, encoding="utf-8")
    page = made(tmp_path, f"Before\n<!-- quote code.py{names} -->\n\nafter\n")
    assert len(stale(page, tmp_path)) == 1  # there is no fence yet
    assert write(page.path, tmp_path)
    assert page.path.read_text() == f"Before\n<!-- quote code.py{names} -->\n```python\n{code}```\n\nafter\n"
    assert not stale(read(page.path), tmp_path)
    assert not write(page.path, tmp_path)
    (tmp_path / "code.py").write_text(SOURCE.replace("1", "2").replace("3", "4").replace("pass", "..."))
    assert len(stale(read(page.path), tmp_path)) == 1
    assert write(page.path, tmp_path)
    assert not stale(read(page.path), tmp_path)


def test_a_quote_of_what_is_not_there_is_an_error(tmp_path):
    (tmp_path / "code.py").write_text(SOURCE, encoding="utf-8")
    with pytest.raises(ValueError, match=r"found no A\.c"):
        stale(made(tmp_path, "<!-- quote code.py A.c -->\n```python\n```"), tmp_path)


TWO = """\
```python
x = 1
print(x)
```

```text
1
```

Then

```sh
echo one
echo two
echo three
```
"""


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (TWO, 0),
        (TWO.replace("text\n1", "text\n2"), 1),
        (TWO + "```text\none\ntwo\nthree\n```", 0),
        (TWO + "```text\none\n...\n```", 0),
        (TWO + "```text\n...\nthree\n```", 0),
        (TWO + "```text\none\n...\ntwo\nthree\n```", 0),
        (TWO + "```text\ntwo\n...\n```", 1),
        (TWO + "```text\none\nthree\n```", 1),
        (TWO + "<!-- output varies -->\n```text\n1 s\n```", 0),
        (TWO + "Like this:\n```text\nno output\n```", 0),
        (TWO + "```python\nassert x == 1\n```", 0),
        ("<!-- not run here: no -->\n```sh\nfalse\n```\n```text\nno\n```", 0),
    ],
)
def test_output_that_is_not_the_pages_is_found(tmp_path, text, wrong):
    assert len(run(made(tmp_path, text), tmp_path)) == wrong


@pytest.mark.parametrize("code", ["python\nassert 1 == 2\n", "sh\nfalse\ntrue\n", "sh\nfalse | cat\n"])
def test_code_that_fails_fails_the_page(tmp_path, code):
    with pytest.raises(AssertionError):
        run(made(tmp_path, f"```{code}```\n"), tmp_path)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("# A `b` c!\n[x](#a-b-c) [y](other.md#two-1) [z](.) [w](https://example.org/none)", 0),
        ("[x](none.md)", 1),
        ("![x](none.png)", 1),
        ('<p><img src="none.png"></p>', 1),
        ("[x](#a)", 1),
        ("[x](other.md#three)", 1),
    ],
)
def test_a_broken_link_is_found(tmp_path, text, wrong):
    made(tmp_path, "# Two\n\n# Two\n", "other.md")
    assert len(broken_links(made(tmp_path, text))) == wrong


def test_a_page_without_a_way_to_it_is_found(tmp_path):
    (tmp_path / "docs" / "math").mkdir(parents=True)
    made(tmp_path, "[math](docs/math)", "README.md")
    made(tmp_path, "[a](a.md)", "docs/math/README.md")
    made(tmp_path, "", "docs/math/a.md")
    assert not unreachable(tmp_path)
    made(tmp_path, "[a](math/a.md)", "docs/b.md")
    assert unreachable(tmp_path) == {tmp_path / "docs" / "b.md"}


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("$a_i b_j$ and `$` and\n\n$$\n\\frac{a}{b}\n= c\n$$\n", 0),
        ("$a *b* c$", 1),
        (r"$\hat{x}_i + y_{j}$", 1),
        (r"$\{ a \}$", 1),
        ("$$\na \\\\ b\n$$", 1),
        ("$$\na\n- b\n$$", 2),
        ("$a\nb$", 1),
        ("it costs $5", 1),
    ],
)
def test_a_formula_that_markdown_takes_apart_is_found(tmp_path, text, wrong):
    assert len(broken_math(made(tmp_path, text))) == wrong


@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("pytest tests/a.py", True),
        ("pytest tests/b.py", False),
        ("pytest tests/a.py -k norm", True),
        ("pytest tests/a.py -k 'not norm'", False),
        ("pytest tests/a.py -k 'head or norm' -m slow", True),
        ("pytest tests/a.py -k 'head and norm'", False),
        ("pytest tests/a.py::test_it", True),
        ("pytest tests/a.py::test_no", False),
    ],
)
def test_a_command_that_finds_no_test_is_found(tmp_path, command, found):
    page = made(tmp_path, f"`{command}` and `pytest`\n\n```sh\n{command}  # why\n```\n")
    assert commands.commands(page) == {command}
    assert commands.finds(command, ["tests/a.py::test_it[layernorm]"]) == found


ENGLISH = """\
# One

[a](a.md), 2.1 million of 1,057.

```sh
ls  # all
```

| a | `b` |
|---|---|
| c | `d` |
"""
CHINESE = """\
# 一

[甲](a.md)，1,057 里的 210 万。

```sh
ls  # 全部
```

| 甲 | `b` |
|---|---|
| 丙 | `d` |
"""


@pytest.mark.parametrize(
    ("before", "after", "wrong"),
    [
        ("", "", None),
        ("# 一", "## 一", "levels of headings"),
        ("a.md", "b.md", "links"),
        ("210 万", "200 万", "numbers"),
        ("ls", "ls -l", "fences"),
        ("```sh", "<!-- not run here: why -->\n```sh", "fences"),
        ("`d`", "`e`", "table rows"),
    ],
)
def test_a_translation_that_says_something_else_is_found(tmp_path, before, after, wrong):
    other = made(tmp_path, CHINESE.replace(before, after) if before else CHINESE, "page.zh.md")
    found = differences(made(tmp_path, ENGLISH), other)
    assert [line.partition(":")[0] for line in found] == ([wrong] if wrong else [])


def test_the_command_line_lists_pages_and_writes_quotes(tmp_path, capsys):
    assert main([str(PAGES["README.md"])]) == 0
    listed = capsys.readouterr().out
    assert listed.startswith("README.md: ")
    assert all(mark in listed for fence in read(PAGES["README.md"]).fences for mark in fence.marks.values())
    page = made(tmp_path, "<!-- quote setup.cfg -->\n")
    assert main(["--write", str(page.path)]) == 0
    assert (ROOT / "setup.cfg").read_text(encoding="utf-8") in page.path.read_text(encoding="utf-8")
    assert capsys.readouterr().out == f"{page.path}: written\n"
