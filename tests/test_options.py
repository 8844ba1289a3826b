"""The command line of training becomes values: what is asked for, and the machine it is to run on."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

import pytest

from tinyllm import explain, generate
from tinyllm.cli.options import options
from tinyllm.cli.request import Fresh, Machine, Request, Resume
from tinyllm.config import BUNDLED, BUNDLED_OPTIONS, SECTIONS, Config, SavingConfig, replace
from tinyllm.run.changes import Changes

NOTHING = {section: {} for section in SECTIONS}


def asked(line: str = "") -> Request:
    return options(line.split())[0]


def test_without_options_both_phases_of_the_bundled_texts_are_trained():
    sources = BUNDLED
    expected = Request(Fresh(NOTHING, sources), Path("checkpoints"), None, plain=False, samples=True)
    assert options([]) == (expected, Machine(None, None))
    assert asked().start.config == replace(Config(), BUNDLED_OPTIONS)


@pytest.mark.parametrize(
    ("line", "sources"),
    [
        ("--data a b", {"pretraining": ["a", "b"]}),
        ("--pretraining-data a", {"pretraining": ["a"], "instruction_tuning": BUNDLED["instruction_tuning"]}),
        ("--chat-data a --phase instruction_tuning", {"instruction_tuning": ["a"]}),
        ("--phase pretraining", {"pretraining": BUNDLED["pretraining"]}),
    ],
)
def test_a_phase_has_the_texts_that_are_named_or_else_the_bundled_ones(line, sources):
    expected = {
        phase: paths if paths == BUNDLED[phase] else [str(Path(path).resolve()) for path in paths]
        for phase, paths in sources.items()
    }
    assert asked(line).start == Fresh(NOTHING, expected)


def test_config_options_are_the_config_of_a_fresh_run_and_the_changes_of_a_resumed_one():
    given = {**NOTHING, "train": {"epochs": 3}}
    fresh = asked("--fresh --epochs 3").start
    assert fresh == Fresh(given, asked().start.sources, set_aside=True)
    assert fresh.config.train.epochs == 3
    assert asked("--resume --epochs 3").start == Resume(None, False, Changes(given))
    assert asked("--resume auto --epochs 3").start == Resume(
        None, False, Changes(given), Fresh(given, asked().start.sources)
    )
    assert asked("--resume-best --phase instruction_tuning --allow-new-data --chat-data /x").start == Resume(
        None,
        True,
        Changes(NOTHING, {"instruction_tuning": ["/x"]}, "instruction_tuning", allow_new_data=True),
    )
    assert asked("--resume-from x.bin").start == Resume(Path("x.bin"), False, Changes(NOTHING))


@pytest.mark.parametrize("name", ["my run; x", "a'b", "$HOME", "-dash", "~tilde"])
def test_a_printed_command_is_what_a_shell_must_read(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = f"--checkpoint-dir={'./' * name.startswith('~')}{name}"
    words = shlex.split(options([line])[0].resume_command)
    assert options(words[3:])[0].directory.resolve() == tmp_path / name


def test_a_tilde_is_the_home_in_every_path_of_the_command_line(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    home = Path("/home/ada")
    assert asked("--checkpoint-dir=~/runs").directory == home / "runs"
    assert asked("--resume-from=~/a.bin").start.source == home / "a.bin"
    assert asked("--data=~/a.txt").start.sources == {"pretraining": ["/home/ada/a.txt"]}
    assert generate.options(["~/model"]).model == home / "model"
    assert explain.options(["~/model", "--prompt=x", "--out=~/p.html"]).out == home / "p.html"


@pytest.mark.parametrize("option", ["--checkpoint-dir", "--data", "--resume-from"])
def test_the_home_of_nobody_is_an_error_of_its_option(option, capsys):
    with pytest.raises(SystemExit) as end:
        options([f"{option}=~nobody-has-this-name/x"])
    assert end.value.code == 2 and "~nobody-has-this-name/x" in capsys.readouterr().err


def test_the_command_that_resumes_names_the_directory_if_it_must():
    assert asked().resume_command == "python -m tinyllm.train --resume"
    assert asked("--checkpoint-dir d").resume_command == "python -m tinyllm.train --checkpoint-dir d --resume"


def test_every_other_option_arrives():
    line = (
        "--strategy last --keep-best-n 7 --save-every-steps 11 --save-every-minutes 0.5 --no-async --plain "
        "--no-samples --workers 2 --blas-threads 3 --recompute"
    )
    request, machine = options(line.split())
    assert request.start.config.saving == SavingConfig("last", 7, 11, 0.5, asynchronous=False)
    assert request.start.config.train.recompute
    assert (request.plain, request.samples, machine) == (True, False, Machine(2, 3))
    request, _ = options(["--init-from", "~/m", "--max-minutes", "7.5"])
    assert (request.start.initial, request.minutes) == (Path("~/m").expanduser(), 7.5)


@pytest.mark.parametrize(
    "value",
    [
        *options(["--resume"]), asked().start, asked("--resume").start,
        asked("--resume").start.changes,
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_no_field_of_what_was_asked_for_can_be_reassigned(value):
    for field in dataclasses.fields(value):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, field.name, None)


def test_a_path_that_cannot_be_resolved_is_an_error_of_its_option(tmp_path, capsys):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for line in (["--data", str(tmp_path / "loop" / "x")], ["--resume-from", ""]):
        with pytest.raises(SystemExit) as end:
            options(line)
        assert end.value.code == 2
        assert "error: " in capsys.readouterr().err
