"""Checkpoints: every byte is covered, and every tensor of a model comes from one."""

import pickle
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import xxhash
from torch import nn

from recemb.checkpoint import (
    WholeFileIO,
    check_resumable,
    checkpoint_config,
    checkpoint_schema,
    copy_checkpoint,
    fingerprint,
    load_module,
    read_checkpoint,
    save_sharded,
)
from recemb.errors import RecembError
from recemb.physical import PhysicalTable, Uniform
from recemb.rows.local import LocalRowsStore
from recemb.rows.optimizers import Adam


class Model(nn.Module):
    """Rows and something dense."""

    def __init__(self, store: type[LocalRowsStore] = LocalRowsStore) -> None:
        super().__init__()
        table = PhysicalTable(num_rows=20, dim=4, initializer=Uniform(1.0))
        self.rows = store({"ads": table, "users": table}, Adam(), seed=1)
        self.dense = nn.Linear(3, 2)


class Elsewhere(LocalRowsStore):
    """Rows that are no buffers of the module, as those of several processes."""

    has_buffers = False

    def _save_to_state_dict(self, *args: Any) -> None:
        pass


def content(model: nn.Module) -> dict[str, Any]:
    return {
        "state_dict": model.state_dict(),
        "rows_optimizer": model.rows.optimizer_state(),
        "recemb": {
            "format": 4,
            "config": "model: {class_path: recemb.models.din.DIN}\ndata: {class_path: data.x.X}\n",
            "schema": {"vocabularies": [], "columns": {}, "dense": {}, "attributes": {}},
            "random_states": [torch.arange(7)],
            "device_random_states": [None],
        },
    }


@pytest.fixture
def model() -> Model:
    torch.manual_seed(3)
    return Model()


@pytest.fixture
def saved(model: Model, tmp_path: Path) -> Path:
    path = tmp_path / "best.ckpt"
    WholeFileIO().save_checkpoint(content(model), path)
    return path


def refusal(path: Path) -> str:
    """Return the line in which a checkpoint is refused."""
    with pytest.raises(RecembError) as refused:
        read_checkpoint(path)
    assert "\n" not in str(refused.value)
    assert path.name in str(refused.value)
    return str(refused.value)


