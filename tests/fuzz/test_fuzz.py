"""A part of the fuzzer's cases; ``make fuzz`` runs all of them."""

import pytest

from recemb.errors import RecembError
from tests.fuzz.judge import Case, judge, pattern, table
from tests.fuzz.run import CLASSES, cases_of, judged

EVERY = {"cases_stored": 9, "cases_requests": 1}
SETTINGS: dict[str, dict[str, object]] = {"cases_requests": {"kinds": ("users",)}}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CLASSES)
def test_every_input_is_loaded_right_or_refused_in_a_line(name):
    chosen = cases_of(name, 1, **SETTINGS.get(name, {}))[:: EVERY.get(name, 7)]
    assert len(chosen) >= 14
    failing = [
        f"{one.case.group}: {one.case.name}: {one.why}"
        for one in judged(chosen)
        if one.verdict == "failing"
    ]
    assert not failing, "\n".join(failing)


def test_there_are_enough_cases_and_no_two_of_a_name():
    found = [case for name in CLASSES for case in cases_of(name, 1)]
    assert len(found) >= 400
    names = [(case.group, case.name) for case in found]
    assert len(set(names)) == len(names)


def outcome(tmp_path, load, right=1, may="also"):
    case = Case(group="g", name="n", make=lambda folder: folder / "shop.csv", load=load,
                right=right, may_refuse=may)  # fmt: skip
    return judge(case, tmp_path)


def refusing(line):
    def load(path):
        raise RecembError(line)

    return load


def broken(path):
    raise KeyError("label")


@pytest.mark.parametrize(
    ("load", "may", "verdict"),
    [
        (lambda path: 1, "also", "loaded right"),
        (lambda path: 2, "also", "failing"),
        (lambda path: 1, "only", "failing"),
        (refusing("shop.csv: no rows"), "also", "refused in a line"),
        (refusing("shop.csv: no rows"), "never", "failing"),
        (refusing("shop.csv: no\nrows"), "also", "failing"),
        (refusing("no rows"), "also", "failing"),
        (broken, "also", "failing"),
    ],
)
def test_the_judge_tells_what_fails(load, may, verdict, tmp_path):
    judged_case = outcome(tmp_path, load, may=may)
    assert judged_case.verdict == verdict
    assert f"| g | 1 | {' | '.join(str(int(one == verdict)) for one in VERDICTS)} |" in table(
        [judged_case]
    )


VERDICTS = ("loaded right", "refused in a line", "failing")


def test_patterns_are_of_what_is_the_same():
    assert pattern(["7", "007", "7", 7]) == [0, 1, 0, 3]
