"""What is saved when, what is kept, what is found again, and what a save costs the one who asks for it."""

from __future__ import annotations

import errno
import math
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.standin import GatedDisk, QuickDisk, Standin, metadata, names
from tests.timing import PATIENCE
from tinyllm.checkpoint import CheckpointError, CheckpointManager, CheckpointStrategy, policy
from tinyllm.checkpoint.disk import Disk
from tinyllm.checkpoint.metadata import Entry

S = CheckpointStrategy
NAN = math.nan


def manager_of(directory: Path, strategy=S.BEST_AND_LAST, keep_best_n=3, **more) -> CheckpointManager:
    return CheckpointManager(
        directory, strategy, keep_best_n, **{"disk": QuickDisk(), "asynchronous": False, **more}
    )


def train(
    manager: CheckpointManager, losses: list[float], first: int = 1, phase: str = "pretraining"
) -> None:
    for epoch, loss in enumerate(losses, first):
        manager.save_checkpoint(Standin(epoch, epoch), metadata(epoch, loss, phase)).result()


def bins(directory: Path) -> set[str]:
    """Names without `checkpoint_` and `.bin`; every .bin but the final one has a .json, and none is over."""
    found = names(directory)
    stems = {name[:-4] for name in found if name.endswith(".bin")}
    assert found == {f"{stem}.bin" for stem in stems} | {f"{stem}.json" for stem in stems - {"model_final"}}
    return {stem.removeprefix("checkpoint_") for stem in stems}


def seed_of(path: Path | None) -> int:
    assert path is not None
    return CheckpointManager.load_checkpoint(path, Standin)[0].seed


# ---- strategies

LOSSES = [3.0, 2.0, 2.5, 1.5, 1.5, NAN]


