"""Whatever becomes of the reader of a program's output: training ends its run, the others end quietly.

Order: a display, training with one, the end of every program, streams that are closed from the start.
"""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs import CHATS, FACTS
from tinyllm.cli import output
from tinyllm.cli.interrupt import exit_code
from tinyllm.cli.main import main

ROOT = Path(__file__).resolve().parents[1]
TINY = "--n-layer 1 --n-head 2 --n-embd 8 --block-size 16 --vocab-size 280 --batch-size 4 --epochs 1"


class Gone(io.StringIO):
    """A stream whose reader goes away after `lasts` writes; counts the attempts to write."""

    def __init__(self, error: Exception, lasts: int = 0, terminal: bool = False) -> None:
        super().__init__()
        self.error, self.lasts, self.terminal, self.attempts = error, lasts, terminal, 0

    def write(self, text: str) -> int:
        self.attempts += 1
        if self.attempts > self.lasts:
            raise self.error
        return super().write(text)

    def isatty(self) -> bool:
        return self.terminal


PIPE = BrokenPipeError(errno.EPIPE, "Broken pipe")
TERMINAL = OSError(errno.EIO, "Input/output error")
FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("error", [PIPE, TERMINAL, FULL])
def test_a_display_that_cannot_be_written_is_silent_from_then_on(error):
    stream = Gone(error, lasts=2)
    shown = output.Display(stream)
    for line in range(5):
        print(line, file=shown, flush=True)
    assert stream.getvalue() == "0\n" and stream.attempts == 3  # the line and its end are two writes


def test_a_closed_stream_is_a_silent_display():
    stream = io.StringIO()
    stream.close()
    print("x", file=output.Display(stream), flush=True)


def test_a_reader_that_is_only_slow_loses_a_line_and_sees_the_next():
    stream = Gone(BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"))
    shown = output.Display(stream)
    shown.write("lost")
    stream.lasts = 9
    shown.write("seen")
    assert stream.getvalue() == "seen"


def test_an_error_that_is_not_the_readers_is_not_hidden():
    with pytest.raises(UnicodeEncodeError):
        output.Display(io.TextIOWrapper(io.BytesIO(), encoding="ascii")).write("你")


@pytest.mark.parametrize("terminal", [True, False])
def test_a_message_is_broken_at_words_on_a_terminal_and_stays_one_line_in_a_log(terminal, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    stream, message = Gone(PIPE, lasts=9, terminal=terminal), "error: " + "twelve words " * 6
    print(message.strip(), file=output.Display(stream))
    lines = stream.getvalue().splitlines()
    assert " ".join(line.strip() for line in lines) == message.strip()
    assert len(lines) == (3 if terminal else 1) and (not terminal or max(map(len, lines)) <= 40)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("texts")
    for name, entries in ("facts", FACTS), ("chats", CHATS):
        (place / f"{name}.json").write_text(json.dumps(entries, ensure_ascii=False), encoding="utf-8")
    return place


def train(texts: Path, run: Path, *more: str) -> int:
    data = ["--pretraining-data", str(texts / "facts.json"), "--chat-data", str(texts / "chats.json")]
    return main(["train", *data, *TINY.split(), "--checkpoint-dir", str(run), *more])


@pytest.mark.parametrize(("error", "lasts"), [(PIPE, 0), (TERMINAL, 3), (FULL, 12)])
def test_training_ends_its_run_without_a_reader(error, lasts, texts, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", Gone(error, lasts))
    monkeypatch.setattr(sys, "stderr", Gone(error))
    assert train(texts, tmp_path / "run", "--plain") == 0
    assert (tmp_path / "run" / "model_final.bin").exists() and (tmp_path / "run" / "report.html").exists()


def test_a_terminal_that_closes_under_the_bar_ends_nothing(texts, tmp_path, monkeypatch):
    pytest.importorskip("rich")
    stream = Gone(TERMINAL, lasts=4, terminal=True)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("TERM", "xterm")
    assert train(texts, tmp_path / "run", "--no-samples") == 0
    assert stream.attempts == 5


@pytest.fixture
def whole_process():
    """Let this process run programs as if each were all of it."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.fixture(scope="module")
def run(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("good") / "run"
    assert train(texts, place, "--plain", "--no-samples") == 0
    return place


DOORS = ["--help", "--version", "train --help", "checkpoint ls {run}", "checkpoint verify {run}",
         "checkpoint show {run}", "generate {run} --prompt x --max-tokens 9", "chat {run} --prompt x",
         "explain {run} --prompt x --out {out}", "report {run} --out {out}"]  # fmt: skip


@pytest.mark.usefixtures("whole_process")
@pytest.mark.parametrize(("error", "code"), [(PIPE, 141), (FULL, 1)])
@pytest.mark.parametrize("door", DOORS)
def test_a_program_whose_result_cannot_be_written_says_so_in_its_exit_code(
    door, error, code, run, tmp_path, monkeypatch
):
    said = io.StringIO()
    stdout = io.TextIOWrapper(io.BufferedWriter(Unwritable(error)), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setattr(sys, "stderr", said)
    command = door.format(run=run, out=tmp_path / "page.html").split()
    assert exit_code(lambda: main(command)) == code
    errors = [line for line in said.getvalue().splitlines() if line.startswith("error")]
    assert len(errors) == (code == 1) and all("No space left on device" in line for line in errors)
    monkeypatch.undo()
    with pytest.raises(OSError):
        stdout.close()


class Unwritable(io.RawIOBase):
    """The operating system's side of a stream that nobody reads."""

    def __init__(self, error: OSError) -> None:
        self.error = error

    def writable(self) -> bool:
        return True

    def write(self, _: object) -> int:
        raise self.error


def test_notes_that_nobody_reads_do_not_change_the_result(run, monkeypatch, capsys, whole_process):
    monkeypatch.setattr(sys, "stderr", Gone(PIPE))
    assert exit_code(lambda: main(["generate", str(run), "--prompt", "x", "--max-tokens", "9"])) == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize(("target", "code"), [("pipe", 141), ("/dev/full", 1)])
def test_nothing_is_said_when_python_itself_ends(target, code):
    """What is left in a buffer would fail once more, with a traceback and exit code 120."""
    if target == "pipe":
        reading, writing = os.pipe()
        os.close(reading)
    elif Path(target).exists():
        writing = os.open(target, os.O_WRONLY)
    else:
        pytest.skip(f"{target} is not here")
    program = (
        "import sys; from tinyllm.cli.interrupt import exit_code; sys.exit(exit_code(lambda: print(1) or 0))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(writing)
    assert done.returncode == code
    full = "error: the output cannot be written: [Errno 28] No space left on device\n"
    assert done.stderr == ("" if code == 141 else full)


def test_no_file_takes_the_place_of_a_standard_stream_that_is_closed(tmp_path):
    program = """if True:
        import os, sys
        from tinyllm.cli.interrupt import exit_code
        def main():
            with open(sys.argv[1], "w") as file:
                print("to nobody")
                os.write(2, b"to nobody")
                file.write(f"{file.fileno() > 2} {sys.stdin.read()!r}")
            return 0
        sys.exit(exit_code(main))
        """
    command = 'exec "$0" -c "$1" "$2" <&- >&- 2>&-'
    file = tmp_path / "file"
    done = subprocess.run(["sh", "-c", command, sys.executable, program, str(file)], cwd=ROOT)
    assert done.returncode == 0
    assert file.read_text(encoding="utf-8") == "True ''"
