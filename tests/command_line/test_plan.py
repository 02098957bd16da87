"""The verb ``plan``, as a user calls it."""

import json
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from recemb.command_line.main import main
from recemb.command_line.plan_report import aligned
from recemb.command_line.train import TrainingCLI
from recemb.data.files import cache_root
from recemb.rows import torchrec_store
from recemb.rows.optimizers import Adam
from recemb.rows.world import RATES
from tests.command_line.small import small_config, write

USERS = 10**10


def large_config() -> dict[str, Any]:
    """A configuration of data that is nowhere."""
    return {
        "model": {
            "class_path": "recemb.models.dcn.DCN",
            "init_args": {
                "tables": {
                    "user": {"kind": "full", "dim": 30},
                    "item": {"kind": "hashed", "num_rows": 2 * 10**8, "dim": 32},
                    "word": {"kind": "full", "dim": 16, "precision": "int8", "step": "row"},
                },
                "features": {
                    "user": {"table": "user"},
                    "item": {"table": "item"},
                    "words": {"table": "word", "pooling": "sum"},
                },
                "rows_optimizer": {"kind": "adam"},
            },
        },
        "data": {
            "class_path": "recemb.data.tabular.Tabular",
            "init_args": {
                "folder": "nowhere",
                "label": "y",
                "categorical": {"user": {}, "item": {"raw": True}},
                "lists": {"words": {"max_length": 20}},
                "batch_size": 65536,
            },
        },
    }


def planned(config: dict[str, Any], folder: Path, *options: str) -> dict[str, Any]:
    """Return what a plan says as JSON."""
    arguments = ["--config", write(config, folder), "--json", str(folder / "plan.json"), *options]
    assert main(["plan", *arguments]) == 0
    found: dict[str, Any] = json.loads((folder / "plan.json").read_text())
    return found


GPUS = ("--device", "cuda", "--world_size", "128", "--memory", "80 GB")
IDS = ("--ids", f"user={USERS}", "words=5000000")


def test_ten_billion_rows_on_128_gpus(tmp_path, capsys):
    since = time.perf_counter()
    plan = planned(large_config(), tmp_path, *GPUS, *IDS)
    assert time.perf_counter() - since < 60  # 5 s of a processor, most of them imports
    user = plan["tables"]["user"]
    assert (user["rows"], user["sharding"], user["ranks"]) == (USERS + 1, "row_wise", "0-127")
    assert user["bytes"] == (USERS + 1) * 30 * 4
    assert user["state_bytes"] == 2 * user["bytes"]
    assert user["cut"] == "78,125,001 rows each"
    assert plan["tables"]["word"]["bytes"] == 5_000_001 * 20
    assert plan["tables"]["word"]["reads_per_sample"] == 20
    for part, whole in (("rows_bytes", "bytes"), ("state_bytes", "state_bytes")):
        total = sum(rank[part] for rank in plan["ranks"])
        tables = plan["tables"].values()
        copies = [128 if one["sharding"] == "data_parallel" else 1 for one in tables]
        assert total == sum(n * one[whole] for n, one in zip(copies, tables, strict=True))
    assert all(rank[f"{part}_ms"] > 0 for rank in plan["ranks"] for part in ("gather", "update"))
    printed = capsys.readouterr().out
    assert "128 processes, 8 on a machine, 80.00 GB each, 68.00 GB of it for rows" in printed
    assert "user" in printed
    assert "10,000,000,001" in printed
    assert "78,125,001 rows each" in printed
    assert "estimates" in printed


def test_what_does_not_fit_is_a_line_with_ways_out(tmp_path, capsys):
    config = large_config()
    config["model"]["init_args"]["tables"]["user"]["sharding"] = "table_wise"
    arguments = ["plan", "--config", write(config, tmp_path), *GPUS, *IDS]
    assert main(arguments) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "recemb plan: rows: process 0 of 128 would hold" in line
    assert "of table 'user', table_wise" in line
    assert "what fits: sharding row_wise of table 'user' and not table_wise; or" in line


def test_more_processes_are_proposed_and_hold_what_they_should(tmp_path, capsys):
    arguments = ["plan", "--config", write(large_config(), tmp_path), *IDS, "--device", "cuda"]
    arguments += ["--memory", "80 GB"]
    # (1.2 + 2.4 TB) of users, (25.6 + 51.2 GB) of items over 68 GB: 54.1.
    assert main([*arguments, "--world_size", "16"]) == 2
    assert "what fits: 56 processes; or" in capsys.readouterr().err
    assert main([*arguments, "--world_size", "48"]) == 2
    assert main([*arguments, "--world_size", "56"]) == 0


