"""The page of a model on a prompt: key numbers and prompt, attention, predictions, norms, in this order."""

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
from tinyllm.page.heat import css_mask
from tinyllm.page.shell import Assets, escaped, headline, html_page, table
from tinyllm.page.style import INSIDE
from tinyllm.page.tokens import token_html, tokens_html
from tinyllm.words import counted, perplexity

KIND = "inside the model"
QUANTITIES = ("parameter", "gradient", "m", "v")
SMALL_MAP = 40  # tokens at most, for the choice of heads to fit beside the map
SCALE = (0.01, 0.1, 0.25, 0.5, 1.0)  # weights in the legend


def explain_page(trace: Trace, pieces: Sequence[bytes], title: str, notes: Sequence[str]) -> str:
    """Return the page; `pieces` are the bytes of every token of the vocabulary."""
    shown = [pieces[each] for each in trace.tokens]
    body = (
        f"<main>\n{headline(_numbers(trace))}{_prompt(trace, shown, len(pieces))}{_attention(trace, shown)}"
        f"{_predictions(trace, pieces)}{_norms(trace.norms)}</main>\n"
    )
    assets = Assets(INSIDE, SCRIPT, {"weights": _packed(trace)})
    return html_page(title, KIND, notes, body, assets)


def _packed(trace: Trace) -> str:
    """Return the JSON of the attention weights: float32 in base64, each head's lower triangle in turn."""
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
            ("perplexity", figures(perplexity(trace.loss)), ""),
            (
                "top-1 accuracy",
                f"{ranks.count(1) / len(ranks):.1%}",
                f"{ranks.count(1):,} of {counted(len(ranks), 'next token')}",
            ),
        ]
    count = sum(math.prod(each.shape) for each in trace.norms)
    return [*found, ("attention maps", f"{L * H:,}", f"{counted(L, 'layer')}, {counted(H, 'head')}"),
            ("parameters", amount(count), "")]  # fmt: skip


def _prompt(trace: Trace, shown: Sequence[bytes], V: int) -> str:
    """Return the prompt, each token tinted by its loss."""
    abouts, styles = ["position 0; not predicted"], [""]
    for t, prediction in enumerate(trace.predictions[: len(shown) - 1], 1):
        abouts.append(f"position {t}; {_tooltip(prediction)}")
        styles.append(f"--heat:{min((prediction.loss or 0.0) / math.log(V), 1):.3f}")
    chips = "".join(tokens_html(shown, abouts, styles))
    uniform = f"{math.log(V):.2f}"
    return (
        f'<section id="prompt"><h2>Prompt</h2><p class="text">{chips}</p>\n'
        f'<p class="note">The tint is the loss of predicting the token, full at {uniform} nats or more: '
        f"the loss of a uniform guess among {V:,} tokens.</p></section>\n"
    )


def _tooltip(found: Prediction) -> str:
    return f"probability {found.probability:.6g}, loss {found.loss:.6g} nats, rank {found.rank}"


# ---- attention