def damages(whole: bytes, flips: int) -> Iterator[bytes]:
    """Yield content with one bit changed, at the ends and anywhere, and cut or longer."""
    source = random.Random(19)
    ends = [*range(0, 40, 5), *range(len(whole) - 80, len(whole), 5)]
    for place in [*ends, *(source.randrange(len(whole)) for _ in range(flips))]:
        changed = bytearray(whole)
        changed[place] ^= 1 << source.randrange(8)
        yield bytes(changed)
    for length in (0, 1, 60, len(whole) // 2, len(whole) - 32, len(whole) - 1):
        yield whole[:length]
    yield from (whole + b"\0", whole + whole[-48:], whole + whole)


def test_every_bit_is_covered(saved: Path) -> None:
    whole = saved.read_bytes()
    for damaged in damages(whole, flips=300):
        saved.write_bytes(damaged)
        refusal(saved)
    saved.write_bytes(whole)
    read_checkpoint(saved)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_every_bit_of_a_checkpoint_with_files_of_rows_is_covered(
    model: Model, tmp_path: Path
) -> None:
    path = tmp_path / "last.ckpt"
    header = content(model)
    header["state_dict"] = {"dense.weight": header["state_dict"]["dense.weight"]}
    save_sharded(header, path, model)  # type: ignore[arg-type]
    (folder,) = tmp_path.glob("last.ckpt.rows-*")
    assert torch.equal(read_checkpoint(path)["state_dict"]["rows.ads"], model.rows.values("ads"))
    files = [path, folder / ".metadata", folder / "__0_0.distcp"]
    assert {path.name, *(one.name for one in folder.iterdir())} == {one.name for one in files}
    for file, flips in zip(files, (50, 50, 20), strict=True):
        whole = file.read_bytes()
        for damaged in damages(whole, flips):
            file.write_bytes(damaged)
            refusal(path)
        file.write_bytes(whole)
    read_checkpoint(path)


def test_the_seal_is_the_checksum_of_all_before_it(saved: Path) -> None:
    whole = saved.read_bytes()
    assert whole[-32:].decode() == xxhash.xxh3_128_hexdigest(whole[:-32]) == fingerprint(saved)
    # Whoever has torch alone reads it as any other file, and so does whoever has neither.
    assert torch.load(saved, weights_only=True)["recemb"]["format"] == 4
    assert zipfile.ZipFile(saved).testzip() is None


def test_a_fingerprint_tells_contents_apart(model: Model, saved: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.ckpt"
    copy_checkpoint(saved, copy)
    assert fingerprint(copy) == fingerprint(saved)
    with torch.no_grad():
        model.dense.bias[0] += 1e-6
    WholeFileIO().save_checkpoint(content(model), copy)
    assert fingerprint(copy) != fingerprint(saved)
    with pytest.raises(RecembError, match="there is no such checkpoint"):
        fingerprint(tmp_path / "none.ckpt")
    copy.write_text("text")
    with pytest.raises(RecembError, match="not a readable checkpoint"):
        fingerprint(copy)


def test_what_stays_in_use_does_not_depend_on_the_file(saved: Path) -> None:
    header = read_checkpoint(saved)["recemb"]
    with saved.open("r+b") as file:
        file.write(bytes(saved.stat().st_size))
    assert header["random_states"][0].tolist() == list(range(7))


@pytest.mark.parametrize(
    "given", [b"", b"text\n", b"PK\x03\x04", pickle.dumps({"recemb": 1}), bytes(10_000)]
)
def test_what_is_no_checkpoint_is_a_line(given: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    path.write_bytes(given)
    assert "not a readable checkpoint" in refusal(path)


def test_a_checkpoint_of_an_earlier_format_is_a_line(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "old.ckpt"
    old = content(model)
    old["recemb"]["format"] = 3
    torch.save(old, path)
    assert "not a checkpoint of this version of recemb (format 4)" in refusal(path)
    # The right format, but whole only by hearsay.
    torch.save(content(model), path)
    assert "the checksum that ends one is missing" in refusal(path)


@pytest.mark.parametrize("name", ["config", "schema", "random_states", "device_random_states"])
@pytest.mark.parametrize("value", [None, 7])
def test_a_header_without_something_is_a_line(
    name: str, value: object, model: Model, tmp_path: Path
) -> None:
    path = tmp_path / "x.ckpt"
    given = content(model)
    if value is None:
        del given["recemb"][name]
    else:
        given["recemb"][name] = value
    WholeFileIO().save_checkpoint(given, path)
    assert f"{name!r} must be a" in refusal(path)


def test_random_states_that_are_none_are_a_line(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    given = content(model)
    given["recemb"]["random_states"] = ["x"]
    WholeFileIO().save_checkpoint(given, path)
    assert "random states must be tensors" in refusal(path)


@pytest.mark.parametrize("state", [None, [], {"dense.bias": 1}, {"dense.bias": [torch.zeros(2)]}])
def test_weights_that_are_none_are_a_line(state: object, model: Model, tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    WholeFileIO().save_checkpoint({**content(model), "state_dict": state}, path)
    assert "'state_dict' must hold its tensors" in refusal(path)


@pytest.mark.parametrize(
    "rows",
    [
        3,
        {},
        {"folder": "../x", "files": {}, "prefix": "rows.", "step": 1},
        {"folder": "/etc", "files": {}, "prefix": "rows.", "step": 1},
        {"folder": "x", "files": {"../best.ckpt": (1, "")}, "prefix": "rows.", "step": 1},
        {"folder": "x", "files": {}, "prefix": "rows.", "step": "1"},
    ],
)
def test_rows_that_lie_anywhere_are_a_line(rows: object, model: Model, tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    given = content(model)
    given["recemb"]["rows"] = rows
    WholeFileIO().save_checkpoint(given, path)
    assert "'rows' must" in refusal(path)


def test_a_configuration_or_schema_that_is_none_is_a_line(model: Model) -> None:
    for text in ("model: [", "7", "model: {}"):
        given = content(model)
        given["recemb"]["config"] = text
        with pytest.raises(RecembError, match="not a readable YAML text"):
            checkpoint_config(given)
    for schema in ({}, {"vocabularies": 3}):
        given = content(model)
        given["recemb"]["schema"] = schema
        with pytest.raises(RecembError, match="not a readable schema"):
            checkpoint_schema(given)


# Every tensor comes from the checkpoint


@pytest.mark.parametrize("store", [LocalRowsStore, Elsewhere])
@pytest.mark.parametrize(
    "lost", [["dense.weight"], ["rows.ads"], ["rows.ads", "rows.users"], ["rows.users"]]
)
def test_nothing_that_a_model_has_may_be_missing(
    store: type[LocalRowsStore], lost: list[str], model: Model
) -> None:
    given = content(model)
    for name in lost:
        del given["state_dict"][name]
    with pytest.raises(RecembError, match=rf"x.ckpt: every tensor .* called '{lost[0]}'"):
        load_module(Path("x.ckpt"), given, Model(store))


@pytest.mark.parametrize("store", [LocalRowsStore, Elsewhere])
def test_a_whole_checkpoint_loads_into_every_store(
    store: type[LocalRowsStore], model: Model
) -> None:
    other = Model(store)
    other.rows.assign("ads", torch.zeros(20, 4))
    load_module(Path("x.ckpt"), content(model), other)
    assert torch.equal(other.rows.values("ads"), model.rows.values("ads"))
    assert torch.equal(other.dense.weight, model.dense.weight)


def test_what_a_model_has_not_is_refused(model: Model) -> None:
    given = content(model)
    given["state_dict"]["rows.more"] = torch.zeros(1, 1)
    with pytest.raises(RecembError, match=r"the model has none called 'rows.more'"):
        load_module(Path("x.ckpt"), given, model)
    given = content(model)
    given["state_dict"]["dense.bias"] = torch.zeros(3)
    with pytest.raises(RecembError, match=r"'dense.bias' must have shape \(2,\), got \(3,\)"):
        load_module(Path("x.ckpt"), given, model)


@pytest.mark.parametrize(
    "name",
    ["epoch", "global_step", "loops", "callbacks", "optimizer_states", "lr_schedulers"],
)
def test_what_training_needs_to_go_on_is_named(name: str, model: Model) -> None:
    given = content(model)
    given |= dict.fromkeys(
        ("pytorch-lightning_version", "epoch", "global_step", "loops", "callbacks"), 1
    )
    given |= {"optimizer_states": [], "lr_schedulers": [], "training": {}}
    check_resumable(Path("x.ckpt"), given, model)
    del given[name]
    with pytest.raises(RecembError, match=f"x.ckpt: training cannot go on .* no '{name}'"):
        check_resumable(Path("x.ckpt"), given, model)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("store", [LocalRowsStore, Elsewhere])
def test_a_header_whose_rows_were_cut_out_is_refused(
    store: type[LocalRowsStore], model: Model, tmp_path: Path
) -> None:
    path = tmp_path / "last.ckpt"
    header = {**content(model)}
    header["state_dict"] = {n: t for n, t in header["state_dict"].items() if "rows" not in n}
    save_sharded(header, path, model)  # type: ignore[arg-type]
    whole = read_checkpoint(path, with_rows=False)
    load_module(path, whole, Model(store))
    del whole["recemb"]["rows"]
    with pytest.raises(RecembError, match=r"called 'rows\.ads'"):
        load_module(path, whole, Model(store))


# What torch means by strict


def test_loading_that_is_not_strict_reports_and_keeps(model: Model) -> None:
    other = Model()
    other.rows.assign("users", torch.full((20, 4), 7.0))
    state = model.state_dict()
    del state["rows.users"]
    state["rows.more"] = torch.zeros(1, 1)
    found = other.load_state_dict(state, strict=False)
    assert found.missing_keys == ["rows.users"]
    assert found.unexpected_keys == ["rows.more"]
    assert torch.equal(other.rows.values("ads"), model.rows.values("ads"))
    assert torch.equal(other.rows.values("users"), torch.full((20, 4), 7.0))
    assert other.load_state_dict({}, strict=False).missing_keys == [
        "rows.ads", "rows.users", "dense.weight", "dense.bias"
    ]  # fmt: skip


def test_strict_loading_names_what_is_missing_and_what_is_unknown(model: Model) -> None:
    state = model.state_dict()
    del state["rows.users"]
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict: \"rows.users\""):
        Model().load_state_dict(state)
    state = model.state_dict() | {"rows.more": torch.zeros(1, 1)}
    with pytest.raises(RuntimeError, match=r"Unexpected key\(s\) in state_dict: \"rows.more\""):
        Model().load_state_dict(state)
