"""Figures: the pictures of a report, each as SVG for the page and as a PNG file."""

import html
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from recemb.memory import human_bytes
from recemb.search.plots import pyplot
from recemb.sweep.front import front as outermost
from recemb.sweep.report.content import RunContent, StudyContent
from recemb.sweep.report.weights import weights
from recemb.sweep.trials import COMPLETE, FAILED, Trial

INK, GREY, ACCENT, WARM = "#1f2933", "#a3adb8", "#1769aa", "#d9480f"
COLORS = ("#1769aa", "#d9480f", "#2b8a3e", "#862e9c", "#e6a700", "#0b7285", "#c2255c", "#5c940d")
STYLE = {
    "font.size": 10,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e7eb",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "recemb",
    "font.family": "sans-serif",
}
MOST_ROWS = 15
ABOVE = {"frameon": False, "loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 5}
"""Where a legend hides nothing."""
AXES = {"bytes": "served bytes of the tables", "latency_ms": "milliseconds of a request"}
SHORT = ("model.init_args.tables.", "model.init_args.", "data.init_args.", "trainer.")


class Gallery:
    """Draws pictures into a folder and keeps them as SVG.

    Args:
        folder: Where PNG files go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.drawing = pyplot()
        self.svg: dict[str, str] = {}

    def draw(
        self,
        name: str,
        size: tuple[float, float],
        paint: Callable[[Any, Any], None],
        titles: Mapping[str, str] | None = None,
    ) -> None:
        """Draw one picture.

        Args:
            name: Of the file.
            size: In inches.
            paint: Draws on (figure, axes).
            titles: What is said of things that the mouse is over, by their id.
        """
        with self.drawing.rc_context(STYLE):
            figure, axes = self.drawing.subplots(figsize=size, constrained_layout=True)
            paint(figure, axes)
            self.folder.mkdir(parents=True, exist_ok=True)
            figure.savefig(self.folder / f"{name}.png", dpi=130, facecolor="white")
            buffer = io.StringIO()
            figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
            self.drawing.close(figure)
        text = buffer.getvalue()
        text = text[text.index("<svg") :]
        # Ids are of the whole page: those of one picture must not be another's.
        text = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{name}-", text)
        for key, title in (titles or {}).items():
            mark = f'<g id="{name}-{key}">'
            text = text.replace(mark, f"{mark}<title>{html.escape(title)}</title>")
        self.svg[name] = text


def short(name: str) -> str:
    """Return a path without the sections that all have.

    Example:
        >>> short("model.init_args.tables.user.dim")
        'user.dim'
    """
    for start in SHORT:
        if name.startswith(start):
            return name.removeprefix(start)
    return name


def words(trial: Trial) -> str:
    """Return what is said of a trial under the mouse."""
    lines = [f"trial {trial.number}", *(f"{short(k)}: {v}" for k, v in trial.params.items())]
    return "\n".join(lines)


def count_bytes(axes: Any, log: bool) -> None:
    """Mark the horizontal axis in bytes, on a scale of few decades at 1, 2 and 5 of each."""
    if log:
        axes.set_xscale("log")
        few = axes.get_xlim()[1] < 1000 * axes.get_xlim()[0]
        axes.xaxis.get_major_locator().set_params(subs=(1, 2, 5) if few else (1,))
        axes.xaxis.set_minor_formatter(lambda value, _: "")
    axes.xaxis.set_major_formatter(lambda value, _: human_bytes(int(value)).replace(".00", ""))


def worst_shown(front: Sequence[float], trials: Sequence[float]) -> float:
    """Return the largest cost that is drawn where it is, so that poor trials hide no front.

    Args:
        front: Costs along the front and of the full model.
        trials: Costs of all trials.

    Returns:
        The worst of all, or the front's worst and as far again as that is from its best.

    Example:
        >>> worst_shown([1.0, 2.0], [2.5, 2.8, 90.0])
        3.0
        >>> worst_shown([1.0, 2.0], [2.5, 2.8])
        2.8
    """
    worst = max(front)
    edge = 2 * worst - min(front) if worst > min(front) else math.inf
    return min(edge, max([worst, *trials]))


def draw_front(gallery: Gallery, study: StudyContent, name: str, label: str) -> None:
    """Draw quality against another objective: trials, the front, what was chosen."""
    quality = study.objectives[0]
    done, front = study.complete, study.front()
    chosen = (study.results.get("best") or {}).get("trial")
    full = (study.results.get("goal") or {}).get("full")
    on_front = {one.number for one in front}

    # Of more than two objectives some of the front are on it for a number that is not drawn.
    shown = {one.number: (study.value(one, label), quality.cost(one.values[0])) for one in front}

    along = [one.values[0] for one in front] + ([full["quality"]] if full else [])
    costs = {one.number: quality.cost(one.values[0]) for one in done}
    edge = worst_shown([quality.cost(value) for value in along], list(costs.values()))
    beyond = {number for number, cost in costs.items() if cost > edge}
    arrow, worse = ("v", "below") if quality.mode == "max" else ("^", "above")

    def paint(figure: Any, axes: Any) -> None:
        line = [(shown[key][0], quality.cost(shown[key][1])) for key in outermost(shown)]
        axes.step(*zip(*line, strict=True), where="post", color=ACCENT, lw=1.5, alpha=0.5)
        for one in done:
            # The cost of a cost is the value.
            place = study.value(one, label), quality.cost(min(costs[one.number], edge))
            color = ACCENT if one.number in on_front else GREY
            mark = arrow if one.number in beyond else "o"
            (dot,) = axes.plot(*place, mark, color=color, ms=7, mec="white", mew=0.8)
            dot.set_gid(f"trial-{one.number}")
            if one.number == chosen:
                axes.plot(*place, "*", color=WARM, ms=16, mec="white", zorder=5, label="chosen")
        if full is not None and label == "bytes":
            axes.plot(
                full["bytes"],
                full["quality"],
                "D",
                color=INK,
                ms=8,
                mec="white",
                label="full model",
            )
        axes.plot([], [], "o-", color=ACCENT, label="front")
        axes.plot([], [], "o", color=GREY, label="other trials")
        if beyond:
            axes.plot([], [], arrow, color=GREY, label=f"{len(beyond)} further {worse}")
        if label == "bytes":
            count_bytes(axes, log=True)
        axes.set_xlabel(AXES[label])
        axes.set_ylabel(quality.label)
        axes.legend(**ABOVE)

    gallery.draw(name, (8.5, 5), paint, {f"trial-{one.number}": words(one) for one in done})


def draw_weights(gallery: Gallery, study: StudyContent) -> bool:
    """Draw what each parameter explains of each objective; return whether there was enough."""
    done = study.complete
    by_objective = {
        own.label: weights(done, [study.value(one, own.label) for one in done])
        for own in study.objectives
    }
    names = sorted(
        {name for own in by_objective.values() for name, share in own.items() if share > 0},
        key=lambda name: -max(own[name] for own in by_objective.values()),
    )[:MOST_ROWS]
    if not names:
        return False

    def paint(figure: Any, axes: Any) -> None:
        height = 0.8 / len(by_objective)
        for place, (label, own) in enumerate(by_objective.items()):
            rows = [row + place * height for row in range(len(names))]
            shares = [own[name] for name in names]
            axes.barh(rows, shares, height * 0.9, color=COLORS[place], label=label)
        middle = 0.4 - height / 2
        axes.set_yticks([row + middle for row in range(len(names))], [short(n) for n in names])
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.set_xlabel("share of the variance that it explains alone (epsilon squared)")
        axes.grid(axis="y", visible=False)
        axes.legend(frameon=False, loc="lower right")

    gallery.draw("importances", (8.5, 1.2 + 0.45 * len(names)), paint)
    return True


def draw_dimensions(gallery: Gallery, study: StudyContent) -> bool:
    """Draw kind and dimension of each table along the front; return whether they are known."""
    front = [one for one in study.front() if "tables" in one.attrs]
    if not front:
        return False
    # The front goes from the best quality on, so from the largest.
    front = front[::-1]
    tables = list(dict.fromkeys(name for one in front for name in one.attrs["tables"]))

    def paint(figure: Any, axes: Any) -> None:
        empty = float("nan")
        cells = [[one.attrs["tables"].get(name) for one in front] for name in tables]
        dims = [[cell["dim"] if cell else empty for cell in row] for row in cells]
        most = max(dim for row in dims for dim in row if dim == dim)
        axes.imshow(dims, aspect="auto", cmap="Blues", vmin=0, vmax=most * 1.3)
        for row, own in enumerate(cells):
            for column, cell in enumerate(own):
                if cell:
                    color = "white" if cell["dim"] > 0.75 * most else INK
                    text = f"{cell['dim']}\n{cell['kind']}"
                    axes.text(
                        column, row, text, ha="center", va="center", fontsize=7.5, color=color
                    )
        axes.set_yticks(range(len(tables)), tables)
        labels = [f"{one.number}\n{one.values[0]:.4f}" for one in front]
        axes.set_xticks(range(len(front)), labels, fontsize=8)
        axes.set_xlabel(f"trials of the front and their {study.objectives[0].label}")
        axes.grid(visible=False)
        axes.set_xticks([place - 0.5 for place in range(1, len(front))], minor=True)
        axes.set_yticks([place - 0.5 for place in range(1, len(tables))], minor=True)
        axes.grid(which="minor", color="white", lw=2)
        axes.tick_params(which="minor", length=0)

    width = max(6.0, 2 + 0.85 * len(front))
    gallery.draw("dimensions", (min(width, 22), 1.4 + 0.55 * len(tables)), paint)
    return True


def draw_curves(gallery: Gallery, study: StudyContent) -> bool:
    """Draw the quality of all trials by epoch; return whether there is any."""
    trials = [one for one in study.trials if one.curve]
    if not trials:
        return False
    front = {one.number for one in study.front()}

    def paint(figure: Any, axes: Any) -> None:
        for one in trials:
            on_front = one.number in front
            color = ACCENT if on_front else (GREY if one.state != FAILED else WARM)
            (line,) = axes.plot(
                list(one.curve),
                list(one.curve.values()),
                marker="o" if len(one.curve) == 1 else None,
                ms=3,
                color=color,
                lw=1.6 if on_front else 0.9,
                alpha=0.9 if on_front else 0.6,
                ls="-" if one.state == COMPLETE else ":",
                zorder=3 if on_front else 2,
            )
            line.set_gid(f"trial-{one.number}")
        axes.plot([], [], color=ACCENT, label="front")
        axes.plot([], [], color=GREY, label="other trials")
        axes.plot([], [], ":", color=GREY, label="ended early")
        axes.set_xlabel("epoch")
        axes.set_ylabel(study.objectives[0].label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(**ABOVE)

    gallery.draw("curves", (8.5, 4.6), paint, {f"trial-{one.number}": words(one) for one in trials})
    return True


def draw_runs(gallery: Gallery, runs: Sequence[RunContent], metric: str) -> bool:
    """Draw a metric of runs against the bytes of their tables; return whether two have both."""
    placed = [
        (run, run.table_bytes, run.results["metrics"][metric])
        for run in runs
        if run.table_bytes and run.results.get("metrics", {}).get(metric) is not None
    ]
    if len(placed) < 2:
        return False

    def paint(figure: Any, axes: Any) -> None:
        for place, (run, size, value) in enumerate(placed):
            color = COLORS[place % len(COLORS)]
            axes.plot(size, value, "o", ms=10, color=color, mec="white", label=run.name)
        sizes = [one[1] for one in placed]
        count_bytes(axes, log=max(sizes) > 3 * min(sizes))
        axes.set_xlabel(AXES["bytes"])
        axes.set_ylabel(metric)
        axes.legend(frameon=False)

    gallery.draw("runs", (8.5, 4.6), paint)
    return True


def draw_run_curves(gallery: Gallery, runs: Sequence[RunContent], metric: str) -> bool:
    """Draw a validation metric of runs by epoch; return whether any has it."""
    logged = [run for run in runs if run.curves.get(metric)]
    if not logged:
        return False

    def paint(figure: Any, axes: Any) -> None:
        for place, run in enumerate(logged):
            epochs, values = zip(*run.curves[metric], strict=True)
            axes.plot(
                epochs, values, marker="o", ms=4, color=COLORS[place % len(COLORS)], label=run.name
            )
        axes.set_xlabel("epoch")
        axes.set_ylabel(metric)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(frameon=False)

    gallery.draw("run_curves", (8.5, 4.6), paint)
    return True
