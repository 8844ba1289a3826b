"""Files made to harm are refused by name, in little time and memory, and say nothing to the terminal.

Order: bombs under limits, drawn values, drawn bytes, what is no file, the terminal.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import bombs
from tests.standin import QuickDisk, Standin, metadata
from tests.test_checkpoint_rot import DATA as REAL
from tests.test_checkpoint_rot import FILE, HEAD, InMemory
from tinyllm.checkpoint import CheckpointError, CheckpointManager, plain, reader
from tinyllm.checkpoint.__main__ import main
from tinyllm.checkpoint.disk import Disk
from tinyllm.checkpoint.format import HEADER_BYTES
from tinyllm.run.state import TrainState

ROOT = Path(__file__).resolve().parents[1]
SMALL = bombs.small()
linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads /proc")


# ---- bombs under limits


def open_all(files: dict[str, bytes], directory: Path) -> None:
    """Open each in every way, in a process under RLIMIT_AS and a time limit; assert how it went."""
    paths = []
    for name, data in files.items():
        paths.append(directory / name.replace(": ", "-").replace(" ", "_"))
        paths[-1].write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-m", "tests.opener", *map(str, paths)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == 3 * len(files), "a process died, or took too long"
    for each in found:
        good = each["file"] == "a_good_file"
        assert each["beyond"] <= 64 << 20, each
        assert not each["outcome"].startswith("CRASH"), each
        assert not good or each["outcome"] == "ok", each
        assert good or each["way"] == "show" or each["file"] in each["outcome"], each


@linux
def test_small_bombs_are_refused_by_name_in_bounded_time_and_memory(tmp_path):
    open_all(SMALL, tmp_path)


@linux
@pytest.mark.slow
def test_large_bombs_are_refused_by_name_in_bounded_time_and_memory(tmp_path):
    open_all(bombs.large(), tmp_path)


def test_what_is_refused_for_its_memory_could_be_built_with_more():
    packed = bombs.array(b"\x91\xc0" * 200_000, 200_000)
    with pytest.raises(ValueError, match="bytes of memory"):
        plain.unpack(packed)
    assert len(plain.unpack(packed, 1 << 30)) == 200_000


# ---- drawn values

VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=8)
    | st.binary(max_size=8) | st.sampled_from([0, 1, 2**31, 2**32, 2**62, 2**63, -1, "state", "float32"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
REAL_MAP = msgpack.unpackb(REAL[HEADER_BYTES : HEAD.header.index_at])
REAL_INDEX = msgpack.unpackb(REAL[HEAD.header.index_at :][: HEAD.header.index_bytes])
REST = REAL[HEAD.header.index_at + HEAD.header.index_bytes :]


def places(value: Any) -> list[tuple[Any, Any]]:
    """Return every (container, key) in nested values."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [place for key in keys for place in [(value, key), *places(value[key])]]


def edited(value: Any, draw: Any) -> Any:
    """Return the value with one to three places replaced, deleted or exchanged."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        found = places(value)
        if not found:
            break
        container, key = found[draw(st.integers(0, len(found) - 1))]
        how = draw(st.sampled_from(["replace", "delete", "exchange"]))
        if how == "replace":
            container[key] = draw(VALUES)
        elif how == "delete":
            del container[key]
        else:
            other, its_key = found[draw(st.integers(0, len(found) - 1))]
            container[key] = copy.deepcopy(other[its_key])
    return value


def opened(data: bytes) -> None:
    """Open a file in every way; each succeeds, or raises CheckpointError with the file's name."""
    disk = InMemory(data)
    for read in (
        lambda: reader.read_state(FILE, disk, TrainState),
        lambda: reader.read_weights(FILE, disk),
        lambda: reader.digests(FILE, disk),
    ):
        try:
            read()
        except CheckpointError as error:
            assert str(error).startswith(f"{FILE}: ")
            assert str(error).isprintable()


