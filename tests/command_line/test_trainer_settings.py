"""Settings of the trainer that rows cannot have are refused; all others reach them."""

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging

from recemb.command_line.main import main
from recemb.errors import RecembError
from recemb.trainer_settings import check_settings, check_trainer
from tests.command_line.small import write
from tests.command_line.test_mistakes import folder, tiny_config

__all__ = ["folder"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["precision", "16-true"],
            "one of ['32-true', 'bf16-mixed', '16-mixed'], got '16-t",
        ),
        (["precision", "bf16-true"], "got 'bf16-true'"),
        (["precision", "64-true"], "got '64-true'"),
    ],
)
def test_settings_that_rows_cannot_have_are_refused_before_training(
    options: list[str], words: str, folder, tmp_path, capsys
) -> None:
    config = write(tiny_config(folder), tmp_path)
    run = tmp_path / "run"
    name, value = options
    arguments = ["fit", "--config", config, "--run", str(run), f"--trainer.{name}", value]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert words in error
    assert not list(run.rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("16-mixed", None, None), "precision must be one of ['32-true', 'bf16-mixed'], got '16-"),
        ((16, None, None), "got 16"),
        (("32-true", 0.5, None), "gradient_clip_val cannot be set where rows are spread over"),
        (("32-true", None, "value"), "gradient_clip_algorithm cannot be set where rows are"),
    ],
)
def test_settings_that_pass_by_rows_of_several_processes_are_refused(settings, words) -> None:
    check_settings(*settings, is_sharded=False)
    with pytest.raises(RecembError) as caught:
        check_settings(*settings, is_sharded=True)
    assert words in str(caught.value)


def test_clipping_reaches_rows(folder, tmp_path) -> None:
    """SGD moves rows by their gradient: under Adam clipping would not show."""
    moved = {}
    for clip in (None, 1e-4):
        config = tiny_config(folder)
        config["model"]["init_args"]["rows_optimizer"] = {"kind": "sgd", "learning_rate": 1.0}
        config["trainer"] |= {"max_steps": 1, "gradient_clip_val": clip}
        (tmp_path / str(clip)).mkdir()
        run = tmp_path / str(clip) / "run"
        arguments = ["fit", "--config", write(config, tmp_path / str(clip)), "--run", str(run)]
        assert main(arguments) == 0
        state = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
        moved[clip] = state["embeddings.rows.item"]
    # Both began with the same rows.
    difference = (moved[None] - moved[1e-4]).norm()
    assert difference > 1e-3


def test_accumulated_batches_are_one_step_of_rows_too(folder, tmp_path) -> None:
    """The rows after two halves of a batch are those after the whole."""
    rows = {}
    for size, count in ((64, 1), (16, 4)):
        config = tiny_config(folder)
        config["data"]["init_args"]["batch_size"] = size
        config["trainer"]["accumulate_grad_batches"] = count
        config["model"]["init_args"]["rows_optimizer"] = {"kind": "sgd", "learning_rate": 10.0}
        # Dice, the default, goes by the mean of a batch.
        config["model"]["init_args"]["network"] |= {
            "activation": "relu",
            "attention_activation": "relu",
        }
        (tmp_path / str(size)).mkdir()
        run = tmp_path / str(size) / "run"
        arguments = ["fit", "--config", write(config, tmp_path / str(size)), "--run", str(run)]
        assert main(arguments) == 0
        state = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
        rows[size] = state["embeddings.rows.item"]
    # A step moves a row by about 0.01; halves are added in another order.
    assert (rows[64][1:] - rows[64][:-1]).abs().max() > 0.01
    torch.testing.assert_close(rows[64], rows[16], rtol=0, atol=1e-5)


def test_averaging_that_rows_would_not_take_part_in_is_refused() -> None:
    trainer = Trainer(
        accelerator="cpu", logger=False, callbacks=[StochasticWeightAveraging(swa_lrs=0.1)]
    )
    with pytest.raises(RecembError, match="StochasticWeightAveraging averages parameters alone"):
        check_trainer(trainer, is_sharded=False)
