"""A new kind is one new file: found, budgeted, trained, exported and run without another edit."""

import importlib
import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import recemb.tables
from recemb.accounting import table_report
from recemb.hashing import rows_of_one, salt_of
from recemb.rows.optimizers import Adam
from recemb.tables import registry
from tests.command_line.small import ROOT, small_config, write
from tests.tables.alone import Alone
from tests.tables.contract_serving import REQUESTS, Program, request
from tests.tables.contract_training import train
from tests.tables.helpers import as_tensor, bags, embeddings, feature, ids, stored

FILE = '''
"""Centered: hashed rows around a vector that all ids of a table share.

    vector = c + E[h(id)]
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn

from recemb.physical import PhysicalTable, Uniform
from recemb.tables.hashed import SaltedReads
from recemb.tables.kind import TableConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Centered(TableConfig):
    """Hashed rows and a center."""

    kind: Literal["centered"] = "centered"
    """The name of the kind."""
    num_rows: int | None = None
    """Rows; a share or a budget may choose it."""

    searched: ClassVar[str] = "num_rows"

    def physical_tables(self, where, spaces):
        """Return the rows."""
        return {"rows": PhysicalTable(num_rows=self.num_rows, dim=self.dim,
                                      initializer=Uniform(self.init_scale))}

    def learned(self, where, spaces):
        """Return the center."""
        return _Center(self.dim)

    def vector_dim(self, lookups):
        """Return dim."""
        return self.dim

    def free_sizes(self, where, spaces):
        """Return the numbers of rows."""
        return range(1, 1 << 20)

    def build(self, features):
        """Return the module."""
        return CenteredKind(features)


class _Center(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.value_D = nn.Parameter(torch.zeros(dim))


class CenteredKind(SaltedReads):
    """Adds the center."""

    def compose(self, parts, feature, ids):
        """Return row plus center."""
        return parts[0].squeeze(1) + feature.learned.value_D
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the file of the kind."""
    folder = tmp_path / "kinds"
    folder.mkdir()
    (folder / "centered.py").write_text(FILE)
    return folder


@pytest.fixture
def found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The registry, with that folder beside its own."""
    monkeypatch.setattr(recemb.tables, "__path__", [*recemb.tables.__path__, str(folder)])
    importlib.invalidate_caches()
    monkeypatch.setattr(registry, "KINDS", registry._find_kinds())
    yield
    del sys.modules["recemb.tables.centered"]


@pytest.mark.usefixtures("found")
def test_a_new_kind_trains_and_exports(alone: Alone, tmp_path: Path) -> None:
    config = registry.table_config("ads", {"kind": "centered", "dim": 6, "share": 0.5})
    features = [feature("who", "ads", space="user"), feature("one", "ads")]
    for pooling in ("sum", "mean", "max", "none"):
        features.append(feature(pooling, "ads", pooling=pooling))
    module = embeddings({"ads": config}, features, Adam(learning_rate=0.02))
    # Half of 70 * 6 numbers, of which the center takes 6.
    assert table_report(module)["ads"] == {
        "kind": "centered",
        "num_rows": 34,
        "dim": 6,
        "bytes": (34 * 6 + 6) * 4,
    }
    batch = {"who": ids([3]), "one": ids([7, 49]), "mean": bags([[4], []])}
    batch |= {name: bags([]) for name in ("sum", "max", "none")}
    losses = train(module, batch, torch.full((5, 6), 0.1), 60)
    assert losses[-1] < 0.3 * losses[0]

    held = stored(module)
    assert held.learned["value_D"].any()
    row = held.rows["rows"][rows_of_one(49, salt_of("ads", "item", 0), 34)]
    got = as_tensor(module.eval()(batch)["one"])[1]
    torch.testing.assert_close(got.detach(), row + held.learned["value_D"])

    program = Program(module.served().eval()).eval().requires_grad_(False)
    requests = [request(*one) for one in REQUESTS.values()]
    with warnings.catch_warnings():
        warnings.simplefilter("error", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        traced = torch.jit.trace(program, (requests[0],), check_trace=False)
        torch.jit.save(traced, tmp_path / "model.pt")
    for asked, answer in zip(requests, alone(tmp_path / "model.pt", requests), strict=True):
        for one, wanted in zip(answer, program(asked), strict=True):
            torch.testing.assert_close(one, wanted, rtol=1e-5, atol=1e-6)


RUN = """
import sys
import recemb.tables
recemb.tables.__path__.append(sys.argv[1])
from recemb.command_line.main import main
sys.exit(main(["fit", "--config", sys.argv[2], "--run", sys.argv[3] + "/fit"])
         or main(["export", sys.argv[3] + "/fit/checkpoints/best.ckpt",
                  "--run", sys.argv[3] + "/export", "--output", sys.argv[3] + "/model.pt"]))
"""


def test_a_configuration_may_name_a_new_kind(folder: Path, tmp_path: Path) -> None:
    config = small_config()
    config["trainer"]["max_epochs"] = 1
    model = config["model"]["init_args"]
    model["tables"] = {"shared": {"kind": "centered", "dim": 8, "num_rows": 600}}
    for one in model["features"].values():
        one.pop("lookups", None)
    path = write(config, tmp_path)
    command = [sys.executable, "-W", "ignore", "-c", RUN, str(folder), path, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads((tmp_path / "fit/results.json").read_text())
    assert results["tables"]["shared"]["kind"] == "centered"
    assert (tmp_path / "model.pt").is_file()
