"""What recemb wrote and reads back: checkpoints, rows in files, indexes, prepared caches, programs.

One bit is flipped, an end is cut off, or a file is taken away. Content that is not what was written
is never loaded; a prepared cache is made anew.
"""

import functools
import importlib.util
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from recemb.checkpoint import WholeFileIO, read_checkpoint, save_sharded
from recemb.checkpoint_file import FORMAT
from recemb.data.interactions import Interactions
from recemb.physical import PhysicalTable, Uniform
from recemb.rows.local import LocalRowsStore
from recemb.rows.optimizers import Adam
from recemb.serving.archive import load_program
from recemb.serving.export import export
from recemb.serving.item_index import ItemIndex
from tests.fuzz.cases_events import cells, events, last_pairs, read_pairs
from tests.fuzz.cases_tables import written
from tests.fuzz.judge import Case
from tests.models import pairs

Make = Callable[[Path], Path]
VALUES = [[0.5, -1.25], [3.0, 0.0], [float(2**20), -0.125]]
"""Vectors; of each with any of them the last has the largest product."""
CONFIG = (
    "model: {class_path: recemb.models.din.DIN}\ndata: {class_path: recemb.data.tabular.Tabular}\n"
)


def _header() -> dict[str, Any]:
    return {
        "format": FORMAT, "config": CONFIG, "config_hash": "0", "schema": {"columns": {}},
        "random_states": [], "device_random_states": [],
    }  # fmt: skip


def checkpoint(folder: Path) -> Path:
    """A small checkpoint in one file."""
    content = {
        "epoch": 3, "global_step": 40, "state_dict": {"rows": torch.tensor(VALUES)},
        "recemb": _header(),
    }  # fmt: skip
    WholeFileIO().save_checkpoint(content, folder / "best.ckpt")
    return folder / "best.ckpt"


def load_checkpoint(path: Path) -> Any:
    found = read_checkpoint(path)
    return {
        "rows": found["state_dict"]["rows"].tolist(), "epoch": found["epoch"],
        "step": found["global_step"], "config": found["recemb"]["config"],
    }  # fmt: skip


def sharded(folder: Path) -> Path:
    """A checkpoint whose rows are in files of their own."""
    module = torch.nn.Module()
    table = PhysicalTable(num_rows=3, dim=2, initializer=Uniform(1.0))
    module.rows = LocalRowsStore({"ads": table}, Adam())
    module.rows.assign("ads", torch.tensor(VALUES))
    content = {"epoch": 3, "global_step": 40, "state_dict": {}, "recemb": _header()}
    save_sharded(content, folder / "last.ckpt", module)  # type: ignore[arg-type]
    return folder / "last.ckpt"


def load_sharded(path: Path) -> Any:
    found = read_checkpoint(path)
    return {"rows": found["state_dict"]["rows.ads"].tolist(), "epoch": found["epoch"]}


def index(folder: Path) -> Path:
    """A small index of vectors."""
    ItemIndex.exactly(torch.tensor(VALUES)).save(folder / "index")
    return folder / "index"


def load_index(path: Path) -> Any:
    found = ItemIndex.load(path)
    vectors = torch.tensor(VALUES)
    items = [found.search(one.unsqueeze(0), 1)[0].item() for one in vectors]
    return {"vectors": torch.as_tensor(found.vectors_VD).tolist(), "items": items}


def program(folder: Path) -> Path:
    """The program of a small model."""
    for name, content in _program().items():
        (folder / name).write_bytes(content)
    return folder / "model.pt"


@functools.cache
def _program() -> dict[str, bytes]:
    """The files of a program, which is exported once."""
    with tempfile.TemporaryDirectory() as folder:
        model = pairs.build("mf").eval()
        export(model, model.schema, Path(folder) / "model.pt")
        return {one.name: one.read_bytes() for one in Path(folder).iterdir()}


def load_answers(path: Path) -> Any:
    found = load_program(path)({"user": torch.tensor([0, 10])})
    return found[0].tolist()


def prepared(folder: Path) -> Path:
    """A file of events whose prepared form is in the cache."""
    path = written(cells(events(random.Random(5)), str))(folder)
    data = Interactions(source=str(path), time="time")
    data.prepare_data()
    return path


