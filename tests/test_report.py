"""The report says what the run's files say, whatever they hold, in a page of bounded size.

Order: size, numbers, charts, hostile text, broken files, several runs, the command line, watching.
"""

from __future__ import annotations

import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.logged_run import PHASES, log_run, save, write_lines
from tests.timing import PATIENCE
from tinyllm import report
from tinyllm.page import charts, history, thinning
from tinyllm.page.curves import decimate, duration, figures, labels, log_ticks, ticks, trend
from tinyllm.page.history import Phase, read_run
from tinyllm.training import metrics

LIMIT = 500_000
HOSTILE = "<img src=x onerror=alert(1)>\x1b[31m</script><script>alert(2)</script>\"'&\u202e"


class Page(HTMLParser):
    """The page's elements as (tag, attributes), and its text outside of scripts and styles."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words, self._inside = "", ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside not in ("script", "style"):
            self.words += data + " "

    def all(self, tag, **wanted):
        return [
            a for t, a in self.elements if t == tag and all(wanted[k] in (a.get(k) or "") for k in wanted)
        ]


def written(runs: list[Path], out: Path, refresh: bool = False) -> Path:
    report.write_runs(runs, out, refresh)
    return out


def shown(directory: Path) -> Page:
    return Page(report.write_report(directory))


# ---- size


def test_a_run_of_100_000_steps_stays_under_the_limit(tmp_path):
    log_run(tmp_path, 100_000)
    assert 100_000 < report.write_report(tmp_path).stat().st_size < LIMIT
    assert "the minimum and the maximum of every 50 steps" in Page(tmp_path / "report.html").words


def test_what_is_kept_of_a_long_run_is_bounded_and_true(tmp_path, monkeypatch):
    lines = log_run(tmp_path, 6000, epochs=600)
    lines[3000] |= {"train/loss": None}
    lines[4000] |= {"train/loss": 99.0}
    write_lines(tmp_path, lines)
    whole = read_run(tmp_path, "")
    for module, name, most in (
        (thinning, "MOST", 400),
        (history, "MOST_EPOCHS", 200),
        (history, "MOST_EVENTS", 4),
    ):
        monkeypatch.setattr(module, name, most)
    monkeypatch.setattr(metrics, "BLOCK", 20_000)
    run = read_run(tmp_path, "")
    for tag in ("train/loss", "train/lr"):
        series, exact = run.series[tag], dict(whole.series[tag])
        assert len(series) <= 500 and len(run.samples[tag].points) <= 400 and run.samples[tag].stride == 16
        assert all(exact[step] == value for step, value in series + run.samples[tag].points)
        known = [value for value in exact.values() if value is not None]
        assert {min(known), max(known)} <= {value for _, value in series}
    assert None in dict(run.series["train/loss"]).values() and run.broken == 1
    assert len(run.epochs) <= 200 and {*range(1, 600, 10)} <= {epoch.number for epoch in run.epochs}
    exact_losses = {epoch.number: epoch.loss for epoch in whole.epochs}
    assert all(epoch.loss == pytest.approx(exact_losses[epoch.number]) for epoch in run.epochs)
    assert run.epochs[-1].number == whole.epochs[-1].number == 600
    assert (run.tokens, run.steps, run.events[-1]) == (whole.tokens, whole.steps, whole.events[-1])
    assert run.seconds == pytest.approx(whole.seconds)
    assert run.speed == pytest.approx(whole.speed, rel=0.02)
    assert charts.epoch_stride(run) == charts.epoch_stride(whole) == 10


def test_too_little_memory_is_an_error_line(tmp_path, monkeypatch, capsys):
    def too_little(path: Path) -> None:
        raise MemoryError

    log_run(tmp_path, 5)
    monkeypatch.setattr(metrics, "blocks", too_little)
    assert report.main([str(tmp_path)]) == 1
    assert capsys.readouterr().err.endswith(
        "metrics.jsonl cannot be read: there is too little memory for it\n"
    )


def test_many_runs_stay_under_the_limit(tmp_path):
    runs = [tmp_path / str(i) for i in range(12)]
    for i, run in enumerate(runs):
        log_run(run, 3000, seed=i)
    assert written(runs, tmp_path / "all.html").stat().st_size < LIMIT


def test_floods_of_events_phases_and_epochs_stay_under_the_limit(tmp_path):
    lines = log_run(tmp_path, 5000, epochs=5000)
    for i, line in enumerate(lines):
        line["phase"] = f"{'<' * 300}{i % 2}"
    lines += [{"step": i, "event": "&" * 300, "phase": HOSTILE * 9} for i in range(3000)]
    write_lines(tmp_path, lines)
    save(tmp_path, 1, 1.0, config={f"{i}": "<" * 900 for i in range(500)})
    assert report.write_report(tmp_path).stat().st_size < LIMIT


# ---- numbers


def test_the_numbers_are_those_of_the_files(tmp_path):
    lines = log_run(tmp_path, 400)
    save(tmp_path, 5, 0.8125, PHASES[1], config={"model": {"n_layer": 7}}, environment={"numpy": "2.4.6"})
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    last_eval = [line["eval/loss"] for line in lines if "eval/loss" in line][-1]
    words = shown(tmp_path).words
    for number in (
        f"{sum(losses[-10:]) / 10:.4f}", f"{last_eval:.4f}", figures(math.exp(last_eval)), "0.8125", "400",
        "40,000", "40 epochs", "12", "model.n_layer", "2.4.6", "finished", *PHASES,
    ):  # fmt: skip
        assert number in words, number


def test_the_final_loss_is_the_token_weighted_mean_of_the_last_whole_epoch(tmp_path):
    rows = [(1, 0, 10, 4.0), (2, 0, 20, 2.0), (3, 1, 50, 1.0), (4, 1, 60, 2.0), (5, 2, 70, 9.0)]
    lines = [
        {"step": step, "epoch": epoch, "phase": "pretraining", "tokens": tokens, "train/loss": loss}
        for step, epoch, tokens, loss in rows
    ]
    write_lines(tmp_path, lines)
    epoch = read_run(tmp_path, "").last_epoch
    assert epoch is not None and (epoch.number, epoch.loss) == (2, (1.0 * 30 + 2.0 * 10) / 40)
    write_lines(tmp_path, [*lines, {"step": 5, "event": "finished"}])
    epoch = read_run(tmp_path, "").last_epoch
    assert epoch is not None and (epoch.number, epoch.loss) == (3, 9.0)


def test_the_time_is_that_of_the_training_steps(tmp_path):
    tags = [
        {"step": i, "tokens": 100 * i, "train/loss": 1.0, "train/tokens_per_second": 2.0} for i in (1, 2, 3)
    ]
    write_lines(tmp_path, tags)
    assert read_run(tmp_path, "").seconds == 150
    assert duration(150) in shown(tmp_path).words


@pytest.mark.parametrize(
    ("events", "status"),
    [([], "unfinished"), (["finished"], "finished"),
     (["early_stop", "rollback", "finished"], "stopped early"),
     (["finished", "resume"], "unfinished")],
)  # fmt: skip
def test_the_status_is_the_last_word_of_the_metrics(tmp_path, events, status):
    log_run(tmp_path, 20, events=False, finished=False)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.writelines(f'{{"step": 20, "event": "{kind}"}}\n' for kind in events)
    assert status in shown(tmp_path).words


def test_an_unfinished_run_says_how_many_steps_are_planned(tmp_path):
    log_run(tmp_path, 400, finished=False)
    save(tmp_path, 39, 1.0)
    assert "of 780 planned" in shown(tmp_path).words


# ---- charts


def test_every_event_is_marked_on_the_charts_and_listed_in_the_table(tmp_path):
    log_run(tmp_path, 400)
    page = shown(tmp_path)
    marks = [mark["data-x"] for mark in page.all("i", **{"class": "event"})]
    assert sorted(set(marks)) == ["120", "240", "244", "400"] and len(marks) == 4 * 4
    for words in ("resumed", "stopped early", "rolled back to epoch 3", "finished"):
        assert words in page.words


def test_what_simple_models_lose_is_drawn_in_each_phase_and_in_logs_that_have_it(tmp_path):
    lines = log_run(tmp_path, 400)
    assert not shown(tmp_path).all("path", **{"class": "level"})
    found = [("pretraining", 7.62, 6.5, 3.25), ("instruction_tuning", 7.62, 1.5, math.nan)]
    header = [
        {"step": 0, "event": "baselines", "phase": phase, "baseline/uniform": uniform,
         "baseline/unigram": unigram, "baseline/bigram": None if bigram != bigram else bigram}
        for phase, uniform, unigram, bigram in found
    ]  # fmt: skip
    write_lines(tmp_path, [*header, *lines])
    page = shown(tmp_path)
    levels = {str(path["class"]).split()[1]: path["d"] for path in page.all("path", **{"class": "level"})}
    assert levels == {
        "uniform": "M1 7.62 240 7.62M241 7.62 400 7.62", "unigram": "M1 6.5 240 6.5M241 1.5 400 1.5",
        "bigram": "M1 3.25 240 3.25",
    }  # fmt: skip
    labels = [each["data-y"] for each in page.all("i", **{"class": "level"})]
    assert labels == ["7.62", "7.62", "6.5", "1.5", "3.25"]
    assert all(each["data-x"] != "0" for each in page.all("i", **{"class": "event"}))
    assert "baselines" not in page.words
    (loss,) = [each for each in page.all("figure") if each["id"] == "loss"]
    assert float(str(loss["data-high"])) > 7.62
    two = Page(written([tmp_path, tmp_path], tmp_path / "two.html"))
    assert not two.all("path", **{"class": "level"})


def test_levels_far_from_the_curves_do_not_squash_them(tmp_path):
    lines = log_run(tmp_path, 100)
    far = {"baseline/uniform": 90.0, "baseline/unigram": "?", "baseline/bigram": -1}
    write_lines(tmp_path, [{"step": 0, "event": "baselines", "phase": "pretraining", **far}, *lines])
    page = shown(tmp_path)
    (loss,) = [each for each in page.all("figure") if each["id"] == "loss"]
    assert float(str(loss["data-high"])) < 20 and not page.all("i", **{"class": "level"})
    assert len(page.all("path", **{"class": "level"})) == 1


def test_phases_are_bands_and_best_and_newest_checkpoints_are_rings(tmp_path):
    log_run(tmp_path, 400)
    save(tmp_path, 20, 0.91)
    save(tmp_path, 30, 0.72, PHASES[1])
    save(tmp_path, 31, 0.74, PHASES[1])
    page = shown(tmp_path)
    bands = [
        (band["data-x"], band["data-end"]) for band in page.all("i", **{"data-end": ""}) if "data-end" in band
    ]
    assert bands == [("1", "240"), ("240", "400")] * 4
    rings = {(a["class"].split()[0], a["data-x"], a["data-y"]) for a in page.all("i") if "data-y" in a}
    assert rings == {("best", "200", "0.91"), ("best", "300", "0.72"), ("newest", "310", "0.74")}


def test_a_short_run_is_drawn_step_by_step(tmp_path):
    lines = log_run(tmp_path, 30)
    drawn = shown(tmp_path).all("path", **{"data-line": "0"})[0]["d"] or ""
    expected = [f"{line['step']} {line['train/loss']:.5g}" for line in lines if "train/loss" in line]
    assert drawn == "M" + " ".join(expected)


values = st.one_of(st.none(), st.floats(-1e6, 1e6))
series = st.lists(
    st.tuples(st.integers(0, 10_000), values), min_size=1, max_size=300, unique_by=lambda p: p[0]
).map(sorted)


@given(series, st.integers(1, 60))
def test_thinning_keeps_order_and_extremes_and_invents_nothing(points, columns):
    thin = decimate(points, columns)
    known = [y for _, y in points if y is not None]
    kept = [y for _, y in thin if y is not None]
    assert len(kept) <= 2 * columns and len(thin) <= 3 * columns
    assert [p for p in thin if p[1] is not None] == sorted(
        {p for p in thin if p[1] is not None}, key=points.index
    )
    if known:
        assert (min(kept), max(kept)) == (min(known), max(known))


@given(st.integers(2, 80), st.integers(1, 40), st.integers(1, 100))
def test_the_running_median_of_one_phase_knows_nothing_of_the_other(n, window, most):
    points = [(i, 1.0 if i < n else 9.0) for i in range(2 * n)]
    phases = [Phase("a", 0, n - 1), Phase("b", n, 2 * n - 1)]
    for step, y in trend(points, phases, window, most):
        assert y in ((1.0, None) if step < n else (9.0, None))


@given(st.floats(-1e9, 1e9), st.floats(1e-4, 1e4), st.integers(2, 10))
def test_ticks_are_few_round_inside_and_written_apart(low, share, count):
    width = share * max(abs(low), 1e-6)  # an axis has six digits; narrower than that it has no numbers
    found = ticks(low, low + width, count)
    assert len(found) <= count + 2
    assert all(low - 1e-6 * width <= v <= low + (1 + 1e-6) * width for v in found)
    assert len(set(labels(found))) == len(found)


@given(st.floats(-12, 12), st.floats(0.01, 20))
def test_logarithmic_ticks_are_inside_and_never_crowded(low, width):
    found = log_ticks(low, low + width, 5)
    assert len(found) <= 12 and all(low - 1e-6 <= v <= low + width + 1e-6 for v in found)


# ---- hostile text


def test_nothing_that_was_logged_becomes_markup_or_speaks_to_a_terminal(tmp_path):
    directory = tmp_path / "a<b onclick=x>'&\""
    log_run(directory, 60, phases=(HOSTILE, HOSTILE[::-1]))
    with (directory / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 60, "event": "<script>alert(3)</script>\\u001b[2J", "phase": "\\ud800"}\n')
    save(
        directory,
        2,
        1.0,
        "<b>&",
        config={HOSTILE: HOSTILE},
        environment={"cpu": HOSTILE, "x" * 999: "y" * 9999},
    )
    page = shown(directory)
    assert [a.get("type") for a in page.all("script")] == ["application/json", None]
    assert not page.all("img") and not page.all("b", onclick="x")
    assert not [a for _, attributes in page.elements for a in attributes if a.startswith("on")]
    assert HOSTILE.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e") in page.words
    assert not re.search(
        r"[\x00-\x09\x0b-\x1f\x7f\u202e]", (directory / "report.html").read_text(encoding="utf-8")
    )


def test_chinese_is_written_as_it_is(tmp_path):
    log_run(tmp_path / "训练", 20, phases=("预训练", "指令微调"))
    page = shown(tmp_path / "训练")
    assert "训练" in page.words and "预训练" in page.words and "指令微调" in page.words
    assert page.all("meta", charset="utf-8")


def test_the_page_forbids_itself_every_request(tmp_path):
    log_run(tmp_path, 20)
    page = shown(tmp_path)
    policy = page.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"] or ""
    assert policy.startswith("default-src 'none'") and "script-src 'sha256-" in policy
    assert not [
        a
        for _, a in page.elements
        for name in ("src", "href", "action")
        if not (a.get(name) or "data:").startswith("data:")
    ]
    assert (
        "http:" not in report.write_report(tmp_path).read_text()
        and "https:" not in report.write_report(tmp_path).read_text()
    )


# ---- broken files


def test_torn_lines_and_wrong_types_are_passed_over(tmp_path):
    log_run(tmp_path, 50)
    path = tmp_path / "metrics.jsonl"
    odd = [
        '{"step": true, "train/loss": 1}', '{"step": -5, "train/loss": 1}', "[]", "7",
        '{"step": 51, "train/loss": "high"}',
        '{"step": 52, "train/loss": 1e999, "epoch": "x", "tokens": -1, "phase": 7, "train/lr": [1]}',
        '{"step": 1' + "0" * 400 + ', "train/loss": 1}',
    ]  # fmt: skip
    lines = [path.read_text().rstrip(), *odd, '{"step": 54, "train/lo']
    path.write_text("\n".join(lines), encoding="utf-8")
    words = shown(tmp_path).words
    assert "The train loss was not finite at 2 steps" in words


def test_a_run_without_a_step_says_so(tmp_path):
    (tmp_path / "metrics.jsonl").touch()
    page = shown(tmp_path)
    assert "No step has been logged yet" in page.words and not page.all("figure")


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_run_of_very_few_steps_has_charts(tmp_path, steps):
    log_run(tmp_path, steps, finished=False, events=False)
    page = shown(tmp_path)
    assert len(page.all("figure")) == 4
    assert "NaN" not in page.words and "nan" not in page.words


def test_a_constant_or_extreme_value_leaves_no_axis_without_numbers(tmp_path):
    tags = {"train/loss": 0.0, "train/lr": 0.0, "train/grad_norm": 0.0, "train/tokens_per_second": 1e99}
    write_lines(tmp_path, [{"step": i, "phase": "p", **tags} for i in range(9)])
    text = report.write_report(tmp_path).read_text()
    assert "inf" not in text.split("<body")[1].split("<script")[0] and ">nan" not in text


def test_a_bad_checkpoint_is_shown_as_bad_and_missing_sidecars_do_not_matter(tmp_path):
    log_run(tmp_path, 100)
    save(tmp_path, 1, 2.5, config={"seed": 4711})
    save(tmp_path, 2, 1.5, config={"seed": 4712})
    for sidecar in tmp_path.glob("*.json"):
        sidecar.unlink()
    (tmp_path / "checkpoint_best_epoch_1_loss_2.5000.bin").write_bytes(b"torn")
    (tmp_path / "checkpoint_last.bin").unlink()
    before = sorted(path.name for path in tmp_path.iterdir())
    page = shown(tmp_path)
    assert "checkpoint_best_epoch_1_loss_2.5000.bin invalid" in re.sub(r"\s+", " ", page.words)
    assert "4712" in page.words and str(tmp_path) not in page.words
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, "report.html"])


# ---- several runs


def test_several_runs_are_overlaid_under_the_names_in_which_they_differ(tmp_path):
    runs = [tmp_path / "wide" / "a", tmp_path / "wide" / "b"]
    for i, run in enumerate(runs):
        log_run(run, 300, seed=i)
        save(run, 2, 1.5, config={"lr": 0.001 * (i + 1), "seed": 5})
    page = Page(written(runs, tmp_path / "both.html"))
    loss = page.all("path", **{"data-line": ""})
    assert {"run0", "run1"} <= {name for path in loss for name in (path.get("class") or "").split()}
    legend = re.sub(r"\s+", " ", page.words)
    assert re.search(r"Loss nats per token log a \d", legend) and re.search(r" b eval \d", legend)
    assert len(page.all("tr", **{"class": "differs"})) == 1
    assert "0.001" in page.words and "0.002" in page.words


# ---- the command line


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tinyllm.report", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)


def test_help_imports_no_numpy():
    code = (
        "import sys, tinyllm.report as r\n"
        "try: r.main(['--help'])\nexcept SystemExit: print('numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.endswith(
        "False\n"
    )


def test_the_command_writes_to_the_given_path(tmp_path):
    log_run(tmp_path, 20)
    assert run(tmp_path).stdout == f"{tmp_path / 'report.html'}\n"
    assert run(tmp_path, tmp_path, "--out", tmp_path / "x.html").returncode == 0
    assert "2 runs" in (tmp_path / "x.html").read_text()


@pytest.mark.parametrize("arguments", [[], ["--wat", "x"], ["--watches", "x"]])
def test_wrong_usage_exits_2(arguments):
    assert run(*arguments).returncode == 2


def test_a_run_that_cannot_be_read_exits_1_and_says_why(tmp_path, capsys):
    (tmp_path / "file").touch()
    for name, why in (
        ("none", "no such directory"),
        ("file", "not a directory"),
        ("", "no metrics.jsonl here"),
    ):
        assert report.main([str(tmp_path / name)]) == 1
        assert why in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_a_page_that_cannot_be_written_exits_1_and_leaves_no_temporary_file(tmp_path, capsys):
    log_run(tmp_path, 20)
    (tmp_path / "taken").mkdir()
    assert report.main([str(tmp_path), "--out", str(tmp_path / "taken")]) == 1
    assert "exists and is not a file" in capsys.readouterr().err
    assert report.main([str(tmp_path), "--out", str(tmp_path / "none" / "x.html")]) == 1
    assert "cannot be written" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "taken"]


# ---- watching


def test_only_a_watched_page_reloads_itself(tmp_path):
    log_run(tmp_path, 20, finished=False)
    assert not shown(tmp_path).all("meta", **{"http-equiv": "refresh"})
    watched = Page(written([tmp_path], tmp_path / "watched.html", refresh=True))
    assert watched.all("meta", **{"http-equiv": "refresh"})


def test_watching_follows_the_file_and_ends_with_the_run(tmp_path, monkeypatch):
    log_run(tmp_path, 20, finished=False)
    seen = []

    def next_moment(_seconds):
        seen.append(shown_steps(tmp_path))
        assert len(seen) < 9
        log_run(tmp_path, 20 + 10 * len(seen), finished=len(seen) == 3)

    monkeypatch.setattr(report.time, "sleep", next_moment)
    assert report.main([str(tmp_path), "--watch"]) == 0
    assert seen == ["20", "30", "40"]
    assert shown_steps(tmp_path) == "50"
    assert not Page(tmp_path / "report.html").all("meta", **{"http-equiv": "refresh"})


def shown_steps(directory: Path) -> str:
    found = re.search(r"<dt>steps</dt><dd><b>([\d,]+)</b>", (directory / "report.html").read_text())
    assert found
    return found[1]


def test_ctrl_c_ends_the_watch_with_a_page_that_no_longer_reloads(tmp_path, monkeypatch):
    log_run(tmp_path, 20, finished=False)

    def interrupt(_seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(report.time, "sleep", interrupt)
    assert report.main([str(tmp_path), "--watch"]) == 0
    assert not Page(tmp_path / "report.html").all("meta", **{"http-equiv": "refresh"})