@pytest.mark.parametrize(
    ("strategy", "files"),
    [
        (S.BEST, {"best_epoch_1_loss_3.0000", "best_epoch_2_loss_2.0000", "best_epoch_4_loss_1.5000"}),
        (S.LAST, {"last"}),
        (S.periodic(2), {"epoch_2", "epoch_4", "epoch_6"}),
        (S.periodic(1), {f"epoch_{n}" for n in range(1, 7)}),
        (S.BEST_AND_LAST,
         {"best_epoch_1_loss_3.0000", "best_epoch_2_loss_2.0000", "best_epoch_4_loss_1.5000", "last"}),
        (S.best_and_periodic(3), {"best_epoch_1_loss_3.0000", "best_epoch_2_loss_2.0000",
                                  "best_epoch_4_loss_1.5000", "epoch_3", "epoch_6"}),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_strategy_leaves_exactly_its_files(tmp_path, strategy, files, asynchronous):
    with manager_of(tmp_path, strategy, asynchronous=asynchronous) as manager:
        train(manager, LOSSES)
    assert bins(tmp_path) == files


@pytest.mark.parametrize("n", [0, -1, 1.5, True])
def test_fewer_than_one_best_are_refused(tmp_path, n):
    with pytest.raises(ValueError, match="keep_best_n"):
        CheckpointManager(tmp_path, keep_best_n=n)
    assert names(tmp_path) == set()


def test_should_save_says_what_save_checkpoint_does(tmp_path):
    for number, strategy in enumerate([S.BEST, S.LAST, S.periodic(2), S.best_and_periodic(3)]):
        with manager_of(tmp_path / str(number), strategy) as manager:
            for epoch, loss in enumerate(LOSSES, 1):
                expected = manager.should_save(epoch, loss, "pretraining")
                saved = manager.save_checkpoint(Standin(epoch), metadata(epoch, loss))
                assert saved.done
                assert (saved.result() is not None) == expected


def test_best_and_last_of_one_save_are_one_file_on_the_disk(tmp_path):
    with manager_of(tmp_path) as manager:
        path = manager.save_checkpoint(Standin(1), metadata(1, 3.0)).result()
        assert path == tmp_path / "checkpoint_last.bin"
        assert path.samefile(tmp_path / "checkpoint_best_epoch_1_loss_3.0000.bin")
        train(manager, [4.0], first=2)
        assert not path.samefile(tmp_path / "checkpoint_best_epoch_1_loss_3.0000.bin")
    assert seed_of(tmp_path / "checkpoint_best_epoch_1_loss_3.0000.bin") == 1


@pytest.mark.parametrize("strategy", [S.BEST, S.periodic(5), S.best_and_periodic(5)], ids=str)
def test_a_forced_save_writes_last_whatever_the_strategy_and_is_never_best(tmp_path, strategy):
    with manager_of(tmp_path, strategy) as manager:
        saved = manager.save_checkpoint(Standin(1), metadata(5, 0.1), epoch_end=False, last=True)
        assert saved.result() == tmp_path / "checkpoint_last.bin"
        assert manager.save_checkpoint(Standin(2), metadata(5, 0.1), epoch_end=False).result() is None
        assert manager.get_best_checkpoint("pretraining") is None
    assert bins(tmp_path) == {"last"}


@pytest.mark.parametrize("loss", [NAN, math.inf, -math.inf])
def test_a_loss_that_is_no_number_is_never_best_and_does_not_stop_later_ones(tmp_path, loss):
    with manager_of(tmp_path) as manager:
        train(manager, [loss, 2.0, loss])
        assert seed_of(manager.get_best_checkpoint()) == 2
        assert manager.list_checkpoints()[-1].metadata.loss == pytest.approx(loss, nan_ok=True)
    assert bins(tmp_path) == {"best_epoch_2_loss_2.0000", "last"}


def test_losses_of_any_size_make_names_that_fit(tmp_path):
    with manager_of(tmp_path, S.BEST) as manager:
        train(manager, [1e300, 1e20, 123456.0, 0.0, -2.5, -1e300])
        assert len(manager.list_checkpoints()) == 3
    with manager_of(tmp_path, S.BEST) as manager:
        assert seed_of(manager.get_best_checkpoint()) == 6


# ---- retention


def test_the_best_n_of_each_phase_are_kept_and_a_phase_knows_nothing_of_another(tmp_path):
    with manager_of(tmp_path, keep_best_n=2) as manager:
        train(manager, [0.5, 0.4, 0.3])
        train(manager, [9.0, 8.0, 8.5, 7.0], first=4, phase="instruction_tuning")
        assert seed_of(manager.get_best_checkpoint("pretraining")) == 3
        assert seed_of(manager.get_best_checkpoint("instruction_tuning")) == 7
        assert seed_of(manager.get_best_checkpoint()) == 7
        assert manager.get_best_checkpoint("none") is None
    assert bins(tmp_path) == {
        "best_epoch_2_loss_0.4000", "best_epoch_3_loss_0.3000",
        "best_epoch_5_loss_8.0000", "best_epoch_7_loss_7.0000", "last",
    }  # fmt: skip


def test_pinned_and_periodic_files_survive_every_retention(tmp_path):
    with manager_of(tmp_path, S.best_and_periodic(1), keep_best_n=1) as manager:
        train(manager, [3.0])
        manager.pin(tmp_path / "checkpoint_best_epoch_1_loss_3.0000.bin")
        train(manager, [2.0, 1.0], first=2)
        pinned = [entry.labels for entry in manager.list_checkpoints() if entry.pinned]
    assert pinned == [("best", "pinned")]
    assert bins(tmp_path) == {
        "epoch_1", "epoch_2", "epoch_3", "best_epoch_1_loss_3.0000", "best_epoch_3_loss_1.0000",
    }  # fmt: skip


def entries_of(draw: list[tuple[str, int, int, float]]) -> list[Entry]:
    return [
        Entry(Path(f"{number}.bin"), label, metadata(number, loss, f"phase{phase}"), sequence, epoch_end=True)
        for number, (label, phase, sequence, loss) in enumerate(draw)
    ]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(policy.LABELS), st.integers(0, 2), st.integers(1, 9), st.sampled_from(LOSSES)
        )
    ),
    st.integers(1, 3),
)
def test_retention_takes_only_bests_that_n_better_ones_outlive_and_never_the_newest(drawn, n):
    entries = entries_of(drawn)
    gone = policy.to_delete(entries, n)
    newest = max((entry.sequence for entry in entries), default=0)
    for deleted in gone:
        assert deleted.label == "best"
        assert deleted.sequence != newest
        better = [
            entry for entry in entries
            if entry not in gone and entry.label == "best" and entry.metadata.phase == deleted.metadata.phase
            and (entry.metadata.loss, -entry.sequence) <= (deleted.metadata.loss, -deleted.sequence)
        ]  # fmt: skip
        assert len(better) >= n
    assert not policy.to_delete([entry for entry in entries if entry not in gone], n)


