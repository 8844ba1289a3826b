"""docs/crash-matrix.md, written: what was enumerated, the counts, and what goes red.

Each cell of a table can be computed alone, so that a test may check one. Order: the tables, the text.
"""

from __future__ import annotations

import errno
import multiprocessing
import re
from collections.abc import Callable
from dataclasses import dataclass

from tests.crash import faults, matrix
from tests.crash.matrix import Count
from tests.crash.mutants import MUTANTS, Mutant
from tests.crash.programs import FIRST, ONE, PROGRAMS, STRATEGIES, S
from tests.crash.states import MODELS, SECTOR, SEVERAL
from tinyllm.checkpoint import CheckpointStrategy


@dataclass(frozen=True)
class Row:
    """One line of a table: its name, and what is counted for each strategy."""

    name: str
    count: Callable[[CheckpointStrategy], Count]

    @staticmethod
    def shown(count: Count) -> str:
        """Return a cell of the table."""
        states = ", ".join(str(count.states[model]) if model in count.states else "-" for model in MODELS)
        bad = sum(count.broken.values())
        return f"{count.points}: {states}" + (
            f" **{bad} broken: {''.join(sorted(count.letters))}**" if bad else ""
        )


def _crashed(program: matrix.Program) -> Row:
    return Row(program.name, lambda strategy: matrix.crashed(program, strategy))


def _struck(program: matrix.Program, fault: int | str) -> Row:
    name = errno.errorcode[fault] if isinstance(fault, int) else fault
    return Row(
        f"{program.name}, {name}",
        lambda strategy: faults.crashed_after_a_fault(program, strategy, fault, _models(strategy)),
    )


def _models(strategy: CheckpointStrategy) -> tuple[str, ...]:
    """Where two names are saved, a fault and a crash in the posix model make too many states."""
    return MODELS[:2] if strategy in (S.BEST_AND_LAST, S.best_and_periodic(2)) else MODELS


CRASHES = (
    *(_crashed(program) for program in PROGRAMS),
    Row("recovery itself", lambda strategy: matrix.crashed_in_recovery(ONE, strategy)),
    Row("killed in a first save, then a full disk", lambda s: matrix.crashed_after_a_kill(FIRST, s)),
    Row("killed in one save more, then a full disk", lambda s: matrix.crashed_after_a_kill(ONE, s)),
)
FAULTS = tuple(
    _struck(program, fault) for program in faults.RUNS for fault in (errno.EIO, faults.SHORT, faults.FULL)
)


def mutant_line(mutant: Mutant, count: Count) -> str:
    """Return a line of the mutation table."""
    cells = [f"{count.broken[model]} of {count.states[model]}" for model in MODELS]
    where = f"{mutant.count.__name__.replace('_', ' ')}: {mutant.program.name}, {mutant.strategy}"
    return f"| {mutant.name} | {where} | {' | '.join(cells)} | {', '.join(sorted(count.letters)) or 'none'} |"


def totals(text: str) -> str:
    """Return the sentence that sums up the tables of a page."""
    points, states, broken = 0, [0] * len(MODELS), 0
    for cell in re.findall(r"\| (\d+: [^|]+)(?= \|)", text):
        head, _, rest = cell.partition(": ")
        rest, _, bad = rest.partition(" **")
        points += int(head)
        states = [n + int(m) if m != "-" else n for n, m in zip(states, rest.split(", "), strict=True)]
        broken += int(bad.split()[0]) if bad else 0
    said = ", ".join(f"{count:,} {model}" for count, model in zip(states, MODELS, strict=True))
    return f"**In all: {points:,} crash points, {sum(states):,} states ({said}), {broken} violations.**"


_STRATEGIES = f"| run | {' | '.join(map(str, STRATEGIES))} |\n|{'---|' * (1 + len(STRATEGIES))}"

