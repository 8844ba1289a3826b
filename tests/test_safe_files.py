"""No name in a run's directory makes the program write elsewhere; no command replaces what is not its own."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest

from tests.runs import FACTS
from tests.standin import Standin, metadata
from tinyllm import report, safe_files, train
from tinyllm.checkpoint import CheckpointError, CheckpointManager, export_weights
from tinyllm.checkpoint.__main__ import main as checkpoint
from tinyllm.checkpoint.commit import temp_name
from tinyllm.text.texts import Segment, Text
from tinyllm.text.tokens import save_tokens
from tinyllm.training import place
from tinyllm.training.metrics import Metrics

ROOT = Path(__file__).resolve().parents[1]
PRECIOUS = b"a file of the user's that is nobody else's business\n"
SMALL = (
    "--tokenizer char --n-layer 1 --n-head 2 --n-embd 8 --block-size 8 --batch-size 2 --max-steps 2 --plain"
)


@pytest.fixture
def victim(tmp_path):
    path = tmp_path / "precious.txt"
    path.write_bytes(PRECIOUS)
    return path


@pytest.fixture
def run(tmp_path):
    directory = tmp_path / "run"
    with CheckpointManager(directory, asynchronous=False) as manager:
        manager.save_checkpoint(Standin(1), metadata(1, 3.0))
    return directory


# ---- every door that opens for writing

LINKS = {
    "symbolic": lambda path, victim: path.symlink_to(victim),
    "hard": lambda path, victim: path.hardlink_to(victim),
}


def train_here(run: Path, tmp_path: Path) -> int:
    """Train in a directory that came from elsewhere."""
    text = tmp_path / "book.txt"
    text.write_text("".join(FACTS) * 20, encoding="utf-8")
    return train.main([*SMALL.split(), "--data", str(text), "--checkpoint-dir", str(run), "--no-samples"])


@pytest.mark.parametrize("kind", LINKS)
@pytest.mark.parametrize(
    "name",
    [".lock", "metrics.jsonl", "data/pretraining.tokens", "data/pretraining.tokens.tmp", "report.html",
             "model_final.bin", "checkpoint_last.json", "checkpoint_last.bin"],
)  # fmt: skip
def test_no_link_in_a_directory_is_written_through(tmp_path, victim, capsys, kind, name):
    """Training there, which makes every file that a run has, leaves the link's target as it was."""
    run = tmp_path / "run"
    (run / name).parent.mkdir(parents=True)
    LINKS[kind](run / name, victim)
    code = train_here(run, tmp_path)
    assert victim.read_bytes() == PRECIOUS
    if code:
        assert f"{run / name}" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["data", "previous-1"])
def test_no_directory_that_is_a_link_is_entered(tmp_path, capsys, name):
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    run.mkdir(), elsewhere.mkdir()
    (run / name).symlink_to(elsewhere if name == "data" else tmp_path / "none")
    (run / "metrics.jsonl").write_text("{}\n")  # of an earlier run, to be set aside
    assert train_here(run, tmp_path) == (name == "data")
    assert not [*elsewhere.iterdir()] and not (tmp_path / "none").exists()
    if name == "data":
        assert "never followed; remove it" in capsys.readouterr().err
    else:
        assert (run / "previous-2" / "metrics.jsonl").read_text() == "{}\n"


@pytest.mark.parametrize("asked_first", [True, False])
def test_a_symbolic_link_is_named_and_refused_by_the_system_too(tmp_path, victim, monkeypatch, asked_first):
    """A link that appears after the question is still not followed."""
    (tmp_path / ".lock").symlink_to(victim)
    if not asked_first:
        monkeypatch.setattr(os.path, "islink", lambda path: False)
    match = r"\.lock: cannot be locked: " + ("a symbolic link, which is never written" if asked_first else "")
    with pytest.raises(CheckpointError, match=match):
        CheckpointManager(tmp_path)
    assert victim.read_bytes() == PRECIOUS


