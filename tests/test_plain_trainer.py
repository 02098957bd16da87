"""A plain trainer of Lightning trains the models here, and its checkpoints go on from there."""

import lightning
import polars as pl
import pytest
import torch

from recemb import Full, Hashed, RecembError
from recemb.checkpoint import checkpoint_config, read_checkpoint
from recemb.command_line.main import main
from recemb.data.columns import IdColumn
from recemb.data.tabular import Tabular
from recemb.features import FeatureConfig
from recemb.models.deepfm import DeepFM, Network
from recemb.optim import Adagrad, dense_parameters
from recemb.rebuild import rebuild

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*num_workers",
    "ignore:.*LeafSpec",
    "ignore:Checkpoint directory",
    "ignore:The dirpath has",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Rows whose label follows from the item."""
    folder = tmp_path_factory.mktemp("plain")
    generator = torch.Generator().manual_seed(2)
    for name in ("train", "validation"):
        user = torch.randint(20, (400,), generator=generator)
        item = torch.randint(30, (400,), generator=generator)
        frame = pl.DataFrame({"user": user.numpy(), "item": item.numpy()})
        frame = frame.with_columns(clicked=pl.col("item") % 2, item="i" + pl.col("item").cast(str))
        frame.write_parquet(folder / f"{name}.parquet")
    return folder


def data_of(folder):
    return Tabular(
        train=str(folder / "train.parquet"),
        validation=str(folder / "validation.parquet"),
        test=None,
        label="clicked",
        categorical={"user": IdColumn(), "item": IdColumn()},
        batch_size=50,
    )


def model_of(data):
    torch.manual_seed(1)
    return DeepFM(
        data.schema,
        {"user": Full(dim=4), "item": Hashed(dim=4, num_rows=20)},
        {"user": FeatureConfig(table="user"), "item": FeatureConfig(table="item")},
        network=Network(hidden=[8]),
        rows_optimizer=Adagrad(learning_rate=0.1),
    )


def trainer_of(folder, epochs):
    return lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        gradient_clip_val=1.0,
    )


@pytest.fixture(scope="module")
def checkpoint(folder):
    data = data_of(folder)
    trainer = trainer_of(folder, 2)
    trainer.fit(model_of(data), data)
    trainer.save_checkpoint(folder / "plain.ckpt")
    return folder / "plain.ckpt"


def test_its_checkpoint_says_what_the_model_is(checkpoint):
    read = read_checkpoint(checkpoint)
    model = checkpoint_config(read)["model"]
    assert model["class_path"] == "recemb.models.deepfm.DeepFM"
    assert model["init_args"]["tables"]["item"]["num_rows"] == 20
    assert model["init_args"]["network"]["hidden"] == [8]
    again, schema = rebuild(checkpoint)
    assert schema.vocabularies["item"].values(torch.tensor([0])).to_list()[0].startswith("i")
    for name, tensor in read["state_dict"].items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_its_checkpoint_is_exported(checkpoint, tmp_path, capsys):
    assert main(["export", str(checkpoint), "--output", str(tmp_path / "model.pt")]) == 0
    program = torch.jit.load(tmp_path / "model.pt")
    assert "model.pt" in capsys.readouterr().out
    assert program is not None


def test_it_goes_on_to_the_bit(folder, checkpoint, tmp_path):
    data = data_of(folder)
    whole = model_of(data)
    trainer_of(tmp_path / "whole", 3).fit(whole, data)
    data = data_of(folder)
    resumed = model_of(data)
    trainer_of(tmp_path / "resumed", 3).fit(resumed, data, ckpt_path=checkpoint, weights_only=True)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


def test_a_damaged_one_is_still_refused(checkpoint, tmp_path, capsys):
    content = bytearray(checkpoint.read_bytes())
    damaged = tmp_path / "damaged.ckpt"
    damaged.write_bytes(content[: len(content) // 2])
    assert main(["export", str(damaged), "--output", str(tmp_path / "model.pt")]) == 2
    assert "damaged.ckpt: not a readable checkpoint" in capsys.readouterr().err


class Forgetful(DeepFM):
    """A model whose author left the rows out."""

    def configure_optimizers(self):
        return torch.optim.Adam(dense_parameters(self), lr=0.1)


def test_a_model_that_leaves_the_rows_out_is_refused(folder, tmp_path):
    data = data_of(folder)
    model = Forgetful(data.schema, {"user": Full(dim=4)}, {"user": FeatureConfig(table="user")})
    with pytest.raises(RecembError, match=r"^Forgetful: configure_optimizers must return a recemb"):
        trainer_of(tmp_path, 1).fit(model, data)
