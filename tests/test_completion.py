"""Tab completion: what a shell offers of every program, and nothing new where argcomplete is absent."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOORS = [
    "__main__",
    "cli.main",
    "train",
    "generate",
    "chat",
    "evaluate",
    "report",
    "explain",
    "encode",
    "checkpoint.__main__",
]


def completed(line: str, tmp_path: Path, module: str = "tinyllm", words_before: int = 1) -> list[str]:
    """Return what the program offers at the end of the line, as the shell's function asks it."""
    out = tmp_path / "out"
    shell = {
        "_ARGCOMPLETE": str(words_before), "COMP_LINE": line, "COMP_POINT": str(len(line)),
        "_ARGCOMPLETE_STDOUT_FILENAME": str(out), "_ARGCOMPLETE_IFS": " ",
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", module],
        cwd=tmp_path,
        env={**os.environ, **shell},
        capture_output=True,
        text=True,
    )
    if not out.exists():
        assert done.stderr.startswith("usage: tinyllm PROGRAM")  # as without words
        return []
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return out.read_text().split()


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("tinyllm tok", ["tokenize"]),
        ("tinyllm train --n-", ["--n-layer", "--n-head", "--n-embd"]),
        ("tinyllm train --lr 1 --tokenizer ", ["bpe", "char"]),
        ("tinyllm checkpoint dif", ["diff"]),
        ("tinyllm checkpoint rm --fo", ["--force"]),
    ],
)
def test_programs_their_options_and_values_are_completed(line, found, tmp_path):
    pytest.importorskip("argcomplete")
    assert completed(line, tmp_path) == found


def test_a_program_run_as_a_module_is_completed_too(tmp_path):
    pytest.importorskip("argcomplete")
    line = "python -m tinyllm.generate --top-"
    assert completed(line, tmp_path, "tinyllm.generate", words_before=3) == ["--top-k", "--top-p"]


def test_without_argcomplete_the_program_runs_as_ever(tmp_path):
    (tmp_path / "argcomplete.py").write_text("raise ImportError")
    assert completed("tinyllm tra", tmp_path) == []
    assert completed("tinyllm train --n-", tmp_path) == []


@pytest.mark.parametrize("door", DOORS)
def test_a_shell_finds_the_mark_in_every_program(door):
    text = (ROOT / "tinyllm" / f"{door.replace('.', '/')}.py").read_text(encoding="utf-8")
    assert "PYTHON_ARGCOMPLETE_OK" in text[:1024] and ast.get_docstring(ast.parse(text))
