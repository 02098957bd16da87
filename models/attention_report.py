"""Report: what trained models of long histories attend to, side by side.

    python -m recemb.models.attention_report DARE=RUN/checkpoints/best.ckpt TWIN=... --output FOLDER

writes ``report.md``, ``report.json``, ``attention.png`` and ``discriminability.png``. All
checkpoints must be of the same data, which is prepared as the first one's configuration says.
"""

import argparse
import json
import math
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule
from torch import Tensor
from tqdm import tqdm

from recemb.checkpoint import checkpoint_config, read_checkpoint
from recemb.data.batch import Batch
from recemb.errors import RecembError
from recemb.files import whole_file
from recemb.models.attention_analysis import (
    Conflict,
    LearnedAttention,
    Truth,
    discriminability,
    gradient_conflict,
    rank_correlation,
    read,
    search_ndcg,
)
from recemb.models.dare import TWIN
from recemb.models.long_history import LongHistoryTask
from recemb.rebuild import rebuild_data, rebuild_model
from recemb.search.plots import pyplot
from recemb.stages import has_stage

CLUSTERS = (2, 4, 8, 16, 32, 64, 128)
SHOWN = 12
"""Categories in a picture."""
ORDERS = ("newest first", "random order")
"""What a search is to beat: no model at all."""


@dataclass
class Findings:
    """Of one model."""

    learned_CCP: Tensor
    ndcg: float
    correlation: float
    discriminability: list[float]
    conflict: Conflict | None = None


@dataclass
class Report:
    """Of all models."""

    keep: int
    truth_CCP: Tensor
    rows: int
    models: dict[str, Findings] = field(default_factory=dict)
    orders: dict[str, float] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """Return every figure as plain values."""
        return {
            "keep": self.keep,
            "rows": self.rows,
            "orders": self.orders,
            "clusters": CLUSTERS,
            "models": {
                name: {
                    "ndcg": _number(one.ndcg),
                    "rank_correlation": _number(one.correlation),
                    "discriminability": one.discriminability,
                    "conflict": one.conflict._asdict() if one.conflict else None,
                }
                for name, one in self.models.items()
            },
        }


def _number(value: float) -> float | None:
    """Return what JSON can hold."""
    return None if math.isnan(value) else value


def load(paths: Mapping[str, Path]) -> tuple[dict[str, LongHistoryTask], LightningDataModule]:
    """Return the models of checkpoints, and the data of the first.

    Raises:
        RecembError: If one is no model of long histories, or of other data.
    """
    models: dict[str, LongHistoryTask] = {}
    data: LightningDataModule | None = None
    for name, path in paths.items():
        checkpoint = read_checkpoint(path)
        model = rebuild_model(path, checkpoint)
        if not isinstance(model, LongHistoryTask):
            raise RecembError(f"{path}: {type(model).__name__} is no model of long histories")
        if data is None:
            data = rebuild_data(path, checkpoint, checkpoint_config(checkpoint)["data"])
        first = next(iter(models.values()), model)
        if list(model.schema.columns) != list(first.schema.columns) or any(
            not torch.equal(own.keys_V, first.schema.vocabularies[space].keys_V)
            for space, own in model.schema.vocabularies.items()
        ):
            raise RecembError(f"{path}: its data is not that of {next(iter(paths.values()))}")
        models[name] = model
    assert data is not None
    return models, data


