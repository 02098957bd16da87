"""The options of ``search``, and the configuration that it reads."""

import argparse
from pathlib import Path

from recemb.command_line.search.baselines import BASELINES
from recemb.command_line.search.methods import METHODS
from recemb.command_line.search.stages import Section
from recemb.errors import RecembError
from recemb.files import read_yaml
from recemb.renamed import current_paths
from recemb.search.within_budget import SCORES

LEARNING_RATES = {"optembed": 1e-4, "pep": 0.01}
"""Of thresholds, by method."""


def parse(arguments: list[str], about: str | None) -> argparse.Namespace:
    """Return the options.

    Raises:
        RecembError: If one is out of range, or is not for the method.
    """
    parser = argparse.ArgumentParser(prog="python -m recemb search", description=about)
    _add_task(parser)
    _add_gates(parser.add_argument_group("gates: dnis and autodim"))
    _add_others(parser.add_argument_group("thresholds, pruning and evolution: the other methods"))
    _add_run(parser.add_argument_group("the run"))
    options = parser.parse_args(arguments)
    _check(options)
    return options


def _add_task(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, help="of a model with plain tables")
    parser.add_argument(
        "--method",
        choices=METHODS,
        default="dnis",
        help="dnis: gates per dimension and block of ids by frequency; optembed: thresholds of "
        "rows, and a width per feature found by evolution; autodim: weights of candidate widths; "
        "pep: thresholds of elements; deeplight: the smallest elements zeroed in training",
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--budget",
        help="serving bytes of all tables together, such as 160kB; optembed needs none, autodim "
        "takes none",
    )
    size.add_argument("--share", type=float, help="the same as a share of plain fp32 tables")
    parser.add_argument(
        "--forms",
        nargs="+",
        choices=("dense", "sparse"),
        help="dense: a plain table per block, of kind selected; sparse: the largest elements of "
        "all, of kind pruned; tables.yaml is that of the first (default: sparse for pep and "
        "deeplight, else dense)",
    )
    parser.add_argument(
        "--baselines",
        nargs="*",
        choices=BASELINES,
        default=[],
        help="what else is trained: the plain tables (full), and at the same bytes one dimension "
        "for all (uniform), mixed dimensions by popularity, magnitude pruning, and the best of "
        "random selections",
    )
    parser.add_argument(
        "--draws", type=int, default=20, help="selections that the baseline random draws"
    )
    parser.add_argument(
        "--start",
        choices=("derived", "fresh"),
        help="what is trained from: the weights of the search (pep: those with which it began), or "
        "new ones (default: fresh for autodim, else derived)",
    )
    parser.add_argument(
        "--warm_up", type=int, default=2, help="epochs before gates or weights move, or zeros come"
    )
    parser.add_argument("--epochs", type=int, default=3, help="epochs of the search after them")
    parser.add_argument(
        "--held_out", type=float, default=0.1, help="share of training rows that the gates learn on"
    )
    parser.add_argument("--blocks", type=int, default=10, help="of ids by frequency, at most")
    parser.add_argument("--block_ids", type=int, default=50, help="ids that a block has at least")


