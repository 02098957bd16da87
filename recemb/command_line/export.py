"""The verb ``export``: a checkpoint's model as TorchScript."""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from lightning import LightningModule

from recemb.accounting import table_report
from recemb.command_line.show import summary
from recemb.compress.methods import PRECISIONS
from recemb.compress.tables import compress
from recemb.embeddings import Embeddings
from recemb.errors import RecembError
from recemb.memory import peak_memory_bytes
from recemb.rebuild import rebuild
from recemb.results import versions, write_results
from recemb.run_folder import RunFolder
from recemb.schema import Schema
from recemb.serving.export import export
from recemb.serving.vocabulary_file import without_names, write_vocabulary


def run(arguments: list[str]) -> None:
    """Write a checkpoint's model as TorchScript that needs nothing but torch."""
    parser = argparse.ArgumentParser(prog="python -m recemb export", description=run.__doc__)
    parser.add_argument("checkpoint", type=Path, help="written by fit")
    parser.add_argument(
        "--output", type=Path, help="the file (default: model.pt in the run folder)"
    )
    parser.add_argument(
        "--quantize", choices=PRECISIONS, help="store rows in fewer bits, as compress does"
    )
    parser.add_argument(
        "--stages",
        action="store_true",
        help="also write the search over long histories and the ranking of what it finds, as "
        "<output>.search.pt and <output>.rank.pt",
    )
    parser.add_argument("--run", type=Path, help="run folder (default: runs/export/<time>-export)")
    parser.add_argument("--json", type=Path, help="where a copy of results.json goes")
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="a package outside the project whose classes the checkpoint may name",
    )
    options = parser.parse_args(arguments)
    with RunFolder(options.run, "export", begin="any") as folder:
        _export(options, folder)


def _export(options: argparse.Namespace, folder: Path) -> None:
    started = time.perf_counter()
    output = options.output or folder / "model.pt"
    check_name(output)
    model, schema = rebuild(options.checkpoint, options.allow)
    in_stages: Callable[[Path], dict[str, object]] | None = getattr(model, "export_stages", None)
    if options.stages and in_stages is None:
        raise RecembError(
            f"{options.checkpoint}: {type(model).__name__} has no search over histories by "
            "products; drop --stages"
        )
    found = export_files(model, schema, output, options.quantize)
    stages = {"stages": in_stages(output)} if options.stages and in_stages else {}
    results = {
        "verb": "export",
        "versions": versions(),
        "run": str(folder),
        "checkpoint": str(options.checkpoint),
        **found,
        **stages,
        "seconds": round(time.perf_counter() - started, 3),
        "peak_memory_bytes": peak_memory_bytes(),
    }
    write_results(results, folder, options.json)
    print(summary(results))
    for name in results["without_names"]:
        print(
            f"{name}: its strings were not kept (raw, or keep_strings: false), so its ids stay "
            f"hashes and are not in {Path(results['vocabulary']).name}"
        )


def check_name(output: Path) -> None:
    """Raise a :class:`RecembError` if a program may not be called so."""
    if output.suffix != ".pt":
        raise RecembError(f"{output}: the program's name must end in .pt")


def export_files(
    model: LightningModule, schema: Schema, output: Path, quantize: str | None = None
) -> dict[str, Any]:
    """Write a model as a program, and beside it its vocabulary; return what is reported of both.

    Args:
        model: Trained; its parameters are frozen, and it gets the smaller tables.
        schema: Of its data.
        output: The program.
        quantize: Bits that rows are stored in, as ``compress`` has them; None: as they are.
    """
    quantized: dict[str, Any] = {}
    if quantize is not None:
        smaller = compress(cast(Embeddings, model.embeddings), PRECISIONS[quantize])
        model.embeddings = smaller.embeddings
        tables = table_report(smaller.embeddings)
        quantized = {"quantize": quantize, "tables": tables, "kept": smaller.kept}
    found = export(model, schema, output)
    vocabulary = write_vocabulary(schema, output)
    return {
        "program": str(output),
        "vocabulary": str(vocabulary),
        "without_names": without_names(schema),
        "checksum": found["checksum"],
        **quantized,
        "parity": found["parity"],
        "bytes": {"serving": found["serving_bytes"], "file": found["file_bytes"]},
        "inputs": found["inputs"],
    }
