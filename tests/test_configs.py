"""Every shipped configuration parses and builds its model; none is skipped without a reason."""

import os
from pathlib import Path

import pytest

from recemb.command_line.train import TrainingCLI
from recemb.run_folder import is_leftover

ROOT = Path(__file__).parents[1]
SPACES = sorted((ROOT / "configs/sweep").glob("*.yaml"))
CONFIGS = sorted(set((ROOT / "configs").rglob("*.yaml")) - set(SPACES))
SAMPLES = {
    "criteo": "criteo_10k/criteo_first10k.parquet",
    "avazu": "avazu_10k/avazu_random10k.parquet",
}
"""Of the data sets that are too large to have beside the project."""


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_configuration_builds(path, tmp_path):
    if path.stem != "synthetic" and not os.environ.get("RECEMB_DATA"):
        pytest.skip(f"RECEMB_DATA is not set, and {path.stem} may not be shipped")
    options = ["--config", str(path), "--run", str(tmp_path / "run"), "--trainer.logger", "false"]
    if path.stem in SAMPLES:
        options += ["--data.init_args.source", SAMPLES[path.stem]]
    cli = TrainingCLI("fit", options)
    assert cli.model.embeddings.rows.tables()
    # The run's lock alone: whatever is refused from here on leaves nothing.
    assert all(map(is_leftover, (tmp_path / "run").iterdir()))
    cli.run_folder.close()
    assert not (tmp_path / "run").exists()


def test_there_is_a_configuration_for_the_quick_start_and_for_every_pair():
    names = {str(path.relative_to(ROOT)) for path in CONFIGS}
    assert {"configs/din/synthetic.yaml", "configs/din/movielens1m.yaml"} <= names
    for model in ("dlrm", "deepfm", "dcn"):
        assert {f"configs/{model}/{data}.yaml" for data in ("movielens1m", "criteo", "avazu")} <= (
            names
        )


def test_a_table_is_overridden_by_name_on_the_command_line(tmp_path):
    cli = TrainingCLI("fit", [
        "--config", str(ROOT / "configs/din/synthetic.yaml"), "--run", str(tmp_path / "run"),
        "--model.init_args.tables.shared.dim=4", "--data.init_args.log.num_rows=10000",
    ])  # fmt: skip
    shared = cli.model.embeddings.tables["shared"]
    assert (shared.dim, shared.num_rows) == (4, 24576)
