"""Positives and negatives by their laws, and the loss by hand."""

import math
from types import SimpleNamespace

import pytest
import torch

from recemb.errors import RecembError
from recemb.models.bpr import PairSampler, bpr_losses, hardest
from recemb.schema import Attribute
from tests.models.pairs import NUM_ITEMS, NUM_USERS, SEEN, batch, build, rows, schema


def sampler() -> PairSampler:
    return PairSampler(schema().attributes["seen"], NUM_ITEMS)


def test_negatives_are_each_item_that_a_user_has_not_taken_equally_often() -> None:
    torch.manual_seed(0)
    draws = 20_000
    negative_UK = sampler().negatives(torch.arange(NUM_USERS + 1), draws)
    for user, taken in enumerate([*SEEN, []]):
        free = sorted(set(range(NUM_ITEMS)) - set(taken))
        counts = torch.bincount(negative_UK[user], minlength=NUM_ITEMS)
        assert counts.nonzero().flatten().tolist() == free
        mean = draws / len(free)
        # Four deviations of a binomial count.
        assert (counts[free] - mean).abs().max() < 4 * math.sqrt(mean)


def test_positives_give_users_alike_and_their_items_alike() -> None:
    torch.manual_seed(0)
    draws = 60_000
    user_B, item_B = sampler().positives(draws)
    drawn = torch.zeros(NUM_USERS, NUM_ITEMS)
    drawn.index_put_((user_B, item_B), torch.ones(draws), accumulate=True)
    for user, taken in enumerate(SEEN[:5]):
        mean = draws / 5 / len(taken)
        assert (drawn[user, taken] - mean).abs().max() < 4 * math.sqrt(mean)
        assert drawn[user].sum() == drawn[user, taken].sum()
    assert drawn[5].sum() == 0


def test_the_loss_of_a_sample_is_the_mean_over_its_negatives() -> None:
    got = bpr_losses(torch.tensor([1.0, 0.0]), torch.tensor([[0.0, 3.0], [0.0, 0.0]]))
    first = (math.log1p(math.exp(-1.0)) + math.log1p(math.exp(2.0))) / 2
    torch.testing.assert_close(got, torch.tensor([first, math.log(2)]))


@pytest.mark.parametrize("tile", [1, 6, 2**22])
def test_the_hardest_is_the_candidate_of_the_highest_score(tile: int, monkeypatch) -> None:
    monkeypatch.setattr("recemb.models.bpr.TILE_ELEMENTS", tile)  # one sample, two or all at a time
    # Scores with (1, 0) are first elements, with (0, 1) second ones.
    x_SD = torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, -1.0], [2.0, 5.0], [-4.0, 0.5]])
    user_B = torch.tensor([0, 1, 0])
    candidate_BK = torch.tensor([[3, 2, 4], [2, 4, 4], [4, 4, 4]])
    got = hardest(x_SD, user_B, candidate_BK)
    assert got.tolist() == [[2], [4], [4]]


def test_a_user_with_all_items_is_refused() -> None:
    seen = Attribute("user", "item", True, torch.tensor([0, 1]), torch.tensor([0, 2]))
    with pytest.raises(RecembError, match="a user has taken all 2 items, so there is none"):
        PairSampler(seen, 2)


def test_scores_that_are_no_numbers_are_refused() -> None:
    model = build("mf").eval()
    vectors, _ = rows(model)
    vectors[1] = float("nan")
    model.embeddings.rows.assign("user", vectors)
    # Of no training: that is what a trainer tells by its state.
    model._trainer = SimpleNamespace(state=SimpleNamespace(fn=None))
    model.on_predict_epoch_start()
    assert model.predict_step(batch([(0, 1), (2, 3)]))["score"].isfinite().all()
    with pytest.raises(RecembError, match=r"^1 of 3 predictions of the batch are not finite num"):
        model.predict_step(batch([(0, 1), (1, 3), (2, 3)]))
