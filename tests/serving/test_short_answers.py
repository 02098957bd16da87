"""Where fewer items are left than asked for: -1, in every program and in the library."""

import math

import pytest
import torch

from recemb.command_line.recommend import best
from recemb.models.session_settings import Evaluation
from recemb.serving.archive import load_program, read_description
from recemb.serving.export import export
from tests.models import pairs, test_dual, test_session

HISTORY = {"history": torch.tensor([10, 20, 30]), "history.size": torch.tensor([3, 0])}


def without(num_items: int, had: list[int]) -> set[int]:
    """Return the raw ids, ten times the indices, of items that may come."""
    return {10 * item for item in range(num_items) if item not in had}


def session(**settings):
    return test_session.model(evaluation=Evaluation(cutoffs=[3], monitor="hr@3", **settings))


CASES = {
    # Who asks, and what the first of them has.
    "mf": (lambda: pairs.build("mf"), {"user": torch.tensor([0, 999])}, pairs.SEEN[0]),
    "lightgcn": (lambda: pairs.build("lightgcn"), {"user": torch.tensor([0, 999])}, pairs.SEEN[0]),
    "dual": (test_dual.build, {"item": torch.tensor([0, 999])}, [0, *test_dual.CONTEXTS[0]]),
    "session": (lambda: session(exclude_history=True), HISTORY, [1, 2, 3]),
    "codes": (lambda: test_session.coded(True), HISTORY, [1, 2, 3]),
}


@pytest.mark.parametrize("kind", CASES)
def test_a_program_answers_with_nothing_where_nothing_is_left(kind, tmp_path):
    make, request, had = CASES[kind]
    model = make().eval()
    num_items = model.num_items
    export(model, model.schema, tmp_path / "model.pt")
    items, scores = load_program(tmp_path / "model.pt")(request)[:2]
    wanted = without(num_items, had)
    assert items.shape == scores.shape == (2, num_items)
    assert set(items[0, : len(wanted)].tolist()) == wanted
    assert scores[0, : len(wanted)].isfinite().all()
    assert items[0, len(wanted) :].tolist() == [-1] * len(set(had))
    assert scores[0, len(wanted) :].tolist() == [-math.inf] * len(set(had))
    # Who is not known, or has no history, has nothing that is left out.
    assert set(items[1].tolist()) == without(num_items, [])


@pytest.mark.parametrize("kind", ["mf", "lightgcn"])
def test_unknown_queries_are_refused_where_the_vocabulary_refuses_them(kind, tmp_path):
    model = pairs.build(kind, unknown="error").eval()
    export(model, model.schema, tmp_path / "model.pt")
    assert read_description(tmp_path / "model.pt")["user"]["unknown"] == "error"
    program = load_program(tmp_path / "model.pt")
    left = without(pairs.NUM_ITEMS, pairs.SEEN[0])
    assert set(program({"user": torch.tensor([0])})[0][0, : len(left)].tolist()) == left
    with pytest.raises(RuntimeError, match="column user: unknown id"):
        program({"user": torch.tensor([0, 999])})


@pytest.mark.parametrize("kind", ["mf", "dual"])
def test_the_library_answers_with_nothing_where_nothing_is_left(kind):
    make, _, had = CASES[kind]
    model = make().eval()
    items, scores = best(model, torch.tensor([0]), model.num_items)
    left = model.num_items - len(set(had))
    assert {10 * item for item in items[0, :left].tolist()} == without(model.num_items, had)
    assert items[0, left:].tolist() == [-1] * len(set(had))
    assert scores[0, left:].tolist() == [-math.inf] * len(set(had))
