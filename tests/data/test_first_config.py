"""First configurations: what columns are taken for, how a file is split, and what is refused."""

import datetime
from pathlib import Path

import polars as pl
import pytest
import yaml

from recemb.command_line.main import main
from recemb.data.first_look import look
from recemb.data.split_file import split

NUM_ROWS = 200


def clicks(**changed: list) -> pl.DataFrame:
    """Rows whose columns are each of one kind."""
    number = range(NUM_ROWS)
    columns = {
        "clicked": [n % 2 for n in number],
        "row": list(number),
        "user": [f"u{n % 20}" for n in number],
        "item": [100 + n % 10 for n in number],
        "price": [n / 4 for n in number],
        "seen": ["|".join(str(100 + k) for k in range(n % 4)) for n in number],
        "site": ["here"] * NUM_ROWS,
        "note": [None] * NUM_ROWS,
        "when": [f"2026-01-{1 + (7 * n) % 28:02d}" for n in number],
    }
    return pl.DataFrame({**columns, **changed})


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "values", "kind"),
    [
        ("zip", ["01234", "94110", "01234"], "id"),
        ("cost", ["1.5", "2", "1.5"], "number"),
        ("change", ["-1", "2", "2"], "number"),
        ("price", [199, 250, 250], "number"),
        ("shop", [199, 250, 250], "id"),
        ("flag", [True, False, True], "id"),
        ("tags", ["a;b", "b;a", "a;b", "a"], "list"),
        ("title", ["two words", "one more", "two words"], "id"),
        ("seen", ["1 2", "3", "3 1", "2"], "list"),
        ("bag", [[1, 2], [2], []], "list"),
        ("bag", [[0.5], [1.5], []], "out"),
        ("timestamp", [1_700_000_000, 1_700_000_009, 1_700_000_009], "time"),
        ("shop", [1_700_000_000, 1_700_000_009, 1_700_000_009], "id"),
        ("at", ["2026-01-02 10:00", "2026-01-02 10:01", "2026-01-02 10:00"], "time"),
        ("at", [datetime.date(2026, 1, 2), datetime.date(2026, 1, 3)], "time"),
        ("cost", ["1.5", None, "2.5"], "out"),
        ("row", ["a", "b", "c"], "out"),
        ("site", ["a", "a", "a"], "out"),
        ("nothing", [None, None], "out"),
    ],
)
def test_what_a_column_is_taken_for(name, values, kind):
    assert look(name, pl.Series(name, values), from_text=True).kind == kind


def test_a_file_becomes_a_configuration_that_data_and_model_take(folder, capsys):
    clicks().write_csv("clicks.csv")
    assert main(["init", "clicks.csv", "--label", "clicked"]) == 0
    said = capsys.readouterr().out
    assert said.endswith("python -m recemb fit --config clicks.yaml\n")
    text = Path("clicks.yaml").read_text()
    for line in ("#   row: every row has another value", "#   note: it is empty",
                 "#   site: all rows have 'here'", "#   when: it orders the rows"):  # fmt: skip
        assert line in text.splitlines()
    config = yaml.safe_load(text)
    assert config["model"]["class_path"] == "recemb.models.din.DIN"
    given = config["model"]["init_args"]
    assert given["history"] == {"item": "seen"}
    assert given["tables"] == {
        "user": {"kind": "full", "dim": 8},
        "item": {"kind": "full", "dim": 4},
    }
    data = config["data"]["init_args"]
    assert data["categorical"] == {"user": {"min_count": 2}, "item": {}}
    assert data["lists"] == {"seen": {"vocabulary": "item", "separator": "|"}}
    assert data["dense"] == {"price": {}}
    # By time: what is tested is not before what is trained on.
    parts = {s: pl.read_csv(f"clicks_split/{s}.csv") for s in ("train", "validation", "test")}
    assert {stage: len(part) for stage, part in parts.items()} == {
        "train": 160, "validation": 20, "test": 20,
    }  # fmt: skip
    assert parts["train"]["when"].max() <= parts["validation"]["when"].min()
    assert parts["validation"]["when"].max() <= parts["test"]["when"].min()
    assert sorted(pl.concat(parts.values())["row"]) == list(range(NUM_ROWS))


