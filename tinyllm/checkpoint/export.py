"""Weights without Adam's moments: read from any .bin for generation, or exported as .bin or .json.

Order: reading, writing, the .json form.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tinyllm.arena import Array
from tinyllm.checkpoint import policy, reader
from tinyllm.checkpoint.commit import commit, make_directories
from tinyllm.checkpoint.disk import Disk
from tinyllm.checkpoint.format import DTYPES, HEADER_BYTES, MAGIC, Head
from tinyllm.checkpoint.image import Image, pack_map
from tinyllm.checkpoint.metadata import CheckpointError
from tinyllm.checkpoint.newest import read_newest
from tinyllm.checkpoint.store import Store
from tinyllm.escape import printable


def load_weights(path: str | Path, disk: Disk | None = None) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return (fields, {path of a parameter: array}) of a .bin, or of the newest valid one in a directory.

    `fields` is the state's `to_dict()`. The paths are those of the layout, without "params/". Adam's
    moments are skipped, not read, so a full state costs a third. Raises CheckpointError as
    `load_checkpoint` does.
    """
    disk = disk or Disk()
    _, (head, weights) = read_newest(Path(path), disk, lambda file: reader.read_weights(file, disk))
    return head.fields, weights


def export_weights(
    source: str | Path, target: str | Path, disk: Disk | None = None, *, force: bool = False
) -> Path:
    """Write the weights of `source` to `target`, a .bin or a .json by its suffix, and read them back.

    Returns the file that was read. The state's other fields (config, tokenizer, progress) are exported too.
    Raises CheckpointError, also for a `target` that is the source, a run's checkpoint, in a directory that a
    run is using, or, unless `force`, a file that is no earlier export.
    """
    disk, target = disk or Disk(), Path(target)
    file, (head, weights) = read_newest(Path(source), disk, lambda file: reader.read_weights(file, disk))
    store = Store(target.parent, disk, lambda _: None)
    if store.is_locked_by_runs():
        store.open()
    try:
        _check_target(file, target, store, force)
        _write(head, weights, target, disk)
    finally:
        store.close()
    return file


def _check_target(source: Path, target: Path, store: Store, force: bool) -> None:
    """Raise CheckpointError if writing `target` would lose something."""
    disk = store.disk
    try:
        fd, _ = disk.open(source)
        try:
            if disk.is_at(fd, target):
                raise CheckpointError(f"{printable(target)}: is the checkpoint to export; give another name")
        finally:
            disk.close(fd)
        is_a_run = store.is_locked_by_runs() or any(entry.valid for entry in store.entries())
        if policy.label_of(target.name) and is_a_run:
            raise CheckpointError(
                f"{printable(target)}: the name of a checkpoint, in a run's directory; give another name"
            )
        disk.check_replaceable(target, "exported weights", _is_export, force)
    except OSError as error:
        raise CheckpointError(f"{printable(target)}: not written: {error.strerror or error}") from error


def _is_export(head: bytes) -> bool:
    """Return whether a file with these first bytes is an export: a .bin of weights alone, or its .json."""
    return (head[2:10] == MAGIC and b"\xa4kind\xa7weights" in head[HEADER_BYTES : HEADER_BYTES + 32]) or (
        head.startswith(b'{"metadata": {"epoch": ')
    )


def _write(head: Head, weights: dict[str, Array], target: Path, disk: Disk) -> None:
    """Write an export, and read it back."""
    if target.suffix == ".bin":
        image = Image()
        packed = pack_map(head.fields, head.metadata, kind="weights", epoch_end=head.epoch_end)
        image.fill(packed, {f"params/{name}": array for name, array in weights.items()})
        data = image.seal(head.header.sequence)
    elif target.suffix == ".json":
        data = memoryview("".join(_json_parts(head, weights)).encode())
    else:
        raise CheckpointError(f"{printable(target)}: export writes .bin or .json, found {target.suffix!r}")
    try:
        make_directories(disk, target.parent)
        commit(disk, data, [target], lambda _: None)
    except OSError as error:
        raise CheckpointError(f"{printable(target)}: not written: {error.strerror or error}") from error
    if target.suffix == ".bin":
        exported = reader.read_weights(target, disk)[1]
    else:
        exported = _read_json(target, len(data), disk)
    if exported.keys() != weights.keys() or not all(_equal(exported[k], weights[k]) for k in weights):
        raise CheckpointError(f"{printable(target)}: the file read back differs from what was written")


def _equal(one: Array, other: Array) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def _json_parts(head: Head, weights: Mapping[str, Array]) -> Iterator[str]:
    """Yield {"metadata", "document", "weights": {name: {"dtype", "shape", "data": flat}}} tensor by tensor.

    JSON has no bytes, NaN or infinity: among the fields these become {"base64": ...} and null. Numbers are
    written such that they read back to the same bits.
    """
    metadata, fields = to_json(head.metadata.to_dict()), to_json(head.fields)
    yield f'{{"metadata": {metadata},\n"document": {fields},\n"weights": {{'
    for number, (name, array) in enumerate(weights.items()):
        about = json.dumps({"dtype": str(array.dtype), "shape": array.shape})[:-1]
        data = json.dumps(array.reshape(-1).tolist())
        yield f'{"," * bool(number)}\n{json.dumps(name)}: {about}, "data": {data}}}'
    yield "\n}}\n"


def to_json(value: Any, indent: int | None = None) -> str:
    """Return nested plain values as JSON; bytes become {"base64": ...}, NaN and infinity null."""
    return json.dumps(_representable(value), indent=indent, allow_nan=False)


def _representable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _representable(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_representable(child) for child in value]
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _read_json(path: Path, size: int, disk: Disk) -> dict[str, Array]:
    data = bytearray(size)
    try:
        fd, found = disk.open(path)
        try:
            done = 0
            while done < size and (count := disk.read(fd, memoryview(data)[done:], done)):
                done += count
        finally:
            disk.close(fd)
        tensors = json.loads(data[:done])["weights"] if found == size else {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{printable(path)}: cannot be read back: {error}") from error
    return {
        name: np.array(each["data"], DTYPES[each["dtype"]]).reshape(each["shape"])
        for name, each in tensors.items()
    }
