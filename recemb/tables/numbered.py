"""Numbered ids: what kinds share that know every id of a table by a number.

The ids of a table's id spaces are numbered space after space: number = first id of the space + id.
"""

from collections.abc import Sequence

from torch import Tensor

from recemb.errors import RecembError
from recemb.jagged import is_tracing
from recemb.tables.kind import TableFeature, TableKind, int_buffer, spread


class NumberedIds(TableKind):
    """A kind over numbered ids, with the check that an id has a number."""

    first_id_F: Tensor
    num_ids_F: Tensor

    def __init__(self, features: Sequence[TableFeature]) -> None:
        super().__init__()
        self.features = list(features)
        counts = int_buffer([feature.space.num_ids or 0 for feature in features])
        self.register_buffer("num_ids_F", counts, persistent=False)
        first = int_buffer([feature.first_id for feature in features])
        self.register_buffer("first_id_F", first, persistent=False)

    def check_ids(self, ids_N: Tensor, feature_N: Tensor) -> None:
        """Raise a :class:`RecembError` at an id outside its id space.

        Only on the CPU: a GPU would have to be waited for. Such an id would read another's rows.
        """
        if ids_N.device.type != "cpu" or is_tracing():
            return
        outside_N = (ids_N < 0) | (ids_N >= spread(self.num_ids_F, feature_N))
        if bool(outside_N.any()):
            place = int(outside_N.flatten().int().argmax())
            feature = self.features[int(feature_N.expand_as(ids_N).flatten()[place])]
            raise RecembError(
                f"feature {feature.name!r}: ids of table {feature.table!r} must be in "
                f"0..{(feature.space.num_ids or 0) - 1}, got {int(ids_N.flatten()[place])}"
            )

    def numbers(self, ids_N: Tensor, feature_N: Tensor) -> Tensor:
        """Return the numbers of checked ids."""
        self.check_ids(ids_N, feature_N)
        return ids_N + spread(self.first_id_F, feature_N)


class RowPerId(NumberedIds):
    """Encode of the kinds whose only part has a row for every id."""

    base_F: Tensor

    def __init__(self, features: Sequence[TableFeature]) -> None:
        super().__init__(features)
        first = [feature.first_id + feature.base_rows[0] for feature in features]
        self.register_buffer("base_F", int_buffer(first), persistent=False)

    def encode(self, ids_N: Tensor, feature_N: Tensor) -> tuple[Tensor, ...]:
        """Return ``base + number``."""
        self.check_ids(ids_N, feature_N)
        return (ids_N + spread(self.base_F, feature_N),)