def test_a_network_that_leaves_too_little_is_named(tmp_path, capsys):
    config = large_config()
    config["model"]["init_args"]["network"] = {"hidden": [200_000]}
    arguments = ["plan", "--config", write(config, tmp_path), *IDS, "--device", "cpu"]
    # 78 x 200,000 parameters, four times, are 250 MB; rows alone would fit.
    assert main([*arguments, "--world_size", "8192", "--memory", "600 MB"]) == 2
    line = capsys.readouterr().err
    assert "model: the network takes 25" in line
    assert "in every process" in line


def test_the_data_says_what_is_not_said(tmp_path):
    plan = planned(small_config(), tmp_path, "--world_size", "2")
    (shared,) = plan["tables"].values()
    assert plan["world"]["batch_size"] == 512
    assert (shared["rows"], shared["dim"]) == (600, 8)
    # user 2; item and category 2 each, for the target and for every item of the history; hour 1.
    log = next(p for p in sorted(cache_root().glob("synthetic-*")) if _rows(p) == 10_000)
    train = pl.read_parquet(log / "train.parquet")
    history, tags = train["history_item"].list.len().mean(), train["tags"].list.len().mean()
    assert shared["reads_per_sample"] == pytest.approx(2 + 4 * (1 + history) + 1 + tags)


def _rows(folder: Path) -> int:
    log = json.loads((folder / "law.json").read_text())["log"]
    return int(log["num_rows"]) if log["num_users"] == 400 else 0


def test_training_plans_what_the_plan_says(tmp_path, monkeypatch):
    asked: list[Any] = []
    place = torchrec_store.place

    def recorded(*given: Any) -> Any:
        asked.append(given)
        return place(*given)

    monkeypatch.setattr(torchrec_store, "place", recorded)
    config = small_config()
    options = ["--config", write(config, tmp_path), "--run", str(tmp_path / "run")]
    options += ["--trainer.strategy", "torchrec", "--memory", "2 GB", "--trainer.logger", "false"]
    cli = TrainingCLI("fit", options)
    torch.distributed.destroy_process_group()
    plan = planned(config, tmp_path, "--memory", "2 GB", "--device", "cpu")
    ((physical, optimizer, world),) = asked
    assert plan["world"]["memory_bytes"] == world.memory_bytes == 2 * 10**9
    assert (world.batch_size, world.size, world.local_size) == (512, 1, 1)
    assert (world.rates, optimizer) == (RATES["cpu"], Adam(learning_rate=0.003))
    stored = cli.model.embeddings.rows
    for name, table in plan["tables"].items():
        assert table["reads_per_sample"] == physical[name].reads
        assert table["sharding"] == stored.placements[name].how


def test_rates_change_the_estimate_and_not_the_plan(tmp_path):
    slow = planned(large_config(), tmp_path, *GPUS, *IDS, "--message_us", "0")
    options = ["--network_bandwidth", "1 TB", "--local_bandwidth", "1 TB", "--message_us", "0"]
    quick = planned(large_config(), tmp_path, *GPUS, *IDS, *options)
    assert quick["tables"] == slow["tables"]
    # 8 of 127 others are near, 600 GiB/s, the rest at 12.5: (7 / 600 + 120 / 12.5) to 127 / 931.
    ratio = slow["ranks"][0]["exchange_ms"] / quick["ranks"][0]["exchange_ms"]
    assert ratio == pytest.approx((7 / 600 + 120 / 12.5) / (127 / (10**12 / 2**30)), rel=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ids", "user"], "--ids: must be NAME=NUMBER, such as user=1000000, got 'user'"),
        (["--ids", "user=ten"], "--ids: must be NAME=NUMBER, such as user=1000000, got 'user=ten'"),
        (["--ids", "shop=3"], "--ids: 'shop' has no vocabulary of its own; those that have are"),
        (["--lengths", "words=3"], "--lengths: lists are measured where their data is read"),
        ([*IDS, "--world_size", "0"], "world: size must be at least 1, got 0"),
        ([*IDS, "--batch_size", "0"], "world: batch_size must be at least 1, got 0"),
        ([*IDS, "--device", "tpu"], "--device: must be 'cpu' or 'cuda', got 'tpu'"),
        ([*IDS, "--memory", "many"], "--memory: a budget must be a number of bytes"),
        ([*IDS, "--message_us", "-1"], "--message_us: must be at least 0, got -1"),
        ([], "nowhere/train.parquet: there is no such file"),
    ],
)
def test_mistakes_are_one_line(options, message, tmp_path, capsys):
    assert main(["plan", "--config", write(large_config(), tmp_path), *options]) == 2
    line = capsys.readouterr().err
    assert message in line
    assert line.count("\n") == 1


def test_numbers_end_together_and_words_begin_together():
    text = aligned(["name", "rows"], [["user", "1,000"], ["a", "20"]])
    assert text == "name   rows\nuser  1,000\na        20"
