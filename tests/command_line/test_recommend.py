"""The best items of users: of all items, by an index and under a condition."""

from pathlib import Path

import polars as pl
import pytest
import torch

from recemb.command_line import recommend
from recemb.command_line.id_files import Key, ids_of_words, read_table
from recemb.command_line.recommend import allowed_items, best
from recemb.errors import RecembError
from recemb.serving.item_index import ItemIndex
from tests.models.pairs import NUM_ITEMS, SEEN, build


def wanted(model: object, user: int, allowed: list[int]) -> list[int]:
    user_UD, item_VD = model.all_vectors()
    scores = (item_VD @ user_UD[user]).tolist()
    free = [item for item in allowed if item not in [*SEEN, []][user]]
    return sorted(free, key=lambda item: -scores[item])


@pytest.mark.parametrize("kind", ["mf", "lightgcn"])
def test_what_a_user_has_is_left_out(kind: str) -> None:
    model = build(kind).eval()
    items, scores = best(model, torch.arange(7), 4)
    for user in range(7):
        order = wanted(model, user, list(range(NUM_ITEMS)))[:4]
        found = scores[user] > -torch.inf
        assert items[user][found].tolist() == order


def test_a_condition_and_an_index_change_nothing_else(tmp_path: Path) -> None:
    model = build("lightgcn").eval()
    path = tmp_path / "items.parquet"
    key = Key(None, ["item"], "--key")
    columns = {"item": [10 * n for n in range(9)], "stock": [n % 3 for n in range(9)]}
    pl.DataFrame(columns).write_parquet(path)
    allowed_V = allowed_items(path, key, "stock > 0", model.schema.vocabularies["item"])
    assert allowed_V.nonzero().flatten().tolist() == [1, 2, 4, 5, 7]
    index = ItemIndex.exactly(model.all_vectors()[1])
    items, scores = best(model, torch.tensor([2, 1]), 3, allowed_V, index)
    for place, user in enumerate((2, 1)):
        order = wanted(model, user, [1, 2, 4, 5, 7])[:3]
        assert items[place][scores[place] > -torch.inf].tolist() == order
    with pytest.raises(RecembError, match=r"--where 'price > 0' cannot be asked of it"):
        allowed_items(path, key, "price > 0", model.schema.vocabularies["item"])
    with pytest.raises(RecembError, match=r"^recommend: the index has vectors \(3, 2\)"):
        best(model, torch.tensor([2]), 3, None, ItemIndex.exactly(torch.ones(3, 2)))


def test_users_are_as_in_the_data() -> None:
    vocabulary = build("mf").schema.vocabularies["user"]
    assert ids_of_words(["10", "777", "-3", "10"], vocabulary).to_list() == [10, 777, -3]
    for word in ("x", "1.0", "²", "+5", ""):
        with pytest.raises(RecembError, match=r"^recommend: users are integers in this model, got"):
            ids_of_words([word], vocabulary)
    with pytest.raises(RecembError, match=r"^recommend: users are below 2\^63, got 9{20}"):
        ids_of_words(["9" * 20], vocabulary)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["10", "x"], r"items.csv: column 'item', line 3: items are integers below 2\^63"),
        (["10.5", "20"], r"items.csv: column 'item', line 2: items are integers below 2\^63"),
        ([str(2**63)], r"items.csv: column 'item', line 2: items are integers below 2\^63"),
    ],
)
def test_items_that_are_no_integers_are_named_by_line(
    tmp_path: Path, values: list[str], message: str
) -> None:
    path = tmp_path / "items.csv"
    pl.DataFrame({"item": values, "stock": 1}).write_csv(path)
    vocabulary = build("mf").schema.vocabularies["item"]
    with pytest.raises(RecembError, match=message):
        allowed_items(path, Key(None, ["item"], "--key"), "stock > 0", vocabulary)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("item,note\n10,a\n\n20,b\nx,c\n", 5),  # an empty line
        ('item,note\n10,"a\nb\nc"\nx,d\n', 5),  # a cell of three lines
        ("\nitem\n10\n\n\nx\n", 6),
    ],
)
def test_lines_are_counted_as_an_editor_does(tmp_path: Path, text: str, line: int) -> None:
    path = tmp_path / "items.csv"
    path.write_text(text)
    vocabulary = build("mf").schema.vocabularies["item"]
    with pytest.raises(RecembError, match=rf"items.csv: column 'item', line {line}: items are int"):
        read_table(path, Key(None, ["item"], "--key"), vocabulary)


def test_many_users_are_scored_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("mf").eval()
    whole = best(model, torch.arange(7), 4)
    monkeypatch.setattr(recommend, "SCORES", 2 * NUM_ITEMS)  # two users at a time
    for one, other in zip(whole, best(model, torch.arange(7), 4), strict=True):
        torch.testing.assert_close(one, other)
