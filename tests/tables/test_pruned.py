"""The pruned kind: only some elements of a table are stored."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from recemb.errors import RecembError
from recemb.tables.kind import IdSpace
from recemb.tables.pruned import Elements, Pruned
from tests.tables.contract import TableContract, as_tensor, embeddings, feature, ids
from tests.tables.helpers import Stored, grads_of, stored


class TestPruned(TableContract):
    """Half of 70 * 6 elements; an element is a value and a byte of column."""

    settings = {"kind": "pruned", "dim": 6, "num_values": 210}
    num_rows = 0
    served_bytes = 210 * (4 + 1) + 71 * 4
    too_small = (0.03,)
    """Where each of 8,000 ids begins takes 32,004 bytes."""
    left_loss = 0.6
    """Half of the elements stay 0."""
    bad = [
        ({"num_values": 0}, "num_values must be at least 1, got 0"),
        ({"precision": "int8"}, "kind pruned stores no rows, so it has no precision, got 'int8'"),
    ]

    def rows_of_id(self, table: str, held: Stored, space: str, key: int) -> dict[str, list[int]]:
        return {}

    def compose(
        self, table: str, held: Stored, space: str, key: int, rows: Mapping[str, list[Tensor]]
    ) -> Tensor:
        state, number = held.learned, self.number(space, key)
        elements = range(int(state["offset_V"][number]), int(state["offset_V"][number + 1]))
        place_of = {int(state["column_M"][element]): element for element in elements}
        zero = torch.zeros(())
        return torch.stack(
            [state["value_M"][place_of[d]] if d in place_of else zero for d in range(6)]
        )


def test_elements_of_ids_that_were_not_asked_for_get_no_gradient() -> None:
    module = embeddings({"ads": Pruned(dim=6, num_values=150)}, [feature("one", "ads")])
    as_tensor(module({"one": ids([5, 21, 5])})["one"]).sum().backward()
    offsets = stored(module).learned["offset_V"].tolist()
    wanted = torch.zeros(150)
    wanted[offsets[5] : offsets[6]] = 2
    wanted[offsets[21] : offsets[22]] = 1
    assert torch.equal(grads_of(module)["value_M"], wanted)


def test_elements_are_kept_that_are_large_for_their_rank_in_their_row() -> None:
    rows = torch.tensor([[0.1, -0.9, 0.6], [0.2, 0.35, -0.25], [0.0, 0.01, 0.8]])
    # Divided by their ranks: .9, .3, .03; .35, .125, .067; .8, .005, 0.
    elements = Elements.of(rows, 4)
    assert elements.value_M.tolist() == pytest.approx([-0.9, 0.6, 0.35, 0.8])
    assert elements.column_M.tolist() == [1, 2, 1, 2]
    assert elements.offset_V.tolist() == [0, 2, 3, 4]
    # So an id keeps its largest before another one its second.
    assert Elements.of(rows, 3).value_M.tolist() == pytest.approx([-0.9, 0.35, 0.8])


def test_an_id_without_elements_is_zero() -> None:
    module = embeddings({"ads": Pruned(dim=3, num_values=2)}, [feature("one", "ads")])
    rows = torch.zeros(50, 3)
    rows[7] = torch.tensor([1.0, 0.0, 2.0])
    elements = Elements.of(rows, 2)
    module.learned["table_ads"].load_state_dict(elements.state_dict())
    got = as_tensor(module({"one": ids([0, 7, 49])})["one"])
    assert got.tolist() == [[0, 0, 0], [1, 0, 2], [0, 0, 0]]


@pytest.mark.parametrize(("dim", "column"), [(256, 1), (257, 4)])
def test_columns_take_one_byte_up_to_256(dim: int, column: int) -> None:
    config = Pruned(dim=dim, num_values=1000)
    spaces = [IdSpace("item", 50)]
    assert config.serving_bytes("ads", spaces) == 1000 * (4 + column) + 51 * 4
    module = embeddings({"ads": config}, [feature("one", "ads")])
    assert as_tensor(module({"one": ids([49])})["one"]).shape == (1, dim)


def test_more_elements_than_there_are_is_refused() -> None:
    with pytest.raises(
        RecembError, match=r"^table 'ads': num_values must be at most 300, all elements of the tab"
    ):
        embeddings({"ads": Pruned(dim=6, num_values=301)}, [feature("one", "ads")])


def test_all_elements_may_be_kept() -> None:
    module = embeddings({"ads": Pruned(dim=6, num_values=300)}, [feature("one", "ads")])
    vectors = as_tensor(module({"one": ids(range(50))})["one"])
    assert (vectors != 0).all()
