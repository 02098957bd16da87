"""The synthetic click log as a data module: generated on first use, read like any other files."""

import functools
import json
from dataclasses import asdict
from pathlib import Path

from recemb.data.cache import prepared_folder
from recemb.data.columns import IdColumn, ListColumn, NumberColumn
from recemb.data.files import cache_root
from recemb.data.prepared import Prepared
from recemb.data.synthetic import LAW, LAW_VERSION, SyntheticLog, generate


class SyntheticClicks(Prepared):
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

    keys = {"user": "user", "item": "item"}

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
        super().__init__(
            folder=str(cache_root()),
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
        self.prepare_data()
        found: dict[str, float] = json.loads((self.folder / LAW).read_text())["bayes_auc"]
        return found

    def prepare_data(self) -> None:
        """Generate the log unless it is there."""

        def write(folder: Path) -> None:
            generate(self.log_config, folder)

        kind = f"synthetic-{LAW_VERSION}"
        self.folder = prepared_folder(cache_root(), kind, [], asdict(self.log_config), write)
