"""The house stands: imports point strictly down, only the top floor speaks, files stay small."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOORS = {"train", "generate", "chat", "evaluate", "report", "explain", "encode", "__main__"}
# Floors from the bottom up: a file or a folder each. Imports go to lower floors, or stay on their own where
# that is no cycle.
FLOORS = (
    {"kernels"},
    {"arena", "config", "escape", "option", "parallel", "rng", "safe_files", "words"},
    {"layers", "corpus"},
    {"network", "model"},
    {"text"},
    {"run"},
    {"checkpoint"},
    {"training"},
    {"inference", "page"},
    {"cli"},
    DOORS,
    {"api"},
)
FLOOR = {name: i for i, floor in enumerate(FLOORS) for name in floor}
# The doors and what stands behind them: only here are options parsed, lines printed and clocks read.
SPEAKERS = {"api", "cli", "checkpoint.__main__", "corpus.__main__"} | DOORS
SPOKEN = {"print", "input", "stdout.write", "stderr.write", "sys.exit", "os._exit"}
CLOCKS = {"datetime.now", "datetime.today", "datetime.utcnow", "date.today"}  # and all of the module time


def modules() -> dict[str, Path]:
    found = {}
    for base, prefix in ((ROOT / "tinyllm", ""), (ROOT / "kernels", "kernels.")):
        for path in sorted(base.rglob("*.py")):
            name = prefix + ".".join(path.relative_to(base).with_suffix("").parts)
            found[name.removesuffix(".__init__") or "__init__"] = path
    return found


def imported(name: str, path: Path) -> set[str]:
    """Return the tinyllm modules a file imports, type-checking imports excepted, as `a.b` under tinyllm."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(node) for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING"
        for node in ast.walk(branch)
    }  # fmt: skip
    found = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {
                alias.name.removeprefix("tinyllm.")
                for alias in node.names
                if alias.name.startswith("tinyllm.")
            }
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                package = (
                    name.split(".")[:1] if name.startswith("kernels") else name.split(".")[: -node.level]
                )
                found.add(".".join([*package, node.module or ""]).strip("."))
            elif node.module == "tinyllm":
                found |= {alias.name for alias in node.names if not alias.name.startswith("__")}
            elif (node.module or "").startswith("tinyllm."):
                package = str(node.module).removeprefix("tinyllm.")
                names = {f"{package}.{alias.name}" for alias in node.names}
                found |= names if names <= set(modules()) else {package}
    return found


def floor_of(name: str) -> int:
    top = name.split(".")[0]
    assert top in FLOOR, f"{name}: give it a floor in tests/test_architecture.py"
    return len(FLOORS) - 1 if name == "checkpoint.__main__" else FLOOR[top]


@pytest.mark.parametrize("name", [name for name in modules() if name != "__init__"])
def test_imports_point_down(name):
    below = floor_of(name)
    for other in imported(name, modules()[name]):
        if other == name.split(".")[0]:
            continue
        assert floor_of(other) <= below, f"{name} imports {other}, which is on a higher floor"


def test_there_are_no_import_cycles():
    graph = {name: imported(name, path) & set(modules()) for name, path in modules().items()}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"cycle: {' -> '.join((*path, name))}"
        if name not in done:
            for other in graph[name]:
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("name", list(modules()))
def test_only_the_top_floor_prints_parses_argv_or_reads_the_clock(name):
    if name.split(".")[0] in SPEAKERS or name in SPEAKERS:
        return
    assert not spoken(modules()[name].read_text(encoding="utf-8"))


def spoken(source: str) -> set[str]:
    """Return the imports and calls of a file by which it prints, parses argv, sleeps or reads the clock."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & {"argparse", "time"}
        elif isinstance(node, ast.ImportFrom):
            found |= {str(node.module)} & {"argparse", "time"}
        elif isinstance(node, ast.Call):
            found |= {".".join(ast.unparse(node.func).split(".")[-2:])} & (SPOKEN | CLOCKS)
        elif isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.argv":
            found.add("sys.argv")
    return found


@pytest.mark.parametrize(
    "source",
    [
        "print(1)", "input()", "sys.stdout.write('')", "sys.exit(1)", "x = sys.argv[1]", "import argparse",
        "import sys, time as t", "from time import sleep", "datetime.now()", "datetime.datetime.now()",
        "datetime.date.today()",
    ],
)  # fmt: skip
def test_every_way_to_speak_is_seen(source):
    assert spoken(source) and not spoken("from datetime import datetime\nclock.date()")


@pytest.mark.parametrize("name", [name for name in modules() if name.startswith("kernels")])
def test_kernels_know_numpy_and_numba_and_nothing_of_tinyllm(name):
    assert all(other.startswith("kernels") for other in imported(name, modules()[name]))


@pytest.mark.parametrize("name", list(modules()))
def test_a_file_has_at_most_300_lines_and_says_what_it_is(name):
    text = modules()[name].read_text(encoding="utf-8")
    assert text.count("\n") <= 300
    assert ast.get_docstring(ast.parse(text)), f"{name}: no module docstring"


def test_every_kernel_has_a_readable_reference():
    import tinyllm.kernels as kernels
    from tinyllm.kernels import reference

    spoken = {"compile_all", "compile_decoding", "is_decoding_warm", "is_warm", "merge_table"}
    assert {name for name in kernels.__all__ if not (name.isupper() or name in spoken)} <= set(
        vars(reference)
    )


def test_help_imports_no_numba_and_no_numpy_but_to_read_checkpoints():
    for module in ("train", "generate", "chat", "evaluate", "report", "explain", "encode", "checkpoint"):
        code = (
            "import sys, runpy; sys.argv = ['x', '--help']\n"
            "try: runpy.run_module('tinyllm.MODULE', run_name='__main__')\n"
            "except SystemExit as end: assert not end.code\n"
            "assert not HEAVY & set(sys.modules), 'heavy imports'"
        ).replace("MODULE", module)
        code = code.replace("HEAVY", "{'numba'}" if module == "checkpoint" else "{'numba', 'numpy'}")
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, f"{module}: {done.stderr}"
        assert "usage:" in done.stdout


@pytest.mark.parametrize("name", [name for name in modules() if not name.startswith("kernels")])
def test_functions_are_short_and_take_few_arguments(name):
    """At most 50 lines and 7 parameters, `self` aside; kernels take arrays one by one, and are excused."""
    for node in ast.walk(ast.parse(modules()[name].read_text(encoding="utf-8"))):
        if not isinstance(node, ast.FunctionDef):
            continue
        every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        count = len([argument for argument in every if argument.arg not in ("self", "cls")])
        assert count <= 7, f"{node.name} takes {count} parameters: what travels together is a value"
        lines = (node.end_lineno or 0) - node.lineno + 1
        assert lines <= 50, f"{node.name} has {lines} lines"


@pytest.mark.parametrize("door", sorted(DOORS - {"__main__"}))
def test_a_door_may_be_run_as_a_file(door, tmp_path):
    """An editor's Run button does: Python then looks for every module in tinyllm/ first."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tinyllm" / f"{door}.py"), "--help"], cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("usage:")


def test_no_file_or_folder_has_the_name_of_a_module_of_the_standard_library():
    """Run as a file, a module in its folder would be imported in place of the standard library's."""
    names = {part for name in modules() for part in name.split(".") if not part.startswith("__")}
    assert sorted(names & sys.stdlib_module_names) == []
