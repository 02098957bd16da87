"""Configurations: found in the current folder, else among recemb's own."""

from pathlib import Path

import pytest

from recemb.command_line.configs import with_found_configurations
from recemb.command_line.main import main
from recemb.errors import RecembError

ROOT = Path(__file__).parents[2]
OWN = str(ROOT / "configs/din/synthetic.yaml")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", ["configs/din/synthetic.yaml", "din/synthetic.yaml"])
def test_what_is_not_here_is_one_of_ours(name):
    assert with_found_configurations(["--config", name, "--run", "r"]) == [
        "--config", OWN, "--run", "r",
    ]  # fmt: skip
    assert with_found_configurations([f"--config={name}"]) == [f"--config={OWN}"]


def test_what_is_here_comes_first():
    Path("din").mkdir()
    Path("din/synthetic.yaml").write_text("seed_everything: 2\n")
    words = ["--config", "din/synthetic.yaml"]
    assert with_found_configurations(words) == words


@pytest.mark.parametrize("words", [["--config", "{a: 1}"], ["--output", "din/synthetic.yaml"]])
def test_what_names_no_configuration_stays(words):
    assert with_found_configurations(words) == words


def test_nothing_found_says_where_it_was_looked_for():
    with pytest.raises(RecembError) as refused:
        with_found_configurations(["--config", "dim/synthetic.yaml"])
    assert str(refused.value) == (
        "dim/synthetic.yaml: there is no such file in the current folder, nor among recemb's own "
        "configurations (din/synthetic.yaml); check the path"
    )


def test_a_verb_says_it_in_a_line(capsys):
    assert main(["fit", "--config", "../pyproject.yaml"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("recemb fit: ../pyproject.yaml: there is no such file")