def cache_files() -> list[Path]:
    """The files of all prepared folders; a case begins with none."""
    root = Path(os.environ["RECEMB_CACHE"])
    return sorted(one for one in root.rglob("*") if one.is_file() and not one.name.startswith("."))


def flipped(make: Make, where: float, bit: int, files: Callable[[Path], list[Path]]) -> Make:
    """Return what makes an input with one bit of its files flipped."""

    def made(folder: Path) -> Path:
        path = make(folder)
        named = files(path)
        place = int(where * sum(one.stat().st_size for one in named))
        for one in named:
            size = one.stat().st_size
            if place < size:
                content = bytearray(one.read_bytes())
                content[place] ^= 1 << bit
                one.write_bytes(content)
                return path
            place -= size
        raise AssertionError("there are no bytes")

    return made


def cut(make: Make, where: float, files: Callable[[Path], list[Path]], number: int) -> Make:
    """Return what makes an input with the end of a file missing."""

    def made(folder: Path) -> Path:
        path = make(folder)
        named = files(path)
        one = named[number % len(named)]
        one.write_bytes(one.read_bytes()[: int(where * one.stat().st_size)])
        return path

    return made


def without(make: Make, files: Callable[[Path], list[Path]], number: int) -> Make:
    """Return what makes an input that lacks a file."""

    def made(folder: Path) -> Path:
        path = make(folder)
        named = files(path)
        named[number % len(named)].unlink()
        return path

    return made


def itself(path: Path) -> list[Path]:
    return [path]


def beside(path: Path) -> list[Path]:
    """Return a checkpoint's own file and those of its rows."""
    return sorted(one for one in path.parent.rglob("*") if one.is_file())


def inside(path: Path) -> list[Path]:
    return sorted(one for one in path.rglob("*") if one.is_file())


GROUPS: dict[str, tuple[Make, Callable[[Path], Any], Any, Callable[[Path], list[Path]], int]] = {
    "checkpoint": (checkpoint, load_checkpoint,
                   {"rows": VALUES, "epoch": 3, "step": 40, "config": CONFIG}, itself, 60),
    "sharded checkpoint": (sharded, load_sharded, {"rows": VALUES, "epoch": 3}, beside, 60),
    "index": (index, load_index, {"vectors": VALUES, "items": [2, 2, 2]}, inside, 40),
    "prepared cache": (prepared, lambda path: read_pairs(path),
                       last_pairs(events(random.Random(5))), lambda path: cache_files(), 20),
    "program": (program, load_answers, None, itself, 20),
}  # fmt: skip


def cases(rng: random.Random) -> Iterator[Case]:
    """All cases of what was stored."""
    for group, (make, load, right, files, count) in GROUPS.items():
        if group == "index" and importlib.util.find_spec("faiss") is None:
            continue

        def case(name: str, made: Make, may: Any, group: str = group, load: Any = load,
                 right: Any = right) -> Case:  # fmt: skip
            return Case(group=f"stored: {group}", name=name, make=made, load=load, right=right,
                        may_refuse=may)  # fmt: skip

        # A prepared cache is made anew; all else cannot be.
        may = "never" if group == "prepared cache" else "only"
        if group != "program":
            yield case("as it was written", make, "never")
        for number in range(count):
            where = rng.random()
            bit = flipped(make, where, number % 8, files)
            yield case(f"bit {number % 8} at {where:.4f}", bit, may)
        for number in range(8):
            where = rng.random()
            yield case(f"file {number} cut at {where:.4f}", cut(make, where, files, number), may)
        yield case("a file without bytes", cut(make, 0.0, files, 0), may)
        for number in range(3):
            yield case(f"without file {number}", without(make, files, number), may)
        if group in ("checkpoint", "sharded checkpoint", "program"):
            for label, content in {
                "text": b"hello\n", "noise": rng.randbytes(2000), "a pickle": b"\x80\x04N.",
                "an archive of nothing": b"PK\x05\x06" + bytes(18),
            }.items():  # fmt: skip

                def made(folder: Path, content: bytes = content) -> Path:
                    (folder / "best.ckpt").write_bytes(content)
                    return folder / "best.ckpt"

                yield case(label, made, "only")
