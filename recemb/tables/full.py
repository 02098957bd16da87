"""Full: every id has a row of its own.

    row = id                  vector = E[row]
    bytes = num_ids * dim * 4 (fp32)

The plain embedding table, and the yardstick of every other kind.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from recemb.errors import RecembError
from recemb.jagged import is_tracing
from recemb.physical import PhysicalTable, Uniform
from recemb.tables.kind import IdSpace, TableConfig, TableFeature, TableKind, int_buffer, spread


@dataclass(frozen=True, kw_only=True, slots=True)
class Full(TableConfig):
    """A row per id; the number of rows is that of the vocabulary."""

    kind: Literal["full"] = "full"
    """The name of the kind."""

    def physical_tables(self, where: str, spaces: Sequence[IdSpace]) -> dict[str, PhysicalTable]:
        """Return one part, ``rows``: as many rows as the id space has ids.

        Raises:
            RecembError: If the table has several id spaces, or one without a vocabulary: then
                equal ids would not mean the same thing.
        """
        if len(spaces) > 1:
            names = [space.name for space in spaces]
            raise RecembError(
                f"{where}: kind full needs one vocabulary, got features of {names}; share the "
                "vocabulary, give each a table, or use kind unified"
            )
        if spaces[0].num_ids is None:
            raise RecembError(
                f"{where}: kind full needs a vocabulary, got raw ids of {spaces[0].name!r}; "
                "set raw=false on the column, or use kind hashed"
            )
        rows = PhysicalTable(
            num_rows=spaces[0].num_ids, dim=self.dim, initializer=Uniform(self.init_scale)
        )
        return {"rows": rows}

    def output_dim(self, lookups: int) -> int:
        """Return ``dim``."""
        return self.dim

    def build(self, features: Sequence[TableFeature]) -> "FullKind":
        """Return the module for ``features``."""
        return FullKind(features)


class FullKind(TableKind):
    """Adds where a feature's table starts to its ids."""

    base_F: Tensor
    num_rows_F: Tensor

    def __init__(self, features: Sequence[TableFeature]) -> None:
        super().__init__()
        self.features = list(features)
        counts = int_buffer([feature.parts[0].num_rows for feature in features])
        self.register_buffer("num_rows_F", counts, persistent=False)
        bases = int_buffer([feature.base_rows[0] for feature in features])
        self.register_buffer("base_F", bases, persistent=False)

    def encode(self, ids_N: Tensor, feature_N: Tensor) -> tuple[Tensor, ...]:
        """Return ``id + base``.

        Raises:
            RecembError: On the CPU, at an id that the table has no row for; it would read another
                table's. (A GPU would have to be waited for.)
        """
        if ids_N.device.type == "cpu" and not is_tracing():
            outside_N = (ids_N < 0) | (ids_N >= spread(self.num_rows_F, feature_N))
            if bool(outside_N.any()):
                place = int(outside_N.int().argmax())
                feature = self.features[int(feature_N[place])]
                raise RecembError(
                    f"feature {feature.name!r}: ids of table {feature.table!r} must be in "
                    f"0..{feature.parts[0].num_rows - 1}, got {int(ids_N[place])}"
                )
        return (ids_N + spread(self.base_F, feature_N),)

    def compose(self, parts: tuple[Tensor, ...], feature: TableFeature) -> Tensor:
        """Return the rows as they are."""
        return parts[0].squeeze(1)
