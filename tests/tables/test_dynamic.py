"""The dynamic kind: ids get rows of their own while training, and lose them to hotter ones."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from recemb.accounting import table_report
from recemb.embeddings import Embeddings
from recemb.errors import RecembError
from recemb.hashing import rows_of_one, salt_of
from recemb.jagged import Ids
from recemb.rows.optimizers import Adam, UpdateRule
from recemb.tables.dynamic import Dynamic
from recemb.tables.id_map import ChangingIds, Reads
from recemb.tables.kind import IdSpace, TableConfig
from recemb.tables.matryoshka import Matryoshka
from tests.tables.contract import TableContract, as_tensor, bags, embeddings, feature, ids
from tests.tables.helpers import Stored, stored

LEAST, MOST = -(2**63), 2**63 - 1


def known(held: Stored, spaces: Sequence[str]) -> dict[tuple[str, int], int]:
    """Return the place of each key, read one by one."""
    found, first = {}, 0
    for space, end in zip(spaces, held.learned["end_S"].tolist(), strict=True):
        for place in range(first, end):
            found[space, int(held.learned["key_K"][place])] = place
        first = end
    return found


class DynamicContract(TableContract):
    """The contract with the oracle of the kind: of 40 rows 10 are shared."""

    takes_raw = True
    num_rows = 40
    bad = [
        ({"num_rows": 1}, f"num_rows must be in 2..{2**31 - 1}, got 1"),
        ({"num_rows": 2**31}, f"num_rows must be in 2..{2**31 - 1}, got {2**31}"),
        ({"shared": 0.0}, "shared must be above 0 and below 1, got 0.0"),
        ({"shared": 1.0}, "shared must be above 0 and below 1, got 1.0; at 1 it is kind hashed"),
        ({"admit_after": 0}, "admit_after must be at least 1, got 0"),
        ({"every": 0}, "every must be at least 1, got 0"),
        ({"num_candidates": 0}, "num_candidates must be at least 1, got 0"),
        ({"num_known": 0}, "num_known must be at least 1, got 0"),
        ({"decay": 0.0}, "decay must be above 0 and at most 1, got 0.0"),
        ({"decay": 1.5}, "decay must be above 0 and at most 1, got 1.5"),
    ]

    def rows_of_id(self, table: str, held: Stored, space: str, key: int) -> dict[str, list[int]]:
        spaces = [space] if len(held.learned["end_S"]) == 1 else ["user", "item"]
        place = known(held, spaces).get((space, key))
        if place is not None:
            return {"rows": [int(held.learned["row_K"][place])]}
        return {"rows": [30 + rows_of_one(key, salt_of(table, space, 0), 10)]}

    def compose(
        self, table: str, held: Stored, space: str, key: int, rows: Mapping[str, list[Tensor]]
    ) -> Tensor:
        return rows["rows"][0]


def settings(**more: object) -> dict[str, object]:
    """Return settings of the contract's table."""
    fixed = {"kind": "dynamic", "dim": 6, "num_rows": 40, "shared": 0.25}
    return {**fixed, "admit_after": 1, "every": 4, **more}


class TestNobodyKnown(DynamicContract):
    """As training begins: all ids share 10 rows; one spare row and key are served."""

    settings = settings()
    served_bytes = (1 + 10) * 6 * 4 + 8 + 2 * 8
    is_fine = False
    reported = {"known": 0, "admitted": 0, "evicted": 0, "hits": 0.0}

    # Ids that share a row have one vector; that they have none of their own is what is tested.
    test_duplicate_ids_get_one_vector = None
    test_id_spaces_of_one_table_keep_apart = None


class Full(DynamicContract):
    """After all ids were read, four times: every row has an id."""

    reported = {"known": 30, "admitted": 30, "evicted": 0, "hits": 0.0}

    def prepared(self, module: Embeddings) -> Embeddings:
        module.train()
        batch: dict[str, Ids] = {}
        for one in module.features:
            values = list(range(one.space.num_ids or 0))
            batch[one.name] = bags([values]) if one.is_list else ids(values)
        for _ in range(4):
            module(batch)
            module.step()
        return module


class TestFull(Full):
    settings = settings()
    served_bytes = 40 * 6 * 4 + 30 * 8 + 2 * 8


class Quantized(Full):
    """In integers half of the bytes hold more rows than there are ids."""

    rate = 0.02

    def budget_settings(self) -> Mapping[str, Any]:
        return {**super().budget_settings(), "precision": "fp32", "step": "table"}


