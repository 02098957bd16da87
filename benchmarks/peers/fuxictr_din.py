"""Train and test FuxiCTR's DIN once and write one JSON; it runs in FuxiCTR's own environment.

The steps and their order are those of FuxiCTR's ``model_zoo/LongCTR/run_expid.py``. Nothing of
the library is replaced: ``train_epoch`` and ``eval_step`` are only called through a clock.
"""

import argparse
import json
import logging
import platform
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fuxictr
import numpy as np
import polars as pl
import torch
import yaml
from fuxictr.features import FeatureMap
from fuxictr.preprocess import FeatureProcessor, build_dataset
from fuxictr.pytorch.dataloaders import RankDataLoader
from fuxictr.pytorch.torch_utils import seed_everything
from fuxictr.utils import load_config, set_logger
from fuxictr_layout import DATASET, dataset_configuration
from metrics import area_under_curve, log_loss
from model_zoo.LongCTR.DIN import DIN
from model_zoo.LongCTR.longctr_dataloader import LongCTRDataLoader


class Clock:
    """Seconds spent inside the functions it wraps, one entry for each call."""

    def __init__(self) -> None:
        self.calls_s: list[float] = []

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``function`` with each call timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.calls_s.append(time.perf_counter() - start)

        return timed


def experiment(settings: dict[str, Any], seed: int, models: Path) -> dict[str, Any]:
    """Return FuxiCTR's model configuration; keys not set here are those of its shipped DIN."""
    shared = settings["shared"]
    return {
        "model": "DIN",
        "dataset_id": DATASET,
        "model_root": str(models),
        "num_workers": settings["fuxictr"]["num_workers"],
        "verbose": 0,
        "early_stop_patience": shared["early_stop_patience"],
        "save_best_only": True,
        "eval_steps": None,
        "group_id": None,
        "use_features": None,
        "feature_specs": None,
        "loss": "binary_crossentropy",
        "metrics": ["AUC", "logloss"],
        "task": "binary_classification",
        "optimizer": shared["optimizer"],
        "learning_rate": shared["learning_rate"],
        # FuxiCTR reads a regulariser only from a float; 0 switches it off.
        "embedding_regularizer": float(shared["embedding_regularizer"]),
        "net_regularizer": 0,
        "batch_size": shared["batch_size"],
        "embedding_dim": shared["embedding_dim"],
        "dnn_hidden_units": shared["dnn_hidden_units"],
        "dnn_activations": shared["dnn_activation"],
        "attention_hidden_units": shared["attention_hidden_units"],
        "attention_hidden_activations": shared["attention_activation"],
        "attention_output_activation": None,
        "attention_dropout": 0,
        "din_use_softmax": shared["use_softmax"],
        "net_dropout": shared["net_dropout"],
        "batch_norm": False,
        "epochs": shared["epochs"],
        "shuffle": True,
        "seed": seed,
        "monitor": "AUC",
        "monitor_mode": "max",
        "max_len": shared["max_history"],
        "accumulation_steps": 1,
    }


def configure(
    layout: Path, work: Path, settings: dict[str, Any], seed: int, name: str, rows: int | None
) -> dict[str, Any]:
    """Write FuxiCTR's two configuration files and return what it loads from them.

    Args:
        layout: What ``fuxictr_layout.py`` wrote.
        work: Holds the configurations, the checkpoints and the logs.
        settings: The content of ``settings.yaml``.
        seed: Of initial weights and of the order of rows.
        name: Of the experiment; runs of different names share nothing but the layout.
        rows: Train on this many rows only, drawn at random; None for all.
    """
    dataset = dataset_configuration(layout)
    if rows is not None:
        sample = layout / f"train-{rows}.parquet"
        pl.read_parquet(layout / "train.parquet", glob=False).sample(rows, seed=0).write_parquet(
            sample
        )
        dataset["train_data"] = str(sample)
    folder = work / "config" / name
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "dataset_config": {DATASET: dataset},
        "model_config": {"Base": {}, name: experiment(settings, seed, work / "models")},
    }
    for stem, content in files.items():
        (folder / f"{stem}.yaml").write_text(yaml.safe_dump(content))
    parameters: dict[str, Any] = load_config(str(folder), name)
    parameters["gpu"] = -1
    return parameters


