"""What a file or a path name says is checked before it is used, and never obeyed by the terminal.

Order: a checkpoint's document, a token cache, what is no file, what is shown, encodings.
"""

from __future__ import annotations

import copy
import io
import json
import os
import signal
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from tests.bombs import changed, forge, whole_map
from tests.runs import CHATS, FACTS, Run
from tinyllm import chat, encode, evaluate, report
from tinyllm.checkpoint import plain
from tinyllm.cli import summary
from tinyllm.cli.command import Streams
from tinyllm.cli.display import Lines
from tinyllm.cli.interrupt import exit_code
from tinyllm.cli.main import main
from tinyllm.cli.request import shell_quoted
from tinyllm.escape import legible, printable, printable_lines
from tinyllm.inference.language_model import LanguageModel
from tinyllm.option import ConfigError
from tinyllm.parallel.threads import most_threads
from tinyllm.run.state import Sources, TrainState
from tinyllm.text.files import DataError
from tinyllm.text.texts import Texts
from tinyllm.text.tokens import HEADER, load_tokens
from tinyllm.training.environment import threads
from tinyllm.training.setup import resumed

HOSTILE = "\x1b[2J\x1b]0;x\x07\r\u202eabc\n\udcff"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """A finished run of one phase, and its texts."""
    made = Run(tmp_path_factory.mktemp("run") / "run", phases=("pretraining",))
    made.go()
    return made


@pytest.fixture(scope="module")
def fields(run) -> dict[str, Any]:
    with run.manager() as manager:
        state, _ = manager.load_checkpoint(manager.get_last_checkpoint())
    return state.to_dict()


# ---- a checkpoint's document

WRONG = {
    "environment.blas_threads": [10**9, -5, 0, True, "2", None, [1]],
    "environment.workers": [1 << 40, -1],
    "environment.numpy": [HOSTILE, "x" * 300, {}, 1.5],
    "environment": [[], None, {"\x1b[2J": "x"}],
    "sources.pretraining.paths": [[5], [], "x", [None], ["\0"], ["x" * 5000], [["x"]]],
    "sources.pretraining.fingerprint": [HOSTILE, 7, "/tmp/x", "../x", "", "A" * 64, "0" * 64 + "\n"],
    "sources.pretraining.questions": [[5], "x", [HOSTILE], ["x" * 257]],
    "sources": [{"elsewhere": {"paths": ["x"], "fingerprint": "y"}}, []],
    "phases": [["pretraining", "pretraining"], [["pretraining"]], [], "pretraining", None],
    "progress.step": [-1, 1 << 62, 0.5, True],
    "progress.phase_start": [1 << 40],
    "progress.index": [3],
    "progress.status": ["\x1b[2J", "lost"],
    "schedule.peak": [float("nan"), float("inf"), -1.0],
    "schedule.warmup": [-1],
    "schedule.end": [-(10**9)],
    "stopping.best": [float("nan")],
    "stopping.counter": [-3],
    "identity.id": [HOSTILE],
}


@pytest.mark.parametrize("path", WRONG)
def test_every_field_that_is_used_later_is_checked_where_it_is_read(fields, path):
    TrainState.from_dict(copy.deepcopy(fields))
    for value in WRONG[path]:
        with pytest.raises(ConfigError) as error:
            TrainState.from_dict(changed(fields, path, value))
        assert str(error.value).isprintable(), value


ESCAPES, LONG = HOSTILE[:-1], "x" * (1 << 20)
HARMFUL = {
    "tokenizer": [
        None, [], {"kind": ESCAPES}, {"kind": LONG}, {"kind": "char"}, {"kind": "char", "characters": [-1]},
        {"kind": "char", "characters": [ESCAPES]}, {"kind": "bpe", "split": [ESCAPES], "merges": []},
        {"kind": "bpe", "split": [LONG], "merges": []}, {"kind": "bpe", "split": 1, "merges": [0]},
        {"kind": "bpe", "split": 1, "merges": [0, 1 << 63]}, {"kind": "bpe", "split": 2, "merges": []},
    ],
    "sources": [["pretraining"], "pretraining", {"pretraining": None}],
    "sources.pretraining.paths": [[5], [b"\0"], ESCAPES],
    "sources.pretraining.fingerprint": [ESCAPES, LONG, "../x"],
    "sources.pretraining.system": [5],
    "config.data.encoding": [ESCAPES, LONG, "rot13"],
}  # fmt: skip
PARAMETER = msgpack.packb([["params/w", "float32", [0], []]])


