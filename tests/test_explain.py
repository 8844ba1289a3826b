"""explain says what the model does: its page's numbers are those that plain float64 NumPy finds.

Order: a model, attention, predictions, norms, tokens and hostile text, the command line.
"""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from tests.models import full_logits, random_state, saved
from tests.plain_model import losses, plain
from tinyllm import explain, model
from tinyllm.checkpoint import export_weights
from tinyllm.cli.main import main
from tinyllm.config import ModelConfig
from tinyllm.inference.language_model import LanguageModel
from tinyllm.inference.tracing import NUMBERS, POSITIONS, room, trace
from tinyllm.layers import attention
from tinyllm.network import Pass
from tinyllm.page.heat import opacity, png
from tinyllm.page.tokens import token_html, tokens_html
from tinyllm.run.state import Workspace
from tinyllm.text.tokenizer import BPETokenizer

SHAPE = ModelConfig(n_layer=2, n_head=2, n_embd=8, block_size=40, dropout=0.1)
PROMPT = "月亮 <b>&amp;</b>\n"
HOSTILE = "</script><script>alert(2)</script><img src=x onerror=alert(1)>\"'&\x1b\u202e"
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def state():
    """Bytes are its tokens but for one: so a Chinese character is two of them, or three."""
    found = random_state(SHAPE, BPETokenizer(((0xE6, 0x9C),)))
    found.rows[1] = 0.1 * found.rows[0]
    found.rows[2] = found.rows[0] ** 2
    return found


@pytest.fixture(scope="module")
def file(state, tmp_path_factory):
    return saved(state, tmp_path_factory.mktemp("model"))