# ---- restart


def test_a_restart_knows_the_best_the_sequence_and_what_to_delete(tmp_path):
    with manager_of(tmp_path) as manager:
        train(manager, [3.0, 2.0, 1.0])
    with manager_of(tmp_path, keep_best_n=1) as manager:
        assert not manager.should_save(4, 1.0) or manager.strategy.last
        train(manager, [1.0], first=4)
        assert [entry.seq for entry in manager.list_checkpoints()] == [3, 4]
        assert seed_of(manager.get_best_checkpoint()) == 3
    assert bins(tmp_path) == {"best_epoch_3_loss_1.0000", "last"}


def test_the_newest_is_found_by_sequence_under_any_name_and_never_by_clock(tmp_path):
    import os

    with manager_of(tmp_path, S.best_and_periodic(2)) as manager:
        for epoch, loss in enumerate([3.0, 4.0, 2.0], 1):
            manager.save_checkpoint(Standin(epoch, epoch), metadata(epoch, loss))
            for entry in manager.list_checkpoints():
                os.utime(entry.path, (10**9 - epoch, 10**9 - entry.sequence))
            assert seed_of(manager.get_last_checkpoint()) == epoch
        final = manager.save_final(Standin(9), metadata(3, 2.0))
        assert final == manager.get_last_checkpoint() == tmp_path / "model_final.bin"
        assert seed_of(manager.get_best_checkpoint()) == 3


def test_save_final_writes_to_the_given_path_and_can_be_resumed_from(tmp_path):
    with manager_of(tmp_path / "run", asynchronous=True) as manager:
        path = manager.save_final(Standin(4, 4), metadata(4), tmp_path / "models" / "final_v1.bin")
        assert path == tmp_path / "models" / "final_v1.bin"
        assert manager.list_checkpoints() == []
    assert CheckpointManager.load_checkpoint(path, Standin)[0].bits() == Standin(4, 4).bits()
    assert names(tmp_path / "models") == {"final_v1.bin"}


def test_best_falls_back_to_complete_epochs_where_no_file_is_labelled_best(tmp_path):
    with manager_of(tmp_path, S.periodic(1)) as manager:
        train(manager, [2.0, 1.0, 3.0])
        manager.save_checkpoint(Standin(4), metadata(3, 0.1), epoch_end=False, last=True)
        assert manager.get_best_checkpoint() == tmp_path / "checkpoint_epoch_2.bin"


def test_a_directory_stands_for_its_newest_valid_checkpoint(tmp_path):
    with manager_of(tmp_path) as manager:
        train(manager, [2.0, 3.0])
    state, about = CheckpointManager.load_checkpoint(tmp_path, Standin)
    assert (state.seed, about.epoch) == (2, 2)
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        (tmp_path / "empty").mkdir()
        CheckpointManager.load_checkpoint(tmp_path / "empty", Standin)
    with pytest.raises(CheckpointError, match=r"none\.bin: cannot be read"):
        CheckpointManager.load_checkpoint(tmp_path / "none.bin", Standin)


def test_an_epoch_trained_again_replaces_its_file(tmp_path):
    with manager_of(tmp_path, S.periodic(1)) as manager:
        train(manager, [3.0, 2.0])
        manager.save_checkpoint(Standin(77), metadata(2, 2.0))
        assert seed_of(manager.get_last_checkpoint()) == 77
    assert bins(tmp_path) == {"epoch_1", "epoch_2"}


# ---- asynchronous


def test_a_save_returns_before_it_is_durable_and_takes_a_snapshot(tmp_path):
    disk = GatedDisk()
    with manager_of(tmp_path, disk=disk, asynchronous=True) as manager:
        state = Standin(1)
        saved = manager.save_checkpoint(state, metadata(1, 3.0))
        for array in state.arrays.values():
            array[...] = -1
        assert not saved.done
        with pytest.raises(TimeoutError):
            saved.result(timeout=0.01)
        disk.gate.set()
        path = saved.result(PATIENCE)
        assert CheckpointManager.load_checkpoint(path, Standin)[0].bits() == Standin(1).bits()


