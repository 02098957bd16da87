"""Save checkpoints on a disk that is full the second time.

    python -m tests.distributed.full_disk FOLDER

prints what the second save says; FOLDER is on a small disk of its own.
"""

import contextlib
import sys
from pathlib import Path

import torch

from recemb import processes
from recemb.checkpoint import read_checkpoint, save_sharded
from recemb.checkpoint_file import FORMAT
from recemb.errors import RecembError
from recemb.physical import PhysicalTable, Uniform
from recemb.rows.optimizers import Adam
from recemb.rows.torchrec_store import TorchRecRowsStore

ROWS, DIM = 10_000, 16


def main(folder: Path) -> None:
    """Save, fill the disk, save again; hold what is left against what was saved first."""
    processes.start()
    torch.manual_seed(1)
    table = PhysicalTable(num_rows=ROWS, dim=DIM, initializer=Uniform(1.0), sharding="row_wise")
    module = torch.nn.Module()
    module.rows = TorchRecRowsStore({"ads": table}, Adam())
    path = folder / "last.ckpt"

    def save() -> None:
        states = {"random_states": [], "device_random_states": []}
        header = {"format": FORMAT, "config": "", "schema": {}, **states}
        content = {"state_dict": {}, "recemb": header}
        save_sharded(content, path, module)  # type: ignore[arg-type]

    save()
    first = module.rows.values("ads").clone()
    files = sorted(one.name for one in folder.iterdir())
    # Until the disk is full.
    with contextlib.suppress(OSError), (folder / "filler").open("wb") as filler:
        while True:
            filler.write(bytes(1 << 16))
            filler.flush()
    module.rows.assign("ads", first + 1)
    try:
        save()
    except RecembError as error:
        print(error)
    else:
        raise AssertionError("the disk was not full")
    (folder / "filler").unlink()
    assert sorted(one.name for one in folder.iterdir()) == files
    assert torch.equal(read_checkpoint(path)["state_dict"]["rows.ads"], first)
    save()
    assert torch.equal(read_checkpoint(path)["state_dict"]["rows.ads"], first + 1)
    processes.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
