"""The report in a real browser; skipped where there is none. Order: a run to show, the statements."""

from __future__ import annotations

import base64
import math
import subprocess
from pathlib import Path

import pytest

from benchmarks import picture
from tests.browser import FLAGS, Browser
from tests.logged_run import PHASES, log_run, save, write_lines
from tests.timing import PATIENCE
from tinyllm import report


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("run")
    log_run(directory, 2000)
    save(directory, 20, 0.91, PHASES[0])
    return report.write_report(directory)


@pytest.fixture(autouse=True)
def wide(browser: Browser) -> None:
    browser.show(1200)


AXES = "[...document.querySelectorAll('.x, .y')].map(axis => axis.textContent).join(' | ')"
PLACES = "[...document.querySelectorAll('.x i, .y i, [data-x]')].map(i => [i.style.left, i.style.bottom])"
VIEW = "document.querySelector('svg.data g').getAttribute('transform')"
READ = "document.querySelector('#loss .legend [data-line=\"0\"] b').textContent"


def test_the_dumped_page_has_its_numbers_and_charts(tmp_path):
    lines = log_run(tmp_path / "run", 400)
    path = report.write_report(tmp_path / "run")
    command = [
        str(picture.BROWSER),
        *FLAGS,
        f"--user-data-dir={tmp_path / 'profile'}",
        "--dump-dom",
        path.as_uri(),
    ]
    dumped = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE).stdout
    evaluations = [line["eval/loss"] for line in lines if "eval/loss" in line]
    assert f"<b>{evaluations[-1]:.4f}</b>" in dumped
    assert dumped.count('<figure class="chart"') == 4 and dumped.count("<path class=") >= 6
    assert "Drag to zoom" in dumped and 'class="hint" hidden' not in dumped  # so the script ran


def test_nothing_is_thrown_logged_or_fetched(browser, page):
    browser.open(page)
    browser.drag(0.2, 0.5)
    browser.point("mouseMoved", 0.4)
    assert browser.complaints() == []


def test_hostile_text_does_not_run(browser, tmp_path):
    hostile = "<script>document.title = 'run'</script><img src=x onerror=\"document.title = 'run'\">"
    log_run(tmp_path, 20, phases=(hostile, hostile))
    browser.open(report.write_report(tmp_path))
    assert browser.ask("document.title").endswith("training report")
    assert hostile[:59] in browser.ask("document.querySelector('.bands').textContent")


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("cut", [6, 595])
def test_the_name_of_a_short_phase_is_whole_and_beside_its_neighbour(browser, tmp_path, cut, width):
    lines = log_run(tmp_path, 600, events=False)
    write_lines(tmp_path, [line | {"phase": PHASES[line["step"] > cut]} for line in lines])
    browser.show(width)
    browser.open(report.write_report(tmp_path))
    for fragment in ("", f"#{cut - 2}-{cut + 2}"):
        browser.open(tmp_path / report.FILE_NAME, fragment)
        plot, *names = browser.ask(
            "[...document.querySelectorAll('#loss .plot, #loss .names b')].map("
            "e => [e.getBoundingClientRect().left, e.getBoundingClientRect().right, e.scrollWidth])"
        )
        edges = [plot[0], *(edge for left, right, _ in names for edge in (left, right)), plot[1]]
        assert edges == sorted(edges)
        assert all(right - left >= text - 1 for left, right, text in names)


def test_dragging_zooms_all_charts_to_the_same_steps_and_escape_goes_back(browser, page):
    browser.open(page)
    before = browser.ask(VIEW)
    browser.drag(0.25, 0.5)
    low, high = map(int, browser.ask("location.hash")[1:].split("-"))
    assert low == pytest.approx(501, abs=3) and high == pytest.approx(1000, abs=3)
    matrices = browser.ask("[...document.querySelectorAll('svg g')].map(g => g.getAttribute('transform'))")
    assert len({matrix.split()[0] for matrix in matrices}) == 1 and browser.ask(VIEW) != before
    assert f"steps {low:,} to {high:,}" in browser.ask("document.getElementById('where').textContent")
    browser.press("Escape")
    assert browser.ask("location.hash") == "" and browser.ask("document.getElementById('where').hidden")


def test_the_script_draws_the_axes_that_the_page_came_with(browser, page):
    browser.open(page)
    names, places = browser.ask(AXES), browser.ask(PLACES)
    browser.drag(0.3, 0.6)
    assert browser.ask(AXES) != names
    browser.point("mousePressed", 0.5, button="left", clickCount=2)
    browser.press("0")
    assert browser.ask(AXES) == names
    for was, now in zip(places, browser.ask(PLACES), strict=True):
        for before, after in zip(was, now, strict=True):
            assert float(before.strip("%") or 0) == pytest.approx(float(after.strip("%") or 0), abs=0.01)


