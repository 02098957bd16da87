"""Studies: every trial is told once, whoever dies; draws do not depend on who asks."""

import json
import multiprocessing
import os
import signal
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from recemb.errors import RecembError
from recemb.sweep.objectives import Objective
from recemb.sweep.rules import Rules
from recemb.sweep.space import read_space
from recemb.sweep.study import Study
from recemb.sweep.trials import COMPLETE, FAILED, PRUNED, REFUSED, front_of

optuna = pytest.importorskip("optuna")

QUALITY = Objective("quality", "val/auc", "max")
BYTES = Objective("bytes", "bytes", "min")
SPACE = """
a: {float: [0.0, 1.0]}
b: {choice: {left: {c: {int: [1, 9]}}, right: {d: {float: [0.1, 1], log: true}}}}
"""


def rules(sampler="tpe", pruner="none") -> Rules:
    return Rules(sampler=sampler, pruner=pruner, first_epochs=1, reduction=2.0, seed=1)


def begin(folder: Path, objectives=(QUALITY, BYTES), settings=None, first=(), **given) -> Study:
    storage = f"sqlite:///{folder / 'study.db'}"
    settings = {"space": SPACE, **(settings or {})}
    return Study(storage, "test", objectives, rules(**given), folder, settings, first)


def space(folder: Path):
    (folder / "space.yaml").write_text(SPACE)
    return read_space(folder / "space.yaml")


def values(drawn) -> list[float]:
    """A quality and a size, known for any draw."""
    return [drawn["a"], 10.0 + 90.0 * drawn["a"]]


def work(folder: Path, total: int, seconds: float = 0.0) -> None:
    """Do trials until there are enough; die in the middle of them if killed."""
    study = begin(folder)
    while (claim := study.claim(space(folder), total)) is not None:
        time.sleep(seconds)
        study.tell(claim, COMPLETE, values(claim.drawn), {})


GP = pytest.param("gp", marks=pytest.mark.skipif(not find_spec("scipy"), reason="needs scipy"))


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random", GP])
def test_a_study_that_is_stopped_draws_what_it_would_have_drawn(tmp_path, sampler):
    drawn = []
    for name, stops in (("whole", [12]), ("stopped", [5, 9, 12])):
        folder = tmp_path / name
        folder.mkdir()
        for total in stops:
            study = begin(folder, sampler=sampler)
            while (claim := study.claim(space(folder), total)) is not None:
                study.tell(claim, COMPLETE, values(claim.drawn), {})
        drawn.append([one.params for one in study.trials()])
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 12
    # A child of an evolution may be as its parent is.
    assert len({one["a"] for one in drawn[0]}) >= 8


def test_a_trial_that_was_left_is_taken_over_as_it_was(tmp_path):
    study = begin(tmp_path)
    left = study.claim(space(tmp_path), 2)
    study.note(left, bytes=77)
    # As the system does when the process dies.
    left.lock.give_back()
    again = begin(tmp_path).claim(space(tmp_path), 2)
    assert (again.number, again.drawn) == (left.number, left.drawn)
    assert study.trials()[0].attrs["bytes"] == 77


def test_a_trial_that_runs_is_not_taken(tmp_path):
    study = begin(tmp_path)
    first = study.claim(space(tmp_path), 2)
    second = begin(tmp_path).claim(space(tmp_path), 2)
    assert (first.number, second.number) == (0, 1)
    assert begin(tmp_path).claim(space(tmp_path), 2) is None


def test_refused_trials_do_not_count_and_failed_ones_do(tmp_path):
    study = begin(tmp_path)
    states = [REFUSED, FAILED, PRUNED, REFUSED, COMPLETE]
    for state in states:
        claim = study.claim(space(tmp_path), 3)
        told = values(claim.drawn) if state == COMPLETE else None
        study.tell(claim, state, told, {"reason": state}, excess=1.0 if state == REFUSED else -0.5)
    assert study.claim(space(tmp_path), 3) is None
    assert [one.state for one in study.trials()] == states
    assert [one.attrs["reason"] for one in study.trials()] == states


