"""The verb itself: do the stages, train the baselines, report."""

import argparse
import time
from pathlib import Path

from recemb.command_line.search.baselines import BASELINES
from recemb.command_line.search.methods import METHODS
from recemb.command_line.search.options import parse, read_config
from recemb.command_line.search.stages import Section
from recemb.errors import RecembError
from recemb.measured import figure
from recemb.memory import peak_memory_bytes
from recemb.results import config_hash, table, versions, write_results
from recemb.run_folder import Begin, RunFolder
from recemb.search.plots import pyplot


def run(arguments: list[str]) -> None:
    """Search the dimensions of a model's plain tables, and train what is found."""
    options = parse(arguments, run.__doc__)
    if options.plots:
        pyplot()  # asked for before anything is trained
    if options.resume and not options.run:
        raise RecembError("resume: it needs the folder that --run names")
    begin: Begin = "any" if options.resume else "new"
    with RunFolder(options.run, "search", options.config.stem, begin) as folder:
        _search(options, folder)


def _search(options: argparse.Namespace, folder: Path) -> None:
    started = time.perf_counter()
    config = read_config(options)
    search = METHODS[options.method](options, config, folder)
    results = search.results()
    baselines = {name: BASELINES[name](search) for name in options.baselines}
    if options.plots:
        search.plot(results["derived"], {**results["forms"], **baselines})
    written = {
        "verb": "search",
        "config_hash": config_hash({name: config[name] for name in ("model", "data")}),
        "seed": config["seed_everything"],
        "versions": versions(),
        "run": str(folder),
        "method": options.method,
        **results,
        "baselines": baselines,
        "seconds": round(time.perf_counter() - started, 3),
        "peak_memory_bytes": peak_memory_bytes(),
    }
    write_results(written, folder, options.json)
    print(table(_rows(written)))


def _rows(results: Section) -> dict[str, str]:
    """Return the summary."""
    rows = {"budget": f"{results['budget']:,} bytes"}
    for group in ("forms", "baselines"):
        for name, one in results[group].items():
            if "refused" in one:
                rows[name] = f"refused: {one['refused']}"
                continue
            metrics = ", ".join(f"{key} {figure(value)}" for key, value in one["metrics"].items())
            rows[name] = f"{one['bytes']['tables']:,} bytes, {metrics}, {one['seconds']:.0f} s"
    rows["search"] = f"{results['supernet']['seconds']:.0f} s"
    rows["tables"] = results["tables_yaml"]
    rows["results"] = str(Path(results["run"]) / "results.json")
    return rows