def test_rows_without_a_time_are_split_by_a_hash_of_their_numbers():
    rows = pl.DataFrame({"row": range(10_000)})
    parts = split(Path("rows.csv"), rows, None)
    assert sorted(pl.concat(parts.values())["row"]) == list(range(10_000))
    for stage, share in (("train", 0.8), ("validation", 0.1), ("test", 0.1)):
        # Four standard deviations of a binomial's share.
        assert len(parts[stage]) / 10_000 == pytest.approx(
            share, abs=4 * (share * (1 - share) / 10_000) ** 0.5
        )


def test_names_that_are_no_names_of_features_and_lists_of_parquet(folder):
    rows = clicks().select("clicked", "item", **{
        "the user's:id": pl.col("user"), "the user's id": pl.col("user"),
        "tags": pl.Series([[f"t{n % 3}"] * (n % 2) for n in range(NUM_ROWS)]),
    })  # fmt: skip
    rows.write_parquet("rows.parquet")
    assert main(["init", "rows.parquet", "--label", "clicked", "--output", "new.yaml"]) == 0
    config = yaml.safe_load(Path("new.yaml").read_text())
    assert config["model"]["class_path"] == "recemb.models.deepfm.DeepFM"
    assert {table["dim"] for table in config["model"]["init_args"]["tables"].values()} == {8}
    named = config["data"]["init_args"]["categorical"]
    assert named["the_user_s_id"]["column"] == "the user's:id"
    assert named["the_user_s_id_"]["column"] == "the user's id"
    fit = ["fit", "--config", "new.yaml", "--trainer.max_epochs", "1", "--run", "run"]
    assert main(fit) == 0


@pytest.mark.parametrize(
    ("changed", "options", "said"),
    [
        ({}, ["--label", "bought"], "clicks.csv: column 'bought' is missing; the file has"),
        ({"clicked": [2] * NUM_ROWS}, ["--label", "clicked"],
         "clicks.csv: column 'clicked', line 2: a label must be 0 or 1, got 2"),
        ({"clicked": [1] * NUM_ROWS}, ["--label", "clicked"],
         "clicks.csv: column 'clicked': there must be rows of 0 and of 1, got 1 in all"),
        ({}, ["--label", "clicked", "--time", "user"],
         "clicks.csv: column 'user', line 2: a time must be ISO 8601; write it as"),
        ({}, ["--label", "clicked", "--time_format", "%d/%m/%Y"], "--time_format: it is of"),
        ({}, ["--label", "clicked", "--time", "then"], "clicks.csv: column 'then' is missing"),
        ({}, ["--label", "clicked", "--output", "clicks.csv"], "clicks.csv: it is there already"),
    ],
)  # fmt: skip
def test_mistakes_are_lines(changed, options, said, folder, capsys):
    clicks(**changed).write_csv("clicks.csv")
    assert main(["init", "clicks.csv", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"recemb init: {said}")
    assert not Path("clicks.yaml").exists()
    assert not Path("clicks_split").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "clicks.csv: the file is empty (0 bytes)"),
        ("clicked,user\n", "clicks.csv: the file has no rows"),
        ("clicked,user\n1,a\n0,b\n", "clicks.csv: a split needs at least 30 rows, got 2"),
        ("clicked,x\n" + "1,1.5\n0,2.5\n" * 20, "clicks.csv: no column seems to hold ids"),
    ],
)
def test_files_of_nothing_to_learn_from_are_lines(text, said, folder, capsys):
    Path("clicks.csv").write_text(text)
    assert main(["init", "clicks.csv", "--label", "clicked"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"recemb init: {said}")
