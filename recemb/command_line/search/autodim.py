"""AutoDim: weights of candidate widths; the heaviest one of each table, behind a matrix."""

from collections.abc import Sequence

from recemb.command_line.search.stages import Form, Found, Search, Section
from recemb.embeddings import Embeddings
from recemb.search.autodim import chosen_contents
from recemb.search.supernet import Searched, candidate_dims, plain_tables
from recemb.tables.full import Full
from recemb.tables.kind import IdSpace, TableConfig


class AutoDim(Search):
    """Weights of candidate widths; the heaviest one of each table, behind a matrix."""

    callback = "recemb.search.autodim.AutoDim"
    learned = "weights"
    forms = ("dense",)
    start = "fresh"
    finds_weights = False
    takes_budget = False
    needs_budget = False

    def supernet_table(self, name: str, config: Full, spaces: Sequence[IdSpace]) -> TableConfig:
        """Return the table with candidates."""
        return candidate_dims(name, config, spaces)

    def callback_settings(self, embeddings: Embeddings) -> Section:
        """Return the settings of the weights' steps."""
        return {
            "warm_up_epochs": self.options.warm_up,
            "epochs": self.options.epochs,
            "learning_rate": self.options.weight_learning_rate,
            "every": self.options.every,
        }

    def searched_tables(self) -> dict[str, Searched]:
        """Return the rows as they are."""
        return plain_tables(self.embeddings, {name: [] for name in self.names})

    def find(self, form: Form) -> Found:
        """Return plain tables of the chosen widths."""
        contents = chosen_contents(self.embeddings)
        dimensions = {name: [float(content.config.dim)] for name, content in contents.items()}
        report = {"supernet": {self.held_out_name: self.held_out(self.embeddings)}}
        return Found(contents=contents, dimensions=dimensions, report=report)