def _add_gates(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--gate_learning_rate", type=float, default=0.01)
    group.add_argument("--every", type=int, default=1, help="training steps per step of the gates")
    group.add_argument("--l1", type=float, default=1e-5, help="on the gates")
    group.add_argument(
        "--patience",
        type=int,
        help="end dnis when so many epochs have not improved it on held-out rows (default: never)",
    )
    group.add_argument(
        "--score",
        choices=SCORES,
        default="shared",
        help="what a dimension of a block is worth to the dense form: the mean square of its "
        "elements (magnitude), the same weighted by how often ids are read (reads), the first "
        "over the square of its rank in its block (ranked); or the block's over the square of the "
        "dimension's rank in all tables, so that all keep the first of one order (shared)",
    )


def _add_others(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--threshold_learning_rate",
        type=float,
        help="of optembed's steps (default: 1e-4) or of pep's Adam (default: 0.01)",
    )
    group.add_argument(
        "--threshold_start", type=float, default=-7.0, help="pep: its sigmoid is the first one"
    )
    group.add_argument(
        "--threshold_decay",
        type=float,
        default=1e-4,
        help="how strongly pep closes elements: the decay of s towards 0",
    )
    group.add_argument(
        "--weight_learning_rate", type=float, default=0.02, help="of autodim's Adam of weights"
    )
    group.add_argument(
        "--omega",
        type=float,
        help="how slowly deeplight prunes: s (1 - .99^(steps / omega)) (default: so that nearly "
        "all of s is reached in the end)",
    )
    group.add_argument("--alpha", type=float, default=1e-4, help="how strongly optembed drops rows")
    group.add_argument("--rounds", type=int, default=10, help="of optembed's evolution")


def _add_run(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--plots",
        action="store_true",
        help="draw dimensions by table and block, gates or thresholds by epoch, and quality "
        "against bytes into the run folder (needs matplotlib)",
    )
    group.add_argument("--seed_everything", type=int, help="(default: that of the configuration)")
    group.add_argument(
        "--run", type=Path, help="run folder, new or empty (default: runs/<config>/<time>-search)"
    )
    group.add_argument("--resume", action="store_true", help="go on in the run folder")
    group.add_argument("--json", type=Path, help="where a copy of results.json goes")
    group.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="a package outside the project whose classes the configuration may name",
    )


def _check(options: argparse.Namespace) -> None:
    method = METHODS[options.method]
    for name, least in (
        ("blocks", 1), ("block_ids", 1), ("warm_up", 0), ("epochs", 1), ("every", 1), ("draws", 1),
    ):  # fmt: skip
        if getattr(options, name) < least:
            raise RecembError(f"{name} must be at least {least}, got {getattr(options, name)}")
    has_budget = options.budget is not None or options.share is not None
    if method.needs_budget and not has_budget:
        raise RecembError(
            f"{options.method} finds what is best within a budget; give --budget or --share"
        )
    if has_budget and not method.takes_budget:
        raise RecembError(f"{options.method} knows no budget; drop --budget and --share")
    options.forms = options.forms or [method.forms[0]]
    for form in options.forms:
        if form not in method.forms:
            raise RecembError(
                f"{options.method} finds tables in the forms {', '.join(method.forms)}, got {form}"
            )
    if options.start == "derived" and not method.finds_weights:
        raise RecembError(f"{options.method} finds sizes and no weights; drop --start")
    if options.threshold_learning_rate is None:
        options.threshold_learning_rate = LEARNING_RATES.get(options.method)


def read_config(options: argparse.Namespace) -> Section:
    """Return the sections of the configuration that a search goes by.

    Raises:
        RecembError: If it lacks one, or is for several processes.
    """
    config = current_paths(read_yaml(options.config))
    for name in ("model", "data"):
        section = config.get(name) if isinstance(config, dict) else None
        if not isinstance(section, dict) or not isinstance(section.get("init_args"), dict):
            raise RecembError(
                f"{options.config}: there is no section {name!r} with init_args; it needs one"
            )
    tables = config["model"]["init_args"].get("tables")
    if not tables or not isinstance(tables, dict):
        raise RecembError(f"{options.config}: the model has no tables; a search needs some")
    if not all(isinstance(one, dict) for one in tables.values()):
        raise RecembError(f"{options.config}: tables: each must be a section, with a kind")
    if options.seed_everything is not None:
        config["seed_everything"] = options.seed_everything
    config.setdefault("seed_everything", 1)
    config["trainer"] = config.get("trainer") or {}
    if not isinstance(config["trainer"], dict):
        raise RecembError(f"{options.config}: trainer: must be a section, got {config['trainer']}")
    if config["trainer"].get("strategy", "auto") != "auto":
        raise RecembError("search runs in one process; drop trainer.strategy")
    # What a run's own config.yaml has beside the sections belongs to that run.
    return {name: config[name] for name in ("seed_everything", "model", "data", "trainer")}