class TestInt8(Quantized):
    settings = settings(precision="int8", step="row")
    served_bytes = 40 * (6 + 4) + 30 * 8 + 2 * 8


class TestLearnedSteps(Quantized):
    settings = settings(precision="int4", step="learned")
    served_bytes = 40 * (3 + 4) + 30 * 8 + 2 * 8
    rate = 0.005
    left_loss = 0.3


class TestProjected(Full):
    settings = settings(project=9)
    served_bytes = 40 * 6 * 4 + 30 * 8 + 2 * 8 + 6 * 9 * 4


# What happens to ids, by hand


def one_feature(rule: UpdateRule | None = None, space: str = "url", **more: object) -> Embeddings:
    """Return a table ``ads`` of raw ids: 2 rows of their own and 4 shared unless told otherwise."""
    given = {"dim": 3, "num_rows": 6, "shared": 4 / 6, "every": 1, "decay": 1.0, **more}
    config = Dynamic(num_candidates=1000, **given)  # type: ignore[arg-type]
    return embeddings({"ads": config}, [feature("url", "ads", space=space)], rule).train()


def read(module: Embeddings, keys: Sequence[int]) -> None:
    """Train a step that reads some ids."""
    module({"url": ids(keys)})
    module.step()


def rows_by_id(module: Embeddings) -> dict[int, int]:
    """Return the rows of ids that have one."""
    held = stored(module)
    places = known(held, ["url"])
    return {key: int(held.learned["row_K"][place]) for (_, key), place in places.items()}


def shared_row(key: int, num_own: int = 2, num_shared: int = 4) -> int:
    """Return the row that an id reads before it has one."""
    return num_own + rows_of_one(key, salt_of("ads", "url", 0), num_shared)


def test_an_id_is_admitted_when_it_was_read_often_enough() -> None:
    module = one_feature(admit_after=3)
    read(module, [-5, 7])
    read(module, [-5])
    assert rows_by_id(module) == {}
    read(module, [-5])
    assert rows_by_id(module) == {-5: 0}
    # Several reads of one batch count.
    read(module, [7, 7])
    assert rows_by_id(module) == {-5: 0, 7: 1}


def test_admission_waits_for_the_next_maintenance() -> None:
    module = one_feature(admit_after=2, every=3)
    read(module, [9, 9, 9])
    read(module, [])
    assert rows_by_id(module) == {}
    read(module, [])
    assert rows_by_id(module) == {9: 0}


def test_the_hottest_come_first() -> None:
    module = one_feature(admit_after=1)
    read(module, [1, 2, 2, 3, 3, 3])
    assert rows_by_id(module) == {3: 0, 2: 1}


def test_the_coldest_makes_room_for_a_hotter_one_and_for_no_other() -> None:
    module = one_feature(admit_after=1)
    read(module, [10] * 5 + [20] * 3)
    assert rows_by_id(module) == {10: 0, 20: 1}
    read(module, [30] * 3)  # as hot as 20, which stays
    assert rows_by_id(module) == {10: 0, 20: 1}
    read(module, [30])  # 4 against 3
    assert rows_by_id(module) == {10: 0, 30: 1}
    assert stored(module).learned["heat_K"].tolist() == [5, 4]
    read(module, [20] * 4)  # it begins at nothing again: 4 against 4
    assert rows_by_id(module) == {10: 0, 30: 1}
    read(module, [20, 40] + [50] * 6)  # 5 and 6 against 4 and 5: 50 > 4, but 20 = 5
    assert rows_by_id(module) == {10: 0, 50: 1}
    assert table_report(module)["ads"]["admitted"] == 4
    assert table_report(module)["ads"]["evicted"] == 2


def test_several_coldest_make_room_at_once() -> None:
    module = one_feature(admit_after=1, num_rows=8, shared=0.5)
    read(module, [1] * 8 + [2] * 2 + [3] * 4 + [4] * 3)
    assert rows_by_id(module) == {1: 0, 3: 1, 4: 2, 2: 3}
    # 9 and 7 against the coldest, 2 and 3; 4 against 4 stays out.
    read(module, [50] * 9 + [60] * 7 + [70] * 4)
    assert rows_by_id(module) == {1: 0, 3: 1, 50: 3, 60: 2}


