"""The report as one HTML page: no network, no library, nothing in it that was not escaped.

The page's own policy forbids all requests and every script but its own. Order: text, numbers, charts, tables, page.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from tinyllm.charts import Chart, Line, Mark, decimate, draw, figures, trend
from tinyllm.checkpoint.metadata import Entry, printable
from tinyllm.history import Event, Run, Series, section
from tinyllm.page_script import SCRIPT
from tinyllm.page_style import STYLE

POINTS = 20_000  # of all paths together, about 13 bytes each
COLOURS = 6
MOST_ROWS = 200
MOST_MARKS = 100
WORDS = {
    "resume": "resumed", "early_stop": "stopped early", "rollback": "rolled back to epoch", "finished": "finished",
}  # fmt: skip


def text(value: object, most: int = 200) -> str:
    """Return `value` as one line of HTML text: escaped, control characters spelt out, not without end."""
    line = printable(value)
    return html.escape(line if len(line) <= most else line[: most - 1] + "…")


# ---- numbers


def duration(seconds: float) -> str:
    """Write seconds as people do: `42s`, `3m05s`, `2h07m`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600:,}h{whole % 3600 // 60:02d}m"


def amount(value: int | None) -> str:
    """Write a large count in four digits at most: 12,345 or 3.21M."""
    if value is None:
        return "–"
    for unit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= unit:
            return f"{value / unit:.3g}{letter}"
    return f"{value:,}"


def size(count: float) -> str:
    """Write bytes: 1.2 MiB."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.1f} {unit}" if unit != "B" else f"{count:.0f} B"
        count /= 1024
    return f"{count:.1f} GiB"


def loss(value: float | None) -> str:
    """Write a loss as the checkpoints' names do."""
    return (
        f"{value:.4f}" if value is not None and math.isfinite(value) and abs(value) < 1e6 else figures(value)
    )


def numbers(run: Run) -> list[tuple[str, str, str]]:
    """Return (name, value, note) of what a person asks first."""
    epoch, best = run.last_epoch, run.best()
    found = []
    if epoch:
        found.append(("train loss", loss(epoch.loss), f"mean of epoch {epoch.number}"))
    judged, whose = (epoch.loss if epoch else None), "train"
    if run.eval_loss is not None:
        judged, whose = run.eval_loss, "eval"
        found.append(("eval loss", loss(judged), f"at step {run.series['eval/loss'][-1][0]:,}"))
    if judged is not None and judged < 50:
        found.append(("perplexity", figures(math.exp(judged)), f"of the {whose} loss"))
    if best and best[-1].metadata:
        about = best[-1].metadata
        found.append(("best checkpoint", loss(about.loss), f"epoch {about.epoch}"))
    steps = (
        f"of {run.planned:,} planned"
        if run.planned
        else f"{run.epochs[-1].number} epochs"
        if run.epochs
        else ""
    )
    found.append(("steps", f"{run.steps:,}", steps))
    found.append(("tokens", amount(run.tokens), "trained on"))
    found.append(("tokens/s", figures(run.speed), "median"))
    found.append(("time", duration(run.seconds), "in training steps"))
    if run.parameters:
        found.append(("parameters", amount(run.parameters), ""))
    return found


def _headline(runs: Sequence[Run]) -> str:
    if len(runs) == 1:
        items = (
            f"<div><dt>{text(name)}</dt><dd><b>{text(value)}</b><small>{text(note)}</small></dd></div>"
            for name, value, note in numbers(runs[0])
        )
        return f'<dl class="numbers">{"".join(items)}</dl>'
    named = [{name: value for name, value, _ in numbers(run)} for run in runs]
    columns = list(dict.fromkeys(name for found in named for name in found))
    rows = [
        [f"<b>{text(run.name)}</b>", text(run.status), *(text(found.get(c, "–")) for c in columns)]
        for run, found in zip(runs, named, strict=True)
    ]
    return table(["run", "status", *columns], rows, right=range(2, 2 + len(columns)))


# ---- charts


def charts(runs: Sequence[Run]) -> list[Chart]:
    """Return the charts of a page; all share one range of steps."""
    first = min((s[0][0] for run in runs for s in run.series.values() if s), default=0)
    last = max((run.steps for run in runs), default=0)
    single = runs[0] if len(runs) == 1 else None
    named = [
        Chart("loss", "Loss", "nats per token", _lines(runs, "train/loss", "eval/loss"), first, last),
        Chart("lr", "Learning rate", "", _lines(runs, "train/lr"), first, last, floor=0.0),
        Chart("gradient", "Gradient norm", "before clipping", _lines(runs, "train/grad_norm"), first, last, log=True),
        Chart(
            "speed", "Speed", "tokens per second", _lines(runs, "train/tokens_per_second"), first, last,
            floor=0.0, clip=0.005,
        ),
    ]  # fmt: skip
    for chart in named:
        if single:
            chart.phases = single.phases[-MOST_MARKS:]
            ends = [epoch.last for epoch in single.epochs]
            chart.epochs = ends[:: max(1, -(-len(ends) // 200))]
        for number, run in enumerate(runs):
            chart.marks += _marks(run, number % COLOURS, chart.name == "loss")
    return [chart for chart in named if any(line.points for line in chart.lines)]


def _lines(runs: Sequence[Run], tag: str, evaluations: str = "") -> list[Line]:
    found = []
    share = POINTS // (len(runs) * 4)
    for number, run in enumerate(runs):
        series, colour = run.series[tag], number % COLOURS
        window = len(series) // 80 if tag != "train/lr" else 0
        name = printable(run.name)[:60] if len(runs) > 1 else ""
        plain = "train" if evaluations else "each step"
        smooth = window > 2
        raw = decimate(series, int(share * 0.8) // 2)
        if not smooth:
            found.append(Line(colour, "trend", name or (plain if evaluations else ""), raw))
        else:
            found.append(Line(colour, "raw", "" if name else plain, raw))
            mean: Series = trend(series, run.phases, window, int(share * 0.12))
            found.append(Line(colour, "trend", name or f"mean of {window}", mean))
        if evaluations and run.series[evaluations]:
            points = decimate(run.series[evaluations], int(share * 0.08) // 2)
            found.append(Line(colour, "eval", f"{name} eval" if name else "eval", points))
    return found


def _marks(run: Run, colour: int, whole: bool) -> list[Mark]:
    found = [Mark(colour, "event", e.step, f"step {e.step:,}: {told(e)}") for e in run.events[-MOST_MARKS:]]
    if not whole:
        return found
    newest, best = run.newest(), run.best()
    rings = [("last", newest)] if newest else []
    rings += [("best", entry) for entry in best]
    for kind, entry in rings:
        if entry.metadata and entry.step is not None and math.isfinite(entry.metadata.loss):
            about = f"{kind} checkpoint: epoch {entry.metadata.epoch}, loss {entry.metadata.loss:.4f}"
            found.append(Mark(colour, kind, entry.step, about, entry.metadata.loss))
    return found


def told(event: Event) -> str:
    """Say an event in words."""
    words = WORDS.get(event.kind, printable(event.kind)[:60])
    epoch = f" {event.epoch}" if event.kind == "rollback" and event.epoch is not None else ""
    return f"{words}{epoch}" + (f", {printable(event.phase)[:60]}" if event.phase else "")


# ---- tables


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = (), caption: str = ""
) -> str:
    """Return a table of cells that are HTML already; columns `right` hold numbers."""
    numeric = set(right)

    def row(cells: Sequence[str], tag: str) -> str:
        inner = "".join(
            f"<{tag}{' class=n' if i in numeric else ''}>{cell}</{tag}>" for i, cell in enumerate(cells)
        )
        return f"<tr>{inner}</tr>"

    title = f"<caption>{caption}</caption>" if caption else ""
    body = "".join(row(cells, "td") for cells in rows)
    return f'<div class="scroll"><table>{title}<thead>{row(head, "th")}</thead><tbody>{body}</tbody></table></div>'


def _checkpoints(run: Run, caption: str) -> str:
    if run.problem:
        return f'<p class="note bad">{text(run.problem, 400)}</p>'
    if not run.checkpoints:
        return f'<p class="note">{caption} no checkpoints</p>'
    best, newest = {entry.path.name for entry in run.best()}, run.newest()
    rows = []
    for entry in run.checkpoints[-MOST_ROWS:]:
        rows.append(
            _checkpoint(entry, entry.path.name in best, newest is not None and entry.path == newest.path)
        )
    head = ["file", "", "epoch", "step", "loss", "rate", "phase", "saved", "size"]
    return table(head, rows, right=(2, 3, 4, 5, 8), caption=caption)


def _checkpoint(entry: Entry, is_best: bool, is_newest: bool) -> list[str]:
    name, about = text(entry.path.name), entry.metadata
    if entry.problem or about is None:
        return [name, f'<span class="bad" title="{text(entry.problem, 400)}">bad</span>', *["–"] * 6, ""]
    words = [
        word for word, true in (("best", is_best), ("newest", is_newest), ("pinned", entry.pinned)) if true
    ]
    return [
        name, ", ".join(words + ["weights only"] * entry.weights_only), f"{about.epoch:,}", f"{entry.step or 0:,}",
        loss(about.loss), figures(about.learning_rate), text(about.phase), text(about.timestamp), size(entry.size),
    ]  # fmt: skip


def _events(runs: Sequence[Run]) -> str:
    many = len(runs) > 1
    rows = []
    for run in runs:
        for event in run.events[-MOST_ROWS:]:
            rows.append([*([text(run.name)] if many else []), f"{event.step:,}", text(told(event))])
    head = [*(["run"] if many else []), "step", "event"]
    return f"<section><h2>Events</h2>{table(head, rows, right=(int(many),))}</section>" if rows else ""


def _settings(runs: Sequence[Run], name: str, title: str) -> str:
    found = [section(run, name) for run in runs]
    keys = list(dict.fromkeys(key for values in found for key in values))[:MOST_ROWS]
    if not keys:
        return ""
    head = ["", *(text(run.name) for run in runs)] if len(runs) > 1 else []
    rows = []
    for key in keys:
        cells = [text(_plain(values[key])) if key in values else "–" for values in found]
        differs = ' class="differs"' if len(set(cells)) > 1 else ""
        inner = "".join(f'<td class="wide">{cell}</td>' for cell in cells)
        rows.append(f"<tr{differs}><th>{text(key)}</th>{inner}</tr>")
    top = f"<thead><tr>{''.join(f'<th>{cell}</th>' for cell in head)}</tr></thead>" if head else ""
    return f'<section><h2>{title}</h2><div class="scroll"><table>{top}<tbody>{"".join(rows)}</tbody></table></div></section>'


def _plain(value: Any) -> str:
    if value is None:
        return "default"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return figures(value) if isinstance(value, float) and 0 < abs(value) < 1e-3 else str(value)


# ---- the page


def page(runs: Sequence[Run], title: str, subtitle: str, refresh: int | None = None) -> str:
    """Return the whole document; with `refresh` it reloads itself after so many seconds."""
    drawn = charts(runs)
    epochs = runs[0].epochs if len(runs) == 1 else []
    facts = {
        "first": drawn[0].first if drawn else 0, "last": drawn[0].last if drawn else 0,
        "epochs": [[epoch.last, epoch.number] for epoch in epochs] if len(epochs) <= 2000 else [],
    }  # fmt: skip
    lost = sum(run.lost() for run in runs)
    warning = f'<p class="note bad">{lost:,} steps logged a loss that is not finite</p>' if lost else ""
    figures_ = "".join(draw(chart) for chart in drawn)
    shown = (
        f"<section><h2>Curves</h2>{warning}"
        f'<p class="note" id="where" hidden><span></span> <button type="button">reset</button></p>{figures_}'
        f'<p class="note hint" hidden>Drag to zoom, double-click or Esc to go back; with a chart in focus the wheel '
        f"and + − zoom, arrow keys read off.</p></section>"
        if drawn
        else '<section><p class="note">No steps have been logged yet.</p></section>'
    )
    many = len(runs) > 1
    saved = "".join(_checkpoints(run, text(run.name) if many else "") for run in runs)
    parts = [
        f"<header><h1>{text(title)}</h1><p>{text(subtitle)}</p>{_headline(runs)}</header>",
        shown,
        _events(runs),
        f"<section><h2>Checkpoints</h2>{saved}</section>",
        f'<div class="pair">{_settings(runs, "config", "Configuration")}'
        f"{_settings(runs, 'environment', 'Environment')}</div>",
    ]
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    data = json.dumps(facts, separators=(",", ":")).replace("<", "\\u003c")
    again = f'<meta http-equiv="refresh" content="{refresh}">' if refresh else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'{again}<title>{text(title)} · training report</title><link rel="icon" href="data:,">'
        f"<style>{STYLE}</style></head>\n"
        f'<body class="{"many" if many else "single"}">\n' + "\n".join(parts) + "\n"
        '<output class="sr" id="spoken" aria-live="polite"></output>'
        f'<script type="application/json" id="facts">{data}</script><script>{SCRIPT}</script></body></html>\n'
    )
