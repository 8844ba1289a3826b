"""Bad input gets a message that names what was found, an exit code, and loses nothing: one table.

Exit codes: 2 for a wrong command line, 1 for the rest. `{good}` is a finished run, `{facts}` and
`{chats}` its texts, `{bad}` a folder of damaged things, `{new}` a place for a run of the case itself.
Order: the table and its test, then what one line cannot say: locks, full disks, rot, divergence.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from tests.models import chain_of
from tests.runs import CHATS, FACTS
from tests.standin import metadata
from tinyllm.checkpoint import CheckpointManager

ROOT = Path(__file__).resolve().parents[1]
SHAPE = "--n-layer 1 --n-head 2 --n-embd 8 --block-size 16 --vocab-size 280"
TINY = f"{SHAPE} --batch-size 4 --epochs 1 --plain --no-samples"
TRAIN = f"train --checkpoint-dir {{new}} --pretraining-data {{facts}} --chat-data {{chats}} {TINY}"
ON = f"train --checkpoint-dir {{new}} {TINY} --data"
RESUME = "train --checkpoint-dir {good} --plain --no-samples --resume"

# name | command | exit code | what the message must say
CASES = """
unknown option | train --no-such-option | 2 | unknown option --no-such-option, --help lists
unknown program | nosuch | 2 | unknown program, nosuch
no program |  | 2 | usage
learning rate NaN | train --lr nan | 2 | --lr, nan, finite
learning rate negative | train --lr -1 | 2 | --lr, -1, more than 0
learning rate zero | train --lr 0 | 2 | --lr, more than 0
learning rate no number | train --lr fast | 2 | --lr, fast
floor above peak | train --lr 1e-4 --min-lr 1e-3 | 2 | --min-lr, above --lr
heads do not divide channels | train --n-embd 10 --n-head 4 | 2 | --n-embd 10, not divisible, --n-head 4
no layers | train --n-layer 0 | 2 | --n-layer, at least 1
dropout of 1 | train --dropout 1 | 2 | --dropout, at most
vocabulary below the bytes | train --vocab-size 100 | 2 | --vocab-size, at least 257
beta of 1 | train --beta2 1 | 2 | --beta2, at most
held out more than all | train --val-fraction 1.5 | 2 | --val-fraction, at most 0.9
monitor without held-out part | train --monitor val --val-fraction 0 | 2 | --monitor val, --val-fraction
monitor unknown | train --monitor loss | 2 | --monitor, loss
epochs and steps | train --epochs 2 --max-steps 9 | 2 | --epochs, --max-steps, one of them
epochs beyond counting | train --epochs 10000000000000 | 2 | --epochs, at most
evaluation without held-out part | train --eval-every 5 --val-fraction 0 | 2 | --eval-every, --val-fraction
data twice | train --data {facts} --chat-data {chats} | 2 | --data, --chat-data
chats for pretraining | train --phase pretraining --chat-data x | 2 | --phase pretraining, --chat-data
facts for tuning | train --phase instruction_tuning --pretraining-data x | 2 | --pretraining-data, drop
resume and fresh | train --resume --fresh | 2 | --fresh, --resume
two resumes | train --resume-from x.bin --resume-best | 2 | --resume-from, --resume-best
workers zero | train --workers 0 | 2 | --workers, at least 1
keep best zero | train --keep-best-n 0 | 2 | --keep-best-n, at least 1
strategy unknown | {train} --strategy newest | 2 | --strategy, newest, best-and-last
strategy every 0 epochs | {train} --strategy periodic:0 | 2 | --strategy, at least 1
data missing | {on} {bad}/missing.txt | 1 | missing.txt, not found
data empty | {on} {bad}/empty.txt | 1 | empty.txt, no text
folder empty | {on} {bad}/folder | 1 | folder, no text, .jsonl
data too short | {on} {bad}/short.txt | 1 | tokens, 17 or more, --block-size
suffix unknown | {on} {bad}/text.pdf | 1 | text.pdf, .pdf, .txt
bytes that are no UTF-8 | {on} {bad}/latin.txt | 1 | latin.txt, 0xe9, offset 3
JSON broken | {on} {bad}/broken.json | 1 | broken.json, line 2
JSON of another shape | {on} {bad}/shape.json | 1 | shape.json, line 1, docs/data.md
JSON entry of another shape | {on} {bad}/entry.json | 1 | entry.json, entry 2, prompt
chats without a conversation | {train} --chat-data {facts} | 1 | no conversation
encoding unknown | train --encoding latin-99 | 2 | --encoding, latin-99, utf-8
suffix without a dot | train --suffix md | 2 | --suffix, md, .md
JSON line broken | {on} {bad}/line.jsonl | 1 | line.jsonl, line 2
nothing left to train on | {on} {bad}/one.json --val-fraction 0.5 | 1 | 1 document, hold out
more memory than there is | {train} --batch-size 100000000 | 1 | GB of memory, machine has, --batch-size
directory is a file | train --checkpoint-dir {facts} --data {facts} --plain | 1 | facts.json
directory below a file | train --checkpoint-dir {facts}/run --data {facts} | 1 | facts.json
used directory | train --checkpoint-dir {good} --data {facts} | 1 | already holds a run, --resume, --fresh
resume where nothing is | train --checkpoint-dir {new} --resume | 1 | no such directory, --checkpoint-dir
resume in an empty folder | train --checkpoint-dir {bad}/nothing --resume | 1 | no valid, drop --resume
resume from a missing file | {resume}-from {bad}/missing.bin | 1 | missing.bin, not found, --resume alone
resume from a text | {resume}-from {facts} | 1 | facts.json, checkpoint, --resume alone
resume from a torn file | {resume}-from {bad}/torn.bin | 1 | torn.bin, bytes, --resume alone
resume from a rotten file | {resume}-from {bad}/rotten.bin | 1 | rotten.bin, checksum, --resume alone
resume from weights alone | {resume}-from {bad}/weights.bin | 1 | weights.bin, Adam, cannot resume
resume with a rate that is none | {resume} --lr nan | 2 | --lr, nan, finite
resume with other shapes | {resume} --n-embd 16 | 2 | --n-embd 16, has 8, cannot change
resume with another seed | {resume} --seed 7 | 2 | --seed 7, cannot change
resume with a new vocabulary | {resume} --vocab-size 999 | 2 | --vocab-size 999, cannot change
resume with another tokenizer | {resume} --tokenizer char | 2 | --tokenizer char, has bpe, cannot change
texts gone | {resume} --epochs 3 --chat-data {bad}/missing.json | 1 | missing.json, not found
other texts | {resume} --epochs 3 --chat-data {bad}/others.json | 1 | not those of, --allow-new-data
diverging | {train} --lr 1e30 --grad-clip 0 --warmup 0 --epochs 9 | 1 | step, not finite, bad tensor, --lr
model missing | generate {bad}/missing.bin --prompt x | 1 | missing.bin
model a text | generate {facts} --prompt x | 1 | facts.json
model nowhere | generate {bad}/folder --prompt x | 1 | folder, no valid checkpoint
model torn | generate {bad}/torn.bin --prompt x | 1 | torn.bin
temperature negative | generate {good} --prompt x --temperature -1 | 2 | --temperature, at least 0
top-p of 2 | generate {good} --prompt x --top-p 2 | 2 | --top-p, at most 1
no tokens wanted | generate {good} --prompt x --max-tokens 0 | 2 | --max-tokens
no beams | generate {good} --prompt x --beams 0 | 2 | --beams
chat with a missing model | chat {bad}/missing.bin --prompt x | 1 | missing.bin
chat asked nothing | chat {good} --prompt= | 2 | --prompt
evaluate a missing model | evaluate {bad}/missing.bin | 1 | missing.bin
evaluate a text as a model | evaluate {facts} | 1 | facts.json
evaluate a torn model | evaluate {bad}/torn.bin | 1 | torn.bin
evaluate with a torn second model | evaluate {good} {bad}/torn.bin {facts} | 1 | torn.bin
evaluate a folder without a model | evaluate {bad}/folder | 1 | folder, no valid checkpoint
evaluate weights that name no texts | evaluate {bad}/nameless.bin | 2 | nameless.bin, --data
evaluate on a missing text | evaluate {good} {bad}/missing.txt | 1 | missing.txt, not found
evaluate on no text | evaluate {good} {bad}/empty.txt | 1 | empty.txt, no text
evaluate on an empty folder | evaluate {good} {bad}/folder | 1 | folder, no text, .jsonl
evaluate on a name that is too long | evaluate {good} {long} | 1 | too long
evaluate on bytes that are no UTF-8 | evaluate {good} {bad}/latin.txt | 1 | latin.txt, 0xe9, offset 3
evaluate on broken JSON | evaluate {good} --chat-data {bad}/broken.json | 1 | broken.json, line 2
evaluate facts as chats | evaluate {good} --chat-data {facts} | 1 | no conversation
evaluate workers zero | evaluate {good} --workers 0 | 2 | --workers, at least 1
evaluate answers negative | evaluate {good} --answers -1 | 2 | --answers, at least 0
tokenize with a missing model | tokenize {bad}/missing.bin --prompt x | 1 | missing.bin
tokenize with a text as a model | tokenize {facts} --prompt x | 1 | facts.json
tokenize with a torn model | tokenize {bad}/torn.bin --prompt x | 1 | torn.bin
tokenize in an empty folder | tokenize {bad}/folder --prompt x | 1 | folder, no checkpoint
tokenize a word as an id | tokenize {good} --decode x | 2 | --decode, x, ids
tokenize an id beyond the vocabulary | tokenize {good} --decode 99999 | 1 | id 99999, expected 0 to
tokenize both ways | tokenize {good} --decode 1 --prompt x | 2 | --decode, --prompt, one of them
seed beyond float64 | generate {good} --prompt x --seed {huge} --top-k -{huge} | 2 | --top-k, at least 0
steps beyond float64 | train --max-steps {huge} | 2 | --max-steps, at most
report of nothing | report {bad}/folder | 1 | metrics.jsonl
report without a place | report {good} --out {bad}/missing/report.html | 1 | missing/report.html, cannot be
show a torn file | checkpoint show {bad}/torn.bin | 1 | torn.bin
verify a rotten file | checkpoint verify {bad}/rotten.bin | 1 | rotten.bin, checksum
export as what? | checkpoint export {good} {bad}/model.zip | 1 | model.zip, .json
list what is no directory | checkpoint ls {bad}/missing | 1 | missing, no such directory
remove the only one | checkpoint rm {bad}/only/checkpoint_last.bin | 1 | only, --force
remove what is not there | checkpoint rm {good}/missing.bin | 1 | missing.bin
"""
TABLE = [tuple(cell.strip() for cell in line.split("|")) for line in CASES.strip().splitlines()]


def call(command: list[str]) -> int:
    """Run `tinyllm COMMAND` in this process and return its exit code."""
    from tinyllm.cli.main import main

    try:
        return main(command)
    except SystemExit as end:  # argparse
        return int(end.code or 0)


def contents(folder: Path) -> dict[str, str]:
    """Return a hash of every file below `folder`, but of the lock and what a resume may derive again."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (".lock", "config.toml") and path.suffix != ".tokens"
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> dict[str, Path]:
    """Make a good run, its texts, and a folder of bad things."""
    base = tmp_path_factory.mktemp("world")
    facts, chats, good, bad = base / "facts.json", base / "chats.json", base / "good", base / "bad"
    (bad / "nothing").mkdir(parents=True)
    facts.write_text(json.dumps(FACTS, ensure_ascii=False), encoding="utf-8")
    chats.write_text(json.dumps(CHATS, ensure_ascii=False), encoding="utf-8")
    world = {"base": base, "facts": facts, "chats": chats, "good": good, "bad": bad}
    assert call(TRAIN.replace("{new}", "{good}").format(**world).split()) == 0
    (bad / "folder").mkdir()
    texts = {
        "empty.txt": b"", "short.txt": b"word", "text.pdf": b"%PDF", "latin.txt": b"caf\xe9" + b" creme" * 9,
        "broken.json": b'["a",\n b]', "shape.json": b'{"a": 1}', "entry.json": b'["a", {"b": 1}]',
        "line.jsonl": b'"a"\n{"text": \n', "one.json": b'["only one document"]',
        "others.json": b'["User: Who? Assistant: Me."]',
    }  # fmt: skip
    for name, content in texts.items():
        (bad / name).write_bytes(content)
    whole = bytearray((good / "model_final.bin").read_bytes())
    (bad / "torn.bin").write_bytes(whole[: len(whole) // 2])
    whole[-10] ^= 1
    (bad / "rotten.bin").write_bytes(whole)
    assert call(["checkpoint", "export", str(good / "model_final.bin"), str(bad / "weights.bin")]) == 0
    with CheckpointManager(bad / "nothing") as manager:  # a model that no run has made
        manager.save_final(chain_of("abc"), metadata(), bad / "nameless.bin")
    (bad / "only").mkdir()
    (bad / "only" / "checkpoint_last.bin").write_bytes((good / "model_final.bin").read_bytes())
    return world


@pytest.mark.parametrize("name, command, code, words", TABLE, ids=[row[0] for row in TABLE])
def test_bad_input_gets_a_message_and_loses_nothing(name, command, code, words, world, tmp_path, capsys):
    for short, long in (("{train}", TRAIN), ("{on}", ON), ("{resume}", RESUME)):
        command = command.replace(short, long)
    before = contents(world["base"])
    capsys.readouterr()
    long = {"long": "x" * 5000, "huge": "9" * 400}
    found = call(command.format(**world, **long, new=tmp_path / "new").split())
    message = capsys.readouterr().err
    assert found == int(code), message
    for word in words.split(","):
        assert word.strip() in message, f"{word.strip()!r} is not in: {message}"
    assert "Traceback" not in message
    assert contents(world["base"]) == before


def test_there_are_at_least_forty_cases():
    assert len(TABLE) >= 40


def test_a_second_run_in_the_same_directory_is_refused_and_names_the_first(world, capsys):
    before = contents(world["good"])
    with CheckpointManager(world["good"]):
        held = subprocess.run(
            [sys.executable, "-m", "tinyllm", *RESUME.format(**world).split()],
            cwd=ROOT, capture_output=True, text=True,
        )  # fmt: skip
    assert held.returncode == 1
    assert (
        f"process {os.getpid()} on {socket.gethostname()}" in held.stderr and "Traceback" not in held.stderr
    )
    assert contents(world["good"]) == before


def on_a_small_disk(arguments: list[str], most: int) -> str:
    """Run the command where no file may grow beyond `most` bytes; it must fail. Return what it said."""
    resource = import_module("resource")

    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    full = subprocess.run(
        [sys.executable, "-m", "tinyllm", *arguments],
        cwd=ROOT, capture_output=True, text=True, preexec_fn=small_files,
    )  # fmt: skip
    assert full.returncode == 1, full.stderr
    assert "Traceback" not in full.stderr
    return full.stderr


def test_a_disk_too_full_for_a_first_checkpoint_is_reported_and_the_next_run_works(world, tmp_path):
    run = tmp_path / "run"
    arguments = TRAIN.format(**world, new=run).split()
    assert "not saved" in on_a_small_disk(arguments, 30_000)
    assert not [path for path in run.iterdir() if path.name.startswith(".tmp")]
    failed = (run / "metrics.jsonl").read_bytes()
    assert call(arguments) == 0
    assert (run / "previous-1" / "metrics.jsonl").read_bytes() == failed  # not mixed into the new one's


def test_a_disk_too_full_for_tokens_names_their_place(world, tmp_path):
    message = on_a_small_disk(TRAIN.format(**world, new=tmp_path / "run").split(), 1_000)
    assert (
        f"{tmp_path / 'run' / 'data'}: the tokens of pretraining" in message and "free some space" in message
    )


def test_a_disk_too_full_for_the_log_names_it(world, tmp_path):
    run = copied(world["good"], tmp_path)
    assert call(resume(run)) == 0  # its tokens are kept, whatever texts other cases have tried
    before = contents(run)
    message = on_a_small_disk([*resume(run), "--epochs", "3"], (run / "metrics.jsonl").stat().st_size)
    assert f"{run / 'metrics.jsonl'}: cannot be written" in message
    assert contents(run) == before


def test_a_disk_that_is_full_later_keeps_what_was_saved(world, tmp_path):
    run = copied(world["good"], tmp_path)
    before, logged = contents(run), (run / "metrics.jsonl").read_bytes()
    assert "earlier checkpoints are still there" in on_a_small_disk([*resume(run), "--epochs", "3"], 30_000)
    assert (run / "metrics.jsonl").read_bytes().startswith(logged)
    for grown in ("metrics.jsonl", "report.html"):  # what a run keeps writing
        before.pop(grown)
    assert before.items() <= contents(run).items()
    assert call([*resume(run), "--epochs", "3"]) == 0


def copied(good: Path, tmp_path: Path) -> Path:
    """Return a copy of the good run, to be trained on."""
    return Path(shutil.copytree(good, tmp_path / "run"))


def resume(run: Path) -> list[str]:
    return ["train", "--checkpoint-dir", str(run), "--plain", "--no-samples", "--resume"]


def test_a_rotten_latest_is_set_aside_and_the_one_before_it_is_resumed_from(world, tmp_path, capsys):
    run = copied(world["good"], tmp_path)
    rotten = bytearray((run / "model_final.bin").read_bytes())
    rotten[-10] ^= 1
    (run / "model_final.bin").write_bytes(rotten)
    capsys.readouterr()
    assert call([*resume(run), "--epochs", "2"]) == 0
    message = capsys.readouterr().err
    for said in ("checksum", "set aside as model_final.bin.corrupt", "is used instead"):
        assert said in message
    assert (run / "model_final.bin.corrupt").read_bytes() == rotten


def test_a_run_resumes_from_the_latest_of_a_directory_that_is_named(world, tmp_path, capsys):
    arguments = (
        f"train --checkpoint-dir {tmp_path / 'run'} --plain --no-samples --epochs 2 --resume-from".split()
    )
    assert call([*arguments, str(world["good"])]) == 0
    assert "resuming from model_final.bin" in capsys.readouterr().err
    assert call([*arguments, str(world["bad"] / "folder")]) == 1
    assert "folder: no valid checkpoint to resume from" in capsys.readouterr().err


def test_a_fresh_run_sets_the_earlier_one_aside_but_no_file_of_the_user(world, tmp_path):
    run = copied(world["good"], tmp_path)
    before = contents(run)
    (run / "notes.txt").write_text("mine", encoding="utf-8")
    (run / "model_final.bin.corrupt").write_bytes(b"rot")
    assert call([*TRAIN.format(**world, new=run).split(), "--fresh"]) == 0
    assert contents(run / "previous-1") == {
        **before,
        "model_final.bin.corrupt": hashlib.sha256(b"rot").hexdigest(),
    }
    assert (run / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_a_run_that_diverges_after_a_resume_leaves_its_earlier_bests_and_its_final_model(world, tmp_path):
    run = copied(world["good"], tmp_path)
    earlier = {name: mark for name, mark in contents(run).items() if "best" in name or "final" in name}
    wild = ["--epochs", "9", "--lr", "1e30", "--grad-clip", "0", "--warmup", "0", "--keep-best-n", "99"]
    assert call([*resume(run), *wild]) == 1
    assert len(earlier) > 2 and earlier.items() <= contents(run).items()
    tamer = ["--resume-from", str(run / "model_final.bin"), "--epochs", "2"]
    assert call(["train", "--checkpoint-dir", str(run), "--plain", "--no-samples", *tamer]) == 0


def test_texts_of_a_missing_phase_are_refused_and_of_one_that_is_over_are_reported(world, tmp_path, capsys):
    run = tmp_path / "run"
    assert call(f"train --checkpoint-dir {run} --data {world['facts']} {TINY}".split()) == 0
    capsys.readouterr()
    assert call([*resume(run), "--chat-data", str(world["chats"])]) == 2
    assert "--phase instruction_tuning adds it" in capsys.readouterr().err
    assert call([*resume(world["good"]), "--pretraining-data", str(world["chats"])]) == 0
    assert "pretraining is over" in capsys.readouterr().err


def test_a_character_that_a_char_tokenizer_never_saw_is_named(world, tmp_path, capsys):
    run = tmp_path / "run"
    assert call([*TRAIN.format(**world, new=run).split(), "--tokenizer", "char"]) == 0
    capsys.readouterr()
    assert call(["generate", str(run), "--prompt", "Ж"]) == 1
    message = capsys.readouterr().err
    assert "Ж" in message and "Traceback" not in message


def test_texts_that_changed_are_refused_unless_allowed(world, tmp_path, capsys):
    run = tmp_path / "run"
    arguments = TRAIN.format(**world, new=run).split()
    assert call(arguments) == 0
    other = tmp_path / "other.json"
    other.write_text(json.dumps(CHATS[:-1], ensure_ascii=False), encoding="utf-8")
    again = [*resume(run), "--epochs", "2"]
    assert call([*again, "--chat-data", str(other)]) == 1
    assert call([*again, "--chat-data", str(other), "--allow-new-data"]) == 0


def test_the_first_ctrl_c_is_noted_and_one_a_second_later_ends_the_process_there():
    program = """if True:
        import os, signal
        from tinyllm.cli.interrupt import Interrupt
        moments = iter([7.0, 7.0005, 7.9, 8.1])
        with Interrupt(lambda: next(moments)) as asked:
            for _ in range(3):  # a key that bounces
                os.kill(os.getpid(), signal.SIGINT)
                print(asked(), flush=True)
            os.kill(os.getpid(), signal.SIGINT)
            print("still here", flush=True)
        """
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (130, "True\nTrue\nTrue\n")
    assert "finishing the step" in done.stderr and done.stderr.endswith(
        "--resume continues from the latest\n"
    )


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"])
def test_a_signal_is_noted_even_where_nobody_can_be_told(name):
    program = f"""if True:
        import os, signal
        from tinyllm.cli.interrupt import Interrupt
        os.close(2)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # this suite may run under nohup
        with Interrupt() as asked:
            os.kill(os.getpid(), signal.{name})
            assert asked() and asked.signal == signal.{name}
        """
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT)
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "imported"),
    [
        (["tinyllm.train", "--checkpoint-dir=none"], "numpy"),
        (["tinyllm.generate", "none.bin"], "numpy"),
        (["tinyllm.chat", "none.bin"], "numba"),
        (["tinyllm.explain", "none.bin", "--prompt=a"], "numba"),
        (["tinyllm.report", "none"], "tinyllm.page.history"),
        (["tinyllm.evaluate", "none.bin"], "numba"),
        (["tinyllm.encode", "none.bin"], "numpy"),
        (["tinyllm", "chat", "none.bin"], "tinyllm.chat"),
        (["tinyllm", "checkpoint", "ls", "none"], "numpy"),
    ],
)
def test_ctrl_c_while_a_program_starts_ends_it_with_130_and_without_a_traceback(
    arguments, imported, tmp_path
):
    """It is pressed when `imported` is looked for, and once more while Python ends."""
    code = """if True:
        import atexit, os, runpy, signal, sys

        class Presses:
            def find_spec(self, name, path=None, target=None):
                if name == IMPORTED:
                    sys.meta_path.remove(self)
                    atexit.register(press)
                    press()

        def press():
            os.kill(os.getpid(), signal.SIGINT)

        sys.meta_path.insert(0, Presses())
        program = sys.argv.pop(1)
        runpy.run_module(program, run_name="__main__")
        """.replace("IMPORTED", repr(imported))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "")
    assert not list(tmp_path.iterdir())
