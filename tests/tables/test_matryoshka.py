"""Matryoshka: the first elements of a vector serve alone, at several widths."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from recemb.tables.full import Full
from recemb.tables.kind import TableConfig
from recemb.tables.matryoshka import Matryoshka
from tests.tables.contract import TableContract, as_tensor, embeddings, feature, ids
from tests.tables.helpers import Stored, stored


class MatryoshkaContract(TableContract):
    """The contract with the oracle of the kind: the width is that of serving, outside of forms."""

    num_rows = 70
    is_fine = False
    """Widths double."""
    left_loss = 0.55
    """Of widths 1, 2, 4 and 6, the elements that a width hides cannot reach their target."""
    bad = [
        ({"widths": [2, 1, 6]}, "widths must ascend from 1 or more to dim=6, got [2, 1, 6]"),
        ({"widths": [1, 2]}, "widths must ascend from 1 or more to dim=6, got [1, 2]"),
        ({"widths": [0, 6]}, "widths must ascend from 1 or more to dim=6, got [0, 6]"),
        ({"widths": []}, "widths must ascend from 1 or more to dim=6, got [0]"),
        ({"serve": 3}, "serve must be one of widths [1, 2, 4, 6], got 3"),
    ]
    width_served = 6

    def rows_of_id(self, table: str, held: Stored, space: str, key: int) -> dict[str, list[int]]:
        return {"rows": [self.number(space, key)]}

    def compose(
        self, table: str, held: Stored, space: str, key: int, rows: Mapping[str, list[Tensor]]
    ) -> Tensor:
        (row,) = rows["rows"]
        shown = [row[d] if d < self.width_served else torch.zeros(()) for d in range(6)]
        return torch.stack(shown)

    def larger(self, config: TableConfig) -> list[TableConfig]:
        assert isinstance(config, Matryoshka)
        assert config.serve is not None
        return [
            replace(config, serve=width) for width in (1, 2, 4, 8, 16, 32) if width > config.serve
        ]


class TestWhole(MatryoshkaContract):
    settings = {"kind": "matryoshka", "dim": 6}
    served_bytes = 70 * 6 * 4
    too_small = (0.03,)


class TestFourServed(MatryoshkaContract):
    settings = {"kind": "matryoshka", "dim": 6, "serve": 4}
    width_served = 4
    served_bytes = 70 * 4 * 4
    too_small = (0.03,)


class TestInt8(MatryoshkaContract):
    settings = {"kind": "matryoshka", "dim": 6, "serve": 4, "precision": "int8"}
    width_served = 4
    served_bytes = 70 * 4 + 4
    rate = 0.02


class TestInt8Learned(TestInt8):
    settings = {
        "kind": "matryoshka",
        "dim": 6,
        "serve": 4,
        "precision": "int8",
        "step": "learned",
    }
    served_bytes = 70 * (4 + 4)
    too_small = (0.03,)


class TestInt4CutToAnOddWidth(MatryoshkaContract):
    """Three elements of four bits are two bytes, with half a byte of the fourth element."""

    settings = {
        "kind": "matryoshka",
        "dim": 6,
        "widths": [1, 3, 6],
        "serve": 3,
        "precision": "int4",
        "step": "row",
    }
    width_served = 3
    served_bytes = 70 * (2 + 4)
    too_small = (0.03,)
    rate = 0.02
    bad = []

    def budget_settings(self) -> Mapping[str, Any]:
        return {**super().budget_settings(), "widths": [1, 2, 4, 8, 16, 32]}


def test_served_rows_keep_what_learned_steps_resolve() -> None:
    config = Matryoshka(dim=6, serve=4, precision="int8", step="learned")
    module = embeddings({"ads": config}, [feature("one", "ads")]).eval()
    tables = {name: one.clone() for name, one in module.rows.tables().items()}
    # As training may leave them: ten times finer than at the start, or coarser.
    tables["ads.step"][:25] = 0.001
    tables["ads.step"][25:] = 0.02
    generator = torch.Generator().manual_seed(1)
    tables["ads"] = torch.randint(-128, 128, (50, 6), dtype=torch.int8, generator=generator)
    module.rows.load_tables(tables)
    keys = ids(range(50))
    wanted = as_tensor(module({"one": keys})["one"])
    assert torch.equal(as_tensor(module.served()({"one": keys})["one"]), wanted)


def test_forms_are_the_widths_one_after_the_other() -> None:
    config = Matryoshka(dim=6, widths=[1, 3, 6])
    module = embeddings({"ads": config}, [feature("one", "ads")])
    rows = stored(module).rows["rows"]
    seen = []
    for _ in module.training_forms():
        vectors = as_tensor(module({"one": ids([3, 49])})["one"])
        width = int((vectors[0] != 0).sum())
        assert torch.equal(vectors[:, :width], rows[[3, 49], :width])
        assert vectors.shape == (2, 6)
        assert not vectors[:, width:].any()
        seen.append(width)
    assert seen == [1, 3, 6]
    # Afterwards the served one again.
    assert torch.equal(as_tensor(module({"one": ids([3])})["one"]), rows[[3]])


def test_gradients_of_all_widths_add_up() -> None:
    config = Matryoshka(dim=6, widths=[1, 3, 6], serve=3)
    module = embeddings({"ads": config}, [feature("one", "ads")])
    before = stored(module).rows["rows"]
    total = torch.zeros(())
    for _ in module.training_forms():
        total = total + as_tensor(module({"one": ids([3])})["one"]).sum()
    total.backward()
    module.step()
    # The first element is seen at three widths, the next two at two, the rest at one.
    moved = (before - stored(module).rows["rows"])[3]
    torch.testing.assert_close(moved, torch.tensor([3.0, 2, 2, 1, 1, 1]))


def test_tables_of_fewer_widths_take_their_last() -> None:
    tables: dict[str, TableConfig] = {
        "three": Matryoshka(dim=4, widths=[1, 2, 4]),
        "two": Matryoshka(dim=4, widths=[2, 4]),
        "plain": Full(dim=4),
    }
    module = embeddings(tables, [feature(f"f_{name}", name) for name in tables])
    seen = []
    for _ in module.training_forms():
        got = module({f"f_{name}": ids([7]) for name in tables})
        seen.append([int((as_tensor(got[f"f_{name}"]) != 0).sum()) for name in tables])
    assert seen == [[1, 2, 4], [2, 4, 4], [4, 4, 4]]


def test_one_width_is_one_form() -> None:
    module = embeddings({"ads": Matryoshka(dim=4, widths=[4])}, [feature("one", "ads")])
    assert list(module.training_forms()) == [0]
    served = embeddings({"ads": Matryoshka(dim=4, serve=2)}, [feature("one", "ads")]).served()
    assert list(served.training_forms()) == [0]


def test_an_error_in_a_form_leaves_the_served_one() -> None:
    module = embeddings({"ads": Matryoshka(dim=4)}, [feature("one", "ads")])
    forms = module.training_forms()
    next(forms)
    with pytest.raises(RuntimeError, match="loss"):
        forms.throw(RuntimeError("loss"))
    assert (as_tensor(module({"one": ids([7])})["one"]) != 0).all()


def test_served_rows_are_as_wide_as_is_served() -> None:
    module = embeddings({"ads": Matryoshka(dim=8, serve=2)}, [feature("one", "ads")])
    assert module.rows.tables()["ads"].shape == (50, 8)
    assert module.served().rows.tables()["ads"].shape == (50, 2)
    assert torch.equal(module.served().rows.tables()["ads"], module.rows.tables()["ads"][:, :2])
