"""A log in the formats of Taobao and Tmall: rows, times, categories, and what is wrong in it."""

import random

import polars as pl
import pytest

from recemb.data.behaviour_log import BehaviourLog
from recemb.data.long_histories import Protocol
from recemb.errors import RecembError

PROTOCOL = Protocol(history_length=6, min_behaviours=8, targets=3, first_target=2, negatives=1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RECEMB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RECEMB_DATA", str(tmp_path))


def events():
    """Return user, item, category, behaviour and time of three users, by no order."""
    draw = random.Random(2)
    rows = []
    for user, count in ((11, 20), (12, 15), (13, 6)):
        for place in range(count):
            item = draw.randrange(100, 130)
            kind = "buy" if place % 5 == 4 else "pv"
            rows.append((user, item, item % 4 + 900, kind, 1_511_000_000 + 60 * place))
    draw.shuffle(rows)
    return rows


def taobao(folder):
    lines = [",".join(map(str, row)) for row in events()]
    (folder / "UserBehavior.csv").write_text("\n".join(lines) + "\n")
    names = ["user", "item", "category", "behaviour", "time"]
    return BehaviourLog(
        source="UserBehavior.csv", names=names, behaviours=["pv"], protocol=PROTOCOL
    )


def tmall(folder, **options):
    lines = ["user_id,item_id,cat_id,seller_id,brand_id,time_stamp,action_type"]
    for user, item, category, kind, time in events():
        day = 801 + (time - 1_511_000_000) // 60
        lines.append(f"{user},{item},{category},5,6,{day},{0 if kind == 'pv' else 2}")
    (folder / "user_log_format1.csv").write_text("\n".join(lines) + "\n")
    columns = {
        "user": "user_id", "item": "item_id", "category": "cat_id",
        "behaviour": "action_type", "time": "time_stamp",
    }  # fmt: skip
    settings = {"behaviours": ["0"], "seconds": False, "protocol": PROTOCOL, **options}
    return BehaviourLog(source="user_log_format1.csv", columns=columns, **settings)


def sequence(user):
    """Return the items and times of a user's page views."""
    own = sorted((row[4], row[1]) for row in events() if row[0] == user and row[3] == "pv")
    return [item for _, item in own], [time for time, _ in own]


def test_taobao_rows_are_those_of_the_protocol(tmp_path):
    data = taobao(tmp_path)
    data.prepare_data()
    test = pl.read_parquet(data.folder / "test.parquet")
    assert test["user"].to_list() == [11, 11, 12, 12]  # user 13 has too few
    for user, item, label, history, seconds in test.iter_rows():
        items, times = sequence(user)
        assert list(history) == items[-7:-1]
        assert list(seconds) == [times[-1] - time for time in times[-7:-1]]
        assert (item == items[-1]) == (label == 1)
    train = pl.read_parquet(data.folder / "train.parquet")
    assert train["label"].to_list() == [1, 0] * 6
    assert train["history_item"].list.len().min() == 2


def test_batches_hold_ids_and_raw_seconds(tmp_path):
    data = taobao(tmp_path)
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    assert batch.ids.keys() == ("item", "history_item", "history_seconds")
    gaps = batch.ids.values()[-24:].tolist()
    assert gaps[:6] == [sequence(11)[1][-1] - time for time in sequence(11)[1][-7:-1]]
    attribute = data.schema.attributes["category"]
    vocabulary = data.schema.vocabularies
    item = int(vocabulary["item"].keys_V[0])
    category = attribute.values_M[attribute.offsets_V[vocabulary["item"].index_V[0]]]
    assert int(vocabulary["category"].lookup(pl_tensor(item % 4 + 900))) == int(category)


def pl_tensor(value):
    import torch

    return torch.tensor([value])


def test_tmall_days_are_an_order_and_no_times(tmp_path):
    data = tmall(tmp_path)
    data.prepare_data()
    test = pl.read_parquet(data.folder / "test.parquet")
    assert "history_seconds" not in test.columns
    assert list(test["history_item"][0]) == sequence(11)[0][-7:-1]
    assert set(data.schema.columns) == {"item", "history_item"}


def test_all_behaviours_count_unless_some_are_named(tmp_path):
    data = tmall(tmp_path, behaviours=None)
    data.prepare_data()
    longest = pl.read_parquet(data.folder / "train.parquet")["user"]
    assert set(longest) == {11, 12}
    own = sorted((row[4], row[1]) for row in events() if row[0] == 11)
    test = pl.read_parquet(data.folder / "test.parquet")
    assert list(test["history_item"][0]) == [item for _, item in own][-7:-1]


def test_other_settings_are_other_files(tmp_path):
    first = taobao(tmp_path)
    first.prepare_data()

    def again(**options):
        settings = {"names": first.names, "behaviours": ["pv"], "protocol": PROTOCOL, **options}
        return BehaviourLog(source="UserBehavior.csv", **settings).folder

    assert again() == first.folder
    others = [
        again(seconds=False), again(behaviours=None), again(protocol=Protocol(min_behaviours=8))
    ]  # fmt: skip
    assert len({first.folder, *others}) == 4
    (tmp_path / "UserBehavior.csv").write_text("1,2,3,pv,4\n")
    assert again() != first.folder


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user,item,time\n1,2,3\n1,2,x\n", r"column 'time', line 3: a time must be a number, as"),
        ("user,item,time\n1,2,3\n1,,4\n", r"'item', line 3: a behaviour must have it, got null"),
        ("user,item,time\n1,2,3\n1,2,\n", r"'time', line 3: a behaviour must have it, got null"),
        ("user,item,time\n1,2,3\n1,-2,4\n", r"'item', line 3: ids must not be negative, got -2"),
        ("user,time\n1,2\n", r"column 'item' is missing; the file has \['user', 'time'\]"),
        ("user,item,time\n1,2,3\n", r"no user has 8 behaviours, the most is 1"),
        ("", r"log.csv: the file is empty"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_file_is_named(tmp_path, text, message):
    (tmp_path / "log.csv").write_text(text)
    columns = {"category": None, "behaviour": None}
    data = BehaviourLog(source="log.csv", columns=columns, protocol=PROTOCOL)
    with pytest.raises(RecembError, match=message):
        data.prepare_data()
    assert not data.folder.exists()


def test_wrong_settings_are_named(tmp_path):
    with pytest.raises(RecembError, match=r"no.csv: there is no such file"):
        BehaviourLog(source="no.csv")
    (tmp_path / "log.csv").write_text("user,item,time\n1,2,3\n")
    with pytest.raises(RecembError, match=r"columns must name some of .*, got 'shop'"):
        BehaviourLog(source="log.csv", columns={"shop": "s"})
    with pytest.raises(RecembError, match="must have a column for 'time', got null"):
        BehaviourLog(source="log.csv", columns={"time": None})
    with pytest.raises(RecembError, match="columns has no behaviour"):
        BehaviourLog(source="log.csv", columns={"behaviour": None}, behaviours=["pv"])
    data = tmall(tmp_path, behaviours=["pv"])
    with pytest.raises(RecembError, match=r"no row is of behaviours \['pv'\]"):
        data.prepare_data()
