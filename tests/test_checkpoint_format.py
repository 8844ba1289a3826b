"""The bytes of a .bin: what goes in comes out, and nothing else gets in."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.bombs import forge
from tests.standin import MeanDisk, Standin, file_bytes, metadata
from tinyllm.checkpoint import CheckpointError, CheckpointManager, export, format, plain, reader
from tinyllm.checkpoint.disk import Disk
from tinyllm.checkpoint.format import HEADER_BYTES, parse_head, parse_header
from tinyllm.checkpoint.image import Image, pack_map
from tinyllm.checkpoint.metadata import DamagedError

DTYPES = st.sampled_from(["float32", "float64", "int32", "int64"])
SHAPES = st.lists(st.integers(0, 5), max_size=3).map(tuple)
NAMES = st.text(min_size=1, max_size=20).filter(str.isprintable)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def parse(data: bytes, size: int | None = None) -> format.Head:
    header = parse_header(data[:HEADER_BYTES], len(data) if size is None else size, "it")
    return parse_head(header, data[HEADER_BYTES : HEADER_BYTES + header.map_bytes + header.index_bytes], "it")


GOOD_MAP = pack_map(Standin().to_dict(), metadata())
GOOD_INDEX = msgpack.packb([])


@given(PLAIN, st.dictionaries(NAMES, st.tuples(DTYPES, SHAPES), max_size=6), st.integers(0, 99))
def test_a_state_comes_back_bit_for_bit(tmp_path_factory, extra, tensors, seed):
    rng = np.random.default_rng(seed)
    state = Standin(seed, extra=extra)
    state.arrays = {
        name: (rng.standard_normal(shape) * 1e8).astype(dtype) for name, (dtype, shape) in tensors.items()
    }
    path = tmp_path_factory.getbasetemp() / "drawn.bin"
    path.write_bytes(file_bytes(state, metadata(3, 0.25)))
    again, about = CheckpointManager.load_checkpoint(path, Standin)
    assert again.bits() == state.bits()
    assert about == metadata(3, 0.25)


def test_short_reads_and_writes_change_nothing(tmp_path):
    with CheckpointManager(tmp_path, disk=MeanDisk()) as manager:
        path = manager.save_checkpoint(Standin(5), metadata()).result()
        again, _ = manager.load_checkpoint(path, Standin, MeanDisk())
    assert again.bits() == Standin(5).bits()


def test_tensors_larger_than_a_chunk_are_split_and_come_back(tmp_path, monkeypatch):
    monkeypatch.setattr(format, "CHUNK_BYTES", 256)
    state = Standin(3, shapes={"large": (41, 9), "exact": (64,), "small": (2,)})
    path = tmp_path / "split.bin"
    path.write_bytes(file_bytes(state))
    counts = [len(tensor.chunks) for tensor in reader.verify(path, Disk()).tensors]
    assert counts[:3] == [6, 1, 1]
    assert CheckpointManager.load_checkpoint(path, Standin)[0].bits() == state.bits()


def test_any_msgpack_library_walks_the_whole_file_and_finds_every_payload():
    state = Standin(4, extra=[1, None, b"x", {"a": 2.5}])
    data = file_bytes(state, metadata(2, 0.5), sequence=9)
    objects = list(msgpack.Unpacker(io.BytesIO(data), raw=False))
    assert len(objects[0]) == HEADER_BYTES - 2
    assert objects[1]["document"] == state.to_dict()
    assert objects[1]["metadata"] == metadata(2, 0.5).to_dict()
    for name, dtype, shape, [[offset, length, codec, store, crc]] in objects[2]:
        payload = data[offset : offset + length]
        assert (codec, store, zlib.crc32(payload)) == (0, 0, crc)
        assert payload in objects[3:]
        assert np.array_equal(np.frombuffer(payload, dtype).reshape(shape), state.tensors()[name])
    assert b"".join(objects[3:]).strip(b"\0")


def test_every_payload_can_be_mapped_at_a_64_byte_boundary(tmp_path):
    state = Standin(1, shapes={f"w{n}": (n,) for n in range(1, 40)})
    path = tmp_path / "mapped.bin"
    path.write_bytes(file_bytes(state))
    mapped = np.memmap(path, mode="r")
    for tensor in reader.read_head(path, Disk()).tensors:
        offset, length, *_ = tensor.chunks[0]
        view = mapped[offset : offset + length].view(tensor.dtype)
        assert view.ctypes.data % 64 == 0
        assert np.array_equal(view, state.tensors()[tensor.name])


@given(st.integers(0, 10_000), st.integers(1, 10_000))
def test_a_payload_follows_at_the_next_boundary_that_a_pad_can_reach(end, nbytes):
    ((offset, length),) = format.chunk_spans(end, nbytes)
    prefix = format.chunk_prefix(end, nbytes)
    assert (offset, length) == (end + len(prefix), nbytes)
    assert offset % 64 == 0
    assert len(prefix) <= 70
    pads = list(msgpack.Unpacker(io.BytesIO(prefix + bytes(nbytes))))
    assert all(not any(pad) for pad in pads)


def test_a_file_is_hardly_larger_than_its_tensors():
    shapes = {f"block{layer}.{name}": (64, 96) for layer in range(12) for name in "abcdefghijkl"}
    state = Standin(shapes=shapes)
    raw = sum(array.nbytes for array in state.tensors().values())
    assert len(file_bytes(state)) <= raw * 1.001 + 65536 + len(pack_map(state.to_dict(), metadata()))


def test_the_same_snapshot_gives_the_same_bytes_whatever_the_buffer_held_before():
    image, small, large = Image(), Standin(1), Standin(2, shapes={"w": (50, 50)})
    for state in (large, small, large):
        image.fill(pack_map(state.to_dict(), metadata()), state.tensors())
        assert bytes(image.seal(1)) == file_bytes(state)


# ---- damage


def test_every_flipped_bit_of_header_map_and_index_is_noticed():
    data = file_bytes(Standin(1))
    head = parse(data).header
    for position in range(head.index_at + head.index_bytes):
        for bit in range(8):
            bad = bytearray(data)
            bad[position] ^= 1 << bit
            with pytest.raises(CheckpointError):
                parse(bytes(bad))


def test_every_flipped_byte_after_the_index_is_noticed_on_reading(tmp_path):
    data = file_bytes(Standin(1))
    header = parse(data).header
    path = tmp_path / "flipped.bin"
    for position in range(header.index_at + header.index_bytes, len(data)):
        bad = bytearray(data)
        bad[position] ^= 0x10
        path.write_bytes(bad)
        with pytest.raises(DamagedError):
            reader.verify(path, Disk())
        with pytest.raises(DamagedError):
            reader.read_state(path, Disk(), Standin)


def test_truncation_at_every_length_and_trailing_junk_are_noticed(tmp_path):
    data = file_bytes(Standin(1))
    path = tmp_path / "cut.bin"
    for bad in [*(data[:size] for size in range(len(data))), data + b"\0", data + data]:
        path.write_bytes(bad)
        with pytest.raises(DamagedError):
            reader.read_head(path, Disk())


def test_a_file_that_shrinks_while_it_is_read_is_noticed(tmp_path):
    path = tmp_path / "shrinking.bin"
    path.write_bytes(file_bytes(Standin(1)))
    with reader.CheckpointFile(path, Disk()) as file:
        path.write_bytes(file_bytes(Standin(1))[:-1])
        with pytest.raises(DamagedError, match="ends at byte"):
            [piece for tensor, end in file.tensors() for piece in file.payloads(tensor, end)]


def test_the_reserved_bytes_of_a_header_are_zero():
    data = bytearray(file_bytes(Standin(1)))
    data[57] = 1
    data[60:64] = struct.pack("<I", zlib.crc32(data[:60]))
    with pytest.raises(DamagedError, match="reserved"):
        parse(bytes(data))


def test_a_newer_version_and_an_unknown_flag_are_refused_but_not_called_damage():
    data = bytearray(file_bytes(Standin(1)))
    for position in (10, 12):
        newer = data.copy()
        newer[position] = 2
        newer[60:64] = struct.pack("<I", zlib.crc32(newer[:60]))
        with pytest.raises(CheckpointError, match="version") as caught:
            parse(bytes(newer))
        assert not isinstance(caught.value, DamagedError)


# ---- hostile input, with all checksums right


def entry(name: Any = "params/w", dtype: Any = "float32", shape: Any = (4,), chunks: Any = None) -> bytes:
    return msgpack.packb([[name, dtype, shape, [[1, 16, 0, 0, 0]] if chunks is None else chunks]])


def map_with(fields: Any, **changes: Any) -> bytes:
    whole = {"kind": "state", "epoch_end": True, "metadata": metadata().to_dict(), "document": fields}
    return msgpack.packb({**whole, **changes})


FIELDS = {"progress": {"step": 1, "status": "running"}}
HOSTILE_MAPS = {
    "empty": (b"", "middle of an object"),
    "not a map": (msgpack.packb([1]), "expected a map"),
    "trailing bytes": (GOOD_MAP + b"\xc0", "its object ends"),
    "a key twice": (b"\x82\xa1a\x01\xa1a\x02", "twice"),
    "bytes as a key": (b"\x81\xc4\x01a\x01", "text"),
    "a number as a key": (b"\x81\x01\x01", "msgpack"),
    "a timestamp": (msgpack.packb(msgpack.Timestamp(1)), "not the start"),
    "an extension": (msgpack.packb(msgpack.ExtType(5, b"x" * 9)), "not the start"),
    "broken UTF-8": (b"\x81\xa1\xff\x01", "msgpack"),
    "announces 2^32 items": (b"\xdd\xff\xff\xff\xff", "announces"),
    "announces 2^32 bytes": (b"\xc6\xff\xff\xff\xff", "middle of an object"),
    "nests without end": (b"\x91" * 1000 + b"\xc0", "nested"),
    "nested announcements": (b"\xdd\x00\x00\x7f\xff" * 60 + b"\xc0" * 32767, "middle of an object"),
    "announces millions in all": (b"\xdd\x00\x10\x00\x00" * 5 + b"\xc0" * (1 << 20), "more than"),
    "unused byte": (b"\xc1", "not the start"),
    "no kind": (map_with(FIELDS, kind=None), "kind"),
    "no document": (map_with(None), "document"),
    "no progress": (map_with({}), "progress"),
    "a negative step": (map_with({"progress": {"step": -1, "status": "running"}}), "step"),
    "True as a step": (map_with({"progress": {"step": True, "status": "running"}}), "step"),
    "no status": (map_with({"progress": {"step": 1}}), "status"),
    "metadata missing": (map_with(FIELDS, metadata=None), "metadata"),
    "metadata with more": (map_with(FIELDS, metadata={**metadata().to_dict(), "x": 1}), "metadata"),
    "text as loss": (map_with(FIELDS, metadata={**metadata().to_dict(), "loss": "1"}), "loss"),
    "an escape as phase": (
        map_with(FIELDS, metadata={**metadata().to_dict(), "phase": "\x1b[2J"}),
        "phase",
    ),
    "an infinite rate": (
        map_with(FIELDS, metadata={**metadata().to_dict(), "learning_rate": float("inf")}),
        "learning_rate",
    ),
}
HOSTILE_INDEXES = {
    "not a list": (msgpack.packb({}), "array"),
    "short entry": (msgpack.packb([[1, 2]]), "expected"),
    "no name": (entry(name=""), "name"),
    "a long name": (entry(name="n" * 513), "name"),
    "a number as name": (entry(name=7), "name"),
    "objects as dtype": (entry(dtype="O"), "dtype"),
    "a list as dtype": (entry(dtype=["float32"]), "dtype"),
    "void as dtype": (entry(dtype="V1000000000"), "dtype"),
    "a negative side": (entry(shape=[-1]), "shape"),
    "a fractional side": (entry(shape=[1.5]), "shape"),
    "33 sides": (entry(shape=[1] * 33), "shape"),
    "an overflowing shape": (entry(shape=[2**40, 2**40]), "larger than any memory"),
    "an overflowing empty shape": (entry(shape=[2**40, 2**40, 0], chunks=[]), "larger than any memory"),
    "more than the file has": (entry(shape=[2**40]), "more than the file"),
    "no chunks": (entry(chunks=[]), "chunks"),
    "a chunk out of the file": (entry(chunks=[[2**50, 16, 0, 0, 0]]), "chunks"),
    "a chunk over the header": (entry(chunks=[[0, 16, 0, 0, 0]]), "chunks"),
    "an unaligned chunk": (entry(chunks=[[65, 16, 0, 0, 0]]), "chunks"),
    "a chunk too long": (entry(chunks=[[64, 17, 0, 0, 0]]), "chunks"),
    "an unknown codec": (entry(chunks=[[64, 16, 1, 0, 0]]), "codec"),
    "another store": (entry(chunks=[[64, 16, 0, 1, 0]]), "store"),
    "a short chunk": (entry(chunks=[[64, 16]]), "chunk"),
    "a name twice": (msgpack.packb([["a", "float32", [0], []], ["a", "float32", [0], []]]), "twice"),
    "an unused end": (msgpack.packb([]), "its chunks end"),
}


@pytest.mark.parametrize("case", HOSTILE_MAPS)
def test_a_hostile_map_is_refused_by_name(case):
    packed, words = HOSTILE_MAPS[case]
    with pytest.raises(DamagedError, match="it: map: .*" + words):
        parse(forge(packed, GOOD_INDEX))


@pytest.mark.parametrize("case", HOSTILE_INDEXES)
def test_a_hostile_index_is_refused_by_name(case):
    packed, words = HOSTILE_INDEXES[case]
    with pytest.raises(DamagedError, match="it: index: .*" + words):
        parse(forge(GOOD_MAP, packed, bytes(400)))


@pytest.mark.parametrize(
    "changes",
    [{"file_bytes": 1}, {"map_bytes": 1 << 31}, {"index_bytes": 1 << 31}, {"index_at": 0},
     {"map_bytes": 0}, {"index_bytes": 0}, {"sequence": 1 << 63}],
)  # fmt: skip
def test_a_hostile_header_is_refused(changes):
    with pytest.raises(DamagedError, match="it: "):
        parse(forge(GOOD_MAP, GOOD_INDEX, **changes))


def test_refusing_a_bomb_costs_little_memory():
    bombs = [
        b"\xdd\x00\x0f\xff\xff" * 60 + b"\xc0" * (1 << 20),
        b"\x90" * (1 << 20),
        b"\xdc\xff\xff" * 400_000,
    ]
    tracemalloc.start()
    for bomb in bombs:
        with pytest.raises(ValueError):
            plain.unpack(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


@given(st.binary(max_size=200))
@example(b"\xdf\xff\xff\xff\xff")
def test_any_bytes_are_one_plain_value_or_a_value_error(data):
    try:
        found = plain.unpack(data)
    except ValueError:
        return
    assert repr(msgpack.unpackb(data, strict_map_key=False, raw=False)) == repr(found)


@given(PLAIN)
def test_what_is_packed_is_what_is_unpacked(value):
    assert repr(plain.unpack(plain.pack(value))) == repr(value)


@given(st.binary(max_size=400), st.integers(0, 400))
def test_no_bytes_with_right_checksums_raise_anything_but_checkpoint_error(noise, split):
    for data in (forge(noise[:split], noise[split:]), forge(GOOD_MAP, noise), noise):
        try:
            parse(data)
        except CheckpointError as error:
            assert str(error).startswith("it: ")


# ---- what cannot be stored is refused before a byte is written


@pytest.mark.parametrize("role", ["params", "m", "v"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_never_saved_and_named(role, value):
    state = Standin(1)
    state.arrays[f"{role}/bias"][3] = value
    with pytest.raises(CheckpointError, match=f"{role}/bias holds NaN or infinity"):
        file_bytes(state)


def test_nan_in_a_file_is_refused_on_reading_even_with_right_checksums(tmp_path, monkeypatch):
    state = Standin(1)
    state.arrays["m/bias"][0] = np.nan
    crc_and_finite = format.crc_and_finite
    with monkeypatch.context() as patch:
        patch.setattr(
            "tinyllm.checkpoint.image.crc_and_finite", lambda *args: (crc_and_finite(*args)[0], True)
        )
        data = file_bytes(state)
    path = tmp_path / "nan.bin"
    path.write_bytes(data)
    with pytest.raises(DamagedError, match=r"m/bias.*NaN or infinity"):
        reader.read_state(path, Disk(), Standin)


@pytest.mark.parametrize("value", [object(), 1 << 64, {1, 2}, np.datetime64(1, "s"), "\ud800"])
def test_a_value_that_cannot_be_stored_is_named_by_its_path(value):
    state = Standin(1, extra={"deep": [1, {"er": value}]})
    with pytest.raises(CheckpointError, match=r"document\.extra\.deep\.1\.er"):
        pack_map(state.to_dict(), metadata())


def test_a_key_that_is_no_text_and_values_nested_too_deep_are_refused():
    deep: Any = None
    for _ in range(70):
        deep = [deep]
    for extra in ({1: 2}, {b"a": 2}, deep):
        with pytest.raises(CheckpointError):
            pack_map(Standin(1, extra=extra).to_dict(), metadata())


@pytest.mark.parametrize("name", ["", "n" * 513, "params/\x1b[2J", "a\nb"])
def test_a_tensor_name_that_could_not_be_read_back_is_not_written(name):
    state = Standin(1)
    state.arrays[name] = np.zeros(3, np.float32)
    with pytest.raises(CheckpointError, match="printable"):
        file_bytes(state)


def test_a_dtype_that_cannot_be_stored_is_named():
    state = Standin(1)
    state.arrays["params/odd"] = np.zeros(3, np.complex64)
    with pytest.raises(CheckpointError, match="params/odd: dtype complex64"):
        file_bytes(state)


@pytest.mark.parametrize(
    ("field", "value"),
    [("epoch", -1), ("epoch", 1.5), ("epoch", True), ("loss", "1"), ("loss", None), ("learning_rate", np.nan),
     ("timestamp", "today"), ("timestamp", "2025-10-28T12:00:00"),
     ("phase", ""), ("phase", "a\nb"), ("phase", 3)],
)  # fmt: skip
def test_metadata_names_the_field_that_is_wrong(field, value):
    with pytest.raises(ValueError, match=field):
        type(metadata())(**{**metadata().to_dict(), field: value})


# ---- loading only a part, and loading what does not fit


def test_load_weights_returns_the_parameters_alone_even_when_the_moments_are_rotten(tmp_path):
    state = Standin(6)
    data = bytearray(file_bytes(state))
    data[-1] ^= 1  # in v
    path = tmp_path / "state.bin"
    path.write_bytes(data)
    fields, weights = export.load_weights(path)
    assert fields == state.to_dict()
    assert weights.keys() == {"wte", "bias"}
    assert all(np.array_equal(weights[name], state.arrays[f"params/{name}"]) for name in weights)


@pytest.mark.parametrize("change", ["missing", "more", "shape", "dtype"])
def test_tensors_that_do_not_fit_the_fields_are_named(tmp_path, change):
    state = Standin(1)
    fields = state.to_dict()
    shapes = fields["shapes"]
    if change == "missing":
        shapes["params/other"] = ["float32", 2]
    elif change == "more":
        del shapes["params/bias"]
    else:
        shapes["params/bias"] = ["float32", 6] if change == "shape" else ["float64", 5]
    state.to_dict = lambda: fields  # type: ignore[method-assign]
    path = tmp_path / "misfit.bin"
    path.write_bytes(file_bytes(state))
    with pytest.raises(CheckpointError, match=r"misfit\.bin: params/.*: the document implies"):
        CheckpointManager.load_checkpoint(path, Standin)


def test_fields_that_make_no_state_are_a_checkpoint_error(tmp_path: Path):
    class Picky(Standin):
        @classmethod
        def from_dict(cls, fields: dict[str, Any]) -> Standin:
            raise ValueError("vocabulary of -3")

    path = tmp_path / "picky.bin"
    path.write_bytes(file_bytes(Standin(1)))
    with pytest.raises(CheckpointError, match=r"picky\.bin: document: .*vocabulary of -3"):
        CheckpointManager.load_checkpoint(path, Picky)