@pytest.mark.parametrize("path", HARMFUL)
def test_a_program_that_reads_a_model_refuses_a_hostile_one_by_name(fields, path, tmp_path):
    file = tmp_path / "\x1bmodel.bin"
    for value in HARMFUL[path]:
        file.write_bytes(forge(whole_map(changed(fields, path, value)), PARAMETER))
        for program in (evaluate, encode) if path == "tokenizer" else (evaluate,):
            out, err = io.StringIO(), io.StringIO()
            code = program.main([str(file)], io.StringIO(), out, err)
            said = err.getvalue().removesuffix("\n")
            assert (code, out.getvalue()) == (1, "") and said.isprintable(), said
            assert said.startswith(f"error: {tmp_path}/\\x1bmodel.bin: document: ") and len(said) < 999, said
            assert path.rpartition(".")[2] in said.partition("document: ")[2], said


def test_a_path_that_is_not_utf_8_is_stored_as_bytes_and_comes_back():
    sources = Sources(["/a/b.txt", "/a/\udcff\x1b.txt"], "0" * 64)
    stored = sources.to_dict()
    assert stored["paths"] == ["/a/b.txt", b"/a/\xff\x1b.txt"]
    assert Sources.from_dict(stored, "sources.pretraining") == sources


def test_a_checkpoint_of_a_larger_machine_uses_no_more_threads_than_are_accepted(fields):
    state = TrainState.from_dict(changed(fields, "environment.workers", 1 << 16))
    state.environment["blas_threads"] = 1 << 16
    assert max(threads(state, None, None, lambda text: None)) <= most_threads()


def test_a_resume_checks_the_memory_as_a_fresh_start_does(run, fields, monkeypatch):
    from tinyllm.run.changes import Changes
    from tinyllm.training import setup

    monkeypatch.setattr(setup, "memory_needed", lambda config, V: 1 << 60)
    with pytest.raises(MemoryError, match="machine has"):
        resumed(TrainState.from_dict(fields), Changes({}), run.directory, run.watcher)


# ---- a token cache


