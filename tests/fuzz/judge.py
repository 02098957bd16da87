"""Judge: what an input came to: loaded right, refused in a line, or failing.

A case makes an input, lets recemb load it, and knows apart from recemb what it holds.
"""

import contextlib
import io
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from recemb.errors import RecembError

Verdict = Literal["loaded right", "refused in a line", "failing"]
MayRefuse = Literal["never", "also", "only"]
"""Whether a clear refusal is a right answer: an input that is as documented must load."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """An input and what it should come to.

    Attributes:
        group: The class of inputs that it is of.
        name: Of the case, in its group.
        make: Writes the input into an empty folder; returns the path that a refusal must name.
        load: Lets recemb read it; returns plain values.
        right: What those must be, worked out without recemb; None where only a refusal is right.
        may_refuse: Whether refusing it is right.
    """

    group: str
    name: str
    make: Callable[[Path], Path]
    load: Callable[[Path], Any]
    right: Any = None
    may_refuse: MayRefuse = "also"


@dataclass(frozen=True)
class Judged:
    """A case with what it came to; ``why`` tells what was got."""

    case: Case
    verdict: Verdict
    why: str = ""


def judge(case: Case, folder: Path) -> Judged:
    """Make the input in an empty folder, load it, and judge."""
    path = case.make(folder)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            got = case.load(path)
    except RecembError as error:
        line = str(error)
        if "\n" in line:
            return Judged(case, "failing", f"a refusal of several lines: {line!r}")
        if path.name not in line and str(path) not in line:
            return Judged(case, "failing", f"a refusal that does not name {path.name}: {line}")
        if case.may_refuse == "never":
            return Judged(case, "failing", f"refused, and should load: {line}")
        return Judged(case, "refused in a line", line)
    # A panic of polars is no Exception; whatever else comes is what is looked for here.
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        return Judged(case, "failing", f"{type(error).__name__}: {error}")
    if case.may_refuse == "only":
        return Judged(case, "failing", f"loaded, and should be refused: {got}")
    if got != case.right:
        return Judged(case, "failing", f"another value: got {got}, must be {case.right}")
    return Judged(case, "loaded right")


def table(judged: Iterable[Judged]) -> str:
    """Return the counts by group as a table."""
    counts: dict[str, Counter[str]] = {}
    for one in judged:
        counts.setdefault(one.case.group, Counter())[one.verdict] += 1
    total = sum(counts.values(), Counter())
    lines = [
        "| inputs | cases | loaded right | refused in a line | failing |",
        "|---|---|---|---|---|",
    ]
    for name, own in [*counts.items(), ("all", total)]:
        numbers = [own.total(), own["loaded right"], own["refused in a line"], own["failing"]]
        lines.append(f"| {name} | {' | '.join(map(str, numbers))} |")
    return "\n".join(lines)


def pattern(values: Iterable[Any]) -> list[int]:
    """Return for each value the place at which it was first: what is the same, and what is not.

    Example:
        >>> pattern(["7", "007", "7"])
        [0, 1, 0]
    """
    first: dict[Any, int] = {}
    return [first.setdefault(value, place) for place, value in enumerate(values)]
