"""Objective: what a sample's score is trained towards, what it predicts and how it is measured.

Shapes: B samples.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from recemb.models.sample_metrics import Auc, Mean
from recemb.monitor import AUC, Monitor


class Objective(ABC):
    """Of a model that gives every sample one score."""

    monitor: ClassVar[Monitor]
    """By which epochs are compared."""
    loss: ClassVar[str]
    """What the mean of the losses is called."""
    predicted: ClassVar[str]
    """What a prediction is called."""

    @abstractmethod
    def losses(self, score_B: Tensor, label_B: Tensor) -> Tensor:
        """Return the loss of each sample."""

    @abstractmethod
    def prediction(self, score_B: Tensor) -> Tensor:
        """Return what scores predict."""

    @abstractmethod
    def metrics(self) -> nn.ModuleDict:
        """Return fresh metrics of a stage, by name."""

    @abstractmethod
    def measure(self, metrics: Any, score_B: Tensor, label_B: Tensor) -> None:
        """Let metrics count samples, in double precision."""


class Clicks(Objective):
    """A label of 0 or 1: scores are logits, trained by cross-entropy, measured by AUC."""

    monitor = AUC
    loss = "logloss"
    predicted = "probability"

    def losses(self, score_B: Tensor, label_B: Tensor) -> Tensor:
        """Return the cross-entropies."""
        return nn.functional.binary_cross_entropy_with_logits(score_B, label_B, reduction="none")

    def prediction(self, score_B: Tensor) -> Tensor:
        """Return click probabilities."""
        return torch.sigmoid(score_B)

    def metrics(self) -> nn.ModuleDict:
        """Return AUC and log loss."""
        return nn.ModuleDict({"auc": Auc(), "logloss": Mean()})

    def measure(self, metrics: Any, score_B: Tensor, label_B: Tensor) -> None:
        """Let both count."""
        # By logits: probabilities near 0 and 1 are rounded to equal ones.
        metrics["auc"].update(score_B, label_B)
        metrics["logloss"].update(self.losses(score_B.double(), label_B.double()))


class Ratings(Objective):
    """A label that is a number: scores are what is predicted of it, by squared error."""

    monitor = Monitor("val/mse", "min")
    loss = "mse"
    predicted = "rating"

    def losses(self, score_B: Tensor, label_B: Tensor) -> Tensor:
        """Return the squared errors."""
        return (score_B - label_B).square()

    def prediction(self, score_B: Tensor) -> Tensor:
        """Return the scores."""
        return score_B

    def metrics(self) -> nn.ModuleDict:
        """Return the mean squared and the mean absolute error."""
        return nn.ModuleDict({"mse": Mean(), "mae": Mean()})

    def measure(self, metrics: Any, score_B: Tensor, label_B: Tensor) -> None:
        """Let both count."""
        score_B, label_B = score_B.double(), label_B.double()
        metrics["mse"].update(self.losses(score_B, label_B))
        metrics["mae"].update((score_B - label_B).abs())
