"""The report's page: headline, curves, what the model wrote, tables, in this order."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from tinyllm.checkpoint.metadata import Entry
from tinyllm.escape import printable
from tinyllm.page.charts import charts, column_width, epoch_stride, event_text
from tinyllm.page.curves import amount, duration, figures, loss, size
from tinyllm.page.drawing import chart_html
from tinyllm.page.history import Run, section
from tinyllm.page.report_script import SCRIPT
from tinyllm.page.shell import Assets, escaped, headline, html_page, table
from tinyllm.page.style import CHARTS
from tinyllm.page.written import at_milestones
from tinyllm.words import counted, perplexity

KIND = "training report"
MAX_ROWS = 100  # of each table, all runs together
NAMED_EPOCHS = 2000  # that the script can name


def report_page(runs: Sequence[Run], title: str, notes: Sequence[str], refresh: int = 0) -> str:
    """Return the page of one run, or of several, overlaid; `notes` follow the title.

    With `refresh` it reloads itself after so many seconds.
    """
    parts = (
        _headline(runs), _curves(runs), _written(runs), _events(runs), _checkpoints(runs), _settings(runs),
    )  # fmt: skip
    body = f'<main class="{"single" if len(runs) == 1 else "many"}">\n{"".join(parts)}</main>\n'
    assets = Assets(CHARTS, SCRIPT, {"epochs": _epoch_ends(runs)})
    return html_page(title, KIND, notes, body, assets, refresh)


def _epoch_ends(runs: Sequence[Run]) -> str:
    """Return the JSON of [last step, number] of each epoch, which the script cannot read off the charts."""
    epochs = runs[0].epochs if len(runs) == 1 and len(runs[0].epochs) <= NAMED_EPOCHS else []
    return json.dumps([[epoch.last, epoch.number] for epoch in epochs], separators=(",", ":"))


# ---- headline


def numbers(run: Run) -> list[tuple[str, str, str]]:
    """Return the key numbers of a run, each a (name, value, note)."""
    epoch, best = run.last_epoch, run.best()
    found, latest = [], math.nan
    if epoch:
        latest = epoch.loss
        found.append(("train loss", loss(latest), f"epoch {epoch.number:,}"))
    if run.eval_loss is not None:
        latest = run.eval_loss
        found.append(("eval loss", loss(latest), f"at step {run.series['eval/loss'][-1][0]:,}"))
    if math.isfinite(perplexity(latest)):
        found.append(("perplexity", figures(perplexity(latest)), f"of the {found[-1][0]}"))
    if best and best[-1].metadata:
        about = best[-1].metadata
        found.append(("best checkpoint", loss(about.loss), f"epoch {about.epoch:,}"))
    done = counted(run.epochs[-1].number, "epoch") if run.epochs else ""
    found += [
        ("steps", f"{run.steps:,}", f"of {run.planned:,} planned" if run.planned else done),
        ("tokens", amount(run.tokens), "trained on"),
        ("time", duration(run.seconds), f"{figures(run.speed)} tokens/s"),
    ]
    if run.parameters:
        found.append(("parameters", amount(run.parameters), ""))
    return found


def _headline(runs: Sequence[Run]) -> str:
    if len(runs) == 1:
        return headline(numbers(runs[0]))
    named = [{name: value for name, value, _ in numbers(run)} for run in runs]
    columns = list(dict.fromkeys(name for found in named for name in found))
    rows = [
        [escaped(run.name), run.status, *(found.get(column, "–") for column in columns)]
        for run, found in zip(runs, named, strict=True)
    ]
    return f"<section>{table(['run', 'status', *columns], rows, numeric=columns)}</section>\n"


# ---- curves


def _curves(runs: Sequence[Run]) -> str:
    drawn = charts(runs)
    if not drawn:
        return '<section><p class="note">No step has been logged yet.</p></section>\n'
    broken = sum(run.broken for run in runs)
    warning, steps = "", counted(broken, "step")
    if broken:
        warning = f'<p class="note bad">The train loss was not finite at {steps}.</p>'
    ends = ""
    if len(runs) == 1:
        stride = epoch_stride(runs[0])
        ends = f"Short ticks: the end of every {f'{stride:,}th ' if stride > 1 else ''}epoch. "
        if (width := column_width(runs[0])) > 1:
            ends += f"The faint lines connect the minimum and the maximum of every {width:,} steps. "
    return (
        f'<section id="curves" data-first="{drawn[0].first}" data-last="{drawn[0].last}">\n'
        f"<h2>Curves</h2>{warning}"
        '<p id="where" hidden><span></span> <button type="button">Reset</button></p>\n'
        f"{''.join(map(chart_html, drawn))}"
        f'<p class="note">{ends}<span class="hint" hidden>Drag to zoom, double-click or Esc to reset. '
        "Click a chart to zoom with the wheel or + − and to read values with the arrow keys.</span></p>\n"
        "</section>\n"
    )


# ---- tables


def _events(runs: Sequence[Run]) -> str:
    most, many = max(MAX_ROWS // len(runs), 1), len(runs) > 1
    rows = [
        [
            *[escaped(run.name)] * many,
            f"{event.step:,}",
            escaped(event_text(event), 60),
            escaped(event.phase, 60),
        ]
        for run in runs
        for event in run.events[-most:]
    ]
    head = [*["run"] * many, "step", "event", "phase"]
    return f"<section><h2>Events</h2>{table(head, rows, numeric=['step'])}</section>\n" if rows else ""


def _written(runs: Sequence[Run]) -> str:
    many, most = len(runs) > 1, max(MAX_ROWS // len(runs), 1)
    rows = [
        [
            *[escaped(run.name)] * many, f"{each.epoch:,}", f"{each.step:,}", escaped(each.phase, 60),
            escaped(f"{each.prompt} | {each.text}" if each.prompt else each.text, 400),
        ]
        for run in runs
        for each in at_milestones(run.written, run.begun)[-most:]
    ]  # fmt: skip
    head = [*["run"] * many, "epochs", "step", "phase", "text"]
    title = "What the model wrote"
    return f"<section><h2>{title}</h2>{table(head, rows, ['epochs', 'step'])}</section>\n" if rows else ""


def _checkpoints(runs: Sequence[Run]) -> str:
    head = ["file", "", "epoch", "step", "loss", "learning rate", "phase", "saved", "size"]
    most, parts = max(MAX_ROWS // len(runs), 1), []
    for run in runs:
        caption = escaped(run.name) if len(runs) > 1 else ""
        if run.problem:
            parts.append(f'<p class="note bad">{escaped(run.problem, 400)}</p>')
        elif not run.checkpoints:
            parts.append(f'<p class="note">{caption or "This run"} has no checkpoints.</p>')
        else:
            rows = [_checkpoint(entry, run) for entry in run.checkpoints[-most:]]
            parts.append(table(head, rows, ["epoch", "step", "loss", "learning rate", "size"], caption))
            parts += [f'<p class="note bad">{problem}</p>\n' for problem in _problems(run, most)]
    return f"<section><h2>Checkpoints</h2>{''.join(parts)}</section>\n"


def _checkpoint(entry: Entry, run: Run) -> list[str]:
    name, about = escaped(entry.path.name), entry.metadata
    if entry.problem or about is None:
        return [name, '<span class="bad">invalid</span>', *["–"] * 7]
    words = ["best"] * (entry in run.best()) + ["newest"] * (entry == run.newest())
    words += ["weights only"] * entry.weights_only
    return [
        name, ", ".join(words), f"{about.epoch:,}", f"{entry.step or 0:,}", loss(about.loss),
        figures(about.learning_rate), escaped(about.phase), escaped(about.timestamp), size(entry.size),
    ]  # fmt: skip


def _problems(run: Run, most: int) -> list[str]:
    """Return the problems of the invalid files, named without their directory."""
    bad = [entry for entry in run.checkpoints[-most:] if entry.problem]
    return [escaped((e.problem or "").replace(printable(e.path), e.path.name), 300) for e in bad[-20:]]


def _settings(runs: Sequence[Run]) -> str:
    found = [
        f"<section><h2>{title}</h2>{shown}</section>\n"
        for name, title in (("config", "Configuration"), ("environment", "Environment"))
        if (shown := _comparison(runs, name))
    ]
    return f'<div class="pair">{"".join(found)}</div>\n' if found else ""


def _comparison(runs: Sequence[Run], name: str) -> str:
    """Return a table of one row per setting and one column per run; rows that differ are highlighted."""
    sections = [section(run, name) for run in runs]
    keys = list(dict.fromkeys(key for values in sections for key in values))[: MAX_ROWS // len(runs)]
    if not keys:
        return ""
    rows = []
    for key in keys:
        cells = [escaped(_setting(values[key]), 100) if key in values else "–" for values in sections]
        differs = ' class="differs"' if len(set(cells)) > 1 else ""
        rows.append(
            f"<tr{differs}><th>{escaped(key, 60)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>\n"
        )
    names = "".join(f"<th>{escaped(run.name)}</th>" for run in runs) if len(runs) > 1 else ""
    top = f"<thead><tr><th></th>{names}</tr></thead>\n" if names else ""
    body = f"{top}<tbody>{''.join(rows)}</tbody>"
    return f'<div class="scroll" tabindex="0"><table class="settings">{body}</table></div>'


def _setting(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
