"""The verb ``init``: look at a file of rows, and write a configuration that trains on it."""

import argparse
from importlib import import_module
from pathlib import Path

from recemb.errors import RecembError

READER = "recemb.data.first_config"
"""By its name, as configurations name readers: the engine does not know them."""


def run(arguments: list[str]) -> None:
    """Look at a file of rows (parquet or CSV), and write a configuration that trains on it.

    The file is split beside the configuration, into a folder of its name.
    """
    parser = argparse.ArgumentParser(prog="python -m recemb init", description=run.__doc__)
    parser.add_argument("file", type=Path, help="parquet, CSV or TSV, one row per sample")
    parser.add_argument("--label", required=True, help="its column of 0 and 1")
    parser.add_argument(
        "--time",
        help="its column of times, by which it is split (default: the first that seems to be one; "
        "without any, rows are split by a hash)",
    )
    parser.add_argument(
        "--time_format", help="of its text, such as %%d/%%m/%%Y (default: ISO 8601)"
    )
    parser.add_argument("--output", type=Path, help="the configuration (default: <FILE>.yaml here)")
    options = parser.parse_args(arguments)
    if options.time_format is not None and options.time is None:
        raise RecembError("--time_format: it is of the column that --time names; give --time")
    output = options.output or Path(f"{options.file.stem}.yaml")
    reader = import_module(READER)
    found = reader.write_first(
        options.file, options.label, options.time, options.time_format, output
    )
    print("\n".join([f"{options.file}:", *found, f"wrote {output}", ""]))
    print(f"python -m recemb fit --config {output}")