def _attention(trace: Trace, shown: Sequence[bytes]) -> str:
    _, H, n, _ = trace.attention.shape
    masks = [[css_mask(weights) for weights in layer] for layer in trace.attention]
    labels = "".join(tokens_html(shown, [f"position {t}" for t in range(n)], [""] * n))
    heads = "".join(f"<b>{h}</b>" for h in range(H))
    rows = "".join(
        f"<b>{layer}</b>{''.join(_button(layer, h, style) for h, style in enumerate(found))}"
        for layer, found in enumerate(masks)
    )
    scale = "".join(f'<i style="opacity:{math.sqrt(weight):.3f}"></i>{weight:g} ' for weight in SCALE)
    large = " large" if n > SMALL_MAP else ""
    return (
        f'<section id="attention"><h2>Attention</h2>\n<div class="maps{large}" style="--n:{n};--heads:{H}">\n'
        f'<div class="heads"><b>layer \\ head</b>{heads}{rows}</div>\n'
        f'<figure id="map" tabindex="0" role="group" aria-label="attention weights" data-heads="{H}">\n'
        f'<figcaption><h2>Layer 0, head 0</h2><span class="scale">{scale}</span></figcaption>\n'
        f'<p class="read"><span class="hint" hidden>Choose a head; point at a cell to read its weight.</span>'
        f'</p>\n<div class="scroll"><div class="grid"><div class="queries">{labels}</div>'
        f'<div class="heat"><div class="ink" style="{masks[0][0]}"></div>'
        f'<i class="row" hidden></i><i class="column" hidden></i></div>'
        f'<div class="keys">{labels}</div></div></div></figure></div>\n'
        '<p class="note">A row is a query, a column a key: the same position or an earlier one. The weights '
        "of a row sum to 1; the head's output is the mean of the values, weighted by them. Opacity is the "
        "square root of the weight.</p></section>\n"
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
    chips = tokens_html(shown, [""] * n, [""] * n)
    for t, prediction in enumerate(trace.predictions):
        target = trace.following[t]
        next_chip = token_html(pieces[target]) if target >= 0 else "–"
        if t + 1 < n:  # shown as in the prompt, where it may be a part of a character
            next_chip = chips[t + 1]
        rank = "–" if prediction.rank is None else f"{prediction.rank:,}"
        top = _top_tokens(prediction, target, pieces)
        rows.append([f"{t}", chips[t], next_chip, _exact(prediction.loss, loss), rank, top])
    head = ["", "token", "next", "loss", "rank", "predicted"]
    return (
        f'<section id="predictions"><h2>Predictions</h2>{table(head, rows, ["", "loss", "rank"])}'
        '<p class="note">Framed: the true next token. The loss is −log of its probability, in nats.</p>'
        "</section>\n"
    )


def _top_tokens(prediction: Prediction, target: int, pieces: Sequence[bytes]) -> str:
    """Return the most probable tokens, and the target after them if it is not among them."""
    top = list(zip(prediction.top.tolist(), prediction.probabilities.tolist(), strict=True))
    chips = [_probability(pieces[each], p, each == target) for each, p in top]
    if prediction.probability is not None and target not in prediction.top:
        chips += [f"… {_probability(pieces[target], prediction.probability, True)}"]
    return f'<div class="guesses">{"".join(chips)}</div>'


def _probability(piece: bytes, p: float, is_target: bool) -> str:
    percent = f"{100 * p:.1f}%" if p >= 0.0005 else "&lt;0.1%"
    kind = ' class="true"' if is_target else ""
    return f'<span{kind} style="--p:{100 * p:.2f}%" title="{p:.6g}">{token_html(piece)} {percent}</span>'


# ---- norms


def _norms(norms: Sequence[Norms]) -> str:
    """Return a table of layers, and one of their tensors."""
    layers: dict[str, list[Norms]] = {}
    for each in norms:
        parts = each.name.split(".")
        layers.setdefault(".".join(parts[: 1 + (parts[0] == "blocks")]), []).append(each)
    known = [quantity for quantity in QUANTITIES if getattr(norms[0], quantity) is not None]
    sums = [
        [name, f"{sum(math.prod(each.shape) for each in found):,}", *(_joint_norm(found, q) for q in known)]
        for name, found in layers.items()
    ]
    tensors = [
        [each.name, " × ".join(map(str, each.shape)), *(getattr(each, q) for q in known)]
        for found in layers.values()
        for each in found
    ]
    missing = "" if "m" in known else " The file has weights only, without Adam's moments."
    return (
        f'<section id="norms"><h2>Norms</h2>{_bars(["layer", "size", *known], sums)}'
        f"<details><summary>Every tensor</summary>{_bars(['tensor', 'shape', *known], tensors)}</details>"
        '<p class="note">Euclidean norms of the parameters, of the gradient of this prompt\'s loss, and of '
        f"Adam's moments m and v in the checkpoint.{missing}</p></section>\n"
    )


def _joint_norm(norms: Sequence[Norms], quantity: str) -> float | None:
    """Return the norm of all tensors of a layer together, from the norm of each."""
    values = [getattr(each, quantity) for each in norms]
    return None if None in values else math.hypot(*values)


def _bars(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table whose numbers have bars behind them, relative to the largest of their column."""
    columns = list(zip(*rows, strict=True))[2:]
    largest = [max((value or 0.0 for value in column), default=0.0) for column in columns]

    def bar(value: float | None, most: float) -> str:
        share = 100 * value / most if value and most and math.isfinite(most) else 0.0
        return f'<div class="bar" style="--share:{share:.1f}%">{_exact(value, figures)}</div>'

    cells = [
        [escaped(name, 80), about, *(bar(value, most) for value, most in zip(values, largest, strict=True))]
        for name, about, *values in rows
    ]
    return table(head, cells, head[1:])


def _exact(value: float | None, formatted: Callable[[float | None], str]) -> str:
    """Return a formatted number, with all its digits as a tooltip."""
    return "–" if value is None else f'<span title="{value:.9g}">{formatted(value)}</span>'
