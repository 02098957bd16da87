"""A training that validates on rows held out of the training file, and opens no other file."""

from typing import Any

from lightning import LightningDataModule, Trainer

from recemb.command_line.train import TrainingCLI
from recemb.errors import RecembError


class HeldOutCLI(TrainingCLI):
    """A fit on the training file alone.

    Args:
        share: Of its rows, which are held out.
        arguments: Of ``fit``.
    """

    def __init__(self, share: float, arguments: list[str]) -> None:
        self.share = share
        super().__init__("fit", arguments)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Hold rows out before the data is opened."""
        hold_out(self.datamodule, self.share)
        return super().instantiate_trainer(**kwargs)


def hold_out(data: LightningDataModule, share: float) -> None:
    """Let data validate on a share of its training rows.

    Raises:
        RecembError: If it cannot.
    """
    own = getattr(data, "hold_out", None)
    if own is None:
        raise RecembError(
            f"search: {type(data).__name__} cannot hold training rows out; give it hold_out and "
            "search_dataloader as recemb.data.tabular.Tabular has them"
        )
    own(share)