@settings(max_examples=150)
@given(st.data())
def test_real_values_with_drawn_changes_are_loaded_or_refused_by_name(data):
    packed_map, packed_index = msgpack.packb(REAL_MAP), msgpack.packb(REAL_INDEX)
    if data.draw(st.booleans()):
        packed_map = msgpack.packb(edited(REAL_MAP, data.draw))
    else:
        packed_index = msgpack.packb(edited(REAL_INDEX, data.draw))
    opened(bombs.forge(packed_map, packed_index, REST))


@settings(max_examples=150)
@given(st.binary(max_size=300), st.binary(max_size=300), st.binary(max_size=100), st.booleans())
def test_drawn_bytes_with_right_checksums_are_refused_by_name(packed_map, packed_index, rest, good_map):
    opened(bombs.forge(bombs.whole_map() if good_map else packed_map, packed_index, rest))


@given(st.binary(max_size=200))
def test_drawn_bytes_are_refused_by_name(data):
    opened(data)
    opened(REAL[:HEADER_BYTES] + data)


# ---- what is no file


def no_files(directory: Path) -> dict[str, Path]:
    """Make what else may stand under a checkpoint's name."""
    found = {name: directory / f"checkpoint_epoch_{n}.bin" for n, name in enumerate(
        ("pipe", "directory", "link to itself", "link to nothing", "link to a device"))}  # fmt: skip
    os.mkfifo(found["pipe"])
    found["directory"].mkdir()
    found["link to itself"].symlink_to(found["link to itself"])
    found["link to nothing"].symlink_to(directory / "nothing")
    found["link to a device"].symlink_to("/dev/zero")
    return found


def test_what_is_no_file_is_named_and_never_waited_for(tmp_path):
    for path in no_files(tmp_path).values():
        with pytest.raises(CheckpointError, match=f"{path.name}: cannot be read"):
            reader.read_head(path, Disk())


def test_a_directory_full_of_what_is_no_file_can_be_saved_to_and_resumed_from(tmp_path):
    made = no_files(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"checkpoint_epoch_2\.bin: cannot be read: .* move it elsewhere"
    ):
        CheckpointManager(tmp_path)  # what a link to itself hides may be newer than all the others
    made.pop("link to itself").unlink()
    with CheckpointManager(tmp_path, disk=QuickDisk(), asynchronous=False) as manager:
        manager.save_checkpoint(Standin(1, 1), metadata(1, 3.0))
        found = manager.get_last_checkpoint()
        assert found is not None and manager.load_checkpoint(found, Standin)[0].seed == 1
    assert all(os.path.lexists(path) for path in made.values())


def test_a_link_to_a_checkpoint_is_read_and_a_save_replaces_the_link_not_what_it_names(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    with CheckpointManager(tmp_path / "elsewhere", disk=QuickDisk(), asynchronous=False) as manager:
        manager.save_checkpoint(Standin(1, 1), metadata(1, 3.0))
    target, run = tmp_path / "elsewhere" / "checkpoint_last.bin", tmp_path / "run"
    run.mkdir()
    (run / "checkpoint_last.bin").symlink_to(target)
    before = target.read_bytes()
    with CheckpointManager(run, disk=QuickDisk(), asynchronous=False) as manager:
        assert manager.get_last_checkpoint() == run / "checkpoint_last.bin"
        manager.save_checkpoint(Standin(2, 2), metadata(2, 2.0))
    assert target.read_bytes() == before and not (run / "checkpoint_last.bin").is_symlink()


# ---- the terminal


@pytest.mark.parametrize("command", ["ls", "show", "verify"])
def test_no_hostile_text_speaks_to_the_terminal(tmp_path, capsys, command):
    for number, data in enumerate(SMALL.values()):
        (tmp_path / f"checkpoint_epoch_{number}.bin").write_bytes(data)
        if command == "show":
            main(["show", str(tmp_path / f"checkpoint_epoch_{number}.bin")])
    if command != "show":
        main([command, str(tmp_path)])
    printed = capsys.readouterr()
    for text in (printed.out, printed.err):
        assert all(character == "\n" or character.isprintable() for character in text)
        assert max(map(len, text.splitlines()), default=0) < 20_000
    assert "\\x1b" in printed.out + printed.err
