"""DIN over every kind of table: multi-hot columns and jagged histories, trained and served."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from lightning import Callback, Trainer

from recemb.data.batch import Batch
from recemb.features import FeatureConfig
from recemb.jagged import KeyedJagged, split_keyed
from recemb.models.din import DIN, Network
from recemb.rows.optimizers import Adam
from recemb.schema import Column, DenseColumn, Schema
from recemb.serving import parity
from recemb.serving.export import export
from recemb.serving.parity import Case
from recemb.tables.registry import KINDS, table_config
from recemb.vocabulary import VocabularyConfig, build_vocabulary

NUM_IDS = {"user": 30, "item": 40, "tags": 12}
SETTINGS: dict[str, dict[str, Any]] = {
    "adaptive": {"num_rows": 40},
    "candidate_dims": {"candidates": [8]},
    "codes": {"num_parts": 4, "num_bits": 4},
    "compositional": {"num_remainders": 6},
    "deduplicated": {"num_blocks": 60, "rows_per_block": 1},
    "deep_hash": {"width": 12, "num_hashes": 16},
    "dpq": {"num_parts": 4, "num_keys": 16},
    "dpq sx": {"num_parts": 4, "num_keys": 16, "response": "sx"},
    "dynamic": {"num_rows": 40, "every": 5},
    "full": {},
    "full int8": {"precision": "int8", "step": "row"},
    "full alpt": {"precision": "int8", "step": "learned"},
    "full bf16 projected": {"precision": "bf16", "project": 6},
    "gated": {"ends": [4, 9]},
    "hashed": {"num_rows": 50, "num_hashes": 2},
    "matryoshka": {"serve": 4},
    "mgqe": {"num_parts": 4, "num_keys": 16, "rest_keys": 4},
    "mixed_dim": {"exponent": 0.4},
    "pruned": {"num_values": 400},
    "robe": {"num_values": 300, "chunk": 4},
    "selected": {"ends": [4], "keep": [[0, 1, 3], [2]]},
    "soft_thresholded": {},
    "tensor_train": {"rank": 3},
    "thresholded": {},
    "unified": {"num_rows": 50},
    "weighted_hash": {"num_rows": 50},
}


def schema() -> Schema:
    """Return two columns with one id, a multi-hot column, a history and a number."""
    vocabularies = {
        name: build_vocabulary(
            name,
            pl.DataFrame({"value": [10 * i for i in range(n - 1)], "count": range(n, 1, -1)}),
            VocabularyConfig(),
        )
        for name, n in NUM_IDS.items()
    }
    return Schema(
        columns={
            "user": Column(is_list=False, vocabulary="user"),
            "item": Column(is_list=False, vocabulary="item"),
            "tags": Column(is_list=True, vocabulary="tags"),
            "history": Column(is_list=True, vocabulary="item"),
        },
        vocabularies=vocabularies,
        dense={"price": DenseColumn()},
    )


def batches(count: int, size: int = 32) -> list[Batch]:
    """Return random samples whose label is that of the item; the first batch has no histories."""
    generator = torch.Generator().manual_seed(1)

    def some(below: int, number: int) -> torch.Tensor:
        return torch.randint(0, below, (number,), generator=generator)

    made = []
    for place in range(count):
        ones = torch.ones(size, dtype=torch.int64)
        sizes = {"tags": some(4, size), "history": some(6, size) * (place > 0)}
        item = some(NUM_IDS["item"], size)
        values = [some(NUM_IDS["user"], size), item]
        values += [some(NUM_IDS["tags"], int(sizes["tags"].sum()))]
        values += [some(NUM_IDS["item"], int(sizes["history"].sum()))]
        lengths = torch.stack([ones, ones, sizes["tags"], sizes["history"]])
        ids = KeyedJagged(("user", "item", "tags", "history"), torch.cat(values), lengths)
        dense = torch.randn(size, 1, generator=generator)
        made.append(Batch(ids, dense, (item % 2).float(), len(item)))
    return made


class Loader:
    """What a trainer takes: a list would be several loaders to it."""

    def __init__(self, count: int) -> None:
        self.batches = batches(count)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)


class Losses(Callback):
    """Keeps the training losses."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
        """Keep one."""
        self.values.append(float(outputs["loss"].detach()))


def test_every_kind_is_here() -> None:
    assert {name.split()[0] for name in SETTINGS} == set(KINDS)


@pytest.mark.parametrize("is_training", [False, True])
def test_an_item_is_read_once_however_many_histories_hold_it(
    is_training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = {name: table_config(name, {"kind": "full", "dim": 8}) for name in ("user", "item")}
    features = {name: FeatureConfig(table=name) for name in tables}
    model = DIN(schema(), tables, features, {"item": "history"}, Network(hidden=[16]))
    model.train(is_training)
    batch = batches(2)[1]
    asked: dict[str, torch.Tensor] = {}
    embed = model.embeddings.forward

    def forward(ids: Any) -> Any:
        asked.update(ids)
        return embed(ids)

    monkeypatch.setattr(model.embeddings, "forward", forward)
    with torch.no_grad():
        model(batch.ids, batch.dense_BK)
    by_column = split_keyed(batch.ids)
    met = [int(one) for key in ("item", "history") for one in by_column[key].values]
    assert len(met) > len(set(met))
    assert sorted(asked["item"].tolist()) == sorted(set(met))


# Lightning's own.
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
@pytest.mark.parametrize("name", list(SETTINGS))
def test_din_trains_and_serves(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    # One table for users, items, their histories and bags of tags.
    config = table_config("all", {"kind": name.split()[0], "dim": 8, **SETTINGS[name]})
    model = DIN(
        schema(),
        {"all": config},
        {
            "user": FeatureConfig(table="all"),
            "item": FeatureConfig(table="all"),
            "tags": FeatureConfig(table="all", pooling="sum"),
        },
        {"item": "history"},
        Network(hidden=[16], attention_hidden=[8], decay=0.01),
        learning_rate=0.02,
        rows_optimizer=Adam(learning_rate=0.02),
    )
    before = {key: one.clone() for key, one in model.embeddings.state_dict().items()}
    losses = Losses()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        callbacks=[losses],
    )
    trainer.fit(model, train_dataloaders=Loader(4), val_dataloaders=Loader(2))
    assert len(losses.values) == 12
    assert torch.tensor(losses.values).isfinite().all()
    assert sum(losses.values[-4:]) < sum(losses.values[:4])
    after = model.embeddings.state_dict()
    changed = {key for key, one in after.items() if not torch.equal(one, before[key])}
    trained = {key for key, one in before.items() if one.is_floating_point() or "rows." in key}
    # What a kind does not train: codes, gates and thresholds, which only a search moves.
    trained -= {key for key in trained if name == "codes" and key.startswith("rows.")}
    trained -= {
        key for key in trained if key.endswith(("gate_SD", "threshold_F", "s_XD", "weight_K"))
    }
    assert trained <= changed
    assert model.embeddings.is_final()

    monkeypatch.setattr(
        parity, "CASES", (Case("one", 1), Case("some", 20, 0.3), Case("none", 5, longest=0))
    )
    results = export(model, model.schema, tmp_path / "model.pt")
    assert max(results["parity"].values()) <= parity.TOLERANCE  # type: ignore[attr-defined]
    program = torch.jit.load(tmp_path / "model.pt")
    assert not any(one.requires_grad for one in program.parameters())
    asked = parity.make_request(model.schema, Case("one", 2), torch.Generator().manual_seed(0))
    with torch.enable_grad():
        assert not program(asked.raw).requires_grad