@torch.no_grad()
def analyse(
    models: Mapping[str, LongHistoryTask], data: Any, category: str, categories: int, batches: int
) -> Report:
    """Return what the models attend to.

    Args:
        models: By name, in evaluation mode.
        data: Of the models; the truth is counted over its training rows, the models are looked at
            on its validation and test rows.
        category: Attribute with one value per item.
        categories: The most frequent ones that are looked at.
        batches: Training batches whose gradients are compared.
    """
    first = next(iter(models.values()))
    attribute = first.schema.attributes.get(category)
    if attribute is None or attribute.is_list:
        known = [name for name, one in first.schema.attributes.items() if not one.is_list]
        raise RecembError(
            f"category must be an attribute with one value per item, of {known}; got {category!r}"
        )
    shape = (min(categories, first.schema.num_ids(category) or 1), first.network.num_times + 1)
    truth = Truth(*shape)
    for batch in tqdm(data.train_dataloader(), "counting", leave=False):
        truth.add(read(first, batch, category))
    report = Report(first.network.keep, truth.information(), 0)
    for name, model in models.items():
        report.models[name] = look_at(model, data, category, report)
        if isinstance(model, TWIN):
            with torch.enable_grad():
                own = _first(data.train_dataloader(), batches)
                report.models[name].conflict = gradient_conflict(model, own, category)
    report.orders = {name: _order_ndcg(first, data, category, report, name) for name in ORDERS}
    return report


def _held_out(data: Any) -> Iterator[Batch]:
    yield from data.val_dataloader()
    if has_stage(data, "test"):
        yield from data.test_dataloader()


def _first(batches: Any, count: int) -> Iterator[Batch]:
    for number, batch in enumerate(batches):
        if number == count:
            return
        yield batch


def gains_of(own: Any, truth_CCP: Tensor) -> Tensor:
    """Return what the truth says of each behaviour: (N,); 0 for categories it does not count."""
    categories = truth_CCP.shape[0]
    target_N = own.target_B[own.bags]
    is_seen_N = (target_N < categories) & (own.behaviour_N < categories)
    last = categories - 1
    gain_N = truth_CCP[target_N.clamp(max=last), own.behaviour_N.clamp(max=last), own.times]
    return torch.where(is_seen_N, gain_N, 0.0)


def look_at(model: LongHistoryTask, data: Any, category: str, report: Report) -> Findings:
    """Return the findings of one model on validation and test rows, but its gradients."""
    learned = LearnedAttention(report.truth_CCP.shape[0], report.truth_CCP.shape[2])
    ndcg, crossed, labels = [], [], []
    for batch in _held_out(data):
        own = read(model, batch, category)
        logit_N = model.logits_of(own.items)
        learned.add(own, model.weights_of(own.items, logit_N))
        ndcg.append(search_ndcg(logit_N, gains_of(own, report.truth_CCP), own.lengths, report.keep))
        crossed.append(model.targets_of(own.items) * model.history_of(own.items, logit_N))
        labels.append(own.label_B)
    report.rows = sum(map(len, labels))
    mean_CCP = learned.mean()
    return Findings(
        learned_CCP=mean_CCP,
        ndcg=float(torch.cat(ndcg).nanmean()),
        correlation=rank_correlation(mean_CCP, report.truth_CCP),
        discriminability=discriminability(torch.cat(crossed), torch.cat(labels), CLUSTERS),
    )


