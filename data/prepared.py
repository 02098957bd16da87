"""Prepared: a public data set whose files are written into the cache folder on first use."""

from recemb.data.files import TableFile
from recemb.data.tabular import Tabular


class Prepared(Tabular):
    """A data module that writes its three files itself; a subclass says how."""

    def prepare_data(self) -> None:
        """Write the files into ``folder`` unless they are there, whole or not at all."""
        raise NotImplementedError

    def file(self, stage: str) -> TableFile:
        """Return the file of a stage, prepared on first use."""
        self.prepare_data()
        return super().file(stage)
