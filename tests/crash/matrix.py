"""The matrix itself: every program x strategy x model, each crash state judged, all of it counted.

Within a stretch of the log that neither syncs anything nor reports a save, what a crash may leave only
grows, but for a kill. So the states before the stretch's end are those of all its points. Order: Count,
the states of recordings, the kinds of rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tests.crash.disk import Durable, Record, Sync, SyncDirectory
from tests.crash.programs import Program, Recording, killed, record
from tests.crash.states import MODELS, History, State
from tests.crash.verdict import Observer
from tinyllm.checkpoint import CheckpointStrategy

Situation = tuple[State, frozenset[int]]  # what is on the disk, and which saves were reported durable


@dataclass
class Count:
    """How many crash points there were, and by model how many states, and how many broke which invariant."""

    points: int = 0
    states: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    letters: set[str] = field(default_factory=set)

    def __add__(self, other: Count) -> Count:
        return Count(
            self.points + other.points, self.states + other.states, self.broken + other.broken,
            self.letters | other.letters,
        )  # fmt: skip


def situations(recording: Recording, model: str) -> Iterator[Situation]:
    """Yield what every crash of a recorded run may leave, some of it more than once."""
    history, acked = History(recording.base), recording.acked
    for point, (record_, following) in enumerate(_pairs(recording.log)):
        if isinstance(record_, Durable):
            acked |= {record_.save}
        elif record_ is not None:
            history.apply(record_)
        if point >= recording.start and (model == "kill" or _ends_a_stretch(following)):
            yield from ((state, acked) for state in history.states(model, following))


def _pairs(log: list[Record]) -> Iterator[tuple[Record | None, Record | None]]:
    """Yield (the record before, the record after) each point of a log."""
    yield from zip([None, *log], [*log, None], strict=True)


def _ends_a_stretch(following: Record | None) -> bool:
    return following is None or isinstance(following, Sync | SyncDirectory | Durable)


def judge(observer: Observer, recordings: Iterable[Recording], models: Iterable[str] = MODELS) -> Count:
    """Count the states of some recordings, each once, and what is broken in them."""
    count, found = Count(), {model: dict[Situation, None]() for model in models}
    for recording in recordings:
        observer.learn(recording.saves)
        count.points += len(recording.log) + 1 - recording.start
        for model, seen in found.items():
            seen.update(dict.fromkeys(situations(recording, model)))
    for model, seen in found.items():
        _weigh(observer, model, seen, count)
    return count


def _weigh(observer: Observer, model: str, seen: Iterable[Situation], count: Count) -> None:
    for state, acked in seen:
        count.states[model] += 1
        letters = observer.broken(state, acked)
        count.broken[model] += bool(letters)
        count.letters |= set(letters)


def crashed(program: Program, strategy: CheckpointStrategy, models: Iterable[str] = MODELS) -> Count:
    """Return the count of one run that is crashed at every point."""
    return judge(Observer(strategy, program.keep), [record(program, strategy)], models)


def crashed_after_a_kill(
    program: Program, strategy: CheckpointStrategy, models: Iterable[str] = MODELS
) -> Count:
    """Return the count of runs killed at every action, resumed, and then crashed at every point."""
    return judge(Observer(strategy, program.keep), killed(program, strategy), models)


def crashed_in_recovery(
    program: Program, strategy: CheckpointStrategy, models: Iterable[str] = MODELS
) -> Count:
    """Return the count of a run and of its recovery, and the recovery of that, until no state is new."""
    count, observer, recording = Count(), Observer(strategy, program.keep), record(program, strategy)
    observer.learn(recording.saves)
    for model in models:
        seen = dict.fromkeys(situations(recording, model))
        after: dict[State, list[State]] = {}
        waiting = list(seen)
        while waiting:
            state, acked = waiting.pop()
            if state not in after:
                disk, _ = observer.recover(state)
                again = Recording(disk.base, disk.log, [], frozenset())
                after[state] = [left for left, _ in dict.fromkeys(situations(again, model))]
                count.points += len(disk.log) + 1
            new = [(left, acked) for left in after[state] if (left, acked) not in seen]
            seen.update(dict.fromkeys(new))
            waiting += new
        _weigh(observer, model, seen, count)
    return count
