# PYTHON_ARGCOMPLETE_OK
"""`python -m tinyllm.checkpoint ls|show|diff|verify|export|rm PATH`: checkpoints inspected without a trainer.

Exit codes: 0, 1 for a failure (CheckpointError) or a bad checkpoint, 2 for wrong usage, 141 where the reader
of stdout has gone away; of diff: 0 equal, 1 different, 2 a failure. Order: one function per command, then
the command line.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from tinyllm.checkpoint import comparison, policy, reader
from tinyllm.checkpoint.disk import Disk
from tinyllm.checkpoint.export import export_weights, to_json
from tinyllm.checkpoint.metadata import CheckpointError, Entry, GoneError
from tinyllm.checkpoint.newest import read_newest
from tinyllm.checkpoint.store import Store
from tinyllm.cli.arguments import path as a_path
from tinyllm.cli.arguments import program
from tinyllm.cli.interrupt import exit_code
from tinyllm.cli.output import PIPE_CLOSED
from tinyllm.escape import printable
from tinyllm.words import counted

_COLUMNS = ("name", "epoch", "step", "loss", "size", "status")  # 80 characters wide for most runs
_ENDED = ("finished", "rolled_back")


def ls(path: Path, disk: Disk) -> int:
    """Print a directory's checkpoints by phase, in the order of their saving; only their heads are read."""
    if not disk.is_directory(path):
        raise CheckpointError(f"{printable(path)}: no such directory; give one with checkpoints")
    entries = Store(path, disk, _say).entries()
    if not entries:
        print(f"{printable(path)}: no checkpoints")
        return 0
    ends = {(entry.run, entry.step) for entry in entries if entry.status in _ENDED}
    rows = [_COLUMNS, *(_row(entry, (entry.run, entry.step) in ends) for entry in entries)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    phase = None
    for row, entry in zip(rows, [None, *entries], strict=True):
        if entry and entry.metadata and entry.metadata.phase != phase:
            phase = entry.metadata.phase
            print(f"\n{printable(phase)}")
        cells = [cell.rjust(w) if name in _COLUMNS[1:5] else cell.ljust(w)
                 for cell, w, name in zip(row, widths, _COLUMNS, strict=True)]  # fmt: skip
        print("  ".join(cells).rstrip())
    print("\nonly the heads were checked; `verify` checks every byte")
    for entry in entries:
        if entry.problem:
            _say(entry.problem)
    return 0


def _row(entry: Entry, at_the_end: bool) -> tuple[str, ...]:
    """Return a line of the table; `at_the_end`: the run ended at this step, perhaps after this save."""
    name = printable(entry.path.name)
    if entry.metadata is None:
        return (name, *["-"] * 4, "bad")
    about = entry.metadata
    loss = (
        f"{about.loss:.4f}"
        if abs(about.loss) < 1e15 or not math.isfinite(about.loss)
        else f"{about.loss:.4e}"
    )
    size = _bytes(entry.size).replace("iB", "").replace(" ", "")
    return name, str(about.epoch), str(entry.step), loss, size, _status(entry, at_the_end)


def _status(entry: Entry, at_the_end: bool) -> str:
    """Return where in its run a state stands: `valid` is before its end, when it was stored as `running`."""
    if entry.weights_only:
        return "weights only"
    if entry.status != "running":
        return printable(entry.status)
    return "finished" if at_the_end else "valid"


def _bytes(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.1f} {unit}" if unit != "B" else f"{size:.0f} B"
        size /= 1024
    return f"{size:.1f} GiB"


def show(path: Path, disk: Disk, as_json: bool) -> int:
    """Print a checkpoint's metadata, progress, config and digests; every byte of it is read and checked."""
    file, (head, sha256) = read_newest(path, disk, lambda file: reader.digests(file, disk))
    found = {
        "file": str(file),
        "size": head.header.file_bytes,
        "sequence": head.header.sequence,
        "kind": head.kind,
        "tensors": len(head.tensors),
        "metadata": head.metadata.to_dict(),
        "progress": head.fields["progress"],
        "config": head.fields.get("config"),
        "sha256": sha256,
    }
    if as_json:
        print(to_json(found, indent=2))
        return 0
    for name, value in found.items():
        if not isinstance(value, dict):
            print(f"{name:<14}{printable(value)}")
            continue
        for line_name, line in value.items():
            text = to_json(line) if isinstance(line, dict | list) else line
            title = name if line_name == next(iter(value)) else ""
            print(f"{title:<14}{printable(line_name)}: {printable(text)}")
    return 0


def diff(old: Path, new: Path, disk: Disk) -> int:
    """Print what differs between two checkpoints, and every tensor; 0 if they hold equal states, else 1."""
    found = comparison.compare(old, new, disk)
    print(f"old  {printable(found.files[0])}\nnew  {printable(found.files[1])}")
    counting = [field for field in found.fields if not field.is_origin]
    settings = [field for field in counting if field.name.startswith(("config.", "tokenizer."))]
    groups = {
        "settings": settings, "progress": [field for field in counting if field not in settings],
        "origin, which does not count": [field for field in found.fields if field.is_origin],
    }  # fmt: skip
    for title, fields in groups.items():
        if fields:
            width = max(len(field.name) for field in fields)
            rows = [f"  {each.name:<{width}}  {each.old} -> {each.new}" for each in fields]
            print("\n".join(["", title, *map(printable, rows)]))
    width = max((len(tensor.name) for tensor in found.tensors), default=0)
    print(f"\n{'tensors':<{width + 2}}    largest   relative difference")
    for tensor in found.tensors:
        what = tensor.remark or f"{tensor.largest:9.2e}  {tensor.relative:9.2e}"
        print(printable(f"  {tensor.name:<{width}}  {'equal bits' if tensor.same_bits else what}"))
    same = sum(tensor.same_bits for tensor in found.tensors)
    print(
        f"\n{'equal' if found.is_equal else 'different'}: {counted(len(counting), 'different field')}, "
        f"equal bits in {same} of {counted(len(found.tensors), 'tensor')}"
    )
    return 0 if found.is_equal else 1


def verify(paths: Sequence[Path], disk: Disk) -> int:
    """Read every byte of the given checkpoints against its checksums; 1 if any is bad or there is none."""
    files = []
    for path in paths:
        if disk.is_directory(path):
            inside = [entry.path for entry in Store(path, disk, _say).entries()]
            if not inside:
                raise CheckpointError(f"{printable(path)}: no checkpoints")
            files += inside
        else:
            files.append(path)
    bad = 0
    for file in files:
        try:
            head = reader.verify(file, disk)
            size = _bytes(head.header.file_bytes)
            print(f"{printable(file)}: valid, {counted(len(head.tensors), 'tensor')}, {size}")
        except GoneError as error:
            if file in paths:
                bad += 1
            _say(str(error))
        except CheckpointError as error:
            bad += 1
            _say(str(error))
    return 1 if bad else 0


def export(path: Path, out: Path, disk: Disk, force: bool) -> int:
    """Write the weights alone to `out`; over a file that is no earlier export only if `force`."""
    file = export_weights(path, out, disk, force=force)
    print(f"{printable(out)}: the weights of {printable(file)}, verified")
    return 0


def rm(path: Path, disk: Disk, force: bool) -> int:
    """Delete a checkpoint and its sidecar; the last valid one of a directory only if `force`."""
    if disk.is_directory(path):
        raise CheckpointError(f"{printable(path)}: a directory; give the file to remove")
    if path.suffix != ".bin" or not (policy.label_of(path.name) or reader.read_head(path, disk)):
        raise CheckpointError(f"{printable(path)}: not the name of a checkpoint")
    if path.name not in disk.names(path.parent):
        raise CheckpointError(f"{printable(path)}: no such file")
    notices: list[str] = []
    store = Store(path.parent, disk, notices.append)
    store.open()
    try:
        valid = [entry.path.name for entry in store.entries() if entry.valid]
        if valid == [path.name] and not force:
            raise CheckpointError(
                f"{printable(path)}: the only valid checkpoint in its directory; --force removes it"
            )
        store.make_durable()
        store.delete(Entry(path, policy.label_of(path.name) or ""))
    finally:
        store.close()
    for notice in notices:
        _say(notice)
    if path.name in disk.names(path.parent):
        return 1
    print(f"{printable(path)}: removed")
    return 0


def _say(text: str) -> None:
    print(printable(text), file=sys.stderr)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse; any mistake ends the program with exit code 2 and a message."""
    parser = program(
        "checkpoint",
        "List, show, compare, verify, export and remove checkpoints.",
        "ls checkpoints\nverify checkpoints\nexport checkpoints weights.bin",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    about = {"ls": "list the checkpoints of a directory (reads only the head of each file)",
             "show": "print the contents of a checkpoint (of a directory: its latest)",
             "diff": "compare two checkpoints; exit code 0: equal, 1: different, 2: one cannot be read",
             "verify": "check every byte of checkpoints against its checksum",
             "export": "write the weights alone to another file",
             "rm": "remove a checkpoint and its .json"}  # fmt: skip
    sub = {name: commands.add_parser(name, help=text, description=f"{text.capitalize()}.", allow_abbrev=False)
           for name, text in about.items()}  # fmt: skip
    kinds = {"ls": "a directory of checkpoints", "rm": "a checkpoint"}
    for name, parser_ in sub.items():
        parser_.add_argument("path", type=a_path, metavar="PATH", nargs="+" if name == "verify" else None,
                             help=kinds.get(name, "a checkpoint, or a directory of them"))  # fmt: skip
    sub["show"].add_argument("--json", action="store_true", help="print JSON")
    sub["diff"].add_argument("other", type=a_path, metavar="OTHER", help="the one to compare it with")
    sub["export"].add_argument("out", type=a_path, metavar="OUT", help="the file to write, .bin or .json")
    sub["export"].add_argument("--force", action="store_true", help="replace whatever file is there")
    sub["rm"].add_argument(
        "--force", action="store_true", help="remove even the only valid checkpoint of a directory"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    given = _options(argv)
    disk = Disk()
    try:
        if given.command == "ls":
            return ls(given.path, disk)
        if given.command == "show":
            return show(given.path, disk, given.json)
        if given.command == "diff":
            return diff(given.path, given.other, disk)
        if given.command == "verify":
            return verify(given.path, disk)
        if given.command == "export":
            return export(given.path, given.out, disk, given.force)
        return rm(given.path, disk, given.force)
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        return PIPE_CLOSED
    except (CheckpointError, OSError) as error:
        _say(f"error: {error}")
        return 2 if given.command == "diff" else 1


if __name__ == "__main__":
    sys.exit(exit_code(main))
