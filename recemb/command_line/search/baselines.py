"""Baselines: what a search must beat, trained at the same bytes by the same command."""

import copy
import json
from collections.abc import Callable
from typing import Any, cast

import torch
from tqdm import tqdm

from recemb.command_line.compress import run as compress
from recemb.command_line.search.stages import Search, Section, clear, save_yaml, settings_of
from recemb.errors import RecembError
from recemb.files import whole_file
from recemb.search.within_budget import random_columns
from recemb.tables.full import Full
from recemb.tables.registry import table_config


def full(search: Search) -> Section:
    """Train the plain tables."""
    path = search.folder / "full.yaml"
    save_yaml(path, search.config)
    return search.fit("full", path)


def uniform(search: Search) -> Section:
    """Train plain tables of the largest dimension that fits for all."""
    widest = max(one.config.dim for one in search.searched.values())
    fitting = [dim for dim in range(1, widest + 1) if _uniform_bytes(search, dim) <= search.room]
    if not fitting:
        return {"refused": f"one dimension for all takes {_uniform_bytes(search, 1):,} bytes"}
    tables = {name: settings_of(_narrow(search, name, fitting[-1])) for name in search.names}
    return search.fit("uniform", search.write_config("uniform", tables))


def _narrow(search: Search, name: str, dim: int) -> Full:
    own = cast(Full, search.given[name])
    return cast(Full, table_config(name, {**settings_of(own), "dim": min(dim, own.dim)}))


def _uniform_bytes(search: Search, dim: int) -> int:
    return sum(
        _narrow(search, name, dim).serving_bytes(one.where, one.spaces)
        for name, one in search.searched.items()
    )


def mixed_dim(search: Search) -> Section:
    """Train one table of mixed dimensions in the place of all that are searched."""
    dims = {one.config.dim for one in search.searched.values()}
    if len(dims) > 1:
        return {"refused": f"the tables have several dimensions, {sorted(dims)}"}
    features = copy.deepcopy(search.config["model"]["init_args"]["features"])
    for settings in features.values():
        if settings["table"] in search.names:
            settings["table"] = "mixed"
    mixed = {"kind": "mixed_dim", "dim": dims.pop(), "budget": search.room}
    spaces = [space for one in search.searched.values() for space in one.spaces]
    try:
        table_config("mixed", mixed).solve("table 'mixed'", spaces)
    except RecembError as error:
        return {"refused": str(error)}
    return search.fit("mixed_dim", search.write_config("mixed_dim", {"mixed": mixed}, features))


def pruning(search: Search) -> Section:
    """Train plain tables, keep their largest elements, and train on."""
    full(search)
    smaller, folder = search.folder / "pruned.ckpt", search.folder / "compress"
    if not (folder / "results.json").is_file():
        clear(folder)
        for path in (smaller, smaller.with_suffix(".yaml")):
            path.unlink(missing_ok=True)
        best = str(search.folder / "full/checkpoints/best.ckpt")
        how = ["--method", "prune", "--budget", str(search.budget), "--tables", *search.names]
        where = ["--output", str(smaller), "--run", str(folder)]
        given = ["--config", str(search.folder / "full.yaml")]
        allow = [word for one in search.options.allow for word in ("--allow", one)]
        compress([best, *how, *where, *given, *allow])
    return search.fit("pruning", smaller.with_suffix(".yaml"), smaller)


def random(search: Search) -> Section:
    """Train the best, on held-out rows, of random selections of the supernet's dimensions."""
    chosen = search.folder / "random.json"
    if not chosen.is_file():
        generator = torch.Generator().manual_seed(search.config["seed_everything"])
        best: tuple[float, Any] | None = None
        for _ in tqdm(range(search.options.draws), "random selections", leave=False):
            keep = random_columns(search.searched, search.room, generator)
            found = search.held_out(search.selected(keep))
            if search.monitor.is_better(found, best and best[0]):
                best = found, keep
        assert best is not None
        search.write("random", search.selected(best[1]))
        with whole_file(chosen) as temporary:
            temporary.write_text(json.dumps({search.held_out_name: best[0]}))
    return search.fit("random", search.folder / "random.yaml", search.folder / "random.ckpt")


BASELINES: dict[str, Callable[[Search], Section]] = {
    "full": full,
    "uniform": uniform,
    "mixed_dim": mixed_dim,
    "pruning": pruning,
    "random": random,
}