def test_a_waiting_last_is_replaced_by_a_newer_one_and_ends_as_that_does(tmp_path):
    disk = GatedDisk()
    with manager_of(tmp_path, S.LAST, disk=disk, asynchronous=True) as manager:
        first = manager.save_checkpoint(Standin(1), metadata(1))
        assert disk.reached.wait(PATIENCE)
        waiting = [manager.save_checkpoint(Standin(seed), metadata(seed)) for seed in (2, 3, 4)]
        assert not any(saved.done for saved in (first, *waiting))
        disk.gate.set()
        assert {saved.result(PATIENCE) for saved in waiting} == {tmp_path / "checkpoint_last.bin"}
        assert seed_of(manager.get_last_checkpoint()) == 4
        assert manager.list_checkpoints()[0].sequence == 2  # 2 and 3 were never written


def test_a_waiting_best_is_not_replaced_but_waited_for(tmp_path):
    disk = GatedDisk()
    with manager_of(tmp_path, disk=disk, asynchronous=True) as manager:
        manager.save_checkpoint(Standin(1), metadata(1, 5.0))
        assert disk.reached.wait(PATIENCE)
        manager.save_checkpoint(Standin(2), metadata(2, 4.0))
        threading.Timer(0.1, disk.gate.set).start()
        manager.save_checkpoint(Standin(3), metadata(3, 6.0))
        assert seed_of(manager.get_best_checkpoint()) == 2
        assert seed_of(manager.get_last_checkpoint()) == 3


def test_a_best_that_is_still_being_written_counts_already(tmp_path):
    disk = GatedDisk()
    with manager_of(tmp_path, S.BEST, disk=disk, asynchronous=True) as manager:
        manager.save_checkpoint(Standin(1), metadata(1, 2.0))
        assert not manager.should_save(2, 2.0)
        assert manager.should_save(2, 2.0, "another phase")
        assert manager.save_checkpoint(Standin(2), metadata(2, 3.0)).result() is None
        disk.gate.set()


class BrokenDisk(QuickDisk):
    """No file can be synced while `broken`."""

    broken = True

    def sync(self, fd: int) -> None:
        if self.broken:
            raise OSError(errno.EIO, "the platter is scratched")


def test_a_failed_save_is_raised_once_at_the_next_occasion_and_the_one_after_works(tmp_path):
    disk = BrokenDisk()
    with manager_of(tmp_path, disk=disk, asynchronous=True) as manager:
        disk.broken = False
        manager.save_checkpoint(Standin(1), metadata(1, 3.0)).result()
        disk.broken = True
        manager.save_checkpoint(Standin(2), metadata(2, 2.0))
        assert manager.list_checkpoints()[-1].sequence == 1  # and waits for the writer
        disk.broken = False
        with pytest.raises(CheckpointError, match="scratched"):
            manager.save_checkpoint(Standin(3), metadata(3, 2.5))
        manager.poll()
        assert manager.failures == 1
        manager.save_checkpoint(Standin(3), metadata(3, 2.5)).result()
        assert seed_of(manager.get_best_checkpoint()) == 3  # the lost 2.0 is not remembered as best
    assert bins(tmp_path) == {"best_epoch_1_loss_3.0000", "best_epoch_3_loss_2.5000", "last"}


def test_a_save_that_failed_between_its_names_is_known_by_the_name_it_got(tmp_path):
    class NoLast(QuickDisk):
        broken = False

        def rename(self, source: Path, target: Path) -> None:
            if self.broken and target.name == "checkpoint_last.bin":
                raise OSError(errno.EIO, "no")
            super().rename(source, target)

    disk = NoLast()
    with manager_of(tmp_path, disk=disk) as manager:
        train(manager, [3.0])
        disk.broken = True
        with pytest.raises(CheckpointError):
            manager.save_checkpoint(Standin(2, 2), metadata(2, 2.0))
        disk.broken = False
        assert manager._best_loss("pretraining") == 2.0
        assert seed_of(manager.get_last_checkpoint()) == 2
        train(manager, [2.5], first=3)
        assert [entry.seq for entry in manager.list_checkpoints()] == [1, 2, 3]


