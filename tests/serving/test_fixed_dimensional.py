"""Encodings of several interests, by plain loops, and how near they come to the best interest."""

import pytest
import torch

from recemb.errors import RecembError
from recemb.jagged import Jagged
from recemb.serving.fixed_dimensional import FixedDimensionalEncoding


def signs(encoding: FixedDimensionalEncoding, cut: int, x: torch.Tensor) -> list[bool]:
    return [bool(x @ direction > 0) for direction in encoding.directions_RDb[cut].T]


def test_products_are_those_with_the_interests_of_the_items_cell() -> None:
    torch.manual_seed(0)
    encoding = FixedDimensionalEncoding(5, num_bits=2, num_cuts=3)
    item_VD, lengths = torch.randn(20, 5), [1, 4, 2]
    interest_ND = torch.randn(7, 5)
    got_UV = encoding.users(Jagged(interest_ND, torch.tensor(lengths))) @ encoding.items(item_VD).T
    assert encoding.dim == encoding.items(item_VD).shape[1] == 3 * 4 * 5
    wanted_UV = torch.zeros(3, 20)
    for user, own in enumerate(interest_ND.split(lengths)):
        for number, item in enumerate(item_VD):
            for cut in range(3):
                cell = signs(encoding, cut, item)
                far = [
                    sum(a != b for a, b in zip(cell, signs(encoding, cut, one), strict=True))
                    for one in own
                ]
                inside = [one for one, count in zip(own, far, strict=True) if count == 0]
                chosen = torch.stack(inside).mean(0) if inside else own[far.index(min(far))]
                wanted_UV[user, number] += chosen @ item / 3
    torch.testing.assert_close(got_UV, wanted_UV)


def test_they_find_what_a_mean_of_interests_does_not() -> None:
    torch.manual_seed(0)
    item_VD = torch.nn.functional.normalize(torch.randn(3000, 16), dim=1)
    interest_ND = item_VD[torch.randint(3000, (300,))]
    interests = Jagged(interest_ND, torch.full((100,), 3))
    best_UV = (interest_ND @ item_VD.T).view(100, 3, -1).amax(1)
    wanted_UK = best_UV.topk(10).indices

    def found(score_UV: torch.Tensor) -> float:
        got_UK = score_UV.topk(10).indices
        return float((got_UK.unsqueeze(2) == wanted_UK.unsqueeze(1)).any(2).float().mean())

    encoding = FixedDimensionalEncoding(16, num_bits=4, num_cuts=8)
    encoded = found(encoding.users(interests) @ encoding.items(item_VD).T)
    mean = found(interest_ND.view(100, 3, -1).mean(1) @ item_VD.T)
    assert encoded > 1.5 * mean
    assert encoded > 0.5


def test_a_user_without_interests_is_refused() -> None:
    encoding = FixedDimensionalEncoding(2)
    with pytest.raises(RecembError, match=r"^encoding: user at place 1 must have an interest"):
        encoding.users(Jagged(torch.ones(1, 2), torch.tensor([1, 0])))
    with pytest.raises(RecembError, match=r"^encoding: num_bits must be at least 0, got -1"):
        FixedDimensionalEncoding(2, num_bits=-1)
