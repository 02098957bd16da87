"""An index of items: what each form finds, filters, and what is written."""

import random
from pathlib import Path

import pytest
import torch

from recemb.errors import RecembError
from recemb.serving.item_index import IndexSettings, ItemIndex

pytest.importorskip("faiss")
SETTINGS = {
    "flat": IndexSettings(exact_below=0.0),
    "ivf_pq": IndexSettings(
        kind="ivf_pq", num_lists=16, num_parts=8, num_probes=16, exact_below=0.0
    ),
    "hnsw": IndexSettings(kind="hnsw", search_width=200, exact_below=0.0),
}


def vectors() -> torch.Tensor:
    return torch.randn(1000, 16, generator=torch.Generator().manual_seed(2))


def truth(query_BD: torch.Tensor, count: int, allowed_V: torch.Tensor | None) -> torch.Tensor:
    scores_BV = query_BD @ vectors().T
    if allowed_V is not None:
        scores_BV[:, ~allowed_V] = -torch.inf
    return scores_BV.argsort(1, descending=True)[:, :count]


@pytest.mark.parametrize("share", [None, 0.3])
@pytest.mark.parametrize("kind", SETTINGS)
def test_each_form_finds_most_and_nothing_that_is_filtered_out(
    kind: str, share: float | None
) -> None:
    index = ItemIndex.build(vectors(), SETTINGS[kind])
    query_BD = torch.randn(50, 16, generator=torch.Generator().manual_seed(3))
    allowed_V = None if share is None else torch.arange(1000) % 10 < 10 * share
    items, scores = index.search(query_BD, 10, allowed_V)
    wanted = truth(query_BD, 10, allowed_V)
    share_found = (wanted.unsqueeze(2) == items.unsqueeze(1)).any(2).float().mean()
    assert share_found >= {"flat": 1.0, "hnsw": 0.9, "ivf_pq": 0.4}[kind]
    assert (scores[:, :-1] >= scores[:, 1:]).all()
    if allowed_V is not None:
        assert allowed_V[items[items >= 0]].all()
    if kind != "ivf_pq":
        torch.testing.assert_close(scores, (query_BD.unsqueeze(1) * vectors()[items]).sum(2))


def test_few_items_are_scored_one_by_one() -> None:
    settings = IndexSettings(kind="ivf_pq", num_lists=16, num_parts=8, num_probes=1)
    index = ItemIndex.build(vectors(), settings)
    query_BD = torch.randn(20, 16, generator=torch.Generator().manual_seed(3))
    allowed_V = torch.arange(1000) % 50 == 0
    items, scores = index.search(query_BD, 30, allowed_V)
    assert torch.equal(items[:, :20], truth(query_BD, 20, allowed_V))
    assert (items[:, 20:] == -1).all()
    assert (scores[:, 20:] == -torch.inf).all()
    (own,) = index.recall(query_BD, 10, [0.02])
    assert own["recall"] == 1.0
    assert own["index_recall"] < 0.9
    (whole,) = ItemIndex.build(vectors(), SETTINGS["flat"]).recall(query_BD, 10, [1.0])
    assert whole == {"selectivity": 1.0, "recall": 1.0, "index_recall": 1.0}


@pytest.mark.parametrize("kind", SETTINGS)
def test_what_is_read_finds_what_was_written(kind: str, tmp_path: Path) -> None:
    index = ItemIndex.build(vectors(), SETTINGS[kind])
    index.save(tmp_path / "index")
    query_BD = torch.randn(20, 16, generator=torch.Generator().manual_seed(3))
    again = ItemIndex.load(tmp_path / "index")
    for got, wanted in zip(again.search(query_BD, 5), index.search(query_BD, 5), strict=True):
        torch.testing.assert_close(got, wanted)
    assert again.settings == index.settings
    assert (tmp_path / "index/index.faiss").stat().st_size == index.num_bytes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "hnsw", "num_links": 0}, r"^index: num_links must be at least 1, got 0"),
        ({"kind": "ivf_pq", "num_parts": 5}, r"^index: num_parts must divide the width of vec"),
        ({"kind": "ivf_pq", "num_lists": 2000}, r"^index: ivf_pq needs as many items as lists"),
        ({"exact_below": 2.0}, r"^index: exact_below must be in 0..1, got 2.0"),
    ],
)
def test_bad_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(RecembError, match=message):
        ItemIndex.build(vectors(), IndexSettings(**settings))


def test_vectors_of_a_broken_model_are_refused() -> None:
    with pytest.raises(RecembError, match=r"^index: vectors must be finite"):
        ItemIndex.build(vectors() * torch.nan, IndexSettings())
    with pytest.raises(RecembError, match=r"there is no index; write one with recemb index"):
        ItemIndex.load(Path("nowhere"))


@pytest.mark.parametrize("kind", SETTINGS)
def test_any_damage_of_a_folder_is_refused_in_a_line(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    ItemIndex.build(vectors(), SETTINGS[kind]).save(folder)
    files = sorted(path for path in folder.iterdir())
    assert len(files) >= 4
    source = random.Random(kind)
    for path in files:
        whole = path.read_bytes()
        places = [0, len(whole) - 1, *(source.randrange(len(whole)) for _ in range(4))]
        damaged = [flipped(whole, place, source.randrange(8)) for place in places]
        damaged += [whole[: len(whole) // 2], whole[:-1], whole + b"\0", b"", b"text\n"]
        for content in damaged:
            path.write_bytes(content)
            with pytest.raises(RecembError, match="index") as refused:
                ItemIndex.load(folder)
            assert "\n" not in str(refused.value)
        path.unlink()
        with pytest.raises(RecembError, match=r"missing|there is no index"):
            ItemIndex.load(folder)
        path.write_bytes(whole)
    assert torch.equal(torch.from_numpy(ItemIndex.load(folder).vectors_VD), vectors())


def flipped(content: bytes, place: int, bit: int) -> bytes:
    """Return content with one bit changed."""
    return content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]
