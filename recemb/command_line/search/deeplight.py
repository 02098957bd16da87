"""DeepLight: the smallest elements are zeroed while the plain tables are trained."""

from collections.abc import Sequence

from recemb.command_line.search.masked import MaskedSearch
from recemb.command_line.search.stages import Form, Found, Section
from recemb.embeddings import Embeddings
from recemb.errors import RecembError
from recemb.search.supernet import Searched, plain_tables
from recemb.search.within_budget import largest_elements
from recemb.tables.full import Full
from recemb.tables.kind import IdSpace, TableConfig


class DeepLight(MaskedSearch):
    """Plain tables, ever more of whose elements are 0."""

    callback = "recemb.search.deeplight.DeepLight"
    learned = "elements"
    forms = ("sparse", "dense")

    def supernet_table(self, name: str, config: Full, spaces: Sequence[IdSpace]) -> TableConfig:
        """Return the table as it is.

        Raises:
            RecembError: If its rows are stored as integers.
        """
        if config.precision not in ("fp32", "fp16", "bf16"):
            raise RecembError(
                f"table {name!r}: deeplight zeroes elements of rows in fp32, fp16 or bf16, got "
                f"{config.precision}"
            )
        return config

    def callback_settings(self, embeddings: Embeddings) -> Section:
        """Return the settings of the schedule."""
        return {
            "tables": self.names,
            "kept": self.elements_that_fit(embeddings),
            "warm_up_epochs": self.options.warm_up,
            "omega": self.options.omega,
        }

    def searched_tables(self) -> dict[str, Searched]:
        """Return the rows with their zeros."""
        return plain_tables(self.embeddings, self.blocks())

    def find(self, form: Form) -> Found:
        """Return the elements that are left, or the columns with most of them."""
        report = {"supernet": {self.held_out_name: self.held_out(self.embeddings)}}
        if form == "dense":
            return self.dense(self.best_keep(self.options.score), report)
        return self.sparse(largest_elements(self.searched, self.room), report)
