"""The verb ``show``, and the short table that every verb ends with."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recemb.errors import RecembError
from recemb.memory import human_bytes
from recemb.results import difference, read_results, table
from recemb.serving.archive import check_file, read_description
from recemb.serving.vocabulary_file import vocabulary_of


def summary(results: Mapping[str, Any]) -> str:
    """Return the results of one verb as a short table."""
    rows: dict[str, str] = {}
    bound = results.get("best_auc", {})
    before = results.get("before", {})
    for name, value in results.get("metrics", {}).items():
        if value is None:
            rows[name] = f"not defined: {results.get('undefined', {}).get(name, 'null')}"
            continue
        rows[name] = f"{value:.4f}"
        if before:
            old = before["metrics"][name]
            rows[name] = f"{old:.4f} -> {value:.4f}   ({difference(value - old)})"
        stage = {"test/auc": "test", "val/auc": "validation"}.get(name)
        if stage in bound:
            rows[name] += f"   (the log's own law allows {bound[stage]:.4f})"
    for name, one in results.get("tables", {}).items():
        rows[f"table {name}"] = _table(one)
        if name in results.get("kept", {}):
            rows[f"table {name}"] += f"; stays: {results['kept'][name]}"
        elif before:
            rows[f"table {name}"] = f"{_table(before['tables'][name])} -> {_table(one)}"
    for name, counts in (("bytes before", before.get("bytes")), ("bytes", results.get("bytes"))):
        if counts is not None:
            rows[name] = ", ".join(f"{human_bytes(n)} {what}" for what, n in counts.items())
    if "samples_per_s" in results:
        rows["speed"] = f"{results['samples_per_s']:,.0f} training samples/s"
    if "parity" in results:
        worst = max(results["parity"].values())
        rows["parity"] = f"largest difference {worst:.1e} over {len(results['parity'])} cases"
    if "peak_memory_bytes" in results:
        rows["peak memory"] = human_bytes(results["peak_memory_bytes"])
    if "seconds" in results:
        rows["time"] = f"{results['seconds']:.1f} s"
    for name in ("checkpoint", "predictions", "program", "vocabulary"):
        if name in results:
            rows[name] = str(results[name])
    if "run" in results:
        rows["results"] = str(Path(results["run"]) / "results.json")
    return table(rows)


def inputs_table(program: Path) -> str:
    """Return what a program reads as a short table."""
    return table(
        {
            name: ", ".join(
                str(value) if key == "type" else f"{key}: {value}"
                for key, value in one.items()
                if value is not None
            )
            for name, one in read_description(program).items()
        }
    )


def _table(one: Mapping[str, Any]) -> str:
    rows = f"{one['num_rows']:,} rows x {one['dim']}"
    known = f", {one['known']:,} ids known" if "known" in one else ""
    hits = f" by {one['hits']:.1%} of reads" if "hits" in one else ""
    return f"{one['kind']}, {rows}, {human_bytes(one['bytes'])}{known}{hits}"


def run(arguments: list[str]) -> None:
    """Print the results of the runs in and below a folder, or what an exported program reads."""
    parser = argparse.ArgumentParser(prog="python -m recemb show", description=run.__doc__)
    parser.add_argument(
        "folder", type=Path, help="a run folder, one that holds several, or an exported program"
    )
    folder = parser.parse_args(arguments).folder
    if folder.suffix == ".pt":
        inputs = inputs_table(folder)
        vocabulary = vocabulary_of(folder)
        if vocabulary is not None:
            check_file(vocabulary, "vocabulary")
        for one in filter(None, (folder, vocabulary)):
            print(f"{one}: its content is what was written")
        print(inputs)
        return
    found = sorted(folder.glob("**/results.json"))
    if not found:
        raise RecembError(f"{folder}: there is no results.json in or below it; check the path")
    for path in found:
        results = read_results(path)
        print(f"--- {results['verb']}\n{summary(results)}\n")
