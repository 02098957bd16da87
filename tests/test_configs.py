"""Every shipped configuration parses and builds its model; none is skipped without a reason."""

import os
from pathlib import Path

import pytest

from recemb.command_line.train import TrainingCLI

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configuration_builds(path, tmp_path):
    text = path.read_text()
    if "movielens" in text and not os.environ.get("RECEMB_DATA"):
        pytest.skip("RECEMB_DATA is not set, and MovieLens-1M may not be shipped")
    options = ["--config", str(path), "--run", str(tmp_path / "run"), "--trainer.logger", "false"]
    cli = TrainingCLI("fit", options)
    assert cli.model.embeddings.rows.tables()
    assert not (tmp_path / "run").exists()


def test_there_is_a_configuration_for_the_quick_start_and_for_movielens():
    names = {str(path.relative_to(ROOT)) for path in CONFIGS}
    assert {"configs/din/synthetic.yaml", "configs/din/movielens1m.yaml"} <= names


def test_a_table_is_overridden_by_name_on_the_command_line(tmp_path):
    cli = TrainingCLI("fit", [
        "--config", str(ROOT / "configs/din/synthetic.yaml"), "--run", str(tmp_path / "run"),
        "--model.init_args.tables.shared.dim=4", "--data.init_args.log.num_rows=10000",
    ])  # fmt: skip
    shared = cli.model.embeddings.tables["shared"]
    assert (shared.dim, shared.num_rows) == (4, 24576)
