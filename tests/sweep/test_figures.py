"""Pictures of a study, as they are drawn."""

import pytest

from recemb.sweep.objectives import Objective
from recemb.sweep.report.content import StudyContent
from recemb.sweep.report.figures import draw_front
from recemb.sweep.trials import COMPLETE, Trial

pyplot = pytest.importorskip("matplotlib.pyplot")


class Axes:
    """Stands for a gallery, and keeps the axes of what is drawn."""

    def draw(self, name, size, paint, titles):
        figure, self.axes = pyplot.subplots(figsize=size)
        paint(figure, self.axes)
        self.titles = titles
        pyplot.close(figure)

    @property
    def labels(self):
        return [text.get_text() for text in self.axes.get_legend().get_texts()]


def drawn(quality: Objective, *qualities: float, full: float) -> Axes:
    """Draw trials that take 100, 50, 80 and 60 bytes."""
    sizes = (100.0, 50.0, 80.0, 60.0)
    trials = [
        Trial(
            number=number,
            state=COMPLETE,
            params={},
            values=[value, size],
            curve={},
            attrs={},
        )
        for number, (value, size) in enumerate(zip(qualities, sizes, strict=True))
    ]
    results = {"goal": {"full": {"quality": full, "bytes": 400}}}
    objectives = [quality, Objective("bytes", "bytes", "min")]
    axes = Axes()
    study = StudyContent(
        name="some", objectives=objectives, trials=trials, refused=0, results=results
    )
    draw_front(axes, study, "front", "bytes")
    return axes


def test_a_poor_trial_does_not_hide_the_front():
    found = drawn(Objective("quality", "val/auc", "max"), 0.80, 0.79, 0.785, 0.5, full=0.805)
    low, high = found.axes.get_ylim()
    # As far below the worst of the front, .79, as that is below the full model.
    assert 0.77 < low < 0.775
    assert 0.805 < high < 0.81
    assert "1 further below" in found.labels
    assert len(found.titles) == 4


def test_of_errors_the_poor_ones_are_above():
    found = drawn(Objective("quality", "val/mse", "min"), 0.20, 0.21, 0.215, 0.5, full=0.195)
    low, high = found.axes.get_ylim()
    assert 0.19 < low < 0.195
    assert 0.225 < high < 0.23
    assert "1 further above" in found.labels


def test_trials_near_the_front_are_where_they_are():
    found = drawn(Objective("quality", "val/auc", "max"), 0.80, 0.79, 0.785, 0.78, full=0.805)
    assert not [label for label in found.labels if "further" in label]
    assert 0.775 < found.axes.get_ylim()[0] < 0.78
