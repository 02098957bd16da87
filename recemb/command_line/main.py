"""Choose the verb, and turn a user's mistake into one line and exit code 2."""

import itertools
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import NoReturn

import jsonargparse

from recemb import processes
from recemb.command_line.configs import with_found_configurations
from recemb.command_line.mistakes import mistake_in
from recemb.command_line.notices import quiet
from recemb.files import check_place
from recemb.memory import keep_freed_memory
from recemb.packages import check_torch


@dataclass(frozen=True)
class Verb:
    """A verb, whose module has a function ``run`` that takes the words after it."""

    help: str
    module: str
    """In this package. It is imported when the verb is asked for, with what it needs."""


TRAIN = "train"
"""The module of four verbs, which is told which of them."""
VERBS = {
    "init": Verb("look at a file of rows, and write a configuration that trains on it", "init"),
    "fit": Verb("train; restore the best checkpoint by validation; test it once", TRAIN),
    "validate": Verb("measure a checkpoint on the validation file", TRAIN),
    "test": Verb("measure a checkpoint on the test file", TRAIN),
    "predict": Verb("write what a checkpoint predicts for the rows of the test file", TRAIN),
    "plan": Verb("print where the tables of a training would lie, and what that costs", "plan"),
    "search": Verb(
        "learn which dimensions are worth their bytes, and train what is found", "search.verb"
    ),
    "sweep": Verb(
        "draw configurations, train them, and find the best quality for its bytes", "sweep.verb"
    ),
    "report": Verb("draw runs or a sweep as one HTML file", "report"),
    "compress": Verb(
        "write a checkpoint with smaller tables, and measure what that costs", "compress"
    ),
    "export": Verb("write a checkpoint's model as TorchScript that needs only torch", "export"),
    "index": Verb(
        "write an index of a checkpoint's item vectors, and measure what it finds", "index"
    ),
    "recommend": Verb("write the best items of some users", "recommend"),
    "vectors": Verb("write the vectors of a table's ids", "vectors"),
    "show": Verb("print what a run folder holds", "show"),
    "kinds": Verb("print the kinds of tables", "kinds"),
}
WITHOUT_TRAINER = ("init", "report", "show", "kinds")
"""Verbs that import no Lightning, whose notices need no silencing."""
USAGE = "\n".join(
    [
        "usage: python -m recemb VERB [options]",
        "",
        *(f"  {name:10} {verb.help}" for name, verb in VERBS.items()),
        "",
        "`python -m recemb VERB --help` lists the options of a verb.",
    ]
)


def _check_places(verb: str, arguments: Sequence[str]) -> None:
    """Refuse places for results where none can be, before a verb works for them."""
    words = [part for word in arguments for part in word.split("=", 1)]
    for option, value in itertools.pairwise(words):
        if option in ("--json", "--output", "--run"):
            is_folder = option == "--run" or (option == "--output" and verb == "index")
            check_place(Path(value), is_folder=is_folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit code: 0, or 2 after a user's mistake."""
    verb, *rest = sys.argv[1:] if arguments is None else arguments or [""]
    if verb not in VERBS:
        asked = verb in ("-h", "--help", "help")
        print(USAGE, file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    keep_freed_memory()
    try:
        check_torch()
        module = import_module(f"recemb.command_line.{VERBS[verb].module}")
        if verb not in WITHOUT_TRAINER:
            quiet()
        _check_places(verb, rest)
        rest = with_found_configurations(rest)
        module.run(*([verb] if VERBS[verb].module == TRAIN else []), rest)
        # Here, where a full disk is said on a line; at the exit nobody would hear of it.
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (``| head``) has seen enough; nothing may be flushed into the closed pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (Exception, jsonargparse.ArgumentError) as error:
        line = mistake_in(error, rest)
        if line is None:
            raise
        with processes.first_to_speak() as is_first:
            if is_first:
                print(f"recemb {verb}: {line}", file=sys.stderr, flush=True)
        return 2
    return 0


def run() -> NoReturn:
    """Run the command that this process was started for, and end it."""
    processes.end(main())
