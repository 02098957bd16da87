"""Whatever leaves the system names users and items as the user's files did."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import xxhash
import yaml

from recemb.command_line.main import main
from recemb.errors import RecembError
from recemb.rebuild import rebuild
from recemb.serving.vocabulary_file import read_vocabulary

CUSTOMERS = [f"{n:05d}" if n % 2 else f"ü{n}" for n in range(30)]
PRODUCTS = [f"p|{n}" for n in range(19)] + ["7", "007"]


def raw(name: str) -> int:
    """The published hash, without the project's own code."""
    return int.from_bytes(xxhash.xxh64(name.encode()).digest(), "big", signed=True)


def config(folder: Path, **more: object) -> Path:
    names = ("user", "item")
    section = {
        "model": {
            "class_path": "recemb.models.mf_bpr.MatrixFactorizationBPR",
            "init_args": {
                "tables": {name: {"kind": "full", "dim": 4, "init_scale": 1.0} for name in names},
                "features": {name: {"table": name} for name in names},
                "rows_optimizer": {"kind": "adam", "learning_rate": 0.02},
            },
        },
        "data": {
            "class_path": "recemb.data.interactions.Interactions",
            "init_args": {
                "source": str(folder / "orders.csv"),
                "user": "customer",
                "item": "product",
                **more,
            },
        },
        "trainer": {"max_epochs": 1, "enable_progress_bar": False, "logger": False},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(section, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with orders of strings, and a run on them."""
    folder = tmp_path_factory.mktemp("shop")
    draw = np.random.RandomState(0)
    pairs = [(c, PRODUCTS[p]) for c in CUSTOMERS for p in draw.permutation(len(PRODUCTS))[:8]]
    pl.DataFrame(pairs, schema=["customer", "product"], orient="row").write_csv(
        folder / "orders.csv"
    )
    assert main(["fit", "--config", str(config(folder)), "--run", str(folder / "run")]) == 0
    return folder


def checkpoint(shop: Path) -> str:
    return str(shop / "run/checkpoints/best.ckpt")


def recommend(shop: Path, run: Path, *options: object) -> pl.DataFrame:
    words = ["recommend", checkpoint(shop), *map(str, options), "--run", str(run)]
    assert main(words) == 0
    return pl.read_parquet(run / "recommendations.parquet")


def wanted(shop: Path, customer: str) -> list[str]:
    """The products that training has not of a customer, by the product of vectors."""
    model, schema = rebuild(Path(checkpoint(shop)))
    user_UD, item_VD = (one.detach() for one in model.all_vectors())
    user = schema.vocabularies["user"].lookup(torch.tensor([raw(customer)]))[0]
    index = {
        name: int(schema.vocabularies["item"].lookup(torch.tensor([raw(name)]))[0])
        for name in PRODUCTS
    }
    bags = schema.attributes["seen"]
    had = bags.values_M[bags.offsets_V[user] : bags.offsets_V[user + 1]].tolist()
    scores = item_VD @ user_UD[user]
    free = [name for name in PRODUCTS if index[name] not in had]
    return sorted(free, key=lambda name: -float(scores[index[name]]))


def test_recommendations_name_users_and_items(shop: Path, tmp_path: Path, capsys) -> None:
    found = recommend(shop, tmp_path / "r", "--users", "00007", "nobody", "ü2", "--count", 3)
    for customer in ("00007", "ü2"):
        own = found.filter(pl.col("user") == customer)
        assert own["item"].to_list() == wanted(shop, customer)[:3]
        assert own["rank"].to_list() == [1, 2, 3]
        assert own["known"].all()
    assert found.filter(pl.col("user") == "nobody")["known"].to_list() == [False] * 3
    assert found["user"].unique(maintain_order=True).to_list() == ["00007", "nobody", "ü2"]
    assert "\nnobody (unknown): " in capsys.readouterr().out
    results = json.loads((tmp_path / "r/results.json").read_text())
    assert (results["queries"], results["unknown_queries"]) == (3, 1)


def test_all_users_are_those_of_the_file(shop: Path, tmp_path: Path) -> None:
    found = recommend(shop, tmp_path / "r", "--users", "all", "--count", 100)
    assert set(found["user"]) == set(CUSTOMERS)
    assert found.filter(pl.col("user") == "00001")["item"].to_list() == wanted(shop, "00001")


@pytest.mark.parametrize("name", ["users.csv", "users.tsv", "users.parquet"])
@pytest.mark.parametrize("column", ["user", "customer", "who"])
def test_users_come_from_a_file(shop: Path, tmp_path: Path, name: str, column: str) -> None:
    frame = pl.DataFrame({"first": [1, 2, 3], column: ["00007", "00009", "00007"]})
    path = tmp_path / name
    if name.endswith("parquet"):
        frame.write_parquet(path)
    else:
        frame.write_csv(path, separator="\t" if name.endswith("tsv") else ",")
    key = ["--query-key", "who"] if column == "who" else []
    found = recommend(shop, tmp_path / "r", "--users-file", path, *key, "--count", 2)
    assert found["user"].to_list() == ["00007"] * 2 + ["00009"] * 2
    assert found["item"].to_list() == wanted(shop, "00007")[:2] + wanted(shop, "00009")[:2]


@pytest.mark.parametrize("name", ["items.csv", "items.parquet"])
def test_a_condition_reads_parquet_and_csv(shop: Path, tmp_path: Path, name: str) -> None:
    stock = pl.DataFrame({"product": PRODUCTS, "stock": [n / 2 for n in range(len(PRODUCTS))]})
    path = tmp_path / name
    (stock.write_csv if name.endswith("csv") else stock.write_parquet)(path)
    options = ["--items", path, "--where", "stock > 9.2", "--count", 2]
    found = recommend(shop, tmp_path / "r", "--users", "ü2", *options)
    # From 9.5 on: p 19 and 20, of which 007 is not 7.
    free = [item for item in wanted(shop, "ü2") if item in ("7", "007")]
    assert found["item"].to_list() == free


MISTAKES = {
    "column": ("a,b\n1,2\n", "column 'customer' is missing; the file has ['a', 'b']; name its"),
    "ragged": ("user,b\nx,2,3,4\ny\n", "not a readable CSV file"),
    "empty": ("user,b\n", "there are no ids to ask for"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_wrong_file_is_one_line(shop: Path, tmp_path: Path, case: str, capsys) -> None:
    text, message = MISTAKES[case]
    (tmp_path / "users.csv").write_text(text)
    options = ["--users_file", str(tmp_path / "users.csv"), "--run", str(tmp_path / "r")]
    assert main(["recommend", checkpoint(shop), *options]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_predictions_name_pairs_as_the_orders_do(shop: Path, tmp_path: Path) -> None:
    options = ["--config", str(shop / "config.yaml"), "--ckpt_path", checkpoint(shop)]
    assert main(["predict", *options, "--run", str(tmp_path / "p"), "--keep", "label"]) == 0
    found = pl.read_parquet(tmp_path / "p/predictions.parquet")
    assert found.columns == ["customer", "product", "label", "score"]
    orders = pl.read_csv(shop / "orders.csv", infer_schema=False)
    assert len(found.join(orders, on=["customer", "product"])) == len(found) > 0
    model, schema = rebuild(Path(checkpoint(shop)))
    user_UD, item_VD = (one.detach() for one in model.all_vectors())
    customer, product, _, score = found.row(0)
    user = schema.vocabularies["user"].lookup(torch.tensor([raw(customer)]))
    item = schema.vocabularies["item"].lookup(torch.tensor([raw(product)]))
    assert score == pytest.approx(float((user_UD[user] * item_VD[item]).sum()), rel=1e-5)


def test_an_index_names_its_vectors_and_knows_its_checkpoint(
    shop: Path, tmp_path: Path, capsys
) -> None:
    pytest.importorskip("faiss")
    output = tmp_path / "index"
    words = ["index", checkpoint(shop), "--output", str(output), "--run", str(tmp_path / "i")]
    assert main(words) == 0
    names = pl.read_parquet(output / "ids.parquet")["item"].to_list()
    vectors = np.load(output / "vectors.npy")
    model, schema = rebuild(Path(checkpoint(shop)))
    assert sorted(names) == sorted(PRODUCTS)
    index_V = schema.vocabularies["item"].lookup(torch.tensor([raw(name) for name in names]))
    np.testing.assert_array_equal(vectors, model.all_vectors()[1][index_V].detach())
    found = recommend(shop, tmp_path / "r", "--users", "ü2", "--index", output, "--count", 3)
    assert found["item"].to_list() == wanted(shop, "ü2")[:3]
    # The same content elsewhere is the same checkpoint; a compressed one is another.
    shutil.copy(checkpoint(shop), tmp_path / "copy.ckpt")
    asked = ["--users", "ü2", "--index", str(output), "--run"]
    assert main(["recommend", str(tmp_path / "copy.ckpt"), *asked, str(tmp_path / "r2")]) == 0
    smaller = ["--method", "fp16", "--run", str(tmp_path / "c")]
    assert main(["compress", checkpoint(shop), *smaller]) == 0
    other = json.loads((tmp_path / "c/results.json").read_text())["checkpoint"]
    capsys.readouterr()
    assert main(["recommend", other, *asked, str(tmp_path / "r3")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"recemb recommend: {output}: the index is not of {other}, but of")
    assert said.count("\n") == 1


def test_a_vocabulary_lies_beside_a_program(shop: Path, tmp_path: Path, capsys) -> None:
    for name in ("first", "again", "other"):
        output = tmp_path / ("other.pt" if name == "other" else "model.pt")
        words = ["export", checkpoint(shop), "--output", str(output)]
        assert main([*words, "--run", str(tmp_path / name)]) == 0
    # Beside another program, whose vocabulary it may be, none is replaced.
    assert (tmp_path / "other.vocabulary.parquet").exists()
    found = read_vocabulary(tmp_path / "model.pt")
    assert found.equals(pl.read_parquet(tmp_path / "vocabulary.parquet"))
    assert found.columns == ["id_space", "value", "raw", "index"]
    items = found.filter(pl.col("id_space") == "item")
    assert sorted(items["value"]) == sorted(PRODUCTS)
    assert items["index"].to_list() == list(range(len(PRODUCTS)))
    assert items["raw"].to_list() == [raw(name) for name in items["value"]]
    named = dict(items.select("raw", "value").iter_rows())
    program = torch.jit.load(tmp_path / "model.pt")
    answers, scores, _ = program({"user": torch.tensor([raw("ü2")])})
    told = [named[one] for one in answers[0][scores[0] > -torch.inf].tolist()]
    assert told == wanted(shop, "ü2")
    for name in ("vocabulary.parquet", "other.vocabulary.parquet"):
        content = (tmp_path / name).read_bytes()
        line = f"{xxhash.xxh3_128_hexdigest(content)}  {name}\n"
        assert (tmp_path / f"{name}.checksum").read_text() == line
    # A flipped bit is refused, and so is a vocabulary that is not there.
    path, program = tmp_path / "vocabulary.parquet", str(tmp_path / "model.pt")
    assert main(["show", program]) == 0
    assert f"{path}: its content is what was written" in capsys.readouterr().out
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(RecembError, match=r"vocabulary.parquet: damaged, its content is not what"):
        read_vocabulary(Path(program))
    assert main(["show", program]) == 2
    assert f"{path}: damaged" in capsys.readouterr().err
    path.unlink()
    with pytest.raises(RecembError, match=r"vocabulary.parquet: the file is missing; export"):
        read_vocabulary(Path(program))


def test_strings_that_are_left_out_are_said_to_be(shop: Path, tmp_path: Path, capsys) -> None:
    shutil.copy(shop / "orders.csv", tmp_path / "orders.csv")
    path = config(tmp_path, keep_strings=False)
    assert main(["fit", "--config", str(path), "--run", str(tmp_path / "run")]) == 0
    asked = ["--users", "ü2", "nobody", "--run", str(tmp_path / "r")]
    capsys.readouterr()
    assert main(["recommend", str(tmp_path / "run/checkpoints/best.ckpt"), *asked]) == 0
    assert "items are named by their hashes, because their strings" in capsys.readouterr().out
    found = pl.read_parquet(tmp_path / "r/recommendations.parquet")
    # Users are as they were asked for.
    assert found["user"].unique(maintain_order=True).to_list() == ["ü2", "nobody"]
    assert set(found["item"]) <= {raw(name) for name in PRODUCTS}
    words = ["export", str(tmp_path / "run/checkpoints/best.ckpt"), "--run", str(tmp_path / "e")]
    assert main([*words, "--output", str(tmp_path / "m.pt")]) == 0
    beside = pl.read_parquet(tmp_path / "vocabulary.parquet")
    assert beside["value"].null_count() == len(beside) == len(CUSTOMERS) + len(PRODUCTS)
    assert "item: its strings were not kept" in capsys.readouterr().out
