"""Kernels compile once, are found again by the next process, and are never stale."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.test_kernels import ARGUMENTS, Draw
from tinyllm import kernels
from tinyllm.kernels import jit

ROOT = Path(__file__).resolve().parents[1]


def run(program: str, folder: Path, **environment: str) -> str:
    command, variables = [sys.executable, "-c", program], os.environ | environment
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def signatures() -> dict[str, int]:
    modules = [m for m in vars(kernels).values() if isinstance(m, ModuleType)]
    found = {f"{m.__name__}.{n}": f for m in modules for n, f in vars(m).items() if hasattr(f, "signatures")}
    return {name: len(f.signatures) for name, f in found.items()}


def compiled_late(dtype: Any) -> list[str]:
    """Return the kernels that the arguments of training compile although all was compiled before."""
    kernels.compile_all(dtype)
    kernels.compile_decoding(dtype)
    before = signatures()
    assert sum(before.values()) >= 16
    draw = Draw(0, dtype, N=70, C=8, B=2, H=2, T=5, V=11)
    for name, arguments in ARGUMENTS.items():
        getattr(kernels, name)(*arguments(draw))
    return [name for name, count in signatures().items() if count != before[name]]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_once_all_is_compiled_no_argument_of_training_compiles_anything(dtype):
    # In a process of its own, where no other test has compiled anything.
    program = f"from tests.test_kernel_cache import compiled_late; print(compiled_late({dtype!r}))"
    assert run(program, ROOT) == "[]\n"


def cache_dir_of(folder: Path, **environment: str) -> str:
    """Import the kernels of `folder` in a new process, add two numbers, and return CACHE_DIR."""
    add = "kernels.add_and_sum_squares(x, x)"
    program = f"import kernels, numpy; x = numpy.ones(1); {add}; print(x[0], kernels.CACHE_DIR)"
    result, directory = run(program, folder, **environment).split()
    assert result == "2.0"
    return directory


def test_the_cache_moves_when_any_kernel_file_changes(tmp_path):
    shutil.copytree(ROOT / "kernels", tmp_path / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    first = cache_dir_of(tmp_path, NUMBA_CACHE_DIR=str(tmp_path / "n"))
    with open(tmp_path / "kernels" / "elementary.py", "a") as file:
        file.write("# another\n")
    second = cache_dir_of(tmp_path, NUMBA_CACHE_DIR=str(tmp_path / "n"))
    assert Path(first).parent == Path(second).parent == tmp_path / "n" and first != second
    assert list(Path(first).rglob("*.nbi")) and list(Path(second).rglob("*.nbi"))
    assert not list((tmp_path / "kernels").rglob("*.nbi"))


def test_kernels_work_without_any_writable_cache(tmp_path):
    nowhere = tmp_path / "file"
    nowhere.touch()
    assert cache_dir_of(ROOT, NUMBA_CACHE_DIR=str(nowhere / "cache")) == "None"


def test_a_cache_that_others_may_write_to_is_not_used_and_said_to_be(tmp_path):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    for place in ("open", "open/below"):
        program = "from tinyllm import kernels; print(kernels.CACHE_DIR); print(kernels.CACHE_PROBLEM)"
        found, problem = run(program, ROOT, NUMBA_CACHE_DIR=str(tmp_path / place)).splitlines()
        assert found == "None" and problem.startswith(f"{tmp_path / 'open'} may be written to by others")


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="files have no owner here")
def test_a_cache_is_safe_if_it_and_the_folders_above_it_are_our_own(tmp_path, monkeypatch):
    place = tmp_path / "sticky" / "ours"
    place.mkdir(parents=True)
    (tmp_path / "sticky").chmod(0o1777)  # as /tmp: only the owner moves what is in it
    assert jit._danger(place) == ""
    place.chmod(0o770)
    assert "may be written to by others" in jit._danger(place)
    place.chmod(0o700)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert "belongs to another user" in jit._danger(place)


def test_a_relative_cache_home_is_ignored(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert jit._user_cache() == Path.home() / ".cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert jit._user_cache() == tmp_path


@pytest.mark.slow
def test_no_kernel_reads_or_writes_beyond_its_arrays(tmp_path):
    environment = os.environ | {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    files = [str(ROOT / "tests" / name) for name in ("test_kernels.py", "test_kernel_edges.py")]
    program = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", *files]
    done = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_kernels_are_warm_once_compiled(tmp_path):
    program = "from tinyllm import kernels as k; print(k.is_warm()); k.compile_all(); print(k.is_warm())"
    assert run(program, ROOT, NUMBA_CACHE_DIR=str(tmp_path)) == "False\nTrue\n"
    assert run(program, ROOT, NUMBA_CACHE_DIR=str(tmp_path)) == "True\nTrue\n"
