"""What Python gives embeddings is checked before anything is built or read: one line each."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch

from recemb import (
    Embeddings,
    FeatureConfig,
    Full,
    IdSpace,
    LocalRowsStore,
    ResolvedFeature,
    Unified,
)
from recemb.errors import RecembError
from recemb.jagged import Jagged
from recemb.rows.optimizers import SGD
from recemb.tables.hashed import Hashed

T = torch.tensor
ONE = {"a": Full(dim=4)}
TEN = IdSpace("s", 10)


def built(tables: Any, features: Any) -> Embeddings:
    return Embeddings(tables, features, lambda rows: LocalRowsStore(rows, SGD()))


def x(name: str = "x", space: Any = TEN, is_list: bool = False, **config: Any) -> Any:
    return ResolvedFeature(name, FeatureConfig(**{"table": "a", **config}), space, is_list)


@pytest.mark.parametrize(
    ("tables", "features", "message"),
    [
        (
            ONE,
            [x(), x("y", IdSpace("s", 20))],
            r"^feature 'y': id space 's' has 20 ids here and 10",
        ),
        (
            ONE,
            [x(), x("y", IdSpace("s", None))],
            r"^feature 'y': id space 's' has raw ids here and",
        ),
        (
            ONE,
            [x(), x("y", IdSpace("s", 10, T([3, 2])))],
            r"^feature 'y': id space 's' has 10 ids, 2 of them counted here and 10 ids in f",
        ),
        (
            {**ONE, "b": Full(dim=4)},
            [x(), x("y", IdSpace("s", 9), table="b")],
            r"^feature 'y': id space 's' has 9 ids here and 10 ids in feature 'x'",
        ),
        (ONE, [x(), x()], r"^feature 'x' is given twice"),
        (ONE, [x(table="z")], r"^feature 'x' reads table 'z', which is not in tables \['a'\]"),
        ({**ONE, "b": Full(dim=4)}, [x()], r"^table 'b' is read by no feature"),
        (
            ONE,
            [x(lookups=3)],
            r"^feature 'x': lookups=3 needs a table of kind unified, got .* full",
        ),
        (ONE, [x(lookups=0)], r"^feature 'x': lookups must be at least 1, got 0$"),
        (
            {"a": Unified(dim=4, num_rows=9)},
            [x(lookups=2.0)],
            r"^feature 'x': lookups must be a whole number, got 2.0$",
        ),
        (ONE, [x(pooling="avg")], r"^feature 'x': pooling must be .*, got 'avg'$"),
        (ONE, [], r"^features: there must be at least one, got none$"),
        (ONE, ["x"], r"^features: each must be a ResolvedFeature, got 'x'$"),
        (ONE, [x(space="s")], r"^feature 'x': it must have an IdSpace, got 's'$"),
        (ONE, [x(space=IdSpace("s", 0))], r"^feature 'x': id space 's' must have at least 1 id"),
        (ONE, [x(space=IdSpace("s", -5))], r"^feature 'x': .* at least 1 id .*, got -5$"),
        (ONE, [x(space=IdSpace("s", 2, T([3, 2, 1])))], r"^feature 'x': .* counts of 3 ids, but 2"),
        ({"a": "full"}, [x()], r"^table 'a': it must be a table configuration .*, got 'full'$"),
        ({"a": Full(dim=0)}, [x()], r"^table 'a': dim must be at least 1, got 0$"),
        ({"a": Full(dim=4.0)}, [x()], r"^table 'a': dim must be a whole number, got 4.0$"),  # type: ignore[arg-type]
        ({"a": Hashed(dim=4, num_rows="9")}, [x()], r"^table 'a': num_rows must be a whole numb"),  # type: ignore[arg-type]
        (
            {"a": Hashed(dim=4, budget="lots")},
            [x()],
            r"^table 'a': a budget must be .*, got 'lots'",
        ),
    ],
)
def test_what_cannot_be_built_is_refused(
    tables: Mapping[str, Any], features: Sequence[Any], message: str
) -> None:
    with pytest.raises(RecembError, match=message):
        built(tables, features)


GOOD = {"x": T([1, 4]), "l": Jagged(T([1, 6, 2]), T([2, 1]))}
WHOLE = "must be a tensor of whole numbers in one dimension"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": T([[1], [2]])}, rf"^feature 'x': ids {WHOLE}, .* with shape \(2, 1\)$"),
        ({"x": [1, 2]}, rf"^feature 'x': ids {WHOLE}, .* got a list$"),
        ({"x": T([1.0, 2.0])}, rf"^feature 'x': ids {WHOLE}, .* torch.float32"),
        ({"x": T([True])}, rf"^feature 'x': ids {WHOLE}, .* torch.bool"),
        ({"x": T([1, -1])}, r"^feature 'x': ids .* must be in 0\.\.9, got -1$"),
        ({"x": T([10])}, r"^feature 'x': ids .* must be in 0\.\.9, got 10$"),
        ({"x": GOOD["l"]}, rf"^feature 'x': ids {WHOLE}, .* got a Jagged$"),
        (
            {"x": torch.zeros(2, dtype=torch.int64, device="meta")},
            r"^feature 'x': ids must be on cpu",
        ),
        ({"l": T([1])}, r"^feature 'l': it has a bag of ids per sample, .* torch.int64 with shape"),
        ({"l": (T([1]), T([1]))}, r"^feature 'l': it has a bag .* got a tuple$"),
        ({"l": Jagged(T([1, 2]), T([1]))}, r"^feature 'l': .* as their sizes say, 1, got 2$"),
        ({"l": Jagged(T([1, 2]), T([3, -1]))}, r"^feature 'l': sizes .* at least 0, got -1$"),
        ({"l": Jagged(T([1]), T([1.0]))}, rf"^feature 'l': sizes of its bags {WHOLE}"),
        ({"z": T([1])}, r"^feature 'z': there is none, but ids of it"),
    ],
)
def test_ids_of_another_form_are_refused(change: dict[str, Any], message: str) -> None:
    module = built(ONE, [x(), x("l", IdSpace("l", 7), is_list=True, pooling="sum")])
    with pytest.raises(RecembError, match=message):
        module({**GOOD, **change})


def test_whole_numbers_of_every_width_are_ids() -> None:
    module = built(ONE, [x()])
    rows = module.rows.tables()["a"]
    for dtype in (torch.int32, torch.int16, torch.int8, torch.uint8):
        assert torch.equal(module({"x": T([3, 9], dtype=dtype)})["x"], rows[[3, 9]])  # type: ignore[arg-type]


def test_a_batch_of_no_samples_is_one() -> None:
    module = built(ONE, [x(), x("y", IdSpace("t", 3))])
    nothing = torch.zeros(0, dtype=torch.int64)
    got = module({"x": nothing, "y": nothing})
    assert [tuple(one.shape) for one in got.values()] == [(0, 4), (0, 4)]  # type: ignore[union-attr]
