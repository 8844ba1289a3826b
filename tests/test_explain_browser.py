"""The page of explain in a real browser; skipped where there is none. Order: a page, the statements."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.browser import Browser
from tests.models import random_state, saved
from tinyllm import explain
from tinyllm.config import ModelConfig
from tinyllm.inference.language_model import LanguageModel
from tinyllm.inference.tracing import trace
from tinyllm.text.tokenizer import BPETokenizer

SHAPE = ModelConfig(n_layer=2, n_head=3, n_embd=12, block_size=200)
PROMPT = "月亮是<b>卫星</b> </script><script>document.title = 'run'</script>"
READ = "document.querySelector('.read').textContent"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, np.ndarray]:
    """A model's file, its page of the prompt, and the attention on it."""
    directory = tmp_path_factory.mktemp("model")
    state = random_state(SHAPE, BPETokenizer(()))
    file, lm = saved(state, directory), LanguageModel.of(state)
    explain.main([str(file), "--prompt", PROMPT])
    return file, directory / "explain.html", trace(lm.weights, lm.prompt(PROMPT), 1).attention


@pytest.fixture(autouse=True)
def wide(browser: Browser) -> None:
    browser.show(1200)


def point(browser: Browser, t: int, s: int, n: int) -> None:
    """Put the mouse on the cell of row t and column s."""
    box = browser.ask(
        "(() => { const heat = document.querySelector('.heat'); heat.scrollIntoView({block: 'start'});"
        " const b = heat.getBoundingClientRect(); return [b.left, b.top, b.width, b.height]; })()"
    )
    x, y = box[0] + box[2] * (s + 0.5) / n, box[1] + box[3] * (t + 0.5) / n
    browser.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)


def choose(browser: Browser, head: int) -> Any:
    return browser.ask(f"document.querySelectorAll('.heads button')[{head}].click()")


def test_pointing_at_a_cell_reads_the_weight_of_the_chosen_head(browser, world):
    _, page, attention = world
    browser.open(page)
    n = attention.shape[2]
    for head, t, s in ((0, 9, 4), (4, 9, 4), (5, 20, 0), (2, 3, 3)):
        choose(browser, head)
        point(browser, t, s, n)
        words, _, value = browser.ask(READ).partition(": ")
        assert float(value) == pytest.approx(float(attention[head // 3, head % 3, t, s]), rel=1e-5)
        assert f"({t}) attends to" in words and words.endswith(f"({s})")
        assert browser.ask("document.querySelector('#map h2').textContent") == (
            f"Layer {head // 3}, head {head % 3}"
        )
    assert browser.complaints() == []


def test_what_comes_later_has_no_weight_to_read(browser, world):
    _, page, attention = world
    browser.open(page)
    rest = browser.ask(READ)
    point(browser, 9, 4, attention.shape[2])
    point(browser, 4, 9, attention.shape[2])
    assert browser.ask(READ) == rest


def test_the_keyboard_moves_over_the_map_and_is_heard(browser, world):
    _, page, attention = world
    browser.open(page)
    browser.ask("document.getElementById('map').focus()")
    for key in ("Home", "ArrowRight", "ArrowUp"):
        browser.press(key)
    n = attention.shape[2]
    heard = browser.ask("document.getElementById('spoken').textContent")
    assert f"({n - 2}) attends to" in heard and "(1): " in heard
    assert float(heard.split(": ")[-1]) == pytest.approx(float(attention[0, 0, n - 2, 1]), rel=1e-5)


def test_the_map_is_painted_in_the_colour_of_its_weights(browser, world):
    _, page, _ = world
    browser.open(page)
    ink = "getComputedStyle(document.querySelector('#map .ink'))"
    assert browser.ask(f"{ink}.maskImage").startswith('url("data:image/png')
    assert browser.ask(f"{ink}.imageRendering") == "pixelated"


def test_hostile_text_does_not_run(browser, world):
    _, page, _ = world
    browser.open(page)
    assert browser.ask("document.title").endswith("inside the model")
    assert browser.ask("document.querySelector('.text').textContent").endswith("'run'</script>")


def test_a_chinese_character_of_three_tokens_is_written_three_times(browser, world):
    _, page, _ = world
    browser.open(page)
    assert (
        browser.ask("document.querySelector('.text').innerText")
        .replace("\n", "")
        .startswith("⟨end⟩月1月2月3亮1亮2亮3")
    )


@pytest.mark.parametrize("dark", [False, True])
def test_a_telephone_needs_no_sideways_scrolling(browser, world, dark):
    _, page, _ = world
    browser.show(390, dark=dark)
    browser.open(page)
    assert browser.ask("document.documentElement.scrollWidth <= innerWidth")
    colour = browser.ask("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert max(colour) < 50 if dark else min(colour) > 200


def test_a_page_without_its_script_still_shows_every_map_and_number(browser, world):
    _, page, attention = world
    browser.show(1200, script=False)
    browser.open(page)
    browser.send("Emulation.setScriptExecutionDisabled", value=False)
    assert browser.ask("document.querySelectorAll('.heads .ink').length") == 6
    assert browser.ask("document.querySelectorAll('#predictions tbody tr').length") == attention.shape[2]
    assert browser.ask("document.querySelector('.hint').hidden")