def test_pointing_reads_off_the_logged_value(browser, tmp_path):
    lines = log_run(tmp_path, 101)
    browser.open(report.write_report(tmp_path))
    rest = browser.ask(READ)
    browser.point("mouseMoved", 0.5)
    step = int(browser.ask("document.querySelector('#loss .cursor').textContent").split()[1])
    logged = next(line["train/loss"] for line in lines if line["step"] == step and "train/loss" in line)
    assert float(browser.ask(READ)) == pytest.approx(logged, rel=1e-3)
    assert browser.ask("[...document.querySelectorAll('.cursor')].every(c => !c.hidden)")
    browser.send("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)
    assert browser.ask(READ) == rest


def test_the_keyboard_reads_zooms_and_is_heard(browser, page):
    browser.open(page)
    browser.ask("document.getElementById('gradient').focus()")
    browser.press("Home")
    browser.press("ArrowRight")
    assert browser.ask("document.getElementById('spoken').textContent").startswith("step 21 · epoch 1: step ")
    browser.press("+")
    low, high = map(int, browser.ask("location.hash")[1:].split("-"))
    assert high - low == pytest.approx(1000, abs=2) and low == 11


def test_the_wheel_zooms_only_a_chart_in_focus(browser, page):
    browser.open(page)
    widths = []
    for delta in (-100, 0, -100, -100, 100):
        if not delta:
            browser.ask("document.getElementById('loss').focus()")
            continue
        browser.point("mouseWheel", 0.5, deltaX=0, deltaY=delta)
        low, _, high = browser.ask("location.hash")[1:].partition("-")
        widths.append(int(high) - int(low) if high else 1999)
    assert widths == [1999, *(pytest.approx(1999 * factor, abs=3) for factor in (0.8, 0.64, 0.8))]


def test_a_logarithmic_axis_keeps_the_values(browser, page):
    browser.open(page)
    browser.point("mouseMoved", 0.5)
    start = "document.querySelector('#loss path.trend').getAttribute('d').slice(1).split(' ')[1]"
    value, linear = browser.ask(READ), float(browser.ask(start))
    toggle = "document.querySelector('#loss button.log').click()"
    browser.ask(toggle)
    assert float(browser.ask(start)) == pytest.approx(math.log10(linear), abs=1e-4)
    assert browser.ask(READ) == value
    assert browser.ask("document.querySelector('#loss path.dots').getAttribute('d')").count("h0") == 40
    browser.ask(toggle)
    assert float(browser.ask(start)) == pytest.approx(linear, rel=1e-4)


def test_a_zoomed_view_survives_a_reload(browser, page):
    browser.open(page, "#500-900")
    assert "steps 500 to 900" in browser.ask("document.getElementById('where').textContent")


def test_a_telephone_needs_no_sideways_scrolling(browser, page):
    browser.show(390)
    browser.open(page)
    browser.point("mouseMoved", 0.98)
    assert browser.ask("document.documentElement.scrollWidth <= innerWidth")


def test_light_and_dark_follow_the_reader(browser, page):
    colours = []
    for dark in (False, True):
        browser.show(1200, dark=dark)
        browser.open(page)
        colours.append(
            browser.ask("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
        )
    assert min(colours[0]) > 200 and max(colours[1]) < 50


def test_an_empty_run_is_a_page_without_errors(browser, tmp_path):
    (tmp_path / "metrics.jsonl").touch()
    browser.open(report.write_report(tmp_path))
    assert "No step has been logged" in browser.ask("document.body.innerText")
    assert browser.complaints() == []


def test_the_pictures_of_a_report_are_small_and_of_both_colour_schemes(browser, page, tmp_path, monkeypatch):
    monkeypatch.setattr(picture, "DOCS", tmp_path)
    monkeypatch.setattr("sys.argv", ["picture", str(page.parent)])
    assert picture.main() == 0
    corners = []
    for name in picture.PICTURES:
        data = (tmp_path / name).read_bytes()
        assert 20_000 < len(data) < 200_000
        shown = f'<img src="data:image/png;base64,{base64.b64encode(data).decode()}">'
        (tmp_path / "shown.html").write_text(shown)
        browser.open(tmp_path / "shown.html")
        corners.append(
            browser.ask(
                "(() => { const c = document.createElement('canvas').getContext('2d');"
                " c.drawImage(document.images[0], 0, 0); return c.getImageData(0, 0, 1, 1).data[0]; })()"
            )
        )
    assert corners[0] > 200 and corners[1] < 50


def test_readmes_pictures_are_there_and_small():
    for name in picture.PICTURES:
        assert 20_000 < (Path(__file__).parents[1] / "docs" / name).stat().st_size < 150_000
