"""Models of long histories by the command line: fit, export in stages, report."""

import json
import random

import pytest
import torch
import yaml

from recemb.command_line.main import main
from recemb.models import attention_report


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """A log in Taobao's format: users mostly stay in a category."""
    folder = tmp_path_factory.mktemp("log")
    draw = random.Random(5)
    rows = []
    for user in range(120):
        category = draw.randrange(4)
        for place in range(30):
            if draw.random() < 0.1:
                category = draw.randrange(4)
            item = 4 * draw.randrange(20) + category
            rows.append(f"{user},{item},{category},pv,{1_500_000_000 + 977 * place}")
    (folder / "log.csv").write_text("\n".join(rows) + "\n")
    return folder


def config(log, model, **options):
    tables = {name: {"kind": "full", "dim": 8} for name in ("item", "category")}
    arguments = {
        "tables": tables,
        "features": {name: {"table": name} for name in tables},
        "history": {"item": "history_item"},
        "seconds": "history_seconds",
        "network": {"hidden": [16], "keep": 4, "time_dim": 4, "num_times": 20},
        "learning_rate": 0.01,
        "rows_optimizer": {"kind": "adam", "learning_rate": 0.02},
        **options,
    }
    data = {
        "source": str(log / "log.csv"),
        "names": ["user", "item", "category", "behaviour", "time"],
        "protocol": {"history_length": 20, "min_behaviours": 10, "targets": 12, "first_target": 4},
        "batch_size": 256,
    }
    return {
        "seed_everything": 3,
        "model": {"class_path": model, "init_args": arguments},
        "data": {"class_path": "recemb.data.behaviour_log.BehaviourLog", "init_args": data},
        "trainer": {"max_epochs": 4, "enable_progress_bar": False, "log_every_n_steps": 5},
    }


def fit(log, folder, model, **options):
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config(log, model, **options), sort_keys=False))
    assert main(["fit", "--config", str(path), "--run", str(folder / "run")]) == 0
    return folder / "run/checkpoints/best.ckpt"


@pytest.fixture(scope="module")
def checkpoints(log, tmp_path_factory):
    models = {
        "dare": ("recemb.models.dare.DARE", {}),
        "twin": ("recemb.models.dare.TWIN", {"projected": True}),
        "din": ("recemb.models.long_din.LongDIN", {"attention_hidden": [4]}),
    }
    return {
        name: fit(log, tmp_path_factory.mktemp(name), path, **options)
        for name, (path, options) in models.items()
    }


@pytest.mark.parametrize("name", ["dare", "twin", "din"])
def test_what_users_stay_with_is_learned(checkpoints, name):
    results = json.loads((checkpoints[name].parents[1] / "results.json").read_text())
    # A negative is of the same category in one of four draws: at best about .85.
    assert results["metrics"]["test/auc"] > 0.65
    wanted = {"item", "category"} | (
        {"attention_item", "attention_category"} if name == "dare" else set()
    )
    assert set(results["tables"]) == wanted
    if name == "dare":
        assert results["tables"]["attention_item"]["dim"] == 4


@pytest.mark.parametrize("name", ["dare", "twin"])
def test_stages_are_exported_beside_the_program(checkpoints, name, tmp_path):
    options = ["--stages", "--output", str(tmp_path / "model.pt"), "--run", str(tmp_path / "run")]
    assert main(["export", str(checkpoints[name]), *options]) == 0
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert max(results["parity"].values()) <= 1e-6
    assert results["stages"]["recall"] > 0.9
    search = torch.jit.load(tmp_path / "model.search.pt")
    history = torch.arange(12)
    inputs = {"item": torch.tensor([1, 999]), "history_item": history}
    found = search({**inputs, "history_seconds": (12 - history) * 1000})
    assert found.shape == (2, 4)
    size = torch.tensor([4, 4])
    kept = {"history_item": history[found.flatten()], "history_item.size": size}
    kept["history_seconds"] = (12 - found.flatten()) * 1000
    kept["history_seconds.size"] = size
    rank = torch.jit.load(tmp_path / "model.rank.pt")
    whole = torch.jit.load(tmp_path / "model.pt")
    every = {
        "item": inputs["item"],
        "history_item": history.repeat(2),
        "history_seconds": ((12 - history) * 1000).repeat(2),
        "history_item.size": torch.tensor([12, 12]),
        "history_seconds.size": torch.tensor([12, 12]),
    }
    staged = rank({"item": inputs["item"], **kept})
    torch.testing.assert_close(staged, whole(every), atol=0.02, rtol=0)


def test_a_perceptron_has_no_stages(checkpoints, tmp_path, capsys):
    output = ["--output", str(tmp_path / "model.pt"), "--run", str(tmp_path / "run")]
    assert main(["export", str(checkpoints["din"]), "--stages", *output]) == 2
    assert "LongDIN has no search over histories by products; drop" in capsys.readouterr().err
    assert not (tmp_path / "model.pt").exists()
    assert main(["export", str(checkpoints["din"]), *output]) == 0


def test_report_of_several_checkpoints(checkpoints, tmp_path, capsys):
    pairs = [f"{name}={path}" for name, path in checkpoints.items()]
    assert attention_report.main([*pairs, "--output", str(tmp_path / "report")]) == 0
    found = json.loads((tmp_path / "report/report.json").read_text())
    assert list(found["models"]) == ["dare", "twin", "din"]
    assert found["models"]["twin"]["conflict"]["conflicting"] > 0
    # All of a user's behaviours are of few categories: an order by chance finds some of them.
    assert found["models"]["dare"]["ndcg"] > found["orders"]["random order"]
    assert "| dare |" in capsys.readouterr().out
