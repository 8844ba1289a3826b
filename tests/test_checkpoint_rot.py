"""Bits that changed on the disk are never loaded: rejected by name, set aside, and an older save is taken.

Order: one bit, whole regions, what a directory does about it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.models import random_state
from tests.standin import QuickDisk, Standin, file_bytes, metadata, names
from tinyllm.checkpoint import CheckpointError, CheckpointManager, reader
from tinyllm.checkpoint.disk import Disk
from tinyllm.checkpoint.format import HEADER_BYTES, Head
from tinyllm.checkpoint.metadata import DamagedError
from tinyllm.config import ModelConfig
from tinyllm.run.state import TrainState
from tinyllm.text.tokenizer import train_bpe

LAST, BEST = "checkpoint_last.bin", "checkpoint_best_epoch_1_loss_3.0000.bin"
FILE = Path("rotten.bin")
# What a message must name besides the file: the part of it, or the tensor.
FIELD = re.compile(r"^rotten\.bin: (header|map|index|[\d,]+ bytes|a file of |(params|m|v)/\S+: chunk \d+: )")


class InMemory(Disk):
    """One file, which is `data`."""

    def __init__(self, data: bytes | bytearray) -> None:
        self.data = data

    def open(self, path: Path) -> tuple[int, int]:
        return 0, len(self.data)

    def read(self, fd: int, into: memoryview, offset: int) -> int:
        part = self.data[offset : offset + len(into)]
        into[: len(part)] = part
        return len(part)

    def close(self, fd: int) -> None:
        pass


def real_file() -> bytes:
    """A whole training state, with a tokenizer and moments."""
    tokenizer = train_bpe(["the cat sat on the mat and the rat sat on the cat"] * 9, 300)
    state = random_state(ModelConfig(n_layer=1, n_head=2, n_embd=8, block_size=8), tokenizer)
    state.rows[1], state.rows[2] = 0.1 * state.rows[0], state.rows[0] ** 2
    return file_bytes(state)


DATA = real_file()
HEAD = reader.read_head(FILE, InMemory(DATA))
STRUCTURE = HEAD.header.index_at + HEAD.header.index_bytes


def payloads(head: Head) -> Iterator[range]:
    """The bytes of each chunk."""
    for chunk in itertools.chain.from_iterable(tensor.chunks for tensor in head.tensors):
        yield range(chunk.offset, chunk.offset + chunk.length)


PAYLOAD = np.concatenate([np.arange(each.start, each.stop) for each in payloads(HEAD)])
PADDING = np.setdiff1d(np.arange(STRUCTURE, len(DATA)), PAYLOAD)


def load(data: bytes | bytearray) -> object:
    return reader.read_state(FILE, InMemory(data), TrainState)


def verify(data: bytes | bytearray) -> object:
    return reader.verify(FILE, InMemory(data))


def assert_rejected(data: bytes | bytearray, *readings: Callable[[bytes | bytearray], object]) -> None:
    """Assert that neither loading nor verifying takes these bytes, and that the message says where."""
    for read in readings or (load, verify):
        with pytest.raises(DamagedError) as caught:
            read(data)
        assert FIELD.match(str(caught.value)), str(caught.value)


def assert_flips_rejected(
    positions: np.ndarray, bits: np.ndarray, *readings: Callable[[bytes | bytearray], object]
) -> int:
    """Flip one bit at a time; return how many there were."""
    data = bytearray(DATA)
    for position, bit in zip(positions.tolist(), bits.tolist(), strict=True):
        data[position] ^= 1 << bit
        assert_rejected(data, *readings)
        data[position] ^= 1 << bit
    assert data == DATA
    return len(positions)


# ---- one bit


def test_what_is_flipped_is_a_good_file():
    state, _ = reader.read_state(FILE, InMemory(DATA), TrainState)
    assert state.rows[2].any()
    assert STRUCTURE > HEADER_BYTES and len(PADDING) > 100 and len(PAYLOAD) > 10_000


def test_a_sample_of_flipped_bits_is_rejected_everywhere():
    rng = np.random.default_rng(4)
    for places in (np.arange(HEADER_BYTES), np.arange(HEADER_BYTES, STRUCTURE), PADDING, PAYLOAD):
        assert_flips_rejected(rng.choice(places, 60), rng.integers(0, 8, 60))


@pytest.mark.slow
def test_every_flipped_bit_of_header_map_and_index_is_rejected(capsys):
    count = assert_flips_rejected(np.repeat(np.arange(STRUCTURE), 8), np.tile(np.arange(8), STRUCTURE), load)
    assert count >= 20_000
    with capsys.disabled():
        print(f"\n{count:,} flips, every bit of the header, map and index: all rejected by name")


@pytest.mark.slow
def test_a_flipped_bit_of_every_byte_of_padding_and_of_sampled_payloads_is_rejected(capsys):
    rng = np.random.default_rng(5)
    count = assert_flips_rejected(PADDING, rng.integers(0, 8, len(PADDING)), verify)
    count += assert_flips_rejected(rng.choice(PAYLOAD, 3000), rng.integers(0, 8, 3000), load)
    with capsys.disabled():
        print(
            f"\n{count:,} flips, one in every byte of the padding and 3,000 in payloads: all rejected by name"
        )


# ---- whole regions


def test_truncation_at_every_length_of_the_structure_and_into_each_payload_is_rejected():
    for size in [*range(STRUCTURE + 1), *(each.stop - 1 for each in payloads(HEAD))]:
        with pytest.raises(DamagedError, match=FIELD.pattern):
            load(DATA[:size])


@pytest.mark.parametrize("junk", [b"\0", b"\xc0", bytes(4096), DATA], ids=["zero", "nil", "page", "twice"])
def test_appended_junk_is_rejected(junk):
    assert_rejected(DATA + junk)


def test_any_two_chunks_of_one_length_that_are_swapped_are_rejected():
    swapped = 0
    for one, other in itertools.combinations(payloads(HEAD), 2):
        first, second = DATA[one.start : one.stop], DATA[other.start : other.stop]
        if len(first) == len(second) and first != second:
            data = bytearray(DATA)
            data[one.start : one.stop], data[other.start : other.stop] = second, first
            assert_rejected(data)
            swapped += 1
    assert swapped > 10


@pytest.mark.parametrize("page", [512, 4096])
@pytest.mark.parametrize("filler", [0x00, 0xFF])
def test_a_page_of_zeros_or_ones_anywhere_is_rejected(page, filler):
    for start in range(0, len(DATA), page):
        data = bytearray(DATA)
        data[start : start + page] = bytes([filler]) * len(data[start : start + page])
        if data != DATA:
            assert_rejected(data)


def test_the_head_of_one_save_with_the_payloads_of_another_is_rejected():
    one, other = file_bytes(Standin(11), sequence=1), file_bytes(Standin(12), sequence=2)
    end = reader.read_head(FILE, InMemory(one)).header
    cut = end.index_at + end.index_bytes
    assert len(one) == len(other)
    with pytest.raises(DamagedError, match=FIELD.pattern):
        reader.read_state(FILE, InMemory(one[:cut] + other[cut:]), Standin)


# ---- what a directory does about it

DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "a bit of the header": lambda data: data[:20] + bytes([data[20] ^ 1]) + data[21:],
    "a bit of the map": lambda data: data[:90] + bytes([data[90] ^ 64]) + data[91:],
    "a bit of a payload": lambda data: data[:-3] + bytes([data[-3] ^ 8]) + data[-2:],
    "the last byte lost": lambda data: data[:-1],
    "all but the header lost": lambda data: data[:HEADER_BYTES],
    "everything lost": lambda data: b"",
    "junk appended": lambda data: data + b"junk",
    "a page of zeros": lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
}


@pytest.mark.parametrize("reopened", [False, True])
@pytest.mark.parametrize("damage", DAMAGE)
def test_the_newest_valid_checkpoint_is_taken_with_a_notice_and_the_damaged_one_set_aside(
    tmp_path, damage, reopened
):
    manager = CheckpointManager(tmp_path, asynchronous=False, disk=QuickDisk())
    for epoch, loss in ((1, 3.0), (2, 4.0)):
        manager.save_checkpoint(Standin(epoch, epoch), metadata(epoch, loss))
    rotten = DAMAGE[damage]((tmp_path / LAST).read_bytes())
    (tmp_path / LAST).write_bytes(rotten)
    if reopened:
        manager.close()
        manager = CheckpointManager(tmp_path, asynchronous=False, disk=QuickDisk())
    with manager:
        found = manager.get_last_checkpoint()
        assert found == tmp_path / BEST
        assert manager.load_checkpoint(found, Standin)[0].bits() == Standin(1, 1).bits()
        notices = " ".join(manager.notices)
        assert f"{LAST}: " in notices and f"set aside as {LAST}.corrupt" in notices
        manager.save_checkpoint(Standin(3, 3), metadata(3, 5.0))
        again = manager.get_last_checkpoint()
        assert again == tmp_path / LAST and manager.load_checkpoint(again, Standin)[0].seed == 3
    aside = [name for name in names(tmp_path) if ".corrupt" in name]
    assert aside == [f"{LAST}.corrupt"] and (tmp_path / aside[0]).read_bytes() == rotten


def test_when_all_are_rotten_nothing_is_loaded_and_nothing_deleted(tmp_path):
    with CheckpointManager(tmp_path, asynchronous=False, disk=QuickDisk()) as manager:
        for epoch, loss in ((1, 3.0), (2, 4.0)):
            manager.save_checkpoint(Standin(epoch, epoch), metadata(epoch, loss))
        for name in (LAST, BEST):
            data = bytearray((tmp_path / name).read_bytes())
            data[-1] ^= 1
            (tmp_path / name).write_bytes(data)
        assert manager.get_last_checkpoint() is None
        assert any("no valid one is left" in notice for notice in manager.notices)
    assert {f"{LAST}.corrupt", f"{BEST}.corrupt"} <= names(tmp_path)
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        CheckpointManager.load_checkpoint(tmp_path, Standin)


def test_files_with_swapped_names_are_distinguished_by_what_they_hold(tmp_path):
    with CheckpointManager(tmp_path, asynchronous=False, disk=QuickDisk()) as manager:
        for epoch, loss in ((1, 3.0), (2, 4.0)):
            manager.save_checkpoint(Standin(epoch, epoch), metadata(epoch, loss))
    (tmp_path / LAST).rename(tmp_path / "between")
    (tmp_path / BEST).rename(tmp_path / LAST)
    (tmp_path / "between").rename(tmp_path / BEST)
    with CheckpointManager(tmp_path, asynchronous=False, disk=QuickDisk()) as manager:
        newest = manager.get_last_checkpoint()
        assert newest == tmp_path / BEST  # the newest by its number, whatever it is called
        for name in (LAST, BEST):
            state, about = manager.load_checkpoint(tmp_path / name, Standin)
            assert state.bits() == Standin(about.epoch, about.epoch).bits()
            assert f'"epoch": {about.epoch}' in (tmp_path / name).with_suffix(".json").read_text()
