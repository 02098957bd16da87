"""Vectors in and out of tables, and in files."""

import numpy as np
import polars as pl
import pytest
import torch

from recemb import (
    EmbeddingCollection,
    Feature,
    Full,
    Hashed,
    RecembError,
    count_vocabulary,
    read_vectors,
)  # fmt: skip
from recemb.command_line.main import main
from recemb.vectors import write_vectors

GIVEN = np.arange(6, dtype=np.float32).reshape(3, 2)


def drinks(**options):
    known = count_vocabulary(["tea", "rum", "tea", "cidre é"])
    return EmbeddingCollection(
        {"drink": Full(dim=2, **options), "raw": Hashed(dim=2, num_rows=4)},
        {
            "drink": Feature(table="drink", vocabulary=known),
            "seen": Feature(table="raw", pooling="sum"),
        },
    )


def as_dict(frame):
    return dict(zip(frame["id"], frame["vector"].to_list(), strict=True))


@pytest.mark.parametrize("as_given", [np.asarray, torch.from_numpy])
def test_vectors_go_in_and_come_out_by_their_ids(as_given):
    made = drinks()
    before = as_dict(made.vectors("drink"))
    loaded = made.load_vectors("drink", ["rum", "milk", "tea"], as_given(GIVEN))
    assert loaded == (2, 1, ["milk"])
    wanted = {**before, "rum": [0, 1], "tea": [4, 5]}
    assert as_dict(made.vectors("drink")) == wanted
    assert made.vectors("drink")["vector"].to_numpy().shape == (3, 2)
    assert made.training


def test_numbers_are_ids_as_they_are():
    made = EmbeddingCollection({"t": Full(dim=2)}, {"a": Feature(table="t", num_ids=4)})
    assert made.load_vectors("t", [3, 4, 0], GIVEN) == (2, 1, [4])
    found = as_dict(made.vectors("a"))
    assert (found[3], found[0]) == ([0, 1], [4, 5])


@pytest.mark.parametrize(
    ("table", "ids", "vectors", "said"),
    [
        ("drink", ["rum"], GIVEN, r"must have the shape \(1, 2\), got \(3, 2\)"),
        ("drink", ["rum"], GIVEN[:1] * np.nan, "must be finite, got 'rum'"),
        ("drink", ["rum", "rum"], GIVEN[:2], "an id is given twice"),
        ("drink", [1], GIVEN[:1], "its ids are strings, got integers"),
        ("raw", [1], GIVEN[:1], "kind full without project, got kind hashed"),
        ("water", [1], GIVEN[:1], "there is no table 'water'"),
    ],
)
def test_what_does_not_fit_is_refused(table, ids, vectors, said):
    with pytest.raises(RecembError, match=said):
        drinks().load_vectors(table, ids, vectors)


def test_raw_ids_have_no_list_of_vectors():
    with pytest.raises(RecembError, match="which nobody has listed"):
        drinks().vectors("raw")


@pytest.mark.parametrize("end", [".parquet", ".npz", ".txt"])
def test_files_hold_what_was_written(tmp_path, end):
    vectors = np.random.default_rng(1).normal(size=(2, 3)).astype(np.float32)
    path = tmp_path / f"items{end}"
    write_vectors(path, pl.DataFrame({"id": ["thé", "7"], "vector": vectors}))
    ids, found = read_vectors(path)
    assert ids.to_list() == ["thé", "7"]
    assert np.array_equal(found.numpy(), vectors)


def test_vectors_of_several_widths_are_refused(tmp_path):
    path = tmp_path / "items.parquet"
    pl.DataFrame({"id": [1, 2], "vector": [[1.0, 2.0], [1.0]]}).write_parquet(path)
    with pytest.raises(RecembError, match="vectors have the widths"):
        read_vectors(path)
    pl.DataFrame({"id": [1, 2], "vector": [[1.0, 2.0], [1.0, 0.5]]}).write_parquet(path)
    assert read_vectors(path)[1].tolist() == [[1, 2], [1, 0.5]]
    with pytest.raises(RecembError, match=r"must end in \.parquet"):
        read_vectors(tmp_path / "items.csv")


def test_text_of_word2vec(tmp_path):
    path = tmp_path / "items.txt"
    path.write_text("2 3\nthé 1 -2.5 3e-1 \nnew york 0 0 1\n", encoding="utf-8")
    ids, found = read_vectors(path)
    assert ids.to_list() == ["thé", "new york"]
    assert found.tolist() == [[1, -2.5, pytest.approx(0.3)], [0, 0, 1]]
    for text, said in (
        ("thé 1 2\n", "line 1 must be the numbers"),
        ("3 1\na 1\n", "line 1 says 3 words, got 1"),
        ("2 2\na 1 2\nb 1\n", "line 3 must be a word and 2 numbers"),
        ("1 2\na 1 x\n", "line 2 must be a word and 2 numbers"),
    ):
        path.write_text(text)
        with pytest.raises(RecembError, match=said):
            read_vectors(path)


def test_the_command_writes_the_vectors_of_a_checkpoint(trained, tmp_path, capsys):
    checkpoint, output = str(trained / "checkpoints/best.ckpt"), tmp_path / "items.parquet"
    assert main(["vectors", checkpoint, "--table", "item", "--output", str(output)]) == 0
    ids, vectors = read_vectors(output)
    assert len(ids) == len(vectors) > 0
    assert f"{len(ids):,} vectors of item" in capsys.readouterr().out
    assert main(["vectors", checkpoint, "--table", "no", "--output", str(output)]) == 2
    assert main(["vectors", checkpoint, "--table", "item", "--output", "items.csv"]) == 2
