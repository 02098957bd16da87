"""A small click log and a configuration that trains on it in seconds."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from recemb.command_line.main import main

ROOT = Path(__file__).parents[2]


def small_config() -> dict[str, Any]:
    """The quick start's configuration on a log of 10,000 rows."""
    config = yaml.safe_load((ROOT / "configs/din/synthetic.yaml").read_text())
    data = config["data"]["init_args"]
    data["log"] = {"num_rows": 10_000, "num_users": 400, "num_items": 200, "num_categories": 10}
    data["batch_size"] = 512
    config["model"]["init_args"]["tables"]["shared"]["num_rows"] = 600
    # Everything that draws random numbers while training, so that a resumed run must get it right.
    config["model"]["init_args"]["network"]["dropout"] = 0.1
    config["model"]["init_args"]["network"]["decay"] = 0.01
    config["trainer"] = {"max_epochs": 3, "enable_progress_bar": False, "log_every_n_steps": 10}
    return config


def write(config: dict[str, Any], folder: Path) -> str:
    """Write a configuration and return its path."""
    path = folder / "config.yaml"
    # In its own order: that of the features is the order of a model's inputs.
    path.write_text(yaml.safe_dump(copy.deepcopy(config), sort_keys=False))
    return str(path)


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """The folder of a finished run; its configuration lies beside it."""
    folder = tmp_path_factory.mktemp("trained")
    config = write(small_config(), folder)
    assert main(["fit", "--config", config, "--run", str(folder / "run")]) == 0
    return folder / "run"