def forged(path: Path, edit: Any) -> None:
    """Change the parts of a token cache, and make its checksum right."""
    data = bytearray(path.read_bytes())
    header = json.loads(data[:HEADER])
    parts, stop = [], HEADER
    for dtype, count in header["parts"]:
        start = -(-stop // 8) * 8
        stop = start + count * np.dtype(dtype).itemsize
        parts.append(np.frombuffer(data, dtype, count, start))  # a view: what is written is in `data`
    edit(header, *parts)
    header["crc32"] = zlib.crc32(data[HEADER:])
    data[:HEADER] = json.dumps(header).encode().ljust(HEADER - 1) + b"\n"
    path.write_bytes(data)


def put(part: int, index: int, value: int) -> Any:
    def edit(header: dict[str, Any], *parts: np.ndarray) -> None:
        parts[part][index] = value

    return edit


def renamed(number: int, dtype: str, count: int) -> Any:
    return lambda header, *parts: header["parts"].__setitem__(number, [dtype, count])


FORGERIES = {
    "a start below 0": put(1, 0, -(10**9)), "a start far away": put(1, 1, 1 << 62),
    "starts that fall": put(1, 1, 0), "an end beyond the tokens": put(1, -1, 1 << 40),
    "a token beyond the vocabulary": put(0, 0, 65535), "a masked run below 0": put(2, 0, -5),
    "a masked run far away": put(2, -1, 1 << 50), "a stream of 7": put(3, 0, 7),
    "a form of nothing": put(3, 0, 6), "a form that joins otherwise": put(3, 1, 4),
    "another dtype": renamed(1, "<f8", 3), "objects": renamed(0, "O", 3), "no tokens": renamed(0, "<u2", 0),
    "a negative count": renamed(1, "<i8", -1), "no count": renamed(1, "<i8", None),
    "another format": lambda header, *parts: header.__setitem__("format", "x"),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_token_cache_is_made_again(name, tmp_path):
    dialogues = Run(tmp_path / "run", phases=("instruction_tuning",))
    dialogues.go(cut=1)
    path = dialogues.directory / "data" / "instruction_tuning.tokens"
    good = path.read_bytes()
    forged(path, FORGERIES[name])
    assert load_tokens(path, 300) is None
    dialogues.go(cut=1)
    assert path.read_bytes() == good


# ---- what is no file


def test_a_pipe_or_device_is_refused_by_name_and_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "zero.txt").symlink_to("/dev/zero")
    for name in ("pipe.txt", "zero.txt"):
        with pytest.raises(DataError, match=f"{name}: found a pipe or a device"):
            list(Texts([tmp_path / name], dialogues=False))
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(report.ReportError, match="not a regular file"):
        report.write_report(tmp_path)
    os.mkfifo(tmp_path / "a.tokens")
    assert load_tokens(tmp_path / "a.tokens", 300) is None


# ---- what is shown


def test_what_is_shown_of_a_name_is_one_printable_line():
    assert printable(HOSTILE).isprintable() and printable(printable(HOSTILE)) == printable(HOSTILE)
    assert printable_lines("a\x1b\nb\r") == "a\\x1b\nb\\r"
    assert legible("\x1b[2Ja\n\t猫\u3000\xa0👩‍💻\udcff\x85") == "\\x1b[2Ja\n\t猫\u3000\xa0👩‍💻\\udcff\\x85"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_no_program_shows_a_hostile_text_as_it_is():
    shown = [Terminal() for _ in range(4)]
    lines, streams = Lines(shown[0], shown[1]), Streams(io.StringIO(), shown[2], shown[3])
    lines.line(f"\n{HOSTILE}")
    lines.notice(HOSTILE)
    streams.note(HOSTILE)
    streams.write(HOSTILE)
    chat.Chat(None, streams).say(HOSTILE)  # type: ignore[arg-type]
    for text in (stream.getvalue() for stream in shown):
        assert "abc" in text and not any(c in text for c in "\x1b\x07\r\udcff")


def test_a_result_that_no_terminal_reads_is_written_as_it_is():
    out = io.StringIO()
    Streams(io.StringIO(), out, io.StringIO()).write(HOSTILE)
    assert out.getvalue() == HOSTILE


def test_a_printed_command_names_an_unprintable_path_for_a_shell(tmp_path):
    path = tmp_path / "a'b \x1b\\\udcff猫"
    path.touch()
    said = shell_quoted(path)
    assert said.isprintable()
    found = subprocess.run(["bash", "-c", f"test -f {said}"], check=False)
    assert found.returncode == 0


# ---- encodings


@pytest.mark.parametrize("encoding", ["ascii", "gbk", "latin-1", "utf-8"])
def test_no_encoding_and_no_lone_surrogate_ends_a_program(encoding, tmp_path, monkeypatch):
    folder = tmp_path / "\udcff\x1b[31m"
    folder.mkdir()
    texts = [*FACTS, *CHATS, "a\ud800b 🐱 猫\u3000"] * 3
    (folder / "t.json").write_text(json.dumps(texts))
    where = f"--checkpoint-dir {folder / 'run'} --plain"
    small = "--n-layer 1 --n-head 1 --n-embd 4 --block-size 8 --epochs 1 --tokenizer char"
    monkeypatch.setattr(summary, "probe", lambda workers: 1.0)
    before = signal.getsignal(signal.SIGINT)
    for command in (
        f"train --data {folder / 't.json'} {where} {small}", f"report {folder / 'run'}",
        f"train {where} --resume --epochs=2", f"checkpoint ls {folder / 'run'}",
        f"generate {folder / 'run'} --prompt a --max-tokens 3", f"explain {folder / 'run'} --prompt a",
        f"chat {folder / 'run'} --prompt=用户 --max-tokens 3", f"evaluate {folder / 'run'}",
        f"tokenize {folder / 'run'} --prompt=用户", f"tokenize {folder / 'run'} --decode 0 1 2 3 4 5 6 7 8 9",
    ):  # fmt: skip
        out, err = io.BytesIO(), io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding, write_through=True))
        monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(err, encoding, write_through=True))
        code = exit_code(lambda command=command: main(command.split()))
        signal.signal(signal.SIGINT, before)
        assert code == 0, err.getvalue()
        assert b"\x1b" not in out.getvalue() + err.getvalue()


@pytest.mark.parametrize("system", ["Be brief.\nBe kind. " * 40, "a\ud800b"])
def test_a_run_over_any_system_text_can_be_resumed_and_talked_to(system, fields):
    document = changed(fields, "sources", {"pretraining": Sources(["/a.json"], "0" * 64, system).to_dict()})
    state = TrainState.from_dict(plain.unpack(plain.pack(document)))
    assert state.sources["pretraining"].system == system
    assert LanguageModel.of(state).form.system == system


@pytest.mark.parametrize("separator", ["\n", "\t--\n", "=" * 300])
def test_a_run_with_any_separator_can_be_resumed(separator, fields):
    state = TrainState.from_dict(changed(fields, "config.data.separator", separator))
    assert state.config.data.separator == separator
