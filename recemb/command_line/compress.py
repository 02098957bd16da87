"""The verb ``compress``: a checkpoint with smaller tables, and what that does to its quality."""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml
from lightning import LightningDataModule, LightningModule, Trainer

from recemb.accounting import module_bytes, nested_tensors, table_report, tensor_bytes
from recemb.checkpoint import WholeFileIO, checkpoint_config, read_checkpoint
from recemb.checkpoint_file import REMEDY, VERSION
from recemb.command_line.show import summary
from recemb.compress.methods import METHODS
from recemb.compress.plan import share_in_bytes
from recemb.compress.tables import compress
from recemb.embeddings import Embeddings
from recemb.errors import RecembError
from recemb.files import read_yaml, whole_file
from recemb.measured import metrics_of
from recemb.memory import peak_memory_bytes
from recemb.rebuild import rebuild_data, rebuild_model, with_tables
from recemb.renamed import current_paths
from recemb.results import config_hash, versions, write_results
from recemb.run_folder import RunFolder
from recemb.serving.export import served_program
from recemb.stages import has_stage
from recemb.tables.budget import parse_bytes


def run(arguments: list[str]) -> None:
    """Write a checkpoint with smaller tables, and its quality on the validation file."""
    options = _options(arguments)
    with RunFolder(options.run, "compress") as folder:
        _compress(options, folder)


def _compress(options: argparse.Namespace, folder: Path) -> None:
    started = time.perf_counter()
    output = options.output or folder / "compressed.ckpt"
    _check_new(output)
    source = _read(options)
    budget = _budget(options, source.embeddings)
    # Before anything takes long, so that a missing file is said at once.
    source.data.setup("validate")
    found = compress(source.embeddings, METHODS[options.method], budget, options.tables)
    before = _measured(source.model, source.data)
    changed = [name for name in found.embeddings.tables if name not in found.kept]
    checkpoint, config = with_tables(
        source.checkpoint, source.config, source.model, found.embeddings, changed, options.method
    )
    # What is measured is what is written, and not what was converted.
    model = rebuild_model(options.checkpoint, checkpoint, options.allow)
    after = _measured(model, source.data)
    WholeFileIO().save_checkpoint(checkpoint, output)
    with whole_file(output.with_suffix(".yaml")) as temporary:
        temporary.write_text(yaml.safe_dump(config, sort_keys=False))
    results = {
        "verb": "compress",
        "config_hash": config_hash({name: config[name] for name in ("model", "data")}),
        "versions": versions(),
        "run": str(folder),
        "method": options.method,
        "budget": budget,
        "checkpoint": str(output),
        "config": str(output.with_suffix(".yaml")),
        **after,
        "before": {"checkpoint": str(options.checkpoint), **before},
        "kept": found.kept,
        "seconds": round(time.perf_counter() - started, 3),
        "peak_memory_bytes": peak_memory_bytes(),
    }
    results["bytes"]["checkpoint"] = tensor_bytes(nested_tensors(checkpoint))
    results["before"]["bytes"]["checkpoint"] = tensor_bytes(nested_tensors(source.checkpoint))
    write_results(results, folder, options.json)
    print(summary(results))
    if not results["metrics"]:
        print("quality was not measured: the data has no validation; use recemb test")


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m recemb compress", description=run.__doc__)
    parser.add_argument("checkpoint", type=Path, help="written by fit")
    parser.add_argument(
        "--method",
        choices=METHODS,
        required=True,
        help="fp16, bf16, int8, int4: rows of fewer bits (any kind of table); pq: product "
        "quantisation, svd: low rank, prune: the largest elements, dedup: equal rows once (tables "
        "of kind full)",
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--budget", help="serving bytes of all tables together, such as 160kB")
    size.add_argument(
        "--share",
        type=float,
        help="the same as a share of plain fp32 tables: a row per id, as wide as the model sees",
    )
    parser.add_argument(
        "--tables", nargs="+", metavar="NAME", help="the tables that may change (default: all)"
    )
    parser.add_argument(
        "--config", type=Path, help="whose data section to use (default: the checkpoint's own)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="the new checkpoint (default: compressed.ckpt in the run folder); its configuration "
        "goes beside it, under the same name with .yaml",
    )
    parser.add_argument(
        "--run", type=Path, help="run folder, new or empty (default: runs/compress/<time>-compress)"
    )
    parser.add_argument("--json", type=Path, help="where a copy of results.json goes")
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="a package outside the project whose classes the checkpoint may name",
    )
    return parser.parse_args(arguments)


def _check_new(output: Path) -> None:
    if output.suffix != ".ckpt":
        raise RecembError(f"{output}: the checkpoint's name must end in .ckpt")
    for path in (output, output.with_suffix(".yaml")):
        if path.exists():
            raise RecembError(f"{path}: exists already; remove it, or name another --output")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Source:
    """A checkpoint with what it takes to measure it."""

    checkpoint: dict[str, Any]
    config: dict[str, Any]
    """``model`` and ``data``, and what else the user's configuration says of a training."""
    model: LightningModule
    data: LightningDataModule

    @property
    def embeddings(self) -> Embeddings:
        return cast(Embeddings, self.model.embeddings)


def _read(options: argparse.Namespace) -> _Source:
    path: Path = options.checkpoint
    checkpoint = read_checkpoint(path)
    if VERSION not in checkpoint:
        raise RecembError(
            f"{path}: compress takes over {VERSION!r}, and the checkpoint has none; {REMEDY}"
        )
    config = checkpoint_config(checkpoint)
    if options.config is not None:
        given = current_paths(read_yaml(options.config))
        if not isinstance(given, dict) or "data" not in given:
            raise RecembError(f"{options.config}: there is no section 'data'; it needs one")
        config |= {name: given[name] for name in ("data", "seed_everything") if name in given}
        config |= {"trainer": given["trainer"]} if given.get("trainer") else {}
    origin = options.config or path
    return _Source(
        checkpoint=checkpoint,
        config=config,
        model=rebuild_model(path, checkpoint, options.allow),
        data=rebuild_data(origin, checkpoint, config["data"], options.allow),
    )


def _budget(options: argparse.Namespace, embeddings: Embeddings) -> int | None:
    if options.budget is not None:
        return parse_bytes("--budget", options.budget)
    return None if options.share is None else share_in_bytes(embeddings, options.share)


def _measured(model: LightningModule, data: LightningDataModule) -> dict[str, Any]:
    """Return quality on the validation file, and bytes."""
    trainer = Trainer(logger=False, enable_checkpointing=False, enable_model_summary=False)
    # A training on all has left nothing for validation.
    is_there = has_stage(data, "validation")
    found = trainer.validate(model, datamodule=data, verbose=False) if is_there else []
    tables = table_report(cast(Embeddings, model.embeddings))
    return {
        **metrics_of(model, found),
        "bytes": {
            "tables": sum(cast(int, one["bytes"]) for one in tables.values()),
            "serving": module_bytes(served_program(model)),
        },
        "tables": tables,
    }
