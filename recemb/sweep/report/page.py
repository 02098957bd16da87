"""Page: the HTML file, which holds all that it shows and asks no network for anything."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from recemb.memory import human_bytes
from recemb.sweep.report.content import RunContent, StudyContent, differences
from recemb.sweep.report.figures import short
from recemb.sweep.trials import COMPLETE

STYLE = """
:root { color-scheme: light; --ink: #1f2933; --soft: #616e7c; --line: #e4e7eb; --accent: #1769aa; }
* { box-sizing: border-box; }
body { margin: 0; background: #f5f7fa; color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 0 0 4px; }
.about { color: var(--soft); margin: 0 0 20px; }
section { background: white; border: 1px solid var(--line); border-radius: 10px; padding: 20px 24px;
  margin: 0 0 20px; overflow-x: auto; }
section > p { color: var(--soft); margin: 0 0 12px; max-width: 78ch; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); gap: 14px;
  margin: 0 0 20px; }
.card { background: white; border: 1px solid var(--line); border-radius: 10px; padding: 14px 18px; }
.card b { display: block; font-size: 21px; line-height: 1.3; }
.card span { color: var(--soft); font-size: 13px; }
svg { max-width: 100%; height: auto; display: block; margin: 0 auto; }
table { border-collapse: collapse; width: 100%; font-size: 13px;
  font-variant-numeric: tabular-nums; }
th { text-align: left; border-bottom: 2px solid var(--line); padding: 6px 10px; color: var(--soft);
  font-weight: 600; white-space: nowrap; }
th.number { text-align: right; } th.sorts { cursor: pointer; }
th.sorts:hover { color: var(--accent); }
td { border-bottom: 1px solid var(--line); padding: 5px 10px; vertical-align: top; }
td.number { text-align: right; white-space: nowrap; }
tr.front td:first-child { border-left: 3px solid var(--accent); }
tr.chosen { background: #fff4e6; }
code { font: 12.5px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.state { padding: 1px 8px; border-radius: 9px; background: var(--line); font-size: 12px; }
.state.complete { background: #d3f0dd; } .state.failed { background: #ffd8d2; }
details summary { cursor: pointer; color: var(--accent); }
"""
SCRIPT = """
document.querySelectorAll("th.sorts").forEach(head => head.addEventListener("click", () => {
  const table = head.closest("table"), body = table.tBodies[0];
  const place = [...head.parentNode.children].indexOf(head);
  const up = head.dataset.up = head.dataset.up === "1" ? "0" : "1";
  const key = row => { const own = row.children[place].dataset.value;
    return own === "" ? Infinity : isNaN(own) ? own : Number(own); };
  [...body.rows].sort((a, b) => { const x = key(a), y = key(b);
    return (x < y ? -1 : x > y ? 1 : 0) * (up === "1" ? 1 : -1); })
    .forEach(row => body.append(row));
}));
"""
TEXTS = {
    "front": (
        "Quality against bytes",
        "Each dot is a trained trial. No trial is at least as good as one of the front in every "
        "objective and better in one. Hold the mouse over a dot to see what was drawn.",
    ),
    "latency": (
        "Quality against latency",
        "Milliseconds of a request of 1,024 samples to the served program, on the machine of the "
        "sweep, with whatever else ran there.",
    ),
    "importances": (
        "What matters",
        "How much of the variance of each objective a parameter explains by itself, among the "
        "complete trials that drew it (at least eight). Parameters that work together only do not "
        "show.",
    ),
    "dimensions": (
        "Dimension and kind of each table along the front",
        "From the smallest trial to the best one; the bluer, the wider.",
    ),
    "curves": (
        "Learning curves",
        "Validation quality after each epoch. Dotted trials were ended early.",
    ),
    "runs": ("Quality against bytes", "One dot per run."),
    "run_curves": ("Learning curves", "Validation quality after each epoch."),
}


def page(title: str, about: str, parts: Sequence[str]) -> str:
    """Return the file."""
    return (
        "<!doctype html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body><main><h1>{html.escape(title)}</h1>"
        f'<p class="about">{html.escape(about)}</p>{"".join(parts)}</main>'
        f"<script>{SCRIPT}</script></body></html>\n"
    )


def picture(name: str, svg: str) -> str:
    """Return a section with a picture."""
    heading, text = TEXTS[name]
    return section(heading, text, svg)


def section(heading: str, text: str, content: str) -> str:
    """Return a section; its content is HTML."""
    return f"<section><h2>{html.escape(heading)}</h2><p>{html.escape(text)}</p>{content}</section>"


def cards(numbers: Mapping[str, str]) -> str:
    """Return what is to be seen first: a number above what it is."""
    own = "".join(
        f'<div class="card"><b>{html.escape(value)}</b><span>{html.escape(name)}</span></div>'
        for name, value in numbers.items()
    )
    return f'<div class="cards">{own}</div>'


def rows_table(
    titles: Sequence[str], rows: Sequence[Sequence[Any]], classes: Sequence[str] = ()
) -> str:
    """Return a table that a click on a title sorts.

    Args:
        titles: Of the columns.
        rows: Numbers, texts, or :class:`Markup`; NaN and None are empty.
        classes: Of the rows.
    """
    columns = list(zip(*rows, strict=True)) or [()] * len(titles)
    head = "".join(
        f'<th class="sorts{" number" if _is_number(own) else ""}">{html.escape(title)}</th>'
        for title, own in zip(titles, columns, strict=True)
    )
    body = "".join(
        f'<tr class="{kind}">{"".join(map(_cell, row))}</tr>'
        for row, kind in zip(rows, classes or [""] * len(rows), strict=True)
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _is_number(column: Sequence[Any]) -> bool:
    return any(isinstance(one, int | float) for one in column)


class Markup(str):
    """Text that is HTML already."""


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return '<td data-value=""></td>'
    if isinstance(value, bool) or not isinstance(value, int | float):
        shown = value if isinstance(value, Markup) else html.escape(str(value))
        return f'<td data-value="{html.escape(str(value))}">{shown}</td>'
    shown = f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
    if isinstance(value, float) and 0.01 <= abs(value) < 10:
        shown = f"{value:.4f}"
    return f'<td class="number" data-value="{value}">{shown}</td>'


def study_cards(study: StudyContent) -> str:
    """Return the numbers of a study."""
    quality = study.objectives[0]
    shown = {"trials": f"{len(study.trials)}", "on the front": f"{len(study.front())}"}
    best = min(study.complete, key=lambda one: quality.cost(one.values[0]), default=None)
    if best is not None:
        shown[f"best {quality.label} (trial {best.number})"] = f"{best.values[0]:.4f}"
    goal = study.results.get("goal")
    if goal and goal["answer"]:
        answer, full = goal["answer"], goal["full"]
        text = f"{human_bytes(answer['bytes'])} ({answer['bytes'] / full['bytes']:.1%})"
        shown[f"smallest within a loss of {goal['loss']:g} (trial {answer['trial']})"] = text
    for name, value in ((study.results.get("best") or {}).get("test") or {}).items():
        shown[f"{name} of the chosen trial, read once"] = f"{value:.4f}"
    return cards(shown)


def goal_section(study: StudyContent) -> str:
    """Return the answer of a goal with its evidence; nothing where there was none."""
    goal = study.results.get("goal")
    if not goal:
        return ""
    full, answer = goal["full"], goal["answer"]
    rows: list[list[Any]] = [["full model", full["quality"], full["bytes"], 0.0]]
    rows += [[f"trial {answer['trial']}: the answer", *_numbers(answer)]] if answer else []
    rows += [[f"trial {one['trial']}", *_numbers(one)] for one in goal["smaller"][:10]]
    smaller = len(goal["smaller"])
    text = f"The smallest trial that loses at most {goal['loss']:g} against the full model"
    text += f", and the best of the {smaller} smaller ones: none is within." if smaller else "."
    titles = ["", study.objectives[0].label, "bytes", "loss"]
    marks = ["", *(["chosen"] if answer else []), *[""] * len(goal["smaller"][:10])]
    return section("The goal", text, rows_table(titles, rows, marks))


def _numbers(row: Mapping[str, Any]) -> list[Any]:
    return [row["quality"], row["bytes"], row["loss"]]


def trials_section(study: StudyContent) -> str:
    """Return the table of trials."""
    front = {one.number for one in study.front()}
    chosen = (study.results.get("best") or {}).get("trial")
    names = list(dict.fromkeys(name for one in study.trials for name in one.params))
    labels = [one.label for one in study.objectives]
    rows: list[list[Any]] = []
    classes = []
    for one in study.trials:
        values: list[Any] = one.values or [None] * len(labels)
        values = [
            int(value) if label == "bytes" and value is not None else value
            for label, value in zip(labels, values, strict=True)
        ]
        state = Markup(f'<span class="state {one.state}">{one.state}</span>')
        # What was drawn in one line: a column each would be as many as a space has names.
        drawn = ", ".join(
            f"{short(name)} {_brief(one.params[name])}" for name in names if name in one.params
        )
        reason = one.attrs.get("reason", "") if one.state != COMPLETE else ""
        details = Markup(f"<code>{html.escape(drawn)}</code>")
        epochs, seconds = one.attrs.get("epochs"), one.attrs.get("seconds")
        rows.append([one.number, state, *values, epochs, seconds, reason, details])
        mark = "chosen" if one.number == chosen else ""
        classes.append(" ".join(filter(None, ["front" if one.number in front else "", mark])))
    titles = ["trial", "state", *labels, "epochs", "seconds", "reason", "drawn"]
    text = (
        "All trials; those of the front have a blue edge, the chosen one is shaded. "
        f"{study.refused} draws were refused before training and are left out. A click on a title "
        "sorts."
    )
    return section("Trials", text, rows_table(titles, rows, classes))


def _brief(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def runs_section(runs: Sequence[RunContent]) -> str:
    """Return the table of runs."""
    metrics = list(dict.fromkeys(name for run in runs for name in run.results.get("metrics", {})))
    titles = ["run", *metrics, "table bytes", "epochs", "seconds", "seed"]
    rows = []
    for run in runs:
        own = run.results
        values = [own.get("metrics", {}).get(name) for name in metrics]
        sizes = [run.table_bytes, own.get("epochs"), own.get("seconds")]
        rows.append([run.name, *values, *sizes, run.settings.get("seed_everything")])
    return section("Runs", "What each run reports.", rows_table(titles, rows))


def differences_section(runs: Sequence[RunContent]) -> str:
    """Return the settings in which runs differ."""
    found = differences(runs)
    if not found:
        return section("Configurations", "All settings of these runs are the same.", "")
    titles = ["setting", *(run.name for run in runs)]
    rows = [
        [
            Markup(f"<code>{html.escape(name)}</code>"),
            *("not set" if v is None else _brief(v) for v in own),
        ]
        for name, own in found.items()
    ]
    text = f"The {len(found)} settings in which the runs differ; all others are the same."
    return section("Configurations", text, rows_table(titles, rows))