def test_heat_ages() -> None:
    module = one_feature(admit_after=1, decay=0.5, every=2)
    read(module, [1] * 8)
    read(module, [2] * 4)
    assert rows_by_id(module) == {1: 0, 2: 1}
    assert stored(module).learned["heat_K"].tolist() == [4, 2]
    read(module, [1])
    read(module, [3])
    # 5 and 2, of which half is left; the candidate had 1 and has a half.
    assert stored(module).learned["heat_K"].tolist() == [2.5, 1]
    assert rows_by_id(module) == {1: 0, 2: 1}
    assert stored(module).learned["heat_M"].max() == 0.5
    read(module, [3])
    read(module, [])
    assert rows_by_id(module) == {1: 0, 3: 1}


def test_a_row_begins_with_the_vector_that_its_id_had() -> None:
    module = one_feature(Adam(learning_rate=0.1), admit_after=2)
    for _ in range(2):
        as_tensor(module({"url": ids([77])})["url"]).square().sum().backward()
        before = as_tensor(module.eval()({"url": ids([77])})["url"])
        module.train().step()
    # The second step moved the shared row, and then the id got its own.
    assert rows_by_id(module) == {77: 0}
    row = shared_row(77)
    rows = stored(module).rows["rows"]
    assert torch.equal(rows[0], rows[row])
    assert not torch.equal(rows[0], before[0])
    assert torch.equal(as_tensor(module.eval()({"url": ids([77])})["url"])[0], rows[row])
    state = module.rows.optimizer_state()
    assert state["ads/mean"][row].all()
    assert not state["ads/mean"][0].any()


def test_a_row_of_another_id_begins_anew() -> None:
    module = one_feature(Adam(learning_rate=0.1), admit_after=1)
    read(module, [1, 2, 2])
    for _ in range(3):
        as_tensor(module({"url": ids([1, 2])})["url"]).sum().backward()
        module.step()
    assert rows_by_id(module) == {1: 1, 2: 0}
    state = module.rows.optimizer_state()
    assert state["ads/mean"][:2].all()
    assert state["ads/square"][:2].all()
    kept = stored(module).rows["rows"][0]
    read(module, [3] * 6)  # against 4 of id 1 and 5 of id 2
    assert rows_by_id(module) == {3: 1, 2: 0}
    rows, state = stored(module).rows["rows"], module.rows.optimizer_state()
    assert torch.equal(rows[1], rows[shared_row(3)])
    assert torch.equal(rows[0], kept)
    for name in ("ads/mean", "ads/square"):
        assert not state[name][1].any()
        assert state[name][0].all()
    # Who lost it reads a shared row again.
    vector = as_tensor(module.eval()({"url": ids([1])})["url"])[0]
    assert torch.equal(vector, rows[shared_row(1)])


def test_every_64_bit_number_is_an_id() -> None:
    keys = [LEAST, LEAST + 1, -1, 0, 1, 2**53 + 1, MOST - 1, MOST]
    module = one_feature(admit_after=1, num_rows=12, shared=4 / 12)
    read(module, keys)
    found = rows_by_id(module)
    assert sorted(found) == keys
    assert sorted(found.values()) == list(range(8))
    rows = stored(module).rows["rows"]
    near = [LEAST + 2, -2, 2, 2**53, 2**53 + 2, MOST - 2]
    vectors = as_tensor(module.eval()({"url": ids(keys + near)})["url"])
    assert torch.equal(vectors[:8], rows[[found[key] for key in keys]])
    assert torch.equal(vectors[8:], rows[[shared_row(key, 8) for key in near]])
    served = module.served()
    assert torch.equal(as_tensor(served({"url": ids(keys + near)})["url"]), vectors)


def test_one_number_in_two_spaces_is_two_ids() -> None:
    config = Dynamic(dim=3, num_rows=6, shared=0.5, admit_after=1, every=1)
    features = [feature("url", "ads", space="url"), feature("tag", "ads", space="tag")]
    module = embeddings({"ads": config}, features).train()
    module({"url": ids([5, 5]), "tag": ids([])})
    module.step()
    assert known(stored(module), ["url", "tag"]) == {("url", 5): 0}
    module({"url": ids([]), "tag": ids([5, 4])})
    module.step()
    assert known(stored(module), ["url", "tag"]) == {("url", 5): 0, ("tag", 4): 1, ("tag", 5): 2}
    got = module.eval()({"url": ids([5, 4]), "tag": ids([5, 4])})
    rows = stored(module).rows["rows"]
    row_of = [int(row) for row in stored(module).learned["row_K"]]
    assert torch.equal(as_tensor(got["url"])[0], rows[row_of[0]])
    assert torch.equal(as_tensor(got["tag"]), rows[[row_of[2], row_of[1]]])
    assert torch.equal(
        as_tensor(got["url"])[1], rows[3 + rows_of_one(4, salt_of("ads", "url", 0), 3)]
    )


