"""Run the fuzzer.

python -m tests.fuzz.run            all cases, and the table of what they came to
python -m tests.fuzz.run --every 8  one case of eight
python -m tests.fuzz.run cases_events  those of one class
python -m tests.fuzz.run --seed 2   other rows, places and bits
"""

import argparse
import importlib
import os
import random
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from tests.fuzz.judge import Case, Judged, judge, table

CLASSES = ("cases_tables", "cases_parquet", "cases_events", "cases_stored", "cases_requests")


def cases_of(name: str, seed: int, **settings: object) -> list[Case]:
    """Return the cases of a class of inputs."""
    module = importlib.import_module(f"tests.fuzz.{name}")
    return list(module.cases(random.Random(f"{name} {seed}"), **settings))


def judged(cases: list[Case]) -> Iterator[Judged]:
    """Judge cases, each in a folder and with a cache of its own."""
    for case in cases:
        with (
            tempfile.TemporaryDirectory() as folder,
            tempfile.TemporaryDirectory() as cache,
            mock.patch.dict(os.environ, {"RECEMB_CACHE": cache}),
        ):
            yield judge(case, Path(folder))


def main() -> int:
    """Judge all cases; return 1 if one is failing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("classes", nargs="*", default=CLASSES, help=f"of {', '.join(CLASSES)}")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    found: list[Judged] = []
    for name in options.classes:
        for one in judged(cases_of(name, options.seed)[:: options.every]):
            found.append(one)
            if one.verdict == "failing":
                print(f"{one.case.group}: {one.case.name}: {one.why[:400]}", flush=True)
    print(table(found))
    return int(any(one.verdict == "failing" for one in found))


if __name__ == "__main__":
    sys.exit(main())