def test_nobody_can_foresee_the_name_of_a_new_file(tmp_path):
    names = set()
    for _ in range(3):
        with safe_files.replacing(tmp_path / "page"):
            names |= {path.name for path in tmp_path.iterdir()} - {"page"}
    names |= {temp_name(tmp_path).name for _ in range(3)}
    assert len(names) == 6 and all(len(name.rsplit(".", 1)[-1].removeprefix("tmp-")) == 16 for name in names)


def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(tmp_path):
    for name, use in ((".lock", CheckpointManager), ("metrics.jsonl", Metrics)):
        os.mkfifo(tmp_path / name)
        with pytest.raises(
            (CheckpointError, OSError), match=f"{name}.*(not a regular file|cannot be written)"
        ):
            use(tmp_path)


def test_a_link_among_a_runs_files_is_set_aside_itself(tmp_path, victim):
    (tmp_path / "report.html").symlink_to(victim)
    (tmp_path / "metrics.jsonl").symlink_to(tmp_path / "nothing")
    moved = place.set_aside(tmp_path, place.files_of_a_run(tmp_path))
    assert sorted(path.name for path in moved.iterdir() if path.is_symlink()) == [
        "metrics.jsonl",
        "report.html",
    ]


def test_what_a_killed_process_left_of_a_token_cache_is_removed_by_the_next(tmp_path):
    class Characters:
        vocab_size, end_of_text = 300, 256

        def fingerprint(self):
            return "0"

        def encode_all(self, texts):
            import numpy as np

            joined = "".join(texts).encode()
            return np.frombuffer(joined, np.uint8).astype(np.int32), np.cumsum(
                [len(t) for t in texts]
            ).tolist()

    (tmp_path / ".a.tokens.0123456789abcdef").write_bytes(b"half")
    save_tokens(tmp_path / "a.tokens", [Text((Segment("abc"),), stream=True)], Characters())
    assert [path.name for path in tmp_path.iterdir()] == ["a.tokens"]


WRITERS = {"write_text", "write_bytes", "mkdir", "touch", "symlink_to", "hardlink_to", "memmap", "tofile"}
DOORS = {"safe_files.py", "checkpoint/disk.py"}
# What else may create: a new directory `previous-N`, and the transcript of :save, opened with "x".
EXCUSED = {
    ("training/place.py", "place.mkdir()"),
    ("chat.py", "path.open('x', encoding='utf-8', errors='replace')"),
    # In a temporary directory of its own.
    ("cli/plan.py", "(place / 'data' / tokens.name).symlink_to(tokens.resolve())"),
}
# These read.
EXCUSED |= {
    ("text/tokens.py", "np.memmap(file, np.uint8, 'r')"),
}


def test_only_safe_files_opens_anything_for_writing():
    found = set()
    for path in sorted((ROOT / "tinyllm").rglob("*.py")):
        name = path.relative_to(ROOT / "tinyllm").as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or name in DOORS:
                continue
            called = ast.unparse(node.func)
            modes = [each.value for each in [*node.args, *(k.value for k in node.keywords)]
                     if isinstance(each, ast.Constant) and isinstance(each.value, str)]  # fmt: skip
            opens = called.split(".")[-1] == "open" and any(
                set(mode) & set("wax+") and len(mode) < 4 for mode in modes
            )
            if opens or called == "os.open" or called.split(".")[-1] in WRITERS:
                found.add((name, ast.unparse(node)))
    assert {each for each in found if each not in EXCUSED and "os.devnull" not in each[1]} == set()


