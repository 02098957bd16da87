"""PEP: thresholds of elements, then the first weights again without what fell below."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from recemb.checkpoint import read_checkpoint
from recemb.command_line.search.masked import MaskedSearch
from recemb.command_line.search.stages import Form, Found, Section
from recemb.embeddings import Embeddings
from recemb.rebuild import rebuild_model
from recemb.search.pep import margins
from recemb.search.supernet import Searched, shrunk_tables, soft_thresholded
from recemb.search.within_budget import largest_elements
from recemb.tables.full import Full
from recemb.tables.kind import IdSpace, TableConfig


class PEP(MaskedSearch):
    """Thresholds of elements, and the same weights again from the start without what fell."""

    callback = "recemb.search.pep.PEP"
    learned = "thresholds"
    forms = ("sparse", "dense")

    def supernet_table(self, name: str, config: Full, spaces: Sequence[IdSpace]) -> TableConfig:
        """Return the table with thresholds."""
        return soft_thresholded(name, config, spaces, self.options.threshold_start)

    @property
    def initial(self) -> Path:
        """The checkpoint of the weights with which the supernet's training begins."""
        return self.folder / "supernet/checkpoints/initial.ckpt"

    def callback_settings(self, embeddings: Embeddings) -> Section:
        """Return the settings of the thresholds' steps, and when to end them."""
        return {
            "learning_rate": self.options.threshold_learning_rate,
            "decay": self.options.threshold_decay,
            "kept": self.elements_that_fit(embeddings),
            "initial": str(self.initial),
        }

    def searched_tables(self) -> dict[str, Searched]:
        """Return the shrunk rows, for choosing; and begin again from the first weights."""
        self.origin = self.initial, read_checkpoint(self.initial)
        begun = rebuild_model(*self.origin, self.options.allow)
        rows = cast(Embeddings, begun.embeddings)
        return shrunk_tables(self.embeddings, rows, self.blocks())

    def find(self, form: Form) -> Found:
        """Return the elements farthest above their thresholds, or the columns with most of them."""
        is_reached = self.checkpoint["callbacks"]["PEP"]["is_reached"]
        report = {
            "supernet": {self.held_out_name: self.held_out(self.embeddings)},
            "is_budget_reached_in_training": is_reached,
        }
        if form == "dense":
            return self.dense(self.best_keep(self.options.score), report)
        # Training ends between two counts: what is above the thresholds fits nearly.
        above = {name: margins(self.embeddings, name) for name in self.searched}
        return self.sparse(largest_elements(self.searched, self.room, above), report)