def test_killed_processes_lose_no_trial_and_count_none_twice(tmp_path):
    context = multiprocessing.get_context("fork")
    total = 12
    for _ in range(3):
        process = context.Process(target=work, args=(tmp_path, total, 0.1))
        process.start()
        before = time.monotonic()
        done = 0
        # Until it has done something more, and then in the middle of the next trial.
        while time.monotonic() - before < 60 and process.is_alive():
            done = len(list((tmp_path / "locks").glob("trial-*")))
            if done >= 2 + _ * 2:
                break
            time.sleep(0.02)
        assert done
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    work(tmp_path, total)
    trials = begin(tmp_path).trials()
    assert [one.number for one in trials] == list(range(total))
    assert {one.state for one in trials} == {COMPLETE}
    assert all(one.values == values({"a": one.params["a"]}) for one in trials)


def test_two_processes_share_the_trials(tmp_path):
    context = multiprocessing.get_context("fork")
    begin(tmp_path)
    both = [context.Process(target=work, args=(tmp_path, 30)) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
        assert one.exitcode == 0
    trials = begin(tmp_path).trials()
    assert len(trials) == 30
    assert {one.state for one in trials} == {COMPLETE}


def test_points_to_begin_with_are_drawn_first_and_once(tmp_path):
    first = [{"a": 0.25, "b": "left"}, {"a": 0.75}]
    for _ in range(2):
        study = begin(tmp_path, first=first)
    claims = [study.claim(space(tmp_path), 5) for _ in range(3)]
    assert [one.drawn["a"] for one in claims[:2]] == [0.25, 0.75]
    assert claims[0].drawn["b"].keys() == {"c"}
    assert claims[2].drawn["a"] not in (0.25, 0.75)


def test_halving_goes_by_quality_and_bytes(tmp_path):
    study = begin(tmp_path, pruner="halving")
    claims = [study.claim(space(tmp_path), 9) for _ in range(4)]
    for claim, size in zip(claims, (100, 100, 100, 10), strict=True):
        study.note(claim, bytes=size)
    qualities = (0.8, 0.9, 0.7, 0.6)
    going = [study.goes_on(claim, 1, q, 8) for claim, q in zip(claims, qualities, strict=True)]
    # 0.7 at 100 bytes comes after 0.9 and 0.8; 0.6 is the best of its size.
    assert going == [True, True, False, True]
    assert study.goes_on(claims[2], 3, 0.1, 8)  # no rung: 1, 2, 4
    assert study.trials()[2].curve == {1: 0.7, 3: 0.1}


def test_points_to_begin_with_are_trained_to_their_end(tmp_path):
    study = begin(tmp_path, pruner="halving", first=[{"a": 0.25}, {"a": 0.5}, {"a": 0.75}])
    for number, quality in enumerate((0.9, 0.8, 0.7, 0.6)):
        claim = study.claim(space(tmp_path), 9)
        study.note(claim, bytes=100)
        # The last one was drawn, and is behind all.
        assert study.goes_on(claim, 1, quality, 8) == (number < 3)
        study.tell(claim, COMPLETE, [quality, 100.0], {})


def test_median_pruning_of_one_objective(tmp_path):
    study = begin(tmp_path, objectives=[QUALITY], pruner="median")
    for quality in (0.9, 0.8, 0.7, 0.9, 0.8):
        claim = study.claim(space(tmp_path), 9)
        assert study.goes_on(claim, 1, quality, 8)
        study.tell(claim, COMPLETE, [quality], {})
    claims = [study.claim(space(tmp_path), 9) for _ in range(2)]
    assert not study.goes_on(claims[0], 1, 0.5, 8)
    assert study.goes_on(claims[1], 1, 0.85, 8)
    study.tell(claims[0], PRUNED, None, {})
    assert study.trials()[5].values == []  # of a complete trial only


def test_hyperband_ends_what_is_behind(tmp_path):
    study = begin(tmp_path, objectives=[QUALITY], pruner="hyperband")
    epochs = {}
    for number in range(8):
        claim = study.claim(space(tmp_path), 8)
        quality = 0.9 - 0.1 * number
        for epoch in range(1, 9):
            epochs[number] = epoch
            if not study.goes_on(claim, epoch, quality, 8):
                study.tell(claim, PRUNED, None, {})
                break
        else:
            study.tell(claim, COMPLETE, [quality], {})
    # The first says how long a training is; the second is the first of its bracket at most.
    assert epochs[0] == 8
    # All others are behind those before them; some bracket ends them at the first rung.
    assert 1 in epochs.values()
    assert {one.state for one in study.trials()} == {COMPLETE, PRUNED}


def test_a_trial_that_was_left_before_it_was_drawn_is_drawn_as_it_would_have_been(tmp_path):
    drawn = []
    for name in ("whole", "left"):
        (tmp_path / name).mkdir()
        study = begin(tmp_path / name)
        if name == "left":
            study._study.ask()
        drawn.append(study.claim(space(tmp_path), 2).drawn)
    assert drawn[0] == drawn[1]


def test_hyperband_wants_a_whole_reduction():
    given = Rules(sampler="tpe", pruner="hyperband", first_epochs=1, reduction=1.5, seed=1)
    with pytest.raises(RecembError, match="whole --reduction of at least 2, got 1"):
        given.check(1)


def test_the_sampler_by_gaussian_processes_says_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(
        RecembError, match=r"--sampler gp needs scipy.*pip install 'recemb\[sweep\]'"
    ):
        begin(tmp_path, sampler="gp")


def test_the_front_of_a_study(tmp_path):
    study = begin(tmp_path)
    for told in ([0.9, 100.0], [0.8, 50.0], [0.7, 70.0], [0.95, 100.0]):
        claim = study.claim(space(tmp_path), 9)
        study.tell(claim, COMPLETE, told, {})
    assert [one.number for one in front_of(study.trials(), [QUALITY, BYTES])] == [3, 1]


def test_a_study_of_other_settings_is_refused(tmp_path):
    begin(tmp_path)
    with pytest.raises(RecembError, match=r"was begun with another space; .* give --study a new"):
        begin(tmp_path, settings={"space": "x"})


def test_optunas_pruners_want_one_objective(tmp_path):
    with pytest.raises(RecembError, match="--pruner: median compares one number"):
        begin(tmp_path, pruner="median")


@pytest.mark.parametrize(
    "storage",
    ["sqlite:////nowhere/at/all/study.db", "mysql://host/x", "no address", "sqlite://x:y"],
)
def test_a_storage_that_cannot_be_reached_is_named(tmp_path, storage):
    with pytest.raises(RecembError, match=r"--storage: .* cannot be reached"):
        Study(storage, "test", [QUALITY], rules(), tmp_path, {})


@pytest.mark.parametrize(
    "storage", ["mysql://me:secret@host/x", "mysql://me:se/cr@secret@host:port/x"]
)
def test_a_password_is_not_shown(tmp_path, storage):
    with pytest.raises(RecembError, match=r"mysql://me:\*\*\*@host") as found:
        Study(storage, "test", [QUALITY], rules(), tmp_path, {})
    assert "secret" not in str(found.value)


def test_optunas_own_tools_read_the_study(tmp_path):
    study = begin(tmp_path)
    claim = study.claim(space(tmp_path), 1)
    study.tell(claim, COMPLETE, [0.9, 50.0], {"tables": {"user": {"dim": 3}}})
    plain = optuna.load_study(study_name="test", storage=f"sqlite:///{tmp_path / 'study.db'}")
    assert plain.metric_names == ["val/auc", "bytes"]
    assert [one.name for one in plain.directions] == ["MAXIMIZE", "MINIMIZE"]
    (best,) = plain.best_trials
    assert best.values == [0.9, 50.0]
    assert json.loads(json.dumps(best.user_attrs))["tables"] == {"user": {"dim": 3}}


def test_without_optuna_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(RecembError, match=r"pip install 'recemb\[sweep\]'"):
        begin(tmp_path)
