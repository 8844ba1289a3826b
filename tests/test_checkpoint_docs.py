"""docs/checkpoints.md is true: its reader reads, its tables are the code's; the golden file loads."""

from __future__ import annotations

import ast
import hashlib
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tinyllm.checkpoint import CheckpointManager, CheckpointMetadata, export, format
from tinyllm.checkpoint.format import Header, pack_header
from tinyllm.config import SavingConfig
from tinyllm.run.state import Identity, TrainState

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8")
GOLDEN = ROOT / "tests" / "golden" / "checkpoint_v1.bin"
# Printed by `python -m benchmarks.make_golden_checkpoint`, of parameters, m and v, tensor after tensor.
ROWS_SHA256 = "af34f9281c01333cd7ebc6565cff04e5cb8db27b26fffbb3d3da19f805f6e45e"


def code() -> str:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    return block


def documented_read(path: Path) -> Any:
    """Run the page's reader on a file."""
    names: dict[str, Any] = {"__name__": "a_reader"}
    exec(compile(code(), "docs/checkpoints.md", "exec"), names)
    return names["read"](path)


def test_the_reader_needs_msgpack_and_the_standard_library_and_thirty_lines():
    imports = [node for node in ast.walk(ast.parse(code())) if isinstance(node, ast.Import)]
    imported = {alias.name for node in imports for alias in node.names}
    assert imported - set(sys.stdlib_module_names) == {"msgpack"}
    assert "from " not in code()
    body = code().split("\n\n\nif __name__")[0]
    assert sum(bool(line.strip()) for line in body.splitlines()) <= 30


def test_the_reader_finds_what_tinyllm_finds():
    found, tensors = documented_read(GOLDEN)
    state, metadata = CheckpointManager.load_checkpoint(GOLDEN)
    assert found["metadata"] == metadata.to_dict()
    assert repr(TrainState.from_dict(found["document"]).to_dict()) == repr(state.to_dict())
    assert list(tensors) == list(state.tensors())
    for name, array in state.tensors().items():
        dtype, shape, payload = tensors[name]
        assert np.array_equal(np.frombuffer(payload, dtype).reshape(shape), array)


@pytest.mark.parametrize("position", [12, 40, 70, 3000, -1])
def test_the_reader_notices_a_flipped_bit(tmp_path, position):
    data = bytearray(GOLDEN.read_bytes())
    data[position] ^= 1
    (tmp_path / "rotten.bin").write_bytes(data)
    with pytest.raises(AssertionError):
        documented_read(tmp_path / "rotten.bin")


def test_the_header_table_is_the_header():
    rows = re.findall(r"^\| (\d+) \| (\d+) \| (\w+) \|", PAGE, re.MULTILINE)
    names = [name for _, _, name in rows]
    assert names[4:11] == list(Header._fields)
    places = {name: slice(int(at), int(at) + int(size)) for at, size, name in rows}
    assert [place.start for place in places.values()] == [0, *(p.stop for p in places.values())][:-1]
    assert places["crc"].stop == format.HEADER_BYTES
    for number, name in enumerate(Header._fields):
        values = [0] * len(Header._fields)
        values[number] = 0x01020304
        data = pack_header(Header(*values))
        assert int.from_bytes(data[places[name]], "little") == 0x01020304
    data = pack_header(Header(*[0] * len(Header._fields)))
    said = re.findall(r"\| (?:start|magic) \| `([0-9a-f ]+)`", PAGE)
    assert bytes.fromhex("".join(said)) == data[: places["magic"].stop]


def test_the_numbers_on_the_page_are_those_of_the_code():
    assert format.CHUNK_BYTES == 64 << 20 and "at most 64 MiB" in PAGE
    assert format.plain.MAX_MEMORY == 20 << 20 and "the map may take 20 MiB" in PAGE
    assert format.INDEX_MEMORY == 8 << 20 and "the index 8 MiB" in PAGE
    assert format.plain.MAX_DEPTH == 64 and "at most 64 levels" in PAGE
    assert f"1 to {format.MAX_NAME} printable" in PAGE
    assert all(f"`{dtype}`" in PAGE for dtype in format.DTYPES)


def test_the_commands_on_the_page_exist():
    for path in re.findall(r"(?:pytest |`)(tests/\w+\.py)", PAGE):
        assert (ROOT / path).is_file(), path
    for module in re.findall(r"python -m (benchmarks\.\w+)", PAGE):
        assert (ROOT / (module.replace(".", "/") + ".py")).is_file(), module


def test_the_golden_file_of_version_1_loads_bit_for_bit():
    state, metadata = CheckpointManager.load_checkpoint(GOLDEN)
    digest = hashlib.sha256()
    for array in state.tensors().values():
        digest.update(array.tobytes())
    assert digest.hexdigest() == ROWS_SHA256
    assert metadata == CheckpointMetadata(3, 1.25, 7.5e-4, "2026-01-01 12:34:56", "instruction_tuning")
    assert (state.progress.step, state.progress.index, state.stopping.counter) == (37, 2, 1)
    # Fields that are younger than the file have the meaning of their absence.
    assert (state.identity, state.config.saving) == (Identity(), SavingConfig())
    train = state.config.train
    assert (state.stopping.best_step, train.recompute, train.products) == (0, False, "blas")
    assert not state.config.data.separate_markers
    assert {source.system for source in state.sources.values()} == {""}
    assert state.tokenizer.decode(state.tokenizer.encode("the cat 月亮")) == "the cat 月亮"
    _, weights = export.load_weights(GOLDEN)
    assert all(
        np.array_equal(weights[name], view) for name, view in state.layout.named(state.rows[0]).items()
    )


def test_the_golden_sidecar_is_what_is_written_today(tmp_path):
    for suffix in (".bin", ".json"):
        (tmp_path / f"checkpoint_last{suffix}").write_bytes(GOLDEN.with_suffix(suffix).read_bytes())
    sidecar = tmp_path / "checkpoint_last.json"
    sidecar.unlink()
    CheckpointManager(tmp_path).close()
    assert sidecar.read_bytes() == GOLDEN.with_suffix(".json").read_bytes()


def test_the_golden_file_is_what_is_written_today(tmp_path):
    """Format version 1 has not changed; if this fails, that is another version."""
    document, _ = documented_read(GOLDEN)
    state, metadata = CheckpointManager.load_checkpoint(GOLDEN)
    same: Any = SimpleNamespace(to_dict=lambda: document["document"], tensors=state.tensors)
    with CheckpointManager(tmp_path, asynchronous=False) as manager:
        manager.save_checkpoint(same, metadata, epoch_end=True)
    assert (tmp_path / "checkpoint_last.bin").read_bytes() == GOLDEN.read_bytes()
