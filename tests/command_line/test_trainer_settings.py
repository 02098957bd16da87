"""Settings of the trainer that would pass by the rows are refused; those that reach them work."""

import pytest
import torch

from recemb.command_line.main import main
from tests.command_line.small import write
from tests.command_line.test_mistakes import folder, tiny_config

__all__ = ["folder"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["precision", "16-mixed"], "precision must be one of ['32-true', 'bf16-mixed'], got '16-"),
        (["precision", "16"], "got 16"),
        (["precision", "16-true"], "got '16-true'"),
        (["precision", "64-true"], "got '64-true'"),
        (["gradient_clip_val", "0.5"], "gradient_clip_val cannot be set, got 0.5"),
        (["gradient_clip_algorithm", "value"], "gradient_clip_algorithm cannot be set"),
    ],
)
def test_settings_that_pass_by_the_rows_are_refused_before_training(
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
