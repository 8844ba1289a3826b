"""Any one action of a save, a recovery or a final save fails, in any way: it is reported, nothing is lost."""

from __future__ import annotations

import errno

import pytest

from tests.crash.faults import FAULTS, RUNS, SHORT, struck_everywhere
from tests.crash.programs import S
from tinyllm.checkpoint.commit import TEMP_PREFIX

# What may fail without a word where no save is lost by it: reading a sidecar (it is rewritten), closing
# what was read, the text in the lock, the free space (a full disk shows when it is written to).
SILENT = {"close", "open", "read", "truncate", "write", "free"}
UNREADABLE_PARENT = ("sync_directory", errno.EACCES)  # of a directory that was there before


def name(fault: int | str) -> str:
    return errno.errorcode[fault] if isinstance(fault, int) else fault


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault, id=name(fault), marks=() if fault in (errno.EIO, SHORT) else pytest.mark.slow)
        for fault in FAULTS
    ],
)
@pytest.mark.parametrize("program", RUNS, ids=lambda program: program.name)
def test_one_fault_loses_nothing_leaks_nothing_is_reported_and_the_next_save_works(program, fault):
    count = 0
    for struck in struck_everywhere(program, S.BEST_AND_LAST, fault):
        action, _ = struck.action
        count += 1
        assert len(struck.lost) == bool(struck.lost) <= len(struck.raised) <= 1, struck.action
        assert not struck.descriptors, struck.action
        reported = struck.raised or struck.notices
        assert reported or action in SILENT or (action, fault) == UNREADABLE_PARENT, struck.action
        if action != "unlink":
            left = [temp for temp in struck.temps if temp != f"{TEMP_PREFIX}9-9"]  # of another process
            assert not left, struck.action
    assert count >= (2 if isinstance(fault, str) else 20)
