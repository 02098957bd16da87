"""Train a model of RecBole for some steps, with its own loaders and its own epoch; say how fast.

Runs in RecBole's environment, from ``run.py``. The epoch is the trainer's, over the first batches
of its own loader; nothing of RecBole is changed. Printed as JSON: examples seen, seconds of wall
clock and of processor in training.
"""

import argparse
import itertools
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.trainer import Trainer
from recbole.utils import get_model, init_seed

FORMS: dict[str, dict[str, Any]] = {
    "SASRec": {
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "MAX_ITEM_LIST_LENGTH": 50,
        "train_neg_sample_args": None,
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"},
    },
    "NGCF": {
        "load_col": {"inter": ["user_id", "item_id"]},
        "eval_args": {"split": {"RS": [0.9, 0.1, 0.0]}, "order": "RO", "mode": "full"},
    },
}
FORMS["LightGCN"] = FORMS["NGCF"]


class FirstBatches:
    """The first batches of a loader, and how many examples they had."""

    def __init__(self, loader: Any, count: int) -> None:
        self.loader, self.count, self.examples = loader, count, 0

    def __iter__(self) -> Iterator[Any]:
        for batch in itertools.islice(self.loader, self.count):
            self.examples += len(batch)
            yield batch


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=FORMS)
    parser.add_argument("--data", type=Path, required=True, help="folder DATA/NAME/NAME.inter")
    parser.add_argument("--name", required=True)
    parser.add_argument("--batch_size", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    settings = {
        **FORMS[options.model],
        "data_path": str(options.data),
        "train_batch_size": options.batch_size,
        "checkpoint_dir": str(options.data / "saved"),
        "seed": options.seed,
        "use_gpu": False,
        "show_progress": False,
    }
    config = Config(model=options.model, dataset=options.name, config_dict=settings)
    torch.set_num_threads(options.threads)
    init_seed(options.seed, True)
    dataset = create_dataset(config)
    train_data, _, _ = data_preparation(config, dataset)
    model = get_model(config["model"])(config, train_data.dataset)
    trainer = Trainer(config, model)
    # A step that is not counted: what is made once is made there.
    trainer._train_epoch(FirstBatches(train_data, 1), 0)
    batches = FirstBatches(train_data, options.steps)
    wall, work = time.perf_counter(), time.process_time()
    trainer._train_epoch(batches, 1)
    wall, work = time.perf_counter() - wall, time.process_time() - work
    print(json.dumps({"examples": batches.examples, "wall": wall, "work": work}))


if __name__ == "__main__":
    main()