def test_evaluation_changes_nothing() -> None:
    module = one_feature(admit_after=1)
    read(module, [1])
    before = copy.deepcopy(module.state_dict())
    with torch.no_grad():
        module({"url": ids([2, 3, 3])})
    module.eval()({"url": ids([2, 3, 3])})
    module.train().step()
    after = module.state_dict()
    steps = "learned.table_ads.num_steps"
    assert after.pop(steps) == before.pop(steps) + 1
    assert all(torch.equal(one, after[name]) for name, one in before.items())


# How reads are counted


def test_the_share_of_hits_is_that_of_reads() -> None:
    module = one_feature(admit_after=1)
    module.start_epoch(0)
    read(module, [1, 1, 2])  # nobody is known yet
    read(module, [1, 3, 2, 1, 4])  # three of five
    assert table_report(module)["ads"]["hits"] == 3 / 8
    assert module.report() == {"ads": {"known": 2, "admitted": 2, "evicted": 0, "hits": 3 / 8}}
    module.start_epoch(1)
    read(module, [1, 9, 9, 9])
    assert table_report(module)["ads"]["hits"] == 1 / 4


def test_a_batch_of_several_forms_counts_once() -> None:
    tables: dict[str, TableConfig] = {
        "ads": Dynamic(dim=4, num_rows=6, shared=0.5, admit_after=2, every=1),
        "nested": Matryoshka(dim=4, serve=2),
    }
    features = [feature("url", "ads", space="url"), feature("one", "nested")]
    module = embeddings(tables, features).train()
    forms = [module({"url": ids([5]), "one": ids([0])}) for _ in module.training_forms()]
    assert len(forms) > 1
    module.step()
    assert rows_by_id(module) == {}
    assert stored(module).learned["heat_M"].sum() == pytest.approx(0.98)


def test_accumulated_batches_count_each_and_a_batch_read_again_once() -> None:
    # Learned steps have the batch read again.
    module = one_feature(precision="int8", step="learned", admit_after=4)

    def run() -> None:
        as_tensor(module({"url": ids([5])})["url"]).sum().backward()

    run()
    run()
    module.step(run)
    assert stored(module).learned["heat_M"].sum() == 2
    run()
    module.step(run)
    assert rows_by_id(module) == {}
    run()
    module.step(run)
    assert rows_by_id(module) == {5: 0}


def test_ids_contend_for_a_slot_by_majority() -> None:
    table = ChangingIds(3, 2, num_slots=1, admit_after=100, every=100, decay=1.0)

    def count(*reads: tuple[int, int, int]) -> tuple[int, int, float]:
        table.count_new(Reads(*torch.tensor(reads).T.contiguous()))
        return int(table.space_M), int(table.candidate_M), float(table.heat_M)

    # (id space, id, reads)
    assert count((0, 5, 2), (1, 4, 3), (1, 9, 3)) == (1, 4, 3)  # the most read; of two, the first
    assert count((0, 5, 2)) == (1, 4, 1)
    assert count((1, 4, 4)) == (1, 4, 5)
    assert count((0, 4, 1), (0, 5, 1), (1, 4, 1)) == (1, 4, 4)
    assert count((0, 5, 4)) == (0, 5, 4)
    assert count((0, 5, 2), (1, 4, 2)) == (0, 5, 4)


def test_no_id_is_admitted_too_early() -> None:
    """However many ids contend for few slots, a slot never counts more than the reads of its id."""
    generator = torch.Generator().manual_seed(1)
    table = ChangingIds(3, 1, num_slots=7, admit_after=1000, every=100, decay=1.0)
    total: dict[int, int] = {}
    for _ in range(50):
        drawn = torch.randint(0, 12, (40,), generator=generator) ** 2
        keys, counts = drawn.unique(return_counts=True)
        table.count_new(Reads(torch.zeros_like(keys), keys, counts))
        for key, number in zip(keys.tolist(), counts.tolist(), strict=True):
            total[key] = total.get(key, 0) + number
        for key, heat in zip(table.candidate_M.tolist(), table.heat_M.tolist(), strict=True):
            assert heat <= total.get(key, 0)
    assert (table.heat_M > 0).sum() > 3