# ---- what stands at a path that a command is to write


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_an_export_never_replaces_its_source_nor_a_checkpoint_of_a_run(run, capsys, force):
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    last, best = run / "checkpoint_last.bin", run / "checkpoint_best_epoch_1_loss_3.0000.bin"
    for source, target in ((last, last), (last, best), (run, last), (run, run / "model_final.bin"),
                           (run, run / "checkpoint_last.json"),
                           (run, run / "checkpoint_epoch_7.bin")):  # fmt: skip
        assert checkpoint(["export", str(source), str(target), *force]) == 1
        assert "give another name" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_an_export_replaces_an_earlier_export_and_nothing_else_unless_forced(run, tmp_path, victim, capsys):
    copy, link = tmp_path / "copy.bin", tmp_path / "link.bin"
    copy.write_bytes((run / "checkpoint_last.bin").read_bytes())
    link.symlink_to(victim)
    for suffix in (".bin", ".json"):
        for _ in range(2):
            assert checkpoint(["export", str(run), str(tmp_path / f"weights{suffix}")]) == 0
    assert (
        checkpoint(["export", str(tmp_path / "weights.bin"), str(tmp_path / "weights.bin"), "--force"]) == 1
    )
    assert "is the checkpoint to export" in capsys.readouterr().err
    (tmp_path / "mine.json").write_text('{"mine": 1}')
    for target in (copy, link, tmp_path / "mine.json"):
        before = target.read_bytes()
        assert checkpoint(["export", str(run), str(target)]) == 1
        assert "--force to replace it" in capsys.readouterr().err
        assert target.read_bytes() == before
        assert checkpoint(["export", str(run), str(target), "--force"]) == 0
    assert victim.read_bytes() == PRECIOUS and not link.is_symlink()


def test_an_export_into_the_directory_of_a_live_run_is_refused(run, tmp_path, capsys):
    with CheckpointManager(run):
        assert checkpoint(["export", str(run), str(run / "weights.bin")]) == 1
        assert "in use by process" in capsys.readouterr().err
        assert checkpoint(["export", str(run), str(tmp_path / "weights.bin")]) == 0
    assert export_weights(run, run / "weights.bin")


def logged(directory: Path) -> Path:
    directory.mkdir()
    with Metrics(directory) as lines:
        for step in (1, 2):
            lines.write(step=step, epoch=0, phase="pretraining", tokens=step, train__loss=1.0, train__lr=0.1,
                        train__grad_norm=1.0, train__tokens_per_second=1.0)  # fmt: skip
    return directory


def test_a_report_replaces_an_earlier_report_and_nothing_else_unless_forced(tmp_path, capsys):
    run, out = logged(tmp_path / "logged"), tmp_path / "page.html"
    for _ in range(2):
        assert report.main([str(run), "--out", str(out)]) == 0
    out.write_bytes(b"")  # as mktemp makes it
    assert report.main([str(run), "--out", str(out)]) == 0
    out.write_text(out.read_text().replace("training report</title>", "inside the model</title>"))
    for _ in range(2):  # a page of `explain`, then a foreign one
        before = out.read_bytes()
        assert report.main([str(run), "--out", str(out)]) == 1
        assert "--force to replace it" in capsys.readouterr().err and out.read_bytes() == before
        out.write_text("<html>mine</html>")
    assert report.main([str(run), "--out", str(out), "--force"]) == 0
    for name in ("metrics.jsonl", ".lock", "checkpoint_last.bin", "model_final.json", "pretraining.tokens"):
        assert report.main([str(run), "--out", str(run / name), "--force"]) == 1
        assert "give another name" in capsys.readouterr().err
    if os.path.exists("/dev/null"):
        assert report.main([str(run), "--out", "/dev/null", "--force"]) == 1
        assert not Path("/dev/null").is_file()


def test_a_run_does_not_replace_a_page_that_is_not_its_own(tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / "notes").write_text("")
    text = tmp_path / "book.txt"
    text.write_text("".join(FACTS) * 20, encoding="utf-8")
    arguments = [*SMALL.split(), "--data", str(text), "--checkpoint-dir", str(run), "--no-samples"]
    assert train.main(arguments) == 0
    (run / "report.html").write_text("mine")
    assert train.main([*SMALL.split()[:0], "--resume", "--max-steps", "4", "--plain", "--no-samples",
                       "--checkpoint-dir", str(run)]) == 0  # fmt: skip
    said = capsys.readouterr()
    assert (run / "report.html").read_text() == "mine"
    assert "no report: " in said.out + said.err
    assert f"{run / 'report.html'} written" not in said.out.splitlines()[-1]
