"""The synthetic click log as a data module: generated on first use, read like any other files."""

import functools
import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from data.columns import IdColumn, ListColumn, NumberColumn
from data.files import TableFile, cache_root
from data.synthetic import LAW_VERSION, SyntheticLog, generate
from data.tabular import Tabular


class SyntheticClicks(Tabular):
    """A click log whose best reachable AUC is known.

    Args:
        log: What to generate; into the cache folder, once per setting.
        categorical: Columns with one id per row.
        lists: Columns with a list of ids per row.
        dense: Columns of numbers.
        batch_size: Samples per training batch.
        eval_batch_size: Samples per batch of the other stages.
        seed: Of the order of the training rows (the log has a seed of its own).
    """

    def __init__(
        self,
        *,
        log: SyntheticLog,
        categorical: dict[str, IdColumn],
        lists: dict[str, ListColumn] | None = None,
        dense: dict[str, NumberColumn] | None = None,
        batch_size: int = 1024,
        eval_batch_size: int = 8192,
        seed: int = 1,
    ) -> None:
        self.log_config = log
        identity = json.dumps({"law": LAW_VERSION, **asdict(log)}, sort_keys=True)
        name = hashlib.sha256(identity.encode()).hexdigest()[:12]
        super().__init__(
            folder=str(cache_root() / f"synthetic-{name}"),
            label="label",
            categorical=categorical,
            lists=lists,
            dense=dense,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            seed=seed,
        )

    @functools.cached_property
    def best_auc(self) -> dict[str, float]:
        """The AUC of ranking by the true click probabilities, by split; generates the log."""
        return generate(self.log_config, Path(self.folder))

    def file(self, stage: str) -> TableFile:
        """Return the file of a stage, generated on first use."""
        assert self.best_auc
        return super().file(stage)
