"""Attributes of ids against lists that were written by hand."""

import pytest
import torch

from recemb.attributes import AttributeLookup
from recemb.jagged import Jagged
from recemb.schema import Attribute

GENRES = [[5, 6], [], [7], [5, 5, 8]]
"""Genres of movies 0 to 3."""
YEARS = [40, 10, 30, 20]
"""The year of each movie."""


@pytest.fixture
def lookup() -> AttributeLookup:
    genres = Attribute(
        "movie", "genre", True, torch.tensor([5, 6, 7, 5, 5, 8]), torch.tensor([0, 2, 2, 3, 6])
    )
    years = Attribute("movie", "year", False, torch.tensor(YEARS), torch.arange(5))
    cities = Attribute("user", "city", False, torch.tensor([1, 2]), torch.arange(3))
    return AttributeLookup({"genres": genres, "year": years, "city": cities})


def test_a_list_gives_the_bag_of_each_owner(lookup: AttributeLookup) -> None:
    owners = [3, 1, 0, 0, 2]
    found = lookup("movie", torch.tensor(owners))["genres"]
    assert isinstance(found, Jagged)
    assert found.values.tolist() == [genre for owner in owners for genre in GENRES[owner]]
    assert found.lengths.tolist() == [3, 0, 2, 2, 1]


def test_a_single_value_gives_one_id_per_owner(lookup: AttributeLookup) -> None:
    found = lookup("movie", torch.tensor([2, 0, 2, 3]))["year"]
    assert isinstance(found, torch.Tensor)
    assert found.tolist() == [30, 40, 30, 20]


def test_no_owners_give_no_values(lookup: AttributeLookup) -> None:
    found = lookup("movie", torch.zeros(0, dtype=torch.int64))
    genres = found["genres"]
    assert isinstance(genres, Jagged)
    assert (genres.values.tolist(), genres.lengths.tolist()) == ([], [])


def test_owners_without_values_give_empty_bags(lookup: AttributeLookup) -> None:
    genres = lookup("movie", torch.tensor([1, 1]))["genres"]
    assert isinstance(genres, Jagged)
    assert (genres.values.tolist(), genres.lengths.tolist()) == ([], [0, 0])


def test_only_attributes_of_the_space_are_found(lookup: AttributeLookup) -> None:
    assert lookup.of_owner("movie") == ["genres", "year"]
    assert list(lookup("user", torch.tensor([1]))) == ["city"]
    assert lookup("shop", torch.tensor([1])) == {}


def test_the_state_dict_is_empty_for_the_schema_saves_them(lookup: AttributeLookup) -> None:
    assert lookup.state_dict() == {}
