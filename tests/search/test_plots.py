"""Pictures are drawn of what was found, and matplotlib is asked for by name."""

import sys

import pytest
import torch

from recemb.errors import RecembError
from recemb.search.plots import heat_map, plot_dimensions, plot_history, plot_quality

pytest.importorskip("matplotlib")
DIMENSIONS = {"user": [3, 1.5, 0], "age": [2]}


def test_the_heat_map_counts_dimensions():
    counts = heat_map(DIMENSIONS)
    assert counts[0].tolist() == [3, 1.5, 0]
    assert counts[1, 0] == 2
    assert counts[1, 1:].isnan().all()


def test_pictures_are_drawn(tmp_path):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    plot_dimensions(DIMENSIONS, tmp_path / "dimensions.png")
    history = [{"user": torch.rand(3, 4), "age": torch.rand(1, 4)} for _ in range(3)]
    plot_history(history, "gates", tmp_path / "gates.png")
    one = {"bytes": {"tables": 1000}, "metrics": {"test/auc": 0.8}}
    plot_quality({"dense": one, "mixed": {"refused": "no"}}, "test/auc", tmp_path / "quality.png")
    for name in ("dimensions", "gates", "quality"):
        picture = pyplot.imread(tmp_path / f"{name}.png")
        assert picture.std() > 0.01
    assert not pyplot.get_fignums()


def test_without_matplotlib_there_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(
        RecembError, match=r"^a picture needs matplotlib, which is not installed; pip "
    ):
        plot_dimensions(DIMENSIONS, tmp_path / "dimensions.png")
