"""Criteo: logarithms of numbers, missing categories, from every form of the raw file."""

import math
import os
from pathlib import Path

import polars as pl
import pytest
import xxhash

from recemb.data.criteo import Criteo, prepare
from recemb.data.files import data_root
from recemb.errors import RecembError

STAGES = ("train", "validation", "test")
NAMES = ["label", *(f"I{i}" for i in range(1, 14)), *(f"C{i}" for i in range(1, 27))]


def raw_lines(count: int) -> list[str]:
    """Return lines as Kaggle's ``train.txt`` has them; some cells are empty."""
    lines = []
    for row in range(count):
        numbers = ["" if (row + i) % 5 == 0 else str((row * i) % 90 - 3 * (i == 2)) for i in
                   range(1, 14)]  # fmt: skip
        words = ["" if (row + i) % 4 == 0 else f"{(row * i) % 11:08x}" for i in range(1, 27)]
        lines.append("\t".join([str(row % 3 % 2), *numbers, *words]))
    return lines


def wanted(line: str) -> dict[str, object]:
    """Return the row that a line becomes, by hand."""
    row: dict[str, object] = {}
    for name, cell in zip(NAMES, line.split("\t"), strict=True):
        if name == "label":
            row[name] = int(cell)
        elif name.startswith("C"):
            row[name] = cell or "missing"
        elif name == "I2":
            row[name] = math.log(int(cell or 0) + 4)
        else:
            row[name] = math.log(max(int(cell or 0), 0) + 1)
    return row


def parts(folder: Path) -> dict[str, list[dict[str, object]]]:
    return {stage: pl.read_parquet(folder / f"{stage}.parquet").to_dicts() for stage in STAGES}


def close(found: dict[str, object], expected: dict[str, object]) -> bool:
    return list(found) == list(expected) and all(
        found[name] == pytest.approx(one, abs=1e-5) if name.startswith("I") else found[name] == one
        for name, one in expected.items()
    )


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a raw file of 400 rows."""
    monkeypatch.setenv("RECEMB_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "train.txt"
    path.write_text("\n".join(raw_lines(400)) + "\n")
    return path


def test_rows_by_hand(source: Path, tmp_path: Path) -> None:
    found = parts(prepare(source, tmp_path / "cache"))
    for number, line in enumerate(raw_lines(400)):
        tenth = xxhash.xxh64_intdigest(str(number).encode()) % 10
        stage = STAGES[max(tenth - 7, 0)]
        assert close(found[stage].pop(0), wanted(line))
    assert found == {"train": [], "validation": [], "test": []}


def test_numbers_below_the_smallest_are_taken_for_it(tmp_path: Path) -> None:
    cells = ["1", *(["-9"] * 13), *(["a"] * 26)]
    source = tmp_path / "train.txt"
    source.write_text(("\t".join(cells) + "\n") * 30)
    row = parts(prepare(source, tmp_path / "cache"))["train"][0]
    assert {row[f"I{i}"] for i in range(1, 14)} == {0.0}


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".tsv"])
def test_every_form_of_the_file_gives_the_same(source: Path, tmp_path: Path, suffix: str) -> None:
    types = {name: pl.String if name.startswith("C") else pl.Int64 for name in NAMES}
    frame = pl.read_csv(source, separator="\t", has_header=False, schema=types)
    other = tmp_path / f"other{suffix}"
    if suffix == ".parquet":
        frame.write_parquet(other)
    else:
        frame.write_csv(other, separator="\t" if suffix == ".tsv" else ",")
    folders = [prepare(one, tmp_path / "cache") for one in (source, other)]
    assert folders[0] != folders[1]
    assert parts(folders[0]) == parts(folders[1])


def test_a_file_is_prepared_once_until_it_changes(source: Path, tmp_path: Path) -> None:
    first = prepare(source, tmp_path / "cache")
    stamp = (first / "train.parquet").stat().st_mtime_ns
    assert prepare(source, tmp_path / "cache") == first
    assert (first / "train.parquet").stat().st_mtime_ns == stamp
    source.write_text("\n".join(raw_lines(200)) + "\n")
    assert prepare(source, tmp_path / "cache") != first


def test_the_module_reads_numbers_and_rare_categories(source: Path) -> None:
    data = Criteo(source=str(source), min_count=20, batch_size=1000)
    data.setup("fit")
    assert list(data.schema.columns) == NAMES[14:]
    assert list(data.schema.dense) == NAMES[1:14]
    (batch,) = data.train_dataloader()
    lines = [line for number, line in enumerate(raw_lines(400))
             if xxhash.xxh64_intdigest(str(number).encode()) % 10 < 8]  # fmt: skip
    assert batch.label_B.shape == (len(lines),)
    counts: dict[object, int] = {}
    for line in lines:
        value = wanted(line)["C1"]
        counts[value] = counts.get(value, 0) + 1
    known = sum(count >= 20 for count in counts.values())
    assert 1 < known < len(counts)
    vocabulary = data.schema.vocabularies["C1"]
    assert vocabulary.num_known == known
    assert vocabulary.counts_V[0] == max(counts.values()) == counts["missing"]
    mean = sum(float(str(wanted(line)["I1"])) for line in lines) / len(lines)
    assert data.schema.dense["I1"].mean == pytest.approx(mean, abs=1e-5)


def test_a_missing_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECEMB_DATA", str(tmp_path))
    with pytest.raises(RecembError, match=r"/criteo/train\.txt: there is no such file"):
        Criteo().setup("fit")


def test_a_word_among_numbers_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "train.txt"
    lines = raw_lines(50)
    lines[40] = lines[40].replace(lines[40].split("\t")[3], "many", 1)
    source.write_text("\n".join(lines) + "\n")
    with pytest.raises(RecembError, match=r"/train\.txt: column 'I3', line 41: must be of"):
        prepare(source, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


# The real data.


@pytest.fixture(scope="module")
def real() -> Path:
    """Return the first 10,000 rows of Criteo."""
    if not os.environ.get("RECEMB_DATA"):
        pytest.skip("RECEMB_DATA is not set")
    source = data_root() / "criteo_10k" / "criteo_first10k.parquet"
    if not source.is_file():
        pytest.skip(f"{source} is not there")
    return source


def test_real_rows_are_all_there(real: Path) -> None:
    data = Criteo(source="criteo_10k/criteo_first10k.parquet")
    data.setup("fit")
    raw = pl.read_parquet(real)
    found = pl.concat(pl.read_parquet(data.folder / f"{stage}.parquet") for stage in STAGES)
    assert len(found) == len(raw) == 10_000
    assert found["label"].sum() == raw["label"].sum()
    assert found.null_count().sum_horizontal().item() == 0
    missing = {name: raw[name].null_count() for name in NAMES[14:]}
    assert {name: (found[name] == "missing").sum() for name in NAMES[14:]} == missing
    assert max(missing.values()) > 1000
    logs = [math.log(max(one or 0, -3) + 4) for one in raw["I2"]]
    assert found["I2"].sum() == pytest.approx(sum(logs), rel=1e-4)
