"""Pictures of a search: dimensions by table and block, what the search did over time, quality.

matplotlib is asked for when a picture is drawn, and by nothing else of recemb.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recemb.packages import needed


def pyplot() -> Any:
    """Return matplotlib's drawing module, without a display.

    Raises:
        RecembError: If matplotlib is not installed.
    """
    needed("matplotlib", "a picture").use("Agg")
    return needed("matplotlib.pyplot", "a picture")


def heat_map(dimensions: Mapping[str, Sequence[float]]) -> Tensor:
    """Return the number of dimensions by table and block; NaN where a table has fewer blocks."""
    longest = max(map(len, dimensions.values()))
    counts = torch.full((len(dimensions), longest), torch.nan)
    for row, own in zip(counts, dimensions.values(), strict=True):
        row[: len(own)] = torch.tensor(own)
    return counts


def plot_dimensions(dimensions: Mapping[str, Sequence[float]], path: Path) -> None:
    """Draw how many dimensions the ids of each block of each table keep, on average.

    Args:
        dimensions: By table, a number for each block.
        path: Of the picture.
    """
    drawing = pyplot()
    counts = heat_map(dimensions)
    rows, columns = counts.shape
    figure, axes = drawing.subplots(
        figsize=(2.5 + 0.6 * columns, 1.6 + 0.45 * rows), constrained_layout=True
    )
    image = axes.imshow(counts.numpy(), aspect="auto", cmap="viridis", vmin=0)
    for row in range(rows):
        for column in range(columns):
            if not counts[row, column].isnan():
                number = float(counts[row, column])
                text = f"{number:.0f}" if number.is_integer() else f"{number:.1f}"
                # Yellow is the colour of the largest.
                color = "black" if number > 0.75 * float(counts.nan_to_num().max()) else "white"
                axes.text(column, row, text, ha="center", va="center", color=color, fontsize=8)
    axes.set_yticks(range(rows), list(dimensions))
    axes.set_xticks(range(columns), range(1, columns + 1))
    axes.set_xlabel("block of ids, the most frequent first")
    axes.set_title("dimensions kept")
    figure.colorbar(image)
    figure.savefig(path, dpi=110)
    drawing.close(figure)


def plot_history(history: Sequence[Mapping[str, Tensor]], what: str, path: Path) -> None:
    """Draw the mean, and between the tenths its spread, of what each table learned by epoch.

    Args:
        history: By epoch and table: gates or thresholds.
        what: Their name.
        path: Of the picture.
    """
    drawing = pyplot()
    figure, axes = drawing.subplots(figsize=(8, 5), constrained_layout=True)
    epochs = range(1, len(history) + 1)
    for name in history[0]:
        values = [one[name].flatten() for one in history]
        (line,) = axes.plot(epochs, [float(one.mean()) for one in values], marker="o", label=name)
        low, high = ([float(one.quantile(share)) for one in values] for share in (0.1, 0.9))
        axes.fill_between(epochs, low, high, alpha=0.15, color=line.get_color())
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"{what}: mean, and tenth to nine tenths")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    drawing.close(figure)


def plot_quality(trained: Mapping[str, Mapping[str, Any]], metric: str, path: Path) -> None:
    """Draw a metric against bytes, a point for each training.

    Args:
        trained: By name: ``bytes`` with ``tables``, and ``metrics``; what was refused, or has no
            such metric, is left out.
        metric: Its name.
        path: Of the picture.
    """
    drawing = pyplot()
    figure, axes = drawing.subplots(figsize=(8, 5), constrained_layout=True)
    for name, one in trained.items():
        if "refused" not in one and one["metrics"].get(metric) is not None:
            place = one["bytes"]["tables"], one["metrics"][metric]
            axes.plot(*place, marker="o")
            axes.annotate(name, place, xytext=(4, 4), textcoords="offset points")
    axes.set_xscale("log")
    axes.set_xlabel("serving bytes of the tables")
    axes.set_ylabel(metric)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    drawing.close(figure)
