"""Choose the verb, and turn a user's mistake into one line and exit code 2."""

import os
import sys
from collections.abc import Callable, Sequence

import jsonargparse

from recemb import processes
from recemb.command_line.mistakes import mistake_in
from recemb.command_line.notices import quiet
from recemb.memory import keep_freed_memory

USAGE = """usage: python -m recemb VERB [options]

  fit        train; restore the best checkpoint by validation; test it once
  validate   measure a checkpoint on the validation file
  test       measure a checkpoint on the test file
  predict    write a checkpoint's click probabilities for the test file
  plan       print where the tables of a training would lie, and what that costs
  search     learn which dimensions are worth their bytes, and train what is found
  sweep      draw configurations, train them, and find the best quality for its bytes
  report     draw runs or a sweep as one HTML file
  compress   write a checkpoint with smaller tables, and measure what that costs
  export     write a checkpoint's model as TorchScript that needs only torch
  index      write an index of a checkpoint's item vectors, and measure what it finds
  recommend  write the best items of some users
  show       print what a run folder holds
  kinds      print the kinds of tables

`python -m recemb VERB --help` lists the options of a verb."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit code: 0, or 2 after a user's mistake."""
    verb, *rest = sys.argv[1:] if arguments is None else arguments or [""]
    verbs = _verbs()
    if verb not in verbs:
        asked = verb in ("-h", "--help", "help")
        print(USAGE, file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    keep_freed_memory()
    # The installed command, unlike ``python -m``, does not look for models/ and data/ here.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        verbs[verb](verb, rest)
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


def _verbs() -> dict[str, Callable[[str, list[str]], None]]:
    """Return the verbs; each imports what it needs when it runs."""

    def train(verb: str, rest: list[str]) -> None:
        from recemb.command_line.train import run

        quiet()
        run(verb, rest)

    def plan(verb: str, rest: list[str]) -> None:
        from recemb.command_line.plan import run

        quiet()
        run(rest)

    def compress(verb: str, rest: list[str]) -> None:
        from recemb.command_line.compress import run

        quiet()
        run(rest)

    def search(verb: str, rest: list[str]) -> None:
        from recemb.command_line.search.verb import run

        quiet()
        run(rest)

    def sweep(verb: str, rest: list[str]) -> None:
        from recemb.command_line.sweep.verb import run

        quiet()
        run(rest)

    def report(verb: str, rest: list[str]) -> None:
        from recemb.command_line.report import run

        run(rest)

    def export(verb: str, rest: list[str]) -> None:
        from recemb.command_line.export import run

        quiet()
        run(rest)

    def index(verb: str, rest: list[str]) -> None:
        from recemb.command_line.index import run

        quiet()
        run(rest)

    def recommend(verb: str, rest: list[str]) -> None:
        from recemb.command_line.recommend import run

        quiet()
        run(rest)

    def show(verb: str, rest: list[str]) -> None:
        from recemb.command_line.show import run

        run(rest)

    def kinds(verb: str, rest: list[str]) -> None:
        from recemb.command_line.kinds import run

        run(rest)

    training = dict.fromkeys(("fit", "validate", "test", "predict"), train)
    written = {"plan": plan, "search": search, "sweep": sweep, "compress": compress}
    found = {"export": export, "index": index, "recommend": recommend}
    printed = {"report": report, "show": show, "kinds": kinds}
    return {**training, **written, **found, **printed}
