"""What a model writes while it trains is shown and logged, and changes no bit of the training.

That a run cut anywhere logs the same samples is among the properties of test_resume.
"""

from __future__ import annotations

import dataclasses
import io

import pytest

from tests.runs import TINY, Run, Silent, same_state
from tinyllm import report
from tinyllm.cli.display import Lines
from tinyllm.config import Config, SavingConfig
from tinyllm.inference.samples import sample_in_training
from tinyllm.page.history import read_run
from tinyllm.page.written import MILESTONES, MOST, Written, at_milestones, gather_
from tinyllm.words import shortened

OFTEN = Config(TINY.model, TINY.train, TINY.data, SavingConfig(sample_every=2))


class Seen(Silent):
    def __init__(self):
        super().__init__()
        self.lines, self.shown = io.StringIO(), []

    def sampled(self, state, prompt, text):
        self.shown.append((state.progress.step, prompt, text))
        Lines(self.lines).sampled(state, prompt, text)


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    """A run that is sampled after every second update, and its state."""
    run = Run(tmp_path_factory.mktemp("sampled") / "run", OFTEN, watcher=Seen())
    return run, run.go()


def test_samples_are_drawn_at_every_nth_update_and_shown_and_logged_alike(sampled):
    run, state = sampled
    logged = [(line["step"], line["prompt"], line["text"]) for line in run.samples()]
    assert logged == run.watcher.shown
    assert [step for step, *_ in logged] == list(range(2, state.progress.step + 1, 2))
    assert run.watcher.lines.getvalue().count("\n") == len(logged)
    questions = state.sources["instruction_tuning"].questions
    asked = [line["prompt"] for line in run.samples() if line["phase"] == "instruction_tuning"]
    assert asked and set(asked) <= set(questions)
    assert {line["prompt"] for line in run.samples() if line["phase"] == "pretraining"} == {""}


def test_no_bit_of_the_training_depends_on_samples(sampled):
    run, state = sampled
    plain = Run(run.directory.with_name("plain"), TINY)
    other = plain.go()
    other.config = state.config  # the setting itself is the only difference
    same_state(other, state)
    assert plain.losses() == run.losses() and plain.samples() == []


def test_a_sample_is_a_function_of_the_state_and_leaves_it_alone(sampled):
    _, state = sampled
    before = repr(state.to_dict()), state.rows.tobytes()
    assert sample_in_training(state) == sample_in_training(state)
    assert (repr(state.to_dict()), state.rows.tobytes()) == before
    progress = dataclasses.replace(state.progress, phase="pretraining")
    texts = {
        sample_in_training(dataclasses.replace(state, progress=dataclasses.replace(progress, step=step)))
        for step in range(5)
    }
    assert len(texts) == 5


def test_a_resume_keeps_the_setting_and_may_change_it(tmp_path):
    run = Run(tmp_path / "run", OFTEN)
    assert run.go(cut=6) is None
    assert run.go(changes={"saving": {"sample_every": 0}}) is not None
    steps = [line["step"] for line in run.samples()]
    assert steps and max(steps) <= 6


def test_the_report_shows_what_the_model_wrote_and_events_are_not_swamped(sampled):
    run, _ = sampled
    found = read_run(run.directory, "run")
    assert [each.step for each in found.written.values()] == [line["step"] for line in run.samples()]
    assert {event.kind for event in found.events} <= {"finished", "resume"}
    page = report.write_report(run.directory).read_text(encoding="utf-8")
    assert "What the model wrote" in page and page.count("pretraining</td>") >= 2


def line(step, phase="pretraining", **others):
    return {
        "step": step, "event": "sample", "phase": phase, "epoch": 0, "prompt": "", "text": "x",
    } | others  # fmt: skip


def shown(lines, begun):
    gather_(found := {}, lines)
    return [(each.step, each.epoch) for each in at_milestones(found, begun)]


def test_of_each_phase_the_samples_at_its_own_epochs_and_the_last_are_shown():
    # Samples every 25 updates, epochs of 40: the first sample after epoch 1 is at 50, after epoch 5 at 200.
    first = [line(step, epoch=step // 40) for step in range(25, 1301, 25)]
    second = [line(step, "instruction_tuning", epoch=step // 40) for step in range(1325, 1601, 25)]
    begun = {"pretraining": 0, "instruction_tuning": 32}
    assert shown(first + second, begun) == [
        (50, 1), (200, 5), (400, 10), (800, 20), (1300, 32), (1325, 33), (1500, 37), (1600, 40),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("epochs", "numbers"),
    [
        ([0, 0, 0, 0, 0, 0, 0], [1, 5, 7]),  # no whole epoch: the samples are counted
        ([0, 0, 0, 0, 0, 1], [1, 5, 6]),  # the end of the only epoch is that of the run
        ([1, 2, 3], [1, 3]),
        ([3, 6, 9], [1, 2, 3]),  # fewer samples than epochs
        ([7, 7, 7], [1, 3]),
        ([0], [1]),
    ],
)
def test_of_runs_of_few_epochs_or_samples_some_are_shown(epochs, numbers):
    lines = [line(step, epoch=epoch) for step, epoch in enumerate(epochs, 1)]
    assert [step for step, _ in shown(lines, {"pretraining": 0})] == numbers


def test_the_epochs_before_a_phase_are_read_from_the_log(sampled):
    run, state = sampled
    before = state.progress.epoch - state.progress.phase_epoch
    found = read_run(run.directory, "run").begun
    assert before > 0 and found == {"pretraining": 0, "instruction_tuning": before}


def test_of_very_many_samples_few_are_kept_and_no_malformed_one():
    found = {}
    gather_(found, [line(step) for step in range(1, 3 * MOST)] + [line(3 * MOST, "instruction_tuning")])
    assert len(found) <= MOST + 1
    steps = [each.step for each in at_milestones(found, {})]
    assert len(steps) == len(MILESTONES) + 2 and steps[0] == 1 and steps[-1] == 3 * MOST
    gather_(
        found := {},
        [line(1, text=5), line(2, epoch=-1), line(3, prompt=None), {"step": 4, "event": "resume"}],
    )
    assert found == {2: Written(2, 0, "pretraining", "", "x")}
    assert at_milestones({}, {}) == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("short", "short"),
        ("x" * 10, "x" * 10),
        ("x" * 11, "xxxxxx ..."),
        ("月" * 5, "月" * 5),
        ("月" * 6, "月月月 ..."),
    ],
)
def test_a_line_is_cut_at_the_width_of_a_terminal(text, shown):
    assert shortened(text, 10) == shown


def test_a_sample_with_line_ends_is_one_line_of_the_screen(sampled):
    _, state = sampled
    out = io.StringIO()
    Lines(out).sampled(state, "", "\n two\nlines\x1b ")
    assert out.getvalue() == f"  step {state.progress.step}  | two lines\\x1b\n"
