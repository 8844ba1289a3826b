"""`python -m tinyllm.checkpoint`: what it prints, what it refuses, and its exit codes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest

from tests.standin import QuickDisk, Standin, file_bytes, metadata, names
from tinyllm.checkpoint import CheckpointError, CheckpointManager, CheckpointStrategy, load_weights
from tinyllm.checkpoint.__main__ import main


@pytest.fixture
def run(tmp_path):
    directory = tmp_path / "run"
    with CheckpointManager(
        directory, CheckpointStrategy.best_and_periodic(2), asynchronous=False, disk=QuickDisk()
    ) as manager:
        for epoch, loss in enumerate([3.0, float("nan"), 2.5], 1):
            manager.save_checkpoint(Standin(epoch, epoch, extra={"b": b"\0"}), metadata(epoch, loss))
        manager.save_checkpoint(Standin(9, 9), metadata(3, 2.25), epoch_end=False, last=True)
    return directory


def printed(capsys, *argv) -> tuple[int, str, str]:
    code = main([str(arg) for arg in argv])
    out, err = capsys.readouterr()
    return code, out, err


def test_ls_lines_up_every_checkpoint_in_the_order_of_saving_the_bad_ones_first(run, capsys):
    (run / "checkpoint_epoch_8.bin").write_bytes(b"rotten")
    code, out, err = printed(capsys, "ls", run)
    lines = out.splitlines()
    assert code == 0
    assert [line.split()[0] for line in lines[:-2] if line] == [
        "name", "checkpoint_epoch_8.bin", "pretraining", "checkpoint_best_epoch_1_loss_3.0000.bin",
        "checkpoint_epoch_2.bin", "checkpoint_best_epoch_3_loss_2.5000.bin", "checkpoint_last.bin",
    ]  # fmt: skip
    assert lines[1].split()[-1] == "bad"
    assert "nan" in lines[5]
    assert lines[7].split()[1:4] == ["3", "9", "2.2500"]
    assert {line.index("valid") for line in lines[4:8]} == {lines[0].index("status")}
    assert "checkpoint_epoch_8.bin: a file of 6 bytes is no checkpoint" in err


def test_ls_says_what_it_checked_and_where_each_state_stands_in_its_run(run, capsys):
    damaged = run / "checkpoint_last.bin"
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    lines = printed(capsys, "ls", run)[1].splitlines()
    assert {line.split()[-1] for line in lines[3:-2]} == {"valid"}
    assert lines[-1] == "only the heads were checked; `verify` checks every byte"
    finished, fields = Standin(9, 9), Standin(9, 9).to_dict()
    fields["progress"]["status"] = "finished"
    finished.to_dict = lambda: fields  # type: ignore[method-assign]
    with CheckpointManager(run, disk=QuickDisk()) as manager:
        manager.save_final(finished, metadata(3, 2.25))
    rows = {line.split()[0]: line.split() for line in printed(capsys, "ls", run)[1].splitlines()[3:-2]}
    assert rows["model_final.bin"][-1] == rows["checkpoint_last.bin"][-1] == "finished"
    assert rows["checkpoint_epoch_2.bin"][-1] == "valid"


def test_ls_fits_eighty_columns(tmp_path, capsys):
    with CheckpointManager(tmp_path / "run", asynchronous=False, disk=QuickDisk()) as manager:
        for epoch, phase in (20, "pretraining"), (40, "instruction_tuning"):
            about = dataclasses.replace(metadata(epoch, 12.3456), phase=phase)
            manager.save_checkpoint(Standin(90_000 + epoch, 90_000 + epoch), about)
    out = printed(capsys, "ls", tmp_path / "run")[1]
    assert max(map(len, out.splitlines())) <= 80 and out.count("\n\n") == 3


def test_show_prints_digests_that_anyone_can_compute(run, capsys):
    code, out, _ = printed(capsys, "show", run, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["file"] == str(run / "checkpoint_last.bin")
    assert found["metadata"] == metadata(3, 2.25).to_dict()
    assert found["progress"]["step"] == 9
    for role in ("params", "m", "v"):
        arrays = [array.tobytes() for name, array in Standin(9).tensors().items() if name.startswith(role)]
        assert found["sha256"][role] == hashlib.sha256(b"".join(arrays)).hexdigest()
    code, out, _ = printed(capsys, "show", run / "checkpoint_epoch_2.bin")
    assert code == 0
    assert "loss: nan" in out
    assert (
        json.loads(printed(capsys, "show", run / "checkpoint_epoch_2.bin", "--json")[1])["metadata"]["loss"]
        is None
    )


def test_verify_reads_every_byte_and_fails_if_any_is_wrong(run, capsys):
    assert printed(capsys, "verify", run)[0] == 0
    path = run / "checkpoint_epoch_2.bin"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert printed(capsys, "ls", run)[0] == 0
    code, out, err = printed(capsys, "verify", run)
    assert code == 1
    assert out.count(": valid") == 3
    assert "checkpoint_epoch_2.bin: v/bias: chunk 0: checksum differs" in err
    assert printed(capsys, "verify", run / "checkpoint_last.bin", path)[0] == 1
    assert printed(capsys, "verify", run / "checkpoint_last.bin")[0] == 0


@pytest.mark.parametrize("suffix", [".bin", ".json"])
def test_export_writes_the_weights_alone(run, tmp_path, capsys, suffix):
    out = tmp_path / "weights" / f"w{suffix}"
    assert printed(capsys, "export", run, out)[0] == 0
    expected = {name: array for name, array in Standin(9).tensors().items() if name.startswith("params/")}
    if suffix == ".bin":
        fields, weights = load_weights(out)
        assert fields == Standin(9, 9).to_dict()
        with pytest.raises(CheckpointError, match="weights only"):
            CheckpointManager.load_checkpoint(out, Standin)
    else:
        found = json.loads(out.read_text())["weights"]
        weights = {name: np.array(w["data"], w["dtype"]).reshape(w["shape"]) for name, w in found.items()}
    assert {f"params/{name}": array.tobytes() for name, array in weights.items()} == {
        name: array.tobytes() for name, array in expected.items()
    }


def test_weights_under_a_checkpoint_name_are_listed_but_never_resumed_from(run, capsys):
    printed(capsys, "export", run, run / "weights.bin")
    (run / "weights.bin").rename(run / "model_final.bin")
    assert "weights only" in printed(capsys, "ls", run)[1]
    with CheckpointManager(run, read_only=True) as manager:
        assert manager.get_last_checkpoint() == run / "checkpoint_last.bin"


def test_a_failed_export_leaves_nothing(run, tmp_path, capsys):
    before = names(tmp_path)
    assert printed(capsys, "export", run, tmp_path / "w.txt")[0] == 1
    assert printed(capsys, "export", run / "none.bin", tmp_path / "w.bin")[0] == 1
    assert names(tmp_path) == before


def test_diff_shows_settings_progress_and_every_tensor_and_its_exit_code_is_that_of_diff(
    run, tmp_path, capsys
):
    one, other = Standin(1), Standin(1)
    for state, lr in ((one, 0.5), (other, 0.25)):
        fields = {**state.to_dict(), "config": {"train": {"lr": lr, "seed": 1}}, "long": [1] * 9}
        fields["identity"] = {"id": f"run {lr}"}
        fields["loss"] = float("nan")
        state.to_dict = lambda fields=fields: fields  # type: ignore[method-assign]
    other.arrays["params/wte"][0, 0] += 1
    other.arrays["m/bias"] = np.zeros(5, np.float32)
    one.arrays["m/bias"] = -other.arrays["m/bias"]  # equal numbers, other bits
    one.arrays["v/old"], other.arrays["v/bias"] = one.arrays["v/bias"], np.zeros(6, np.float32)
    files = [tmp_path / "one.bin", tmp_path / "other.bin"]
    for state, file in zip((one, other), files, strict=True):
        file.write_bytes(file_bytes(state))
    code, out, _ = printed(capsys, "diff", *files)
    rows = [line.split(maxsplit=1) for line in out.splitlines() if line.startswith("  ")]
    assert (code, dict(rows)) == (1, {
        "config.train.lr": "0.5 -> 0.25", "identity.id": "run 0.5 -> run 0.25",
        "params/wte": f"{1:9.2e}  {1 / np.linalg.norm(one.arrays['params/wte']):9.2e}".strip(),
        "params/bias": "equal bits", "m/wte": "equal bits", "m/bias": "0.00e+00        inf",
        "v/wte": "equal bits", "v/bias": "float32 (5,) -> float32 (6,)", "v/old": "only in the old one",
    })  # fmt: skip
    assert "shapes.m/bias" not in out and out.splitlines()[-1].startswith(
        "different: 1 different field, equal bits in 3 of 7"
    )
    other.arrays, fields = one.arrays, {**one.to_dict(), "identity": {"id": "other"}}
    other.to_dict = lambda: fields  # type: ignore[method-assign]
    files[1].write_bytes(file_bytes(other))
    code, out, _ = printed(capsys, "diff", *files)
    assert (code, out.splitlines()[-1][:26]) == (0, "equal: 0 different fields,")
    assert "origin, which does not count" in out
    code, out, _ = printed(capsys, "diff", run, run / "checkpoint_epoch_2.bin")
    assert code == 1 and out.startswith(f"old  {run / 'checkpoint_last.bin'}\n")
    files[1].write_bytes(files[1].read_bytes()[:-1])
    assert printed(capsys, "diff", *files)[0] == 2


def test_rm_takes_the_sidecar_along_and_keeps_the_only_valid_one(run, capsys):
    for name in ("checkpoint_epoch_2", "checkpoint_last", "checkpoint_best_epoch_1_loss_3.0000"):
        assert printed(capsys, "rm", run / f"{name}.bin")[0] == 0
    only = run / "checkpoint_best_epoch_3_loss_2.5000.bin"
    bad = run / "checkpoint_epoch_5.bin"
    bad.write_bytes(b"rotten")
    code, _, err = printed(capsys, "rm", only)
    assert (code, "--force" in err) == (1, True)
    assert printed(capsys, "rm", bad)[0] == 0
    assert names(run) == {only.name, only.with_suffix(".json").name}
    assert printed(capsys, "rm", only, "--force")[0] == 0
    assert names(run) == set()


def test_rm_refuses_a_directory_a_missing_file_a_foreign_file_and_a_directory_in_use(run, capsys):
    foreign = run / "tokens.bin"
    foreign.write_bytes(b"12345678" * 20)
    before = names(run)
    for path in (run, run / "checkpoint_epoch_77.bin", foreign, run / "checkpoint_last.json"):
        assert printed(capsys, "rm", path, "--force")[0] == 1
    with CheckpointManager(run):
        code, _, err = printed(capsys, "rm", run / "checkpoint_last.bin")
        assert (code, "in use by process" in err) == (1, True)
    assert names(run) == before


def test_what_a_hostile_name_says_to_the_terminal_is_spelt_out(tmp_path, capsys):
    path = tmp_path / "x\x1b]0;owned\x07\u202e.bin"
    path.write_bytes(file_bytes(Standin(1, extra=None)))
    hostile = Standin(2)
    hostile.to_dict = lambda: {
        "progress": {"step": 1, "status": "\x1b[2J"},
        "config": {"\x1b[1m": "\x1b[0m\n"},
    }
    (tmp_path / "checkpoint_last.bin").write_bytes(file_bytes(hostile))
    for argv in (["show", path], ["verify", path, tmp_path], ["ls", tmp_path], ["show", tmp_path],
                 ["rm", path], ["ls", tmp_path / "\x1b[31m"]):  # fmt: skip
        _, out, err = printed(capsys, *argv)
        assert all(c.isprintable() or c == "\n" for c in out + err)


@pytest.mark.parametrize(
    "argv", [[], ["ls"], ["list", "x"], ["export", "x"], ["verify"], ["rm", "x", "--forces"]]
)
def test_wrong_usage_is_2_and_failure_is_1(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    capsys.readouterr()


def test_a_missing_or_empty_directory_is_said_plainly(tmp_path, capsys):
    assert printed(capsys, "ls", tmp_path) == (0, f"{tmp_path}: no checkpoints\n", "")
    for argv in (
        ["ls", tmp_path / "none"],
        ["show", tmp_path],
        ["verify", tmp_path],
        ["show", tmp_path / "none"],
    ):
        code, out, err = printed(capsys, *argv)
        assert (code, out) == (1, "")
        assert err.startswith("error: ")


def test_it_runs_as_a_module_and_stops_quietly_when_nobody_reads(run):
    command = [sys.executable, "-m", "tinyllm.checkpoint", "ls", str(run)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.startswith("name ")
    closed = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert closed.stdout and closed.stderr
    closed.stdout.close()
    assert closed.stderr.read() == b""
    closed.stderr.close()
    closed.wait()
