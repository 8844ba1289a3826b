"""metrics.jsonl reads as one history, whatever interrupted its writing."""

from __future__ import annotations

import errno
import io
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyllm.training import metrics
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


LINE = st.builds(
    lambda step, more: {"step": step, **more},
    st.integers(0, 9),
    st.sampled_from([{"train/loss": 1.0}, {"eval/loss": 1.0}, {"event": "resume"}, {"event": "finished"}]),
)


def one_by_one(lines: list[Any]) -> list[dict[str, Any]]:
    """Return the history of lines by its definition: each resume takes back what is beyond it."""
    latest: dict[Any, dict[str, Any]] = {}
    for line in lines:
        if not isinstance(line, dict):
            continue
        step, event = line["step"], line.get("event", "")
        if event == "resume":
            latest = {key: kept for key, kept in latest.items() if key[0] <= step}
        latest[step, "eval/loss" in line, event] = line
    return sorted(latest.values(), key=lambda line: line["step"])


@given(lines=st.lists(LINE | st.just(7), max_size=40), block=st.integers(1, 200))
def test_a_log_read_piece_by_piece_is_the_history_that_its_lines_tell(tmp_path_factory, lines, block):
    path = tmp_path_factory.mktemp("log") / FILE_NAME
    lines = [{**line, "n": n} if isinstance(line, dict) else line for n, line in enumerate(lines)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "BLOCK", block)
        assert read(path) == one_by_one(lines)


def test_each_line_is_parsed_once_however_many_resumes_there_are(tmp_path, monkeypatch):
    path, parsed = tmp_path / FILE_NAME, []
    lines = [
        f'{{"step": {n}, "event": "resume"}}\n{{"step": {n + 1}, "train/loss": 1}}\n' for n in range(3000)
    ]
    path.write_text("".join(lines))
    once = metrics._parsed
    monkeypatch.setattr(metrics, "_parsed", lambda lines: parsed.extend(lines) or once(lines))
    assert len(read(path)) == 6000
    assert len(parsed) <= 9001  # the resumes twice: once to know how far the lines before them count


def test_a_line_without_end_is_skipped_and_never_held(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "BLOCK", 100)
    monkeypatch.setattr(metrics, "LONGEST_LINE", 200)
    path = tmp_path / FILE_NAME
    path.write_text('{"step": 1}\n{"step": 2, "x": "' + "x" * 10_000 + '"}\n{"step": 3}\n')
    with path.open("rb") as file:
        assert max(len(line) for lines in metrics._lines(file, 10_100) for line in lines) <= 300
    assert [line["step"] for line in read(path)] == [1, 3]


def test_numbers_that_are_not_finite_become_null_and_text_stays_as_it_is(tmp_path):
    with Metrics(tmp_path) as lines:
        lines.write(step=1, train__loss=math.inf, train__lr=0.5, tokens=7, phase="预训练")
    written = (tmp_path / FILE_NAME).read_text(encoding="utf-8")
    assert written == '{"step": 1, "train/loss": null, "train/lr": 0.5, "tokens": 7, "phase": "预训练"}\n'


@pytest.mark.parametrize(("before", "after"), [("", ""), ("{}\n", "{}\n"), ("{", "{\n"), ("\n{}", "\n{}\n")])
def test_only_a_torn_last_line_is_ended(before, after, tmp_path):
    path = tmp_path / FILE_NAME
    path.write_text(before, encoding="utf-8")
    Metrics(tmp_path).close()
    assert path.read_text(encoding="utf-8") == after


def test_what_is_flushed_is_in_the_file_and_steps_come_in_order(tmp_path):
    with Metrics(tmp_path) as lines:
        lines.write(step=5, train__loss=5.0)
        lines.write(step=5, event="epoch")
        lines.write(step=3, train__loss=3.0)
        lines.flush()
        found = read(tmp_path / FILE_NAME)
    assert [line["step"] for line in found] == [3, 5, 5] and found[1:] == [
        {"step": 5, "train/loss": 5.0}, {"step": 5, "event": "epoch"},
    ]  # fmt: skip


def test_lines_that_json_cannot_read_or_that_have_no_whole_step_are_skipped(tmp_path):
    path = tmp_path / FILE_NAME
    path.write_bytes(b'\xff\n{"step": true}\n{"step": 1.0}\n{}\n' + b"[" * 10**5 + b'\n{"step": 2}\n')
    assert read(path) == [{"step": 2}]


class Full(io.StringIO):
    """A file on a disk that is full."""

    def close(self) -> None:
        super().close()
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_named_unless_another_error_ends_the_run(tmp_path, monkeypatch):
    lines = Metrics(tmp_path)
    lines._file.close()
    monkeypatch.setattr(lines, "_file", Full())
    with (
        pytest.raises(OSError, match=f"{FILE_NAME}: cannot be written: No space left on device; free"),
        lines,
    ):
        pass
    monkeypatch.setattr(lines, "_file", Full())
    with pytest.raises(KeyboardInterrupt), lines:
        raise KeyboardInterrupt
