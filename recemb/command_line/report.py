"""The verb ``report``: runs or a sweep as one HTML file that works offline, and its pictures."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from recemb.errors import RecembError
from recemb.files import whole_file
from recemb.results import table
from recemb.sweep.report import page
from recemb.sweep.report.content import RunContent, StudyContent, read_runs, read_study
from recemb.sweep.report.figures import (
    Gallery,
    draw_curves,
    draw_dimensions,
    draw_front,
    draw_run_curves,
    draw_runs,
    draw_weights,
)


def run(arguments: list[str]) -> None:
    """Draw runs, or a sweep, as one HTML file and as PNG files beside it."""
    parser = argparse.ArgumentParser(prog="python -m recemb report", description=run.__doc__)
    parser.add_argument(
        "what",
        nargs="+",
        help="run folders; or the folder of one sweep, or its storage (sqlite:///...)",
    )
    parser.add_argument("--study", help="which study of a storage that holds several")
    parser.add_argument(
        "--output",
        type=Path,
        help="the HTML file; pictures go into a folder beside it (default: report.html in the "
        "folder, or here)",
    )
    options = parser.parse_args(arguments)
    studies = [one for one in options.what if "://" in one or (Path(one) / "trials.json").is_file()]
    if studies and len(options.what) > 1:
        raise RecembError(f"report: {studies[0]} is a study; give it alone, or run folders")
    one_folder = len(options.what) == 1 and "://" not in options.what[0]
    default = Path(options.what[0]) if one_folder else Path()
    output: Path = options.output or default / "report.html"
    gallery = Gallery(output.with_suffix(""))
    if studies:
        text = study_report(read_study(studies[0], options.study), gallery)
    else:
        text = runs_report(read_runs([Path(one) for one in options.what]), gallery)
    with whole_file(output) as temporary:
        temporary.write_text(text)
    print(table({"report": str(output), "pictures": str(gallery.folder)}))


def study_report(study: StudyContent, gallery: Gallery) -> str:
    """Return the page of a study.

    Raises:
        RecembError: If no trial is complete.
    """
    if not study.complete:
        raise RecembError(f"report: study {study.name!r} has no complete trial yet")
    labels = [one.label for one in study.objectives]
    drawn = []
    for name, label in (("front", "bytes"), ("latency", "latency_ms")):
        if label in labels:
            draw_front(gallery, study, name, label)
            drawn.append(name)
    for name, draw in (
        ("importances", draw_weights),
        ("dimensions", draw_dimensions),
        ("curves", draw_curves),
    ):
        drawn += [name] if draw(gallery, study) else []
    pictures = [page.picture(name, gallery.svg[name]) for name in drawn]
    parts = [page.study_cards(study), *pictures[:1], page.goal_section(study), *pictures[1:]]
    about = f"Objectives: {', '.join(f'{one.label} ({one.mode})' for one in study.objectives)}"
    return page.page(f"Sweep {study.name}", about, [*parts, page.trials_section(study)])


def runs_report(runs: Sequence[RunContent], gallery: Gallery) -> str:
    """Return the page that compares runs."""
    logged = [name for run in runs for name in run.curves]
    tested = [name for run in runs for name in run.results.get("metrics", {})]
    parts = [page.runs_section(runs)]
    first = next((name for name in tested if name.startswith("test/")), None)
    if first is not None and draw_runs(gallery, runs, first):
        parts.append(page.picture("runs", gallery.svg["runs"]))
    if logged and draw_run_curves(gallery, runs, logged[0]):
        parts.append(page.picture("run_curves", gallery.svg["run_curves"]))
    if len(runs) > 1:
        parts.append(page.differences_section(runs))
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
    return page.page(f"Report: {title}", "Figures as results.json of each run has them.", parts)