TEXT = f"""\
# The crash matrix

Printed by `python -m tests.crash --write docs/crash-matrix.md` (some minutes); do not edit by hand.
`pytest tests/test_crash_matrix.py` recomputes the quick cells and compares, with `-m slow` all of them.

The checkpoint code runs, unchanged, on a disk in memory (`tests/crash/disk.py`) that logs each change. A
crash may come between any two records of the log. Of every crash point every state that the disk may be
in is made (`tests/crash/states.py`); a new process recovers each, and is asked what it can load.

## What a crash may leave

- **kill**: `kill -9`. The process is gone, the system and its cache are not: all that was done is there.
  A write under way may have got any number of its first sectors.
- **ordered**: a power cut under a file system with an ordered journal, as ext4. Names change on the disk
  in the order in which they were changed; a power cut keeps those up to any one after the last fsync,
  and an fsync of any file or directory keeps all that were before it. A file that was not synced has any
  subset of its sectors, old ones else (zeros in a new file), and any size it had since, or that its
  growth passed through at a sector's end.
- **posix**: a power cut where only POSIX's promises hold. Each name by itself is what it was at its
  directory's last fsync, or anything it became since: a rename may have lost its source but not gained
  its target, or the other way around; links, deletions and directories come in any order. Syncing a file
  keeps its bytes and none of its names. A sector of an unsynced file is old, or any newer version, or
  torn in its middle between any two versions, or holds what another checkpoint left in that place.

A sector has {SECTOR} bytes, which disks write whole; the checkpoints here have two of them. The
literature these follow: ALICE (OSDI 2014), CrashMonkey and B3 (OSDI 2018), and for fsync that fails, ATC
2020.

**What bounds it.** Nothing is sampled. The runs are as short as the tables say: at most three saves.
Left out is what nobody reads: the contents of temp files and of the lock (the disk fails the run if they
are read), the numbers in temp files' names, and more than {SEVERAL} temp files at once, which are swept
one by one like {SEVERAL}. A state that comes up at several points is counted once for each set of saves
that had been reported durable. What a file system does against its own promises is not in any model, nor
are bits that rot (tests/test_checkpoint_*.py have those).

## What must hold

After recovery, in each state: (a) a load returns the newest save that was reported durable or a newer
one, bit for bit; (b) nothing that loads, and no sidecar, mixes two saves or is of none; (c) the newest,
the best N of each phase, the pinned, the periodic and the final ones are there; (d) recovery raises
nothing and leaves no temp file, and the next save works.

## Crashes

A cell is *crash points: states in kill, ordered, posix*. Two saves in flight are the asynchronous
writer's: one is written while two more are asked for. *Recovery itself* is crashed at every point, its
recovery again, and so on until no state is new: any number of crashes in a row. *Killed, then a full
disk*: the run is killed before each of its actions in turn and another resumes, with nothing synced by
the kill and room only after retention; then the power is cut at every point.

{_STRATEGIES}
CRASHES

## One fault, then a crash

Each action of a run fails once, one after the other (reading, locking and listing too); the run continues,
saves once more, and is then crashed at every point after the fault. An fsync that failed has lost its
file's bytes for good. *Short write* takes half of what it is given, *write of nothing* takes none. "-"
is not enumerated: where a save has two names there are too many states. Every other error number
(ENOSPC, EDQUOT, EMFILE, EACCES, EROFS, EINTR) is struck at every action in
`tests/test_checkpoint_faults.py`, without the crash after it.

{_STRATEGIES}
FAULTS

TOTALS

## The mutation proof

One step of the protocol left out or moved; *broken of all states*, and which invariants. A step that can
be left out without a violation is not proved by this matrix. Note the column of zeros: no loop of `kill
-9` can ever find a missing fsync. The last line is the control: with the order right, checksums are not
needed against crashes. They are there against rot.

| left out | run | kill | ordered | posix | broken |
|---|---|---|---|---|---|
MUTANTS
"""


def computed(cell: tuple[int, CheckpointStrategy | None]) -> str:
    """Return what the page says at (number of a row, its strategy); of a mutant, its whole line."""
    row, strategy = cell
    rows = (*CRASHES, *FAULTS)
    if strategy:
        return Row.shown(rows[row].count(strategy))
    mutant = MUTANTS[row - len(rows)]
    return mutant_line(mutant, mutant.counted())


def page(processes: int, progress: Callable[[str], None]) -> str:
    """Return docs/crash-matrix.md; its cells are computed by several processes, one after another."""
    rows = (*CRASHES, *FAULTS)
    cells: list[tuple[int, CheckpointStrategy | None]]
    cells = [(row, strategy) for row in range(len(rows)) for strategy in STRATEGIES]
    cells += [(len(rows) + mutant, None) for mutant in range(len(MUTANTS))]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        found = []
        for (row, strategy), text in zip(cells, pool.imap(computed, cells), strict=True):
            found.append(text)
            progress(f"{len(found)} of {len(cells)}: {rows[row].name}, {strategy}" if strategy else text)
    width = len(STRATEGIES)
    lines = [
        f"| {row.name} | {' | '.join(found[i * width : (i + 1) * width])} |" for i, row in enumerate(rows)
    ]
    tables = {
        "CRASHES": lines[: len(CRASHES)],
        "FAULTS": lines[len(CRASHES) :],
        "TOTALS": [totals("\n".join(lines))],
        "MUTANTS": found[len(rows) * width :],
    }
    return re.sub(r"^[A-Z]+$", lambda name: "\n".join(tables[name[0]]), TEXT, flags=re.M)
