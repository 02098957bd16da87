"""The verb ``vectors``: the vectors of a table's ids, as a file."""

import argparse
from pathlib import Path

from recemb.trained import load
from recemb.vectors import ENDS, check_end, write_vectors


def run(arguments: list[str]) -> None:
    """Write the vector of each id that a table knows, the most frequent first."""
    parser = argparse.ArgumentParser(prog="python -m recemb vectors", description=run.__doc__)
    parser.add_argument("checkpoint", type=Path, help="written by fit")
    parser.add_argument("--table", required=True, help="or a feature, where several read a table")
    parser.add_argument(
        "--output", type=Path, required=True, help=f"its name ends in {', '.join(ENDS)}"
    )
    parser.add_argument("--allow", action="append", default=[], metavar="PACKAGE", help="as export")
    options = parser.parse_args(arguments)
    check_end(options.output)
    frame = load(options.checkpoint, options.allow).vectors(options.table)
    write_vectors(options.output, frame)
    print(f"{len(frame):,} vectors of {options.table} are in {options.output}")