class Page(HTMLParser):
    """A page's elements as (tag, attributes), each section's text, and the data of its script."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: dict[str, str] = {}
        self.data, self._section, self._inside = "", "", ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.elements.append((tag, found))
        self._inside = f"{tag}#{found.get('id', '')}"
        if tag == "section":
            self._section = found["id"]

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside == "script#weights":
            self.data = data
        elif not self._inside.startswith(("script", "style")):
            self.words[self._section] = self.words.get(self._section, "") + data

    def titles(self, pattern):
        found = (re.fullmatch(pattern, each.get("title") or "") for _, each in self.elements)
        return [match.groups() for match in found if match]


def run(*argv, stdin=""):
    """Return (exit code, stdout, stderr) of explain."""
    out, err = io.StringIO(), io.StringIO()
    try:
        code = explain.main([str(each) for each in argv], io.StringIO(stdin), out, err)
    except SystemExit as error:
        code = error.code
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def truth(state):
    """(ids, attention, logits, probabilities) of the prompt, computed here."""
    ids = LanguageModel.of(state).prompt(PROMPT)
    seen, logits = plain(state.layout.views(state.rows[0].astype(np.float64)), ids, SHAPE.n_head)
    p = np.exp(logits - logits.max(1, keepdims=True))
    return ids, seen, logits, p / p.sum(1, keepdims=True)


@pytest.fixture(scope="module")
def page(file, tmp_path_factory):
    out = tmp_path_factory.mktemp("page") / "page.html"
    assert run(file, "--prompt", PROMPT, "--out", out, "--top=3") == (0, f"{out}\n", "")
    return Page(out)


# ---- attention


def test_the_weights_on_the_page_are_softmax_of_q_k_over_what_is_visible(page, truth):
    ids, seen, *_ = truth
    packed = np.frombuffer(base64.b64decode(json.loads(page.data)), "<f4")
    below = np.tril_indices(len(ids))
    assert np.allclose(packed.reshape(2, 2, -1), seen[:, :, below[0], below[1]], atol=2e-6)


def test_the_weights_reproduce_the_models_own_attention_and_logits(state):
    lm = LanguageModel.of(state)
    ids = lm.prompt(PROMPT)
    n, found = len(ids), trace(lm.weights, ids, 1)
    memory = Workspace(ModelConfig(2, 2, 8, n), lm.weights.vocabulary, 1).memory
    inputs = memory.inputs
    inputs.tokens[:], inputs.positions[:], inputs.targets[:] = ids, np.arange(n), -1
    model.forward(lm.weights.params, memory, Pass())
    for weights, block in zip(found.attention, memory.acts.blocks, strict=True):
        values = attention.heads(block.attention.qkv, 3, 1, 2)[2][0]
        mix = (weights @ values).transpose(1, 0, 2).reshape(n, 8)
        assert np.allclose(mix, block.attention.mix, atol=1e-5)
    logits = full_logits(SHAPE, lm.weights.params, ids[None])[0].astype(np.float64)
    following = np.append(ids[1:], 0)
    for expected, loss in zip(found.predictions[:-1], losses(logits, following)[:-1], strict=True):
        assert expected.loss == pytest.approx(loss, rel=1e-5, abs=1e-5)


def test_every_head_has_a_map_and_every_position_its_label_on_both_sides(page, truth):
    masks = [each for _, each in page.elements if "mask-image" in (each.get("style") or "")]
    assert len(masks) == 2 * 2 + 1  # the chosen one large
    assert len(page.titles(r"(bytes .*; )?position \d+")) == 2 * len(truth[0])


def test_a_map_is_a_png_as_opaque_as_the_root_of_its_weights(browser, tmp_path):
    weights = np.array([[1.0, 0.0, 0.0], [0.25, 0.75, 0.0]], np.float32)
    assert opacity(weights).tolist() == [[255, 0, 0], [128, 221, 0]]
    picture = base64.b64encode(png(weights)).decode()
    (tmp_path / "x.html").write_text(f'<img src="data:image/png;base64,{picture}">')
    browser.show(1200)
    browser.open(tmp_path / "x.html")
    drawn = browser.ask(
        "(() => { const i = document.images[0], c = document.createElement('canvas').getContext('2d');"
        " c.drawImage(i, 0, 0); return [i.width, i.height, ...c.getImageData(0, 0, 3, 2).data]; })()"
    )
    assert drawn[:2] == [3, 2] and drawn[5::4] == [255, 0, 0, 128, 221, 0]


# ---- predictions


def test_losses_ranks_and_top_tokens_are_those_of_the_logits(page, truth):
    ids, _, logits, p = truth
    expected = losses(logits[:-1], ids[1:])
    shown = page.titles(r"(?:bytes .*; )?position \d+; probability (.*), loss (.*) nats, rank (.*)")
    assert len(shown) == len(ids) - 1
    for t, (probability, loss, rank) in enumerate(shown):
        true = p[t, ids[t + 1]]
        assert float(probability) == pytest.approx(true, rel=1e-3)
        assert float(loss) == pytest.approx(expected[t], rel=1e-4)
        assert int(rank) == 1 + np.count_nonzero(p[t] > true)
    guesses = [float(value) for (value,) in page.titles(r"([\d.e-]+)") if float(value) <= 1]
    for highest in np.sort(p, axis=1)[:, :-4:-1].reshape(-1):
        assert any(value == pytest.approx(highest, rel=1e-3) for value in guesses)
    assert f"{expected.mean():.4f}" in page.words[""]


def test_the_true_next_token_is_marked_at_every_position_but_the_last(page, truth):
    assert sum(each.get("class") == "true" for _, each in page.elements) == len(truth[0]) - 1


# ---- norms


def test_norms_of_parameters_and_moments_are_those_of_the_file(state, file):
    lm = LanguageModel.of(state)
    found = trace(lm.weights, lm.prompt(PROMPT), 1, file).norms
    rows = [state.layout.named(row.astype(np.float64)) for row in state.rows]
    assert [each.name for each in found] == list(rows[0])
    for each in found:
        norms = [np.linalg.norm(row[each.name]) for row in rows]
        assert (each.parameter, each.m, each.v) == tuple(pytest.approx(norm, rel=1e-6) for norm in norms)


def test_norms_of_the_gradient_are_those_of_the_prompts_mean_loss(state, truth):
    ids, *_ = truth
    lm = LanguageModel.of(state)
    found = {each.name: each.gradient for each in trace(lm.weights, ids, 1).norms}
    row, h = state.rows[0].astype(np.float64), 1e-5
    for name in ("norm.gain", "blocks.0.attention.qkv_bias", "blocks.1.mlp.up_bias"):
        view, gradient = state.layout.named(row)[name].reshape(-1), []
        for i in range(view.size):
            middle, sides = view[i], []
            for view[i] in (middle - h, middle + h):
                logits = plain(state.layout.views(row), ids, SHAPE.n_head)[1]
                sides.append(losses(logits[:-1], ids[1:]).mean())
            view[i] = middle
            gradient.append((sides[1] - sides[0]) / (2 * h))
        assert found[name] == pytest.approx(np.linalg.norm(gradient), rel=1e-3), name


def test_a_file_of_weights_only_has_no_moments_and_says_so(file, tmp_path):
    export_weights(file, tmp_path / "w.bin")
    assert run(tmp_path / "w.bin", "--prompt=a")[0] == 0
    shown = Page(tmp_path / "explain.html").words["norms"]
    assert "without Adam's moments" in shown and "gradient" in shown


def test_the_page_replaces_neither_the_model_nor_a_foreign_file(file, tmp_path):
    weights, mine = tmp_path / "w.bin", tmp_path / "mine.html"
    export_weights(file, weights)
    mine.write_text("mine")
    before = weights.read_bytes()
    code, _, err = run(weights, "--prompt=a", "--out", weights, "--force")
    assert (code, weights.read_bytes()) == (2, before) and "the model itself" in err
    code, _, err = run(weights, "--prompt=a", "--out", mine)
    assert (code, mine.read_text()) == (1, "mine") and "--force to replace it" in err
    for force in (["--force"], []):  # the second replaces a page of its own
        assert run(weights, "--prompt=a", "--out", mine, *force)[0] == 0
    assert Page(mine)


# ---- tokens and hostile text


def test_a_part_of_a_character_is_that_character_and_which_bytes():
    found = tokens_html([b"\xe6\x9c", b"\x88", b"ok", b"\xe6"], ["a", "", "", ""], [""] * 4)
    assert found[0] == '<span class="token part" title="bytes E6 9C, 1–2 of 3; a">月<sub>1–2</sub></span>'
    assert "月<sub>3</sub>" in found[1] and ">ok<" in found[2] and ">E6<" in found[3]


def test_spaces_ends_of_lines_and_control_characters_can_be_seen():
    assert ">␣the<" in token_html(b" the") and ">↵↵<" in token_html(b"\n\n") and ">⟨end⟩<" in token_html(b"")
    assert r">\x1b\u202e<" in token_html("\x1b\u202e".encode())


def test_any_tokens_are_shown_in_their_number(state):
    pieces = state.tokenizer.pieces
    for seed in range(20):
        drawn = np.random.default_rng(seed).integers(0, len(pieces), 30)
        chosen = [pieces[i] for i in drawn]
        assert len(tokens_html(chosen, [""] * 30, [""] * 30)) == 30


def test_hostile_text_stays_text(file, tmp_path):
    out = tmp_path / "p.html"
    assert run(file, "--prompt", HOSTILE[:39], "--out", out)[0] == 0
    found = Page(out)
    assert [each.get("id") for tag, each in found.elements if tag == "script"] == ["weights", None]
    assert not any(tag == "img" or "onerror" in each for tag, each in found.elements)
    whole = token_html(HOSTILE.encode()[:20])
    assert "<script" not in whole and "&lt;/script&gt;" in whole


# ---- the command line


def test_the_page_is_written_beside_the_model_by_default(file):
    assert run(file, "--prompt=-", stdin="ab\n")[1] == f"{file.parent / 'explain.html'}\n"
    code, out, err = run(file.parent, "--prompt=ab")
    assert (code, out) == (0, f"{file.parent / 'explain.html'}\n") and err.startswith("note: using ")
    assert not [path for path in file.parent.iterdir() if path.name.startswith(".explain")]


def test_an_empty_prompt_has_predictions_and_no_loss(file, tmp_path):
    assert run(file, "--prompt=", "--out", tmp_path / "p.html")[0] == 0
    found = Page(tmp_path / "p.html")
    assert (
        "perplexity" not in found.words[""] and "gradient" not in found.words["norms"].split("Euclidean")[0]
    )


def test_a_prompt_that_is_too_long_is_cut_at_its_end_and_that_is_said(file, tmp_path):
    code, _, err = run(file, "--prompt", "x" * 99, "--out", tmp_path / "p.html")
    assert (
        code == 0
        and "the prompt has 100 tokens; only the first 40 are shown, as many as fit the model's" in err
    )
    assert "only the first 40 are shown" in Page(tmp_path / "p.html").words[""]


def test_what_is_left_out_at_the_end_changes_nothing_before_it(state):
    lm = LanguageModel.of(state)
    prompt = lm.prompt("abcdefgh" * 9)
    long, short = trace(lm.weights, prompt, 2), trace(lm.weights, prompt[:20], 2)
    assert np.allclose(long.attention[:, :, :20, :20], short.attention, atol=1e-6)


def test_there_is_room_for_no_more_numbers_than_a_page_can_hold():
    for shape in ((12, 12, 768, 1024), (2, 8, 256, 128), (1000, 64, 64, 9), (1, 1, 4, 4096)):
        config = ModelConfig(*shape)
        n, maps = room(config), config.n_layer * config.n_head
        assert 1 <= n <= min(POSITIONS, config.block_size) and (n == 1 or maps * n * (n + 1) // 2 <= NUMBERS)


@pytest.mark.parametrize("argv", [[], ["x"], ["x", "--prompt=a", "--top=0"], ["x", "--prompt=a", "--top=x"]])
def test_wrong_options_end_with_2(argv, capsys):
    assert run(*argv)[0] == 2
    assert "error:" in capsys.readouterr().err


def test_failures_are_one_line_and_1(file, tmp_path):
    for argv in ((tmp_path / "none.bin", "--prompt=a"), (file, "--prompt=a", f"--out={tmp_path}/no/p.html")):
        code, out, err = run(*argv)
        assert (code, out) == (1, "") and err.startswith("error: ") and err.count("\n") == 1
    assert run(file, "--prompt=a\udcff")[0] == 2


def test_inspect_is_another_name_for_explain(file, tmp_path, capsys):
    for name in ("explain", "inspect"):
        assert main([name, str(file), "--prompt", "ab", "--out", str(tmp_path / name)]) == 0
        assert capsys.readouterr().out == f"{tmp_path / name}\n"
    assert (tmp_path / "inspect").read_bytes() == (tmp_path / "explain").read_bytes()


def test_the_standard_librarys_inspect_is_what_others_import():
    command = [sys.executable, "-m", "tinyllm.explain", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "--prompt" in done.stdout
    code = "import tinyllm.explain, tinyllm.kernels, inspect; assert inspect.signature and inspect.getsource"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
