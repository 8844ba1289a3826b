"""--help fits a terminal of 80 columns, begins with what is used most, and ends with examples that work."""

from __future__ import annotations

import shlex

import pytest

from tests.test_option_errors import PARSERS
from tinyllm import __version__
from tinyllm.cli import main
from tinyllm.cli.options import MOST_USED

PROGRAMS = [name for name in PARSERS if name.count(" ") == 1]


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("name", PARSERS)
def test_help_fits_eighty_columns(name):
    assert max(map(len, PARSERS[name].format_help().splitlines())) <= 80


def test_the_list_of_programs_fits_eighty_columns(capsys):
    assert main.main(["--help"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_ends_with_examples_that_are_accepted(name):
    _, _, after = PARSERS[name].format_help().partition("\nexamples:\n")
    examples = after.partition("\n\n")[0].splitlines()
    assert examples
    for line in examples:
        first, second, *words = shlex.split(line.partition(" < ")[0], comments=True)
        assert f"{first} {second}" == name
        PARSERS[name].parse_args(words)


def test_help_of_training_begins_with_the_ten_most_used_options():
    head, *groups = (
        PARSERS["tinyllm train"].format_help().partition("\nthe most used options:\n")[2].split("\n\n")
    )
    assert [line.split()[0] for line in head.splitlines() if line.startswith("  --")] == list(MOST_USED)
    assert len(MOST_USED) == 10
    assert not [line for group in groups for line in group.splitlines() if line.split()[:1] == ["--data"]]
    assert len([line for line in groups[-1].splitlines() if line.startswith("  tinyllm train ")]) == 3


@pytest.mark.parametrize("name", [*PARSERS, "tinyllm"])
def test_every_program_and_every_command_of_one_has_a_version(name, capsys):
    try:
        assert main.main([*name.split()[1:], "--version"]) == 0
    except SystemExit as end:
        assert end.code == 0
    assert capsys.readouterr().out == f"tinyllm {__version__}\n"
