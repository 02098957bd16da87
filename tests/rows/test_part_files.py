"""Files of rows in one process: what comes back, and what is refused."""

import pickle
import shutil

import pytest
import torch

from recemb.errors import RecembError
from recemb.physical import PhysicalTable, Uniform
from recemb.rows import part_files
from recemb.rows.local import LocalRowsStore
from recemb.rows.optimizers import Adam
from recemb.rows.part_files import load_parts, read_whole, save_parts, saved_bytes

PRECISIONS = {
    "a": {},
    "b": {"precision": "int4", "step": "row"},
    "c": {"precision": "int8", "step": "learned"},
    "d": {"precision": "bf16"},
    "e": {"precision": "int16"},
    "codes": {"precision": "uint8"},
}


def new_store(rows: int = 9) -> LocalRowsStore:
    """A table in every form of storage, with rows and state that differ everywhere."""
    tables = {
        name: PhysicalTable(
            num_rows=rows,
            dim=6,
            initializer=Uniform(0.5) if name != "codes" else lambda rows_RD: rows_RD.fill_(7),
            **settings,
        )
        for name, settings in PRECISIONS.items()
    }
    store = LocalRowsStore(tables, Adam())
    for part in store.parts():
        if part.entry.startswith("optimizer/"):
            part.tensor.uniform_()
    return store


@pytest.fixture
def saved(tmp_path):
    """A folder, what was saved there, and its files."""
    torch.manual_seed(3)
    store = new_store()
    folder = tmp_path / "last.ckpt.rows-0"
    return folder, store, save_parts(folder, store.parts())


def test_a_store_comes_back_to_the_bit(saved):
    folder, store, files = saved
    other = new_store()
    load_parts(folder, files, other.parts())
    entries = [part.entry for part in store.parts()]
    assert {"rows/a", "rows/b.scale", "rows/c.step", "rows/e.step"} <= set(entries)
    assert sum(entry.startswith("optimizer/") for entry in entries) == 2 * (len(PRECISIONS) - 1)
    for one, two in zip(store.parts(), other.parts(), strict=True):
        assert torch.equal(one.tensor, two.tensor), one.entry


def test_all_entries_come_back_whole(saved):
    folder, store, files = saved
    found = read_whole(folder, files)
    wanted = {part.entry: part.tensor for part in store.parts()}
    assert set(found) == set(wanted)
    assert all(torch.equal(found[entry], tensor) for entry, tensor in wanted.items())
    count = sum(tensor.numel() * tensor.element_size() for tensor in wanted.values())
    assert saved_bytes(folder) == count


def test_rows_are_written_some_at_a_time(saved, tmp_path, monkeypatch):
    _, store, _ = saved
    monkeypatch.setattr(part_files, "CHUNK_ELEMENTS", 13)  # two rows of six, and one that is left
    files = save_parts(tmp_path / "small", store.parts())
    found = read_whole(tmp_path / "small", files)
    assert torch.equal(found["rows/a"], store.values("a"))


def test_a_missing_file_is_named(saved):
    folder, store, files = saved
    (folder / "__0_0.distcp").unlink()
    with pytest.raises(RecembError, match=r"__0_0.distcp: a file of the checkpoint's rows is miss"):
        load_parts(folder, files, store.parts())


def test_a_missing_folder_is_named(saved):
    folder, store, files = saved
    shutil.rmtree(folder)
    with pytest.raises(RecembError, match="rows-0: the folder of the checkpoint's rows is missing"):
        load_parts(folder, files, store.parts())


def test_a_truncated_file_is_named(saved):
    folder, store, files = saved
    path = folder / "__0_0.distcp"
    path.write_bytes(path.read_bytes()[:-1])
    size = f"{path.stat().st_size:,}"
    with pytest.raises(RecembError, match=rf"__0_0.distcp: .* got {size}; it is truncated"):
        load_parts(folder, files, store.parts())


@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata"])
def test_a_file_of_another_checkpoint_is_named(name, saved, tmp_path):
    folder, store, files = saved
    for part in store.parts():
        part.tensor.add_(1)
    save_parts(tmp_path / "other", store.parts())
    foreign = (tmp_path / "other" / name).read_bytes()
    (folder / name).write_bytes(foreign[: files[name][0]].ljust(files[name][0], b"\0"))
    with pytest.raises(RecembError, match=rf"{name}: .* is not the one that was saved"):
        load_parts(folder, files, store.parts())


def test_tables_of_another_size_are_refused(saved):
    folder, _, files = saved
    with pytest.raises(RecembError, match=r"table 'a' must have shape \(10, 6\) of torch.float32"):
        load_parts(folder, files, new_store(10).parts())


def test_an_index_that_names_other_code_is_refused(saved):
    folder, store, files = saved
    index = folder / ".metadata"
    index.write_bytes(pickle.dumps(print))
    files[".metadata"] = part_files._signature(index)
    with pytest.raises(RecembError, match=r"not an index that recemb wrote \(it names builtins"):
        load_parts(folder, files, store.parts())


def test_a_folder_that_cannot_be_written_is_named(saved, tmp_path):
    _, store, _ = saved
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RecembError, match=r"rows could not be written by process 0"):
        save_parts(tmp_path / "file" / "rows", store.parts())
