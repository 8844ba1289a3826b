"""The page of a model that reads a prompt: its tokens, attention, predictions, norms, in this order."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinyllm.inference.tracing import Norms, Prediction, Trace
from tinyllm.page.curves import amount, figures, loss
from tinyllm.page.explain_script import SCRIPT
from tinyllm.page.heat import mask
from tinyllm.page.shell import document, headline, table, text
from tinyllm.page.style import INSIDE
from tinyllm.page.tokens import token, tokens

QUANTITIES = ("parameter", "gradient", "m", "v")
BESIDE = 40  # tokens of a map that leaves room for the others beside it
SCALE = (0.01, 0.1, 0.25, 0.5, 1.0)  # weights that the legend shows


def page(trace: Trace, pieces: Sequence[bytes], title: str, notes: Sequence[str]) -> str:
    """Return the whole document; `pieces` are the bytes of every token of the vocabulary."""
    shown = [pieces[each] for each in trace.tokens]
    body = (
        f"<main>\n{headline(_numbers(trace))}{_prompt(trace, shown, len(pieces))}{_attention(trace, shown)}"
        f"{_predictions(trace, pieces)}{_norms(trace.norms)}</main>\n"
    )
    return document(title, "inside the model", notes, body, INSIDE, SCRIPT, {"weights": _packed(trace)})


def _packed(trace: Trace) -> str:
    """Return the weights on and below the diagonals, head after head and row after row, as float32."""
    below = np.tril_indices(len(trace.tokens))
    packed = trace.attention[:, :, below[0], below[1]].astype("<f4").tobytes()
    return json.dumps(base64.b64encode(packed).decode())


def _numbers(trace: Trace) -> list[tuple[str, str, str]]:
    L, H, n, _ = trace.attention.shape
    found = [("tokens", f"{n:,}", "of the prompt")]
    if trace.loss is not None:
        ranks = [each.rank for each in trace.predictions if each.rank is not None]
        found += [
            ("loss", loss(trace.loss), "nats per token"),
            ("perplexity", figures(math.exp(trace.loss)) if trace.loss < 700 else "–", ""),
            ("guessed right", f"{ranks.count(1):,}", f"of {len(ranks):,} next tokens"),
        ]
    count = sum(math.prod(each.shape) for each in trace.norms)
    return [*found, ("attention maps", f"{L * H:,}", f"{L} layers, {H} heads"),
            ("parameters", amount(count), "")]  # fmt: skip


def _prompt(trace: Trace, shown: Sequence[bytes], V: int) -> str:
    """Return the prompt, each token tinted by how little the ones before it let expect it."""
    abouts, styles = ["position 0; nothing comes before it"], [""]
    for t, expected in enumerate(trace.predictions[: len(shown) - 1], 1):
        abouts.append(f"position {t}; {_expected(expected)}")
        styles.append(f"--heat:{min((expected.loss or 0.0) / math.log(V), 1):.3f}")
    chips = "".join(tokens(shown, abouts, styles))
    blind = f"{math.log(V):.2f}"
    return (
        f'<section id="prompt"><h2>Prompt</h2><p class="text">{chips}</p>\n'
        f'<p class="note">The stronger the tint, the less expected the token: a full tint is a loss of '
        f"{blind} nats or more, that of a blind guess among {V:,} tokens.</p></section>\n"
    )


def _expected(expected: Prediction) -> str:
    return f"probability {expected.probability:.6g}, loss {expected.loss:.6g} nats, rank {expected.rank}"


# ---- attention


def _attention(trace: Trace, shown: Sequence[bytes]) -> str:
    _, H, n, _ = trace.attention.shape
    masks = [[mask(head) for head in layer] for layer in trace.attention]
    labels = "".join(tokens(shown, [f"position {t}" for t in range(n)], [""] * n))
    heads = "".join(f"<b>{h}</b>" for h in range(H))
    rows = "".join(
        f"<b>{layer}</b>{''.join(_button(layer, h, style) for h, style in enumerate(found))}"
        for layer, found in enumerate(masks)
    )
    scale = "".join(f'<i style="opacity:{math.sqrt(weight):.3f}"></i>{weight:g} ' for weight in SCALE)
    large = " large" if n > BESIDE else ""
    return (
        f'<section id="attention"><h2>Attention</h2>\n<div class="maps{large}" style="--n:{n};--heads:{H}">\n'
        f'<div class="heads"><b>layer \\ head</b>{heads}{rows}</div>\n'
        f'<figure id="map" tabindex="0" role="group" aria-label="attention weights" data-heads="{H}">\n'
        f'<figcaption><h2>Layer 0, head 0</h2><span class="scale">{scale}</span></figcaption>\n'
        f'<p class="read"><span class="hint" hidden>Choose a head; point at a cell to read its weight.</span>'
        f'</p>\n<div class="scroll"><div class="grid"><div class="looks">{labels}</div>'
        f'<div class="heat"><div class="ink" style="{masks[0][0]}"></div>'
        f'<i class="row" hidden></i><i class="column" hidden></i></div>'
        f'<div class="sees">{labels}</div></div></div></figure></div>\n'
        '<p class="note">A row is the position that looks, a column one that it sees: itself or an earlier '
        "one. A row's weights sum to 1; with them the head takes the mean of what the positions hold (their "
        "values). Colour goes with the square root of the weight.</p></section>\n"
    )


def _button(layer: int, head: int, style: str) -> str:
    name = f"layer {layer}, head {head}"
    pressed = str(layer == head == 0).lower()
    return (
        f'<button type="button" aria-pressed="{pressed}" aria-label="{name}" title="{name}">'
        f'<i class="ink" style="{style}"></i></button>'
    )


# ---- predictions


def _predictions(trace: Trace, pieces: Sequence[bytes]) -> str:
    n, rows = len(trace.tokens), []
    shown = [pieces[each] for each in trace.tokens]
    here = tokens(shown, [""] * n, [""] * n)
    for t, expected in enumerate(trace.predictions):
        true = trace.following[t]
        next_one = token(pieces[true]) if true >= 0 else "–"
        if t + 1 < n:
            next_one = here[t + 1]
        rank = "–" if expected.rank is None else f"{expected.rank:,}"
        rows.append(
            [f"{t}", here[t], next_one, _exact(expected.loss, loss), rank, _guesses(expected, true, pieces)]
        )
    head = ["", "after", "comes", "loss", "rank", "expected"]
    return (
        f'<section id="predictions"><h2>Predictions</h2>{table(head, rows, ["", "loss", "rank"])}'
        '<p class="note">Framed: the token that does come. A loss is in nats, −log of its probability.</p>'
        "</section>\n"
    )


def _guesses(expected: Prediction, true: int, pieces: Sequence[bytes]) -> str:
    """Return the likeliest tokens, and the true one after them if it is none of them."""
    likely = list(zip(expected.likeliest.tolist(), expected.probabilities.tolist(), strict=True))
    chips = [_guess(pieces[each], p, each == true) for each, p in likely]
    if expected.probability is not None and true not in expected.likeliest:
        chips += [f"… {_guess(pieces[true], expected.probability, True)}"]
    return f'<div class="guesses">{"".join(chips)}</div>'


def _guess(piece: bytes, p: float, true: bool) -> str:
    percent = f"{100 * p:.1f}%" if p >= 0.0005 else "&lt;0.1%"
    kind = ' class="true"' if true else ""
    return f'<span{kind} style="--p:{100 * p:.2f}%" title="{p:.6g}">{token(piece)} {percent}</span>'


# ---- norms


def _norms(norms: Sequence[Norms]) -> str:
    """Return a table of layers, and one of their tensors."""
    layers: dict[str, list[Norms]] = {}
    for each in norms:
        parts = each.name.split(".")
        layers.setdefault(".".join(parts[: 1 + (parts[0] == "blocks")]), []).append(each)
    held = [quantity for quantity in QUANTITIES if getattr(norms[0], quantity) is not None]
    sums = [
        [name, f"{sum(math.prod(each.shape) for each in found):,}", *(_together(found, q) for q in held)]
        for name, found in layers.items()
    ]
    tensors = [
        [each.name, " × ".join(map(str, each.shape)), *(getattr(each, q) for q in held)]
        for found in layers.values()
        for each in found
    ]
    missing = "" if "m" in held else " The file holds no moments of Adam: it has weights only."
    return (
        f'<section id="norms"><h2>Norms</h2>{_bars(["layer", "size", *held], sums)}'
        f"<details><summary>Every tensor</summary>{_bars(['tensor', 'shape', *held], tensors)}</details>"
        '<p class="note">Euclidean norms: of the parameters, of the gradient of this prompt\'s loss, and of '
        f"Adam's moments m and v, as the checkpoint holds them.{missing}</p></section>\n"
    )


def _together(norms: Sequence[Norms], quantity: str) -> float | None:
    values = [getattr(each, quantity) for each in norms]
    return None if None in values else math.hypot(*values)


def _bars(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table whose numbers stand on bars, each as long as its share of the column's greatest."""
    most = [
        max((value or 0.0 for value in column), default=0.0) for column in list(zip(*rows, strict=True))[2:]
    ]

    def bar(value: float | None, greatest: float) -> str:
        share = 100 * value / greatest if value and greatest and math.isfinite(greatest) else 0.0
        return f'<div class="bar" style="--share:{share:.1f}%">{_exact(value, figures)}</div>'

    cells = [
        [text(name, 80), about, *(bar(value, greatest) for value, greatest in zip(values, most, strict=True))]
        for name, about, *values in rows
    ]
    return table(head, cells, head[1:])


def _exact(value: float | None, write: Callable[[float | None], str]) -> str:
    """Return a number as it is read, and all its digits where the mouse rests."""
    return "–" if value is None else f'<span title="{value:.9g}">{write(value)}</span>'
