"""Old class paths go on: in options, configurations and checkpoints; users' own are left alone."""

import pytest
import yaml

from recemb.checkpoint import WholeFileIO, read_checkpoint
from recemb.command_line.main import main
from recemb.command_line.renamed import current_word
from recemb.rebuild import rebuild
from recemb.renamed import current_path, current_paths
from tests.command_line.small import trained  # noqa: F401


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("models.din.DIN", "recemb.models.din.DIN"),
        ("data.tabular.Tabular", "recemb.data.tabular.Tabular"),
        ("models.din", "recemb.models.din"),
        ("models.mine.Ranker", "models.mine.Ranker"),
        ("shop.models.din.DIN", "shop.models.din.DIN"),
        ("recemb.models.din.DIN", "recemb.models.din.DIN"),
        ("data", "data"),
        ("data.0.x", "data.0.x"),
    ],
)
def test_what_an_old_path_stands_for(old, new):
    assert current_path(old) == new
    assert current_word(f"--model={old}") == f"--model={new}"
    assert current_word(old) == new


def test_only_class_paths_are_renamed():
    settings = {"column": "data.tabular", "a": [{"class_path": "models.din.DIN", "x": 1}]}
    wanted = {"column": "data.tabular", "a": [{"class_path": "recemb.models.din.DIN", "x": 1}]}
    assert current_paths(settings) == wanted


def as_before(config: dict) -> dict:
    """Return sections with the class paths that they had before."""
    new = dict(config)
    for name in ("model", "data"):
        path = config[name]["class_path"]
        assert path.startswith("recemb.")
        new[name] = {**config[name], "class_path": path.removeprefix("recemb.")}
    return new


def test_an_old_configuration_and_an_old_checkpoint_are_measured(trained, tmp_path, capsys):  # noqa: F811
    config = as_before(yaml.safe_load((trained / "config.yaml").read_text()))
    path = tmp_path / "old.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    checkpoint = read_checkpoint(trained / "checkpoints/best.ckpt")
    stored = as_before(yaml.safe_load(checkpoint["recemb"]["config"]))
    old = {
        **checkpoint,
        "recemb": {**checkpoint["recemb"], "config": yaml.safe_dump(stored, sort_keys=False)},
    }
    WholeFileIO().save_checkpoint(old, tmp_path / "old.ckpt")
    model, _ = rebuild(tmp_path / "old.ckpt")
    assert type(model).__module__ == "recemb.models.din"
    arguments = ["--config", str(path), "--ckpt_path", str(tmp_path / "old.ckpt")]
    assert main(["validate", *arguments, "--run", str(tmp_path / "run")]) == 0
    assert "val/auc" in capsys.readouterr().out
