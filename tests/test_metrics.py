"""metrics.jsonl reads as one history, whatever interrupted its writing."""

from __future__ import annotations

from tinyllm.training.metrics import FILE_NAME, Metrics, read


def test_a_resume_takes_back_what_was_logged_beyond_it(tmp_path):
    with Metrics(tmp_path) as lines:
        for step in (1, 2, 3):
            lines.write(step=step, train__loss=float(step))
    with Metrics(tmp_path) as lines:
        lines.write(step=1, event="resume", phase="pretraining")
        lines.write(step=2, train__loss=20.0)
    found = read(tmp_path / FILE_NAME)
    assert [(line["step"], line.get("train/loss")) for line in found] == [(1, 1.0), (1, None), (2, 20.0)]


def test_torn_and_foreign_lines_are_skipped_and_do_not_spoil_the_next(tmp_path):
    path = tmp_path / FILE_NAME
    path.write_text(
        '{"step": 1, "train/loss": 2.0}\n[1]\n{"step": "x"}\n{"step": 2, "train/lo', encoding="utf-8"
    )
    with Metrics(tmp_path) as lines:
        lines.write(step=2, train__loss=float("nan"), event=None)
    found = read(path)
    assert [line["step"] for line in found] == [1, 2]
    assert found[1]["train/loss"] is None


def test_an_evaluation_and_an_update_of_one_step_are_both_kept(tmp_path):
    with Metrics(tmp_path) as lines:
        lines.write(step=4, train__loss=1.0)
        lines.write(step=4, eval__loss=2.0)
        lines.write(step=4, eval__loss=3.0)
    assert [line.get("eval/loss") for line in read(tmp_path / FILE_NAME)] == [None, 3.0]