def train_and_test(parameters: dict[str, Any]) -> dict[str, Any]:
    """Follow ``run_expid.py`` and return the figures of the run, with the test predictions."""
    seed_everything(seed=parameters["seed"])
    data_dir = Path(parameters["data_root"]) / parameters["dataset_id"]
    encoder = FeatureProcessor(**parameters)
    names = ("train_data", "valid_data", "test_data")
    given = {name: parameters[name] for name in names}
    build_dataset(encoder, **parameters)
    # build_dataset answers with standard file names; a sample of the rows has another.
    parameters.update(given)
    feature_map = FeatureMap(parameters["dataset_id"], str(data_dir))
    feature_map.load(str(data_dir / "feature_map.json"), parameters)
    model = DIN(feature_map, **parameters)
    train_clock, evaluation_clock, validation_aucs = Clock(), Clock(), []
    model.train_epoch = train_clock.wrap(model.train_epoch)
    model.eval_step = evaluation_clock.wrap(model.eval_step)
    checkpoint = model.checkpoint_and_earlystop

    def note_and_continue(logs: dict[str, float], **kwargs: Any) -> None:
        validation_aucs.append(float(logs["AUC"]))
        checkpoint(logs, **kwargs)

    model.checkpoint_and_earlystop = note_and_continue
    parameters["data_loader"] = LongCTRDataLoader
    train, valid = RankDataLoader(feature_map, stage="train", **parameters)
    model.fit(train, validation_data=valid, **parameters)
    test = RankDataLoader(feature_map, stage="test", **parameters)
    # eval_step runs at the end of train_epoch, inside it.
    epochs_s = [
        whole - part
        for whole, part in zip(train_clock.calls_s, evaluation_clock.calls_s, strict=True)
    ]
    return {
        "probability_N": model.predict(test),
        "label_N": pl.read_parquet(parameters["test_data"], glob=False)["label"].to_numpy(),
        "item_vector_size": model.item_info_dim,
        "num_parameters": sum(weights.numel() for weights in model.parameters()),
        "validation_aucs": validation_aucs,
        "epochs_s": epochs_s,
        "num_train_rows": train.num_samples,
    }


def summarise(run: dict[str, Any], seed: int, seconds: float) -> dict[str, Any]:
    """Return the JSON of a run; its first keys are those of ``recemb fit --json``."""
    label_N, probability_N = run["label_N"], run["probability_N"]
    best = int(np.argmax(run["validation_aucs"]))
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    largest_worker = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return {
        "metrics": {
            "test/auc": area_under_curve(label_N, probability_N),
            "test/logloss": log_loss(label_N, probability_N),
            "val/auc": run["validation_aucs"][best],
        },
        "samples_per_s": run["num_train_rows"] * len(run["epochs_s"]) / sum(run["epochs_s"]),
        # Linux counts ru_maxrss in KiB. Workers are apart: they share pages with their parent.
        "peak_memory_bytes": own * 1024,
        "largest_worker_bytes": largest_worker * 1024,
        "seconds": seconds,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "fuxictr": fuxictr.__version__,
        },
        "seed": seed,
        "best_epoch": best + 1,
        "validation_aucs": run["validation_aucs"],
        "epochs_s": run["epochs_s"],
        "num_train_rows": run["num_train_rows"],
        "num_parameters": run["num_parameters"],
        "item_vector_size": run["item_vector_size"],
        "num_threads": torch.get_num_threads(),
    }


def main() -> None:
    """Read the arguments, train, test, write the JSON and the predictions beside it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layout", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--settings", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--rows", type=int, help="train on a sample of this many rows")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=JSON")
    arguments = parser.parse_args()
    start = time.perf_counter()
    settings = yaml.safe_load(arguments.settings.read_text())
    for assignment in arguments.set:
        key, _, value = assignment.partition("=")
        section = "shared" if key in settings["shared"] else "fuxictr"
        if key not in settings[section]:
            parser.error(f"--set: no setting is named {key}")
        settings[section][key] = json.loads(value)
    name = arguments.json.stem
    work = arguments.work.resolve()
    parameters = configure(
        arguments.layout.resolve(), work, settings, arguments.seed, name, arguments.rows
    )
    set_logger(parameters)
    run = train_and_test(parameters)
    logging.info("Epochs in s: %s", run["epochs_s"])
    report = summarise(run, arguments.seed, time.perf_counter() - start)
    report["settings"] = settings["shared"] | settings["fuxictr"]
    np.savez(arguments.json.with_suffix(".npz"), label=run["label_N"], score=run["probability_N"])
    arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
