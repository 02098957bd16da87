"""The exported program: alone, on raw files, against what the training code says."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from recemb.command_line.main import main
from recemb.errors import RecembError
from recemb.hashing import hash_string
from recemb.rebuild import rebuild
from recemb.serving import parity
from recemb.serving.export import export
from recemb.serving.parity import CASES, TOLERANCE
from tests.command_line.test_train import log_folder


@pytest.fixture(scope="module")
def program(trained, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    checkpoint = str(trained / "checkpoints/best.ckpt")
    assert main(["export", checkpoint, "--output", str(folder / "model.pt"),
                 "--run", str(folder / "run")]) == 0  # fmt: skip
    return folder / "model.pt"


def requests(rows: pl.DataFrame) -> dict[str, torch.Tensor]:
    """What a server would send for the rows of a raw file, built without recemb's data code."""
    inputs: dict[str, torch.Tensor] = {}
    for name in ("user", "item", "hour"):
        inputs[name] = torch.tensor(rows[name].to_list(), dtype=torch.int64)
    inputs["category"] = torch.tensor([hash_string(one) for one in rows["category"]])
    for name in ("tags", "history_category", "history_item"):
        flat = [one for bag in rows[name].to_list() for one in bag]
        plain = [hash_string(one) if isinstance(one, str) else one for one in flat]
        inputs[name] = torch.tensor(plain, dtype=torch.int64)
        inputs[f"{name}.size"] = torch.tensor([len(bag) for bag in rows[name].to_list()])
    inputs["price"] = torch.from_numpy(rows["price"].to_numpy().copy())
    return inputs


def test_program_on_raw_rows_says_what_predict_says(trained, program, tmp_path):
    options = ["--ckpt_path", str(trained / "checkpoints/best.ckpt"), "--run", str(tmp_path / "p")]
    assert main(["predict", "--config", str(trained.parent / "config.yaml"), *options]) == 0
    predicted = pl.read_parquet(tmp_path / "p/predictions.parquet")["probability"].to_numpy()
    rows = pl.read_parquet(log_folder(trained) / "test.parquet")
    served = torch.jit.load(program)(requests(rows)).numpy()
    np.testing.assert_allclose(served, predicted, atol=TOLERANCE)
    one = torch.jit.load(program)(requests(rows[7:8])).numpy()
    np.testing.assert_allclose(one, predicted[7:8], atol=TOLERANCE)


ALONE = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"recemb", "torchrec", "fbgemm_gpu", "lightning", "polars",
                                  "polars_hash", "models", "data", "torchmetrics"}:
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Blocked())
import torch
program = torch.jit.load(sys.argv[1])
inputs = torch.load(sys.argv[2], weights_only=True)
torch.save(program(inputs), sys.argv[3])
"""


def test_program_loads_where_only_torch_is(trained, program, tmp_path):
    rows = pl.read_parquet(log_folder(trained) / "test.parquet")[:50]
    torch.save(requests(rows), tmp_path / "in.pt")
    command = [sys.executable, "-c", ALONE, str(program), str(tmp_path / "in.pt"),
               str(tmp_path / "out.pt")]  # fmt: skip
    subprocess.run(command, check=True, cwd=tmp_path, capture_output=True)
    expected = torch.jit.load(program)(requests(rows))
    assert torch.equal(torch.load(tmp_path / "out.pt", weights_only=True), expected)


def test_program_has_only_plain_operators(program):
    graph = torch.jit.load(program).inlined_graph
    kinds = {node.kind() for node in graph.nodes()}
    assert all(kind.startswith(("aten::", "prim::")) for kind in kinds)


def test_export_reports_parity_of_every_case_and_describes_inputs(program):
    results = json.loads((program.parent / "run/results.json").read_text())
    assert set(results["parity"]) == {case.name for case in CASES}
    assert {1, 10_000} <= {case.batch for case in CASES}
    assert max(results["parity"].values()) <= TOLERANCE
    assert results["inputs"]["category"]["id"].startswith("xxHash64")
    assert results["inputs"]["history_item"]["type"] == "list of int64"
    assert results["bytes"]["file"] == program.stat().st_size


def test_serving_bytes_are_those_of_the_file(program):
    results = json.loads((program.parent / "run/results.json").read_text())
    # The file adds the program's code and a few hundred bytes per tensor.
    assert 0 <= program.stat().st_size - results["bytes"]["serving"] <= 100_000


def test_a_program_that_disagrees_is_not_written(trained, tmp_path, monkeypatch):
    model, schema = rebuild(trained / "checkpoints/best.ckpt")
    # The looked-up side off by one index, as a wrong vocabulary would be.
    honest = parity.index_of
    monkeypatch.setattr(
        parity, "index_of", lambda vocabulary, values: [
            (one + 1) % vocabulary.num_known for one in honest(vocabulary, values)
        ],
    )  # fmt: skip
    with pytest.raises(RecembError, match=r"must agree with the model within .* nothing was"):
        export(model, schema, tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())


def test_a_refused_unknown_id_is_refused_in_the_program_too(trained, tmp_path):
    from dataclasses import replace

    from recemb.schema import Schema

    model, schema = rebuild(trained / "checkpoints/best.ckpt")
    user = schema.vocabularies["user"]
    strict = replace(user, config=replace(user.config, unknown="error"))
    model.schema = Schema(
        columns=schema.columns,
        vocabularies={**schema.vocabularies, "user": strict},
        dense=schema.dense,
    )
    export(model, model.schema, tmp_path / "model.pt")
    program = torch.jit.load(tmp_path / "model.pt")
    request = requests(pl.read_parquet(log_folder(trained) / "test.parquet")[:2])
    request["user"] = user.keys_V[:2]
    assert program(request).shape == (2,)
    request["user"] = torch.tensor([int(user.keys_V[0]), -1])
    with pytest.raises(RuntimeError, match="column user: unknown id"):
        program(request)
