"""The TorchRec store on 1, 2 and 4 processes against the local store in one."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from recemb.physical import PhysicalTable, Sharding
from recemb.rows.local import LocalRowsStore
from recemb.rows.optimizers import UpdateRule
from recemb.rows.planner import loads_of, place
from recemb.rows.store import RowsStore
from recemb.rows.torchrec_store import BATCH_SIZE, TorchRecRowsStore
from recemb.rows.world import RATES, World
from tests.rows.contract import MakeStore, RowsStoreContract
from tests.rows.decode import units
from tests.rows.sharded_cases import BLOCKS, CASES, EXACT, NUM_STEPS, SAMPLES, batch, run, share

WORLDS = [1, 2, 4, 1]
"""Numbers of processes, one after the other: each goes on from what the one before has saved."""


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A process group of this process alone."""
    file = tmp_path_factory.mktemp("group") / "rendezvous"
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group")
class TestTorchRecRowsStoreInOneProcess(RowsStoreContract):
    """All that the store does but sending, for a sharded table beside replicated ones."""

    @pytest.fixture
    def make_store(self) -> MakeStore:
        def make(physical: Mapping[str, PhysicalTable], optimizer: UpdateRule) -> RowsStore:
            how: dict[str, Sharding] = {"b": "row_wise"}
            placed = {
                name: replace(table, sharding=how.get(name, "data_parallel"))
                for name, table in physical.items()
            }
            return TorchRecRowsStore(placed, optimizer)

        return make


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each world has found, in the order of :data:`WORLDS`."""
    found: list[dict[str, Any]] = []
    state: dict[str, Any] = {"step": 0}
    for world_size in WORLDS:
        folder = tmp_path_factory.mktemp(f"world{world_size}")
        torch.save(state, folder / "start.pt")
        ranks = [
            subprocess.Popen(
                [
                    sys.executable,
                    "-W",
                    "ignore",
                    "-m",
                    "tests.rows.rank",
                    str(folder),
                    str(rank),
                    str(world_size),
                ],
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(world_size)
        ]
        errors = [rank.communicate(timeout=240)[1] for rank in ranks]
        assert all(rank.returncode == 0 for rank in ranks), "\n".join(one[-1500:] for one in errors)
        state = torch.load(folder / "end.pt")
        found.append(state)
    return found


@pytest.fixture(scope="module")
def alone() -> dict[str, list[dict[str, Any]]]:
    """What one local store makes of the same steps, after each world's part of them."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name, case in CASES.items():
        torch.manual_seed(1)
        store = LocalRowsStore(case.physical, case.optimizer)
        found[name] = []
        for number in range(len(WORLDS)):
            first = {key: one.clone() for key, one in store.tables().items()}
            steps = range(number * NUM_STEPS, (number + 1) * NUM_STEPS)
            seen = run(store, case, steps)
            copies = {key: one.clone() for key, one in store.tables().items()}
            state = {key: one.clone() for key, one in store.optimizer_state().items()}
            found[name].append({"first": first, "seen": seen, "tables": copies, "state": state})
    return found


@pytest.mark.parametrize("name", CASES)
def test_every_world_begins_with_the_rows_of_one_process(name, worlds, alone):
    same(worlds[0][name]["first"], alone[name][0]["first"], 0.0)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("number", range(len(WORLDS)))
def test_rows_and_state_are_those_of_one_uninterrupted_process(name, number, worlds, alone):
    got, wanted = worlds[number][name], alone[name][number]
    # Sums of up to twelve gradients in another order; Adam divides by roots of small squares.
    same(got["tables"], wanted["tables"], 1e-5)
    same(got["state"], wanted["state"], 1e-5)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("number", range(len(WORLDS)))
def test_every_process_gets_the_rows_that_it_asks_for(name, number, worlds, alone):
    case, world_size = CASES[name], WORLDS[number]
    for turn, step in enumerate(range(number * NUM_STEPS, (number + 1) * NUM_STEPS)):
        sizes = [len(one) for one in batch(case, step, slice(0, SAMPLES))[0]]
        whole = alone[name][number]["seen"][turn].split(sizes)
        for rank in range(world_size):
            own = share(rank, world_size)
            wanted = []
            for block, vectors in zip(BLOCKS, whole, strict=True):
                # The samples that are left, where some do not ask.
                sample = torch.arange(SAMPLES)[-len(vectors) :] if len(vectors) else []
                kept = [own.start <= int(one) < own.stop for one in sample]
                wanted.append(vectors[torch.tensor(kept, dtype=torch.bool)])
                assert block in case.physical
            got = worlds[number][name]["seen"][turn][rank]
            torch.testing.assert_close(got, torch.cat(wanted), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in CASES if name not in EXACT])
@pytest.mark.parametrize("number", range(len(WORLDS)))
def test_low_precision_stays_near_what_one_process_trains(name, number, worlds, alone):
    case = CASES[name]
    got = worlds[number][name]
    for table, physical in case.physical.items():
        store = LocalRowsStore({table: physical}, case.optimizer)
        entries = {
            key: one
            for key, one in alone[name][number]["tables"].items()
            if key == table or key.startswith(f"{table}.")
        }
        store.load_tables(entries)
        # Either neighbour in every step, and what the next step makes of the difference.
        allowed = 6 * units(entries, table, physical) * (number + 1) + 0.02
        assert ((got["values"][table] - store.values(table)).abs() <= allowed).all(), table


@pytest.mark.parametrize("number", range(len(WORLDS)))
def test_learned_steps_move_by_the_reads_of_all_processes(number, worlds):
    case = CASES["learned steps"]
    torch.manual_seed(1)
    store = LocalRowsStore(case.physical, case.optimizer)
    first = {key: one.clone() for key, one in store.tables().items()}
    run(store, case, [0])
    for table in case.physical:
        # Rows are rounded at random, their steps are not.
        got, wanted = worlds[number]["learned steps"]["one_step"], store.tables()
        key = f"{table}.step"
        assert not torch.equal(wanted[key], first[key])
        torch.testing.assert_close(got[key] - first[key], wanted[key] - first[key])


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("number", range(len(WORLDS)))
def test_replicas_are_equal_to_the_bit(name, number, worlds):
    first, *others = worlds[number][name]["copies"]
    for other in others:
        for key, tensor in first.items():
            assert torch.equal(other[key], tensor), key


@pytest.mark.parametrize("name", ["row_wise", "column_wise", "table_wise"])
def test_a_process_holds_its_part_only(name, worlds):
    whole = sum(table.num_bytes for table in CASES[name].physical.values())
    assert worlds[0][name]["bytes"] == whole
    assert worlds[1][name]["bytes"] < 0.7 * whole
    assert worlds[2][name]["bytes"] < 0.7 * whole


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("number", range(len(WORLDS)))
def test_the_planner_knows_every_process_s_bytes_exactly(name, number, worlds):
    case = CASES[name]
    world = World(
        size=WORLDS[number], local_size=WORLDS[number], batch_size=BATCH_SIZE, rates=RATES["cpu"]
    )
    placements = place(case.physical, case.optimizer, world)
    loads = loads_of(case.physical, placements, case.optimizer, world)
    assert [(int(rows), int(state)) for rows, state in loads[:2].T] == worlds[number][name]["held"]


def same(got: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], tolerance: float):
    """Compare entries by name."""
    assert list(got) == list(wanted)
    for key, tensor in wanted.items():
        torch.testing.assert_close(got[key], tensor, rtol=tolerance, atol=tolerance, msg=key)
