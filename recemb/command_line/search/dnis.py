"""DNIS: gates per dimension and block of ids, then what is worth most within the budget."""

from collections.abc import Sequence

from recemb.command_line.search.masked import MaskedSearch
from recemb.command_line.search.stages import Form, Found, Section
from recemb.embeddings import Embeddings
from recemb.search.supernet import Searched, gated, gated_tables
from recemb.search.within_budget import largest_elements
from recemb.tables.full import Full
from recemb.tables.kind import IdSpace, TableConfig


class DNIS(MaskedSearch):
    """Gates, then the dimensions of blocks that are worth most, or the largest elements."""

    callback = "recemb.search.dnis.DNIS"
    learned = "gates"
    forms = ("dense", "sparse")

    def supernet_table(self, name: str, config: Full, spaces: Sequence[IdSpace]) -> TableConfig:
        """Return the table with gates."""
        return gated(name, config, spaces, self.options.blocks, self.options.block_ids)

    def callback_settings(self, embeddings: Embeddings) -> Section:
        """Return the settings of the gates' steps."""
        return {
            "warm_up_epochs": self.options.warm_up,
            "learning_rate": self.options.gate_learning_rate,
            "l1": self.options.l1,
            "every": self.options.every,
            "patience": self.options.patience,
        }

    def searched_tables(self) -> dict[str, Searched]:
        """Return rows times gates."""
        return gated_tables(self.embeddings)

    def find(self, form: Form) -> Found:
        """Return what is worth most within the budget."""
        report = {"supernet": {self.held_out_name: self.held_out(self.embeddings)}}
        if form == "sparse":
            return self.sparse(largest_elements(self.searched, self.room), report)
        keep = self.best_keep(self.options.score)
        report["masked"] = {self.held_out_name: self.held_out(self.selected(keep))}
        return self.dense(keep, report)
