"""Two checkpoints compared: the fields that differ, and each tensor by its largest and relative difference.

Order: what is compared, the fields, the tensors.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinyllm.arena import Array
from tinyllm.checkpoint.disk import Disk
from tinyllm.checkpoint.export import to_json
from tinyllm.checkpoint.format import DTYPES, Head, Tensor
from tinyllm.checkpoint.newest import read_newest
from tinyllm.checkpoint.reader import CheckpointFile
from tinyllm.words import counted

BLOCK = 1 << 18  # numbers that are compared at once, in float64
LONGEST_LIST = 8  # a longer one is shown by its digest
# Where and when a state was saved, by which run, on which machine: this differs between equal states.
ORIGIN = ("identity.", "environment.", "metadata.timestamp", "sources.pretraining.paths",
          "sources.instruction_tuning.paths")  # fmt: skip
MISSING = "none"


class Field(NamedTuple):
    """A value that differs, as text; `name` is its path in the file, such as `config.train.lr`."""

    name: str
    old: str
    new: str

    @property
    def is_origin(self) -> bool:
        """Return whether states that differ in this alone are equal."""
        return self.name.startswith(ORIGIN)


class TensorDifference(NamedTuple):
    """How far apart two tensors of one name are; NaN for numbers that cannot be compared."""

    name: str
    same_bits: bool
    largest: float = 0.0  # |new - old| of any element
    relative: float = 0.0  # norm of (new - old), over the norm of old
    remark: str = ""  # why they cannot be compared


class Comparison(NamedTuple):
    """All that differs between two files."""

    files: tuple[Path, Path]
    fields: list[Field]
    tensors: list[TensorDifference]  # of every name, in file order

    @property
    def is_equal(self) -> bool:
        """Return whether the two hold the same state, to the bit."""
        return all(field.is_origin for field in self.fields) and all(each.same_bits for each in self.tensors)


def compare(old: Path, new: Path, disk: Disk) -> Comparison:
    """Compare two checkpoints, of a directory its latest; CheckpointError where one cannot be read.

    Every byte is checked. Two tensors are in memory at a time.
    """

    def with_newest(one: Path) -> Comparison:
        return read_newest(new, disk, lambda other: _compare(one, other, disk))[1]

    return read_newest(old, disk, with_newest)[1]


def _compare(old: Path, new: Path, disk: Disk) -> Comparison:
    with CheckpointFile(old, disk) as one, CheckpointFile(new, disk) as other:
        fields = _differing(_flat_head(one.head), _flat_head(other.head))
        others = {tensor.name: (tensor, end) for tensor, end in other.tensors()}
        found = []
        for tensor, end in one.tensors():
            if tensor.name in others:
                twin = others.pop(tensor.name)
                found.append(_difference(tensor, twin[0], _read(one, tensor, end), _read(other, *twin)))
            else:
                found.append(_only(tensor.name, "old"))
        found += [_only(name, "new") for name in others]
    return Comparison((old, new), fields, found)


def _flat_head(head: Head) -> dict[str, Any]:
    return dict(_flat({"kind": head.kind, "metadata": head.metadata.to_dict(), **head.fields}))


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (path, value) of every value in nested dicts."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield from _flat(child, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _differing(old: dict[str, Any], new: dict[str, Any]) -> list[Field]:
    # Compared as they are written: NaN is equal to itself, 1 is not 1.0.
    return [
        Field(name, *(_shown(each[name]) if name in each else MISSING for each in (old, new)))
        for name in {**old, **new}
        if name not in old or name not in new or repr(old[name]) != repr(new[name])
    ]


def _shown(value: Any) -> str:
    if isinstance(value, list) and len(value) > LONGEST_LIST:
        return f"{counted(len(value), 'entry')} ({hashlib.sha256(repr(value).encode()).hexdigest()[:8]})"
    if isinstance(value, dict | list | bytes):
        return to_json(value)
    return str(value)


def _read(file: CheckpointFile, tensor: Tensor, end: int) -> Array:
    """Return a tensor as a flat array."""
    array = np.empty(math.prod(tensor.shape), DTYPES[tensor.dtype])
    for _ in file.payloads(tensor, end, array.view(np.uint8).data):
        pass
    return array


def _only(name: str, where: str) -> TensorDifference:
    return TensorDifference(name, False, math.nan, math.nan, f"only in the {where} one")


def _difference(first: Tensor, second: Tensor, old: Array, new: Array) -> TensorDifference:
    kinds = [f"{tensor.dtype} {tensor.shape}" for tensor in (first, second)]
    if kinds[0] != kinds[1]:
        return TensorDifference(first.name, False, math.nan, math.nan, " -> ".join(kinds))
    if np.array_equal(old.view(np.uint8), new.view(np.uint8)):
        return TensorDifference(first.name, True)
    largest, squares, norm = 0.0, 0.0, 0.0
    for begin in range(0, old.size, BLOCK):
        a, b = (part[begin : begin + BLOCK].astype(np.float64) for part in (old, new))
        apart = np.abs(b - a)
        largest = max(largest, float(apart.max()))
        squares += float(apart @ apart)
        norm += float(a @ a)
    return TensorDifference(first.name, False, largest, math.sqrt(squares / norm) if norm else math.inf)
