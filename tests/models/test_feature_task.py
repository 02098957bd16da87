"""What models of features share: attributes are looked up, every feature has one vector."""

import pytest
import torch

from recemb.errors import RecembError
from recemb.features import FeatureConfig
from recemb.jagged import Jagged
from recemb.models.feature_task import FeatureTask, common_dim
from recemb.schema import Column, Schema
from tests.models import example


def ids() -> dict[str, torch.Tensor | Jagged]:
    flat = torch.tensor([one for bag in example.TAGS for one in bag])
    return {
        "tags": Jagged(flat, torch.tensor([len(bag) for bag in example.TAGS])),
        "user": torch.tensor(example.USER),
        "item": torch.tensor(example.ITEM),
    }


@pytest.mark.parametrize("settings", [example.equal_dims(4), example.different_dims()])
def test_vectors_are_pooled_rows_in_the_order_of_the_features(settings: dict) -> None:
    model = FeatureTask(example.schema(), **settings)
    found = model.vectors(ids())
    for place, wanted in enumerate(zip(*example.vectors(model), strict=True)):
        torch.testing.assert_close(found[place], torch.stack(wanted))


def test_attributes_that_are_no_features_are_not_looked_up() -> None:
    features = {name: FeatureConfig(table=name) for name in ("item", "genres")}
    model = FeatureTask(example.schema(), example.tables(item=4, genres=2), features)
    described = model.described({"item": torch.tensor([2, 1])})
    assert list(described) == ["item", "genres"]
    assert described["genres"].values.tolist() == [1, 2, 0]
    assert described["genres"].lengths.tolist() == [3, 0]
    assert model.columns == ["item"]
    assert [one.shape[1] for one in model.vectors(ids())] == [4, 2]


def test_bags_must_be_pooled() -> None:
    features = {"tags": FeatureConfig(table="tags", pooling="none")}
    with pytest.raises(RecembError, match=r"^feature 'tags': its bags must be pooled .* 'none'"):
        FeatureTask(example.schema(), example.tables(tags=4), features)


@pytest.mark.parametrize("readers", [[], ["item", "last"]])
def test_an_attribute_needs_one_owner(readers: list[str]) -> None:
    schema = example.schema()
    twice = Schema(
        columns={**schema.columns, "last": Column(is_list=False, vocabulary="item")},
        vocabularies=schema.vocabularies,
        attributes=schema.attributes,
    )
    features = {"year": FeatureConfig(table="year")}
    features |= {name: FeatureConfig(table="item") for name in readers}
    tables = example.tables(year=4, **({"item": 4} if readers else {}))
    with pytest.raises(RecembError, match=r"^feature 'year': its owner 'item' must be exactly one"):
        FeatureTask(twice, tables, features)


def test_the_first_feature_of_another_width_is_named() -> None:
    assert common_dim("M", {"a": 8, "b": 8}) == 8
    with pytest.raises(RecembError) as caught:
        common_dim("M", {"a": 8, "b": 8, "c": 4, "d": 2})
    assert str(caught.value) == (
        "M: the vectors of all features must be equally wide, got 4 for feature 'c' and 8 for 'a'; "
        "give their tables one dim (times lookups)"
    )