@pytest.mark.parametrize("how", ["poll", "close", "result"])
def test_a_failure_is_heard_of_exactly_once(tmp_path, how):
    manager = manager_of(tmp_path, disk=BrokenDisk(), asynchronous=True)
    saved = manager.save_checkpoint(Standin(1), metadata(1))
    manager.list_checkpoints()
    with pytest.raises(CheckpointError, match=r"checkpoint_last\.bin: not saved: the platter is scratched"):
        saved.result(PATIENCE) if how == "result" else getattr(manager, how)()
    manager.close()
    assert manager.failures == 1
    manager_of(tmp_path).close()  # the lock was given back


def test_a_failure_does_not_hide_the_error_that_ends_the_run(tmp_path):
    with pytest.raises(ZeroDivisionError):  # noqa: SIM117
        with manager_of(tmp_path, disk=BrokenDisk(), asynchronous=True) as manager:
            manager.save_checkpoint(Standin(1), metadata(1))
            raise ZeroDivisionError
    assert any("scratched" in notice for notice in manager.notices)


def test_without_a_thread_a_failure_is_raised_at_once(tmp_path):
    with manager_of(tmp_path, disk=BrokenDisk()) as manager:
        with pytest.raises(CheckpointError, match="scratched"):
            manager.save_checkpoint(Standin(1), metadata(1))
        manager.poll()
        assert manager.failures == 1
    assert names(tmp_path) == set()


def test_a_state_with_nan_is_refused_by_name_and_the_last_good_one_stays(tmp_path):
    with manager_of(tmp_path, asynchronous=True) as manager:
        manager.save_checkpoint(Standin(1), metadata(1, 3.0)).result()
        bad = Standin(2)
        bad.arrays["v/wte"][0, 0] = NAN
        with pytest.raises(CheckpointError, match="v/wte holds NaN"):
            manager.save_checkpoint(bad, metadata(2, 2.0)).result()
        assert seed_of(manager.get_last_checkpoint()) == seed_of(manager.get_best_checkpoint()) == 1


def test_a_state_that_cannot_be_copied_fails_the_save_it_would_have_replaced(tmp_path):
    disk = GatedDisk()
    with manager_of(tmp_path, S.LAST, disk=disk, asynchronous=True) as manager:
        manager.save_checkpoint(Standin(1), metadata(1))
        assert disk.reached.wait(PATIENCE)
        replaced = manager.save_checkpoint(Standin(2), metadata(2))
        odd = Standin(3)
        odd.arrays["params/bias"] = odd.arrays["params/bias"].astype("complex64")
        with pytest.raises(CheckpointError, match="complex64"):
            manager.save_checkpoint(odd, metadata(3))
        disk.gate.set()
        with pytest.raises(CheckpointError, match="complex64"):
            replaced.result(PATIENCE)
        manager.save_checkpoint(Standin(4), metadata(4))
        assert seed_of(manager.get_last_checkpoint()) == 4


def test_close_writes_what_is_waiting_and_nothing_can_be_saved_after(tmp_path):
    manager = manager_of(tmp_path, disk=Disk(), asynchronous=True)
    manager.reserve(Standin())
    saves = [manager.save_checkpoint(Standin(seed, seed), metadata(seed, -seed)) for seed in range(1, 6)]
    manager.close()
    manager.close()
    assert all(saved.done for saved in saves)
    assert seed_of(tmp_path / "checkpoint_last.bin") == 5
    with pytest.raises(CheckpointError, match="closed"):
        manager.save_checkpoint(Standin(6), metadata(6))
    assert not any(thread.name == "checkpoint-writer" for thread in threading.enumerate())


def test_notices_are_given_as_they_come(tmp_path):
    heard: list[str] = []
    (tmp_path / "checkpoint_last.bin").write_bytes(b"rotten")
    with manager_of(tmp_path, on_notice=heard.append) as manager:
        assert heard == manager.notices
    assert len(heard) == 1