def _order_ndcg(
    model: LongHistoryTask, data: Any, category: str, report: Report, name: str
) -> float:
    """Return the NDCG of an order that no model makes."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for batch in _held_out(data):
        own = read(model, batch, category)
        score_N = -own.times.double()
        if name == "random order":
            score_N = torch.rand(len(own.times), generator=generator, dtype=torch.float64)
        gain_N = gains_of(own, report.truth_CCP)
        found.append(search_ndcg(score_N, gain_N, own.lengths, report.keep))
    return float(torch.cat(found).nanmean())


def markdown(report: Report) -> str:
    """Return the report as text."""
    lines = [
        "# What the models attend to",
        "",
        f"On {report.rows:,} validation and test rows. The truth is the mutual information of the "
        "label and of a category at a time, for each category of targets, counted over training "
        "rows.",
        "",
        f"| model | NDCG of the first {report.keep} | rank correlation with the truth |",
        "|---|---|---|",
        *(
            f"| {name} | {one.ndcg:.4f} | {one.correlation:.3f} |"
            for name, one in report.models.items()
        ),
        *(f"| {name} | {value:.4f} | |" for name, value in report.orders.items()),
        "",
        "Gradients of one table for two uses, by rows that both meet in a training batch:",
        "",
        "| model | rows whose gradients point apart | mean cosine | median norm ratio |",
        "|---|---|---|---|",
    ]
    for name, one in report.models.items():
        if one.conflict:
            share, cosine, ratio = one.conflict
            lines.append(f"| {name} | {share:.1%} | {cosine:.3f} | {ratio:.2f} |")
    clusters = " | ".join(f"{count}" for count in CLUSTERS)
    lines += [
        "",
        "What the cluster of the product of target and history tells of the label, in thousandths "
        "of a nat, by number of clusters:",
        "",
        f"| model | {clusters} |",
        "|---|" + "---|" * len(CLUSTERS),
    ]
    for name, one in report.models.items():
        values = " | ".join(f"{1000 * value:.1f}" for value in one.discriminability)
        lines.append(f"| {name} | {values} |")
    return "\n".join(lines) + "\n"


def draw_attention(report: Report, path: Path, target: int = 0, bins: int = 20) -> None:
    """Draw truth and learned attention of one category of targets, by category and time.

    Each panel has colours of its own: from 0 to its largest value.
    """
    drawing = pyplot()
    panels = {"truth": report.truth_CCP, **{n: m.learned_CCP for n, m in report.models.items()}}
    figure, axes = drawing.subplots(
        1, len(panels), figsize=(3.4 * len(panels), 4), constrained_layout=True, squeeze=False
    )
    for axis, (name, values_CCP) in zip(axes[0], panels.items(), strict=True):
        by_time = values_CCP[target, :SHOWN, 1 : 3 * bins + 1].tensor_split(bins, 1)
        shown = torch.stack([part.nanmean(1) for part in by_time], 1)
        axis.imshow(shown.numpy(), aspect="auto", cmap="viridis")
        axis.set_title(textwrap.fill(name, 24))
        axis.set_xlabel("behaviours back, in steps of 3")
    axes[0][0].set_ylabel("category of the behaviour")
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    drawing.close(figure)


def draw_discriminability(report: Report, path: Path) -> None:
    """Draw what clusters tell of the label, a line per model."""
    drawing = pyplot()
    figure, axis = drawing.subplots(figsize=(6, 4), constrained_layout=True)
    for name, one in report.models.items():
        axis.plot(CLUSTERS, one.discriminability, marker="o", label=name)
    axis.set_xscale("log", base=2)
    axis.set_xlabel("clusters of target * history")
    axis.set_ylabel("mutual information with the label, nats")
    axis.legend()
    axis.grid(alpha=0.3)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    drawing.close(figure)


def write(report: Report, folder: Path) -> None:
    """Write the report's four files."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "report.md": markdown(report),
        "report.json": json.dumps(report.plain(), indent=1) + "\n",
    }
    for name, text in texts.items():
        with whole_file(folder / name) as temporary:
            temporary.write_text(text)
    draw_attention(report, folder / "attention.png")
    draw_discriminability(report, folder / "discriminability.png")


def main(arguments: list[str] | None = None) -> int:
    """Analyse checkpoints; return the exit code: 0, or 2 after a user's mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m recemb.models.attention_report", description=__doc__
    )
    parser.add_argument("checkpoints", nargs="+", metavar="NAME=CHECKPOINT")
    parser.add_argument("--output", type=Path, required=True, help="folder of the report")
    parser.add_argument("--category", default="category", help="attribute of an item")
    parser.add_argument("--categories", type=int, default=32, help="the most frequent ones")
    parser.add_argument("--batches", type=int, default=20, help="whose gradients are compared")
    options = parser.parse_args(arguments)
    try:
        pairs = [one.partition("=") for one in options.checkpoints]
        for name, _, path in pairs:
            if not (name and path):
                raise RecembError(f"checkpoints are given as NAME=CHECKPOINT, got {name!r}")
        models, data = load({name: Path(path) for name, _, path in pairs})
        report = analyse(models, data, options.category, options.categories, options.batches)
        write(report, options.output)
    except RecembError as error:
        print(f"attention_report: {error}", file=sys.stderr)
        return 2
    print(markdown(report), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