def test_the_table_follows_a_stream_whose_popular_ids_change() -> None:
    """50 of 2,000 ids make 9 reads of 10; after half of the time they are 50 others."""
    module = one_feature(num_rows=110, shared=10 / 110, admit_after=3, every=5, decay=0.8)
    generator = torch.Generator().manual_seed(3)
    hits = []
    for phase in range(2):
        for stage in range(4):
            module.start_epoch(stage)
            for _ in range(25):
                hot = torch.randint(0, 50, (90,), generator=generator) + 1000 * phase
                cold = torch.randint(0, 2000, (10,), generator=generator)
                keys = (torch.cat([hot, cold]) * 2**40 - 2**50).tolist()
                read(module, keys)
            hits.append(module.report()["ads"]["hits"])
    # At most 0.9 and some of the rest, of which the other 50 rows hold a fortieth each time.
    assert hits[3] > 0.88
    # At first the new ones are unknown; then they have pushed the old ones out.
    assert hits[4] < hits[3] - 0.1
    assert hits[7] > 0.88
    own = rows_by_id(module)
    assert all((key + 1000) * 2**40 - 2**50 in own for key in range(50))


# Saving


def test_training_goes_on_from_a_checkpoint_to_the_bit() -> None:
    generator = torch.Generator().manual_seed(4)
    stream = [torch.randint(-30, 30, (20,), generator=generator).tolist() for _ in range(24)]

    def fresh() -> Embeddings:
        rule = Adam(learning_rate=0.05)
        return one_feature(rule, num_rows=12, shared=0.25, every=4, decay=0.9, admit_after=2)

    def train(module: Embeddings, part: list[list[int]]) -> None:
        for keys in part:
            as_tensor(module({"url": ids(keys)})["url"]).square().sum().backward()
            module.step()

    whole = fresh()
    train(whole, stream)
    first = fresh()
    train(first, stream[:10])  # between two maintenances
    saved = copy.deepcopy((first.state_dict(), first.rows.optimizer_state()))
    second = fresh()
    second.load_state_dict(saved[0])
    second.rows.load_optimizer_state(saved[1])
    train(second, stream[10:])
    wanted = {**whole.state_dict(), **whole.rows.optimizer_state()}
    got = {**second.state_dict(), **second.rows.optimizer_state()}
    assert list(got) == list(wanted)
    assert all(torch.equal(got[name], one) for name, one in wanted.items())
    assert whole.report()["ads"]["evicted"] > 0


def test_a_served_table_has_keys_and_rows_and_no_counts() -> None:
    module = one_feature(admit_after=1, num_rows=12, shared=4 / 12)
    read(module, [30, -4, 8])
    served = module.served()
    state = served.state_dict()
    assert sorted(state) == ["learned.table_ads.end_S", "learned.table_ads.key_K", "rows.ads"]
    assert state["learned.table_ads.key_K"].tolist() == [-4, 8, 30]
    assert state["rows.ads"].shape == (3 + 4, 3)
    assert served.report() == {"ads": {"known": 3}}
    # What is served trains on, with the ids that it knows.
    served.train()
    read(served, [99] * 50)
    assert served.served() is served
    assert served.report() == {"ads": {"known": 3}}


def test_the_map_is_part_of_the_budget() -> None:
    spaces = [IdSpace("url", None)]
    config = Dynamic(dim=16, budget=100_000, shared=0.1).solve("table 'ads'", spaces)
    assert config.num_rows is not None
    # 64 bytes of a row, 8 of a key for nine rows in ten, 8 for where the keys end.
    own = config.num_rows - round(0.1 * config.num_rows)
    assert config.num_rows * 64 + own * 8 + 8 <= 100_000
    assert (config.num_rows + 1) * 64 + own * 8 + 8 > 100_000 - 72


def test_a_share_of_raw_ids_is_refused() -> None:
    with pytest.raises(RecembError, match=r"^table 'ads': a share needs a vocabulary, got raw ids"):
        embeddings({"ads": Dynamic(dim=4, share=0.5)}, [feature("url", "ads", space="url")])
