"""Search and ranking as programs of their own: against the model in one stage."""

import subprocess
import sys

import pytest
import torch

from recemb.errors import RecembError
from recemb.models import two_stages
from recemb.models.two_stages import ByteRows, Request, SearchProgram, export_stages
from recemb.schema import Column
from recemb.serving.program import SIZE, ServedProgram
from tests.models.long_example import HISTORY, ITEM, KINDS, PRICE, USER, attended, build, schema


@pytest.fixture(scope="module", params=["dare", "twin", "projected", "seconds"])
def exported(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stages")
    name = "dare" if request.param == "seconds" else request.param
    model = KINDS[name](seconds=request.param == "seconds")
    report = export_stages(model, folder / "model.pt")
    return model, folder, report


def programs(folder):
    return [torch.jit.load(folder / f"model.{name}.pt") for name in ("search", "rank")]


def test_both_stages_say_what_one_says(exported):
    model, folder, _ = exported
    search, rank = programs(folder)
    whole = ServedProgram(model)
    for seed, (targets, length) in enumerate([(5, 60), (2, 2), (1, 300)]):
        request = Request.drawn(model, targets, length, seed=100 + seed)
        found = search(request.search_inputs())
        assert found.shape == (targets, 3)
        staged = rank(request.rank_inputs(found))
        # Bytes may keep another behaviour than fp32 does where two are nearly as good.
        exact = two_stages.logits_by_model(model, request)
        count = min(3, length)
        kept, best = exact.gather(1, found[:, :count]), exact.topk(count, 1).values
        same = (kept - best).abs().amax(1) < 1e-6
        assert (kept >= best - 0.1).all()
        assert same.float().mean() > 0.3
        wanted = whole(request.rank_inputs(None))
        torch.testing.assert_close(staged[same], wanted[same], atol=1e-6, rtol=0)


def test_the_search_finds_what_loops_find():
    model = build()
    program = SearchProgram(model)
    for sample in (0, 2, 3):
        raw = [10 * item if item < 8 else 777 for item in HISTORY[sample]]
        item = 10 * ITEM[sample] if ITEM[sample] < 8 else 999
        found = program({"item": torch.tensor([item]), "seen": torch.tensor(raw)})[0].tolist()
        scores = attended(model, sample)
        count = min(3, len(scores))
        assert found[count:] == [-1] * (3 - count)
        wanted = sorted(scores, reverse=True)[:count]
        # Eight bits hold these logits, of about 1, to two hundredths.
        assert [scores[place] for place in found[:count]] == pytest.approx(wanted, abs=0.05)


def test_report_says_how_near_both_stages_are(exported):
    model, folder, report = exported
    assert 0.7 < report["recall"] <= 1
    assert 0 <= report["difference"] < 0.5
    search = report["search"]["bytes"]
    ids = 9  # with the unknown one
    dim = sum(p.rows_Vd.shape[1] for p in SearchProgram(model).keys.values())
    tables = ids * (dim + 4)
    # Two vocabularies of 8 ids, the times' logits and the powers of two beside them.
    assert tables <= search <= 2 * tables + 2 * 8 * 8 + 6 * 4 + 64 * 8
    assert (folder / "model.search.pt").is_file()


def test_rows_of_bytes_are_within_half_a_step():
    torch.manual_seed(0)
    vectors = torch.randn(50, 7) * torch.logspace(-4, 3, 50).unsqueeze(1)
    vectors[3] = 0.0
    rows = ByteRows(vectors)
    assert rows.rows_Vd.dtype == torch.int8
    error = (rows(torch.arange(50)) - vectors).abs().amax(1)
    assert (error <= 0.501 * vectors.abs().amax(1) / 127 + 1e-30).all()


ALONE = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"recemb", "torchrec", "lightning", "models", "data"}:
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Blocked())
import torch
for program, inputs, outputs in zip(sys.argv[1::3], sys.argv[2::3], sys.argv[3::3]):
    torch.save(torch.jit.load(program)(torch.load(inputs)), outputs)
"""


def test_programs_need_only_torch(exported, tmp_path):
    model, folder, _ = exported
    request = Request.drawn(model, 4, 30, seed=7)
    search, rank = programs(folder)
    inputs = {"search": request.search_inputs()}
    inputs["rank"] = request.rank_inputs(search(inputs["search"]))
    files = []
    for name, given in inputs.items():
        torch.save(given, tmp_path / f"{name}.in.pt")
        files += [
            folder / f"model.{name}.pt",
            *(tmp_path / f"{name}.{x}.pt" for x in ("in", "out")),
        ]
    command = [sys.executable, "-W", "ignore", "-c", ALONE, *files]
    subprocess.run(command, check=True, capture_output=True)
    for name, program in (("search", search), ("rank", rank)):
        assert torch.equal(torch.load(tmp_path / f"{name}.out.pt"), program(inputs[name]))


def broken_search(query, key, bias, keep):
    """Find the first behaviour, as often as wanted."""
    return torch.zeros(query.shape[0], keep, dtype=torch.int64)


BROKEN = {
    "behaviours counted from the oldest": (
        "times_of_ages", lambda age, count: (age.flip(0).clamp(0, count - 1) + 1)
    ),
    "another scale": (),
    "no product in the search": ("compiled_search", lambda: broken_search),
}  # fmt: skip


@pytest.mark.parametrize("fault", list(BROKEN))
def test_a_program_that_disagrees_is_not_written(fault, tmp_path, monkeypatch):
    model = build()
    if fault == "another scale":
        honest = ByteRows.forward
        monkeypatch.setattr(ByteRows, "forward", lambda self, ids: 1.1 * honest(self, ids))
    else:
        monkeypatch.setattr(two_stages, *BROKEN[fault])
    with pytest.raises(RecembError, match=r"must agree with the model, .* no stage was written"):
        export_stages(model, tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_searched_is_refused(tmp_path):
    model = build()
    own = schema()
    own.columns["seen"] = Column(is_list=True, vocabulary="item", padding=0)
    model.schema = own
    with pytest.raises(RecembError, match=r"column 'seen': positions .* list with padding"):
        export_stages(model, tmp_path / "model.pt")
    own.columns["seen"] = Column(is_list=True, vocabulary=None)
    own.columns["item"] = Column(is_list=False, vocabulary=None)
    with pytest.raises(RecembError, match="column 'item': a search keeps a vector per id"):
        export_stages(model, tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())


def test_ranking_reads_what_it_is_told_of_the_rest():
    model = build()
    request = Request.drawn(model, 2, 5, seed=1)
    inputs = request.rank_inputs(torch.tensor([[4, 0, -1], [2, -1, -1]]))
    assert inputs["ages"].tolist() == [0, 4, 2]
    assert inputs[f"seen{SIZE}"].tolist() == [2, 1]
    assert set(inputs) == {"user", "item", "price", "seen", f"seen{SIZE}", "ages"}
    assert len(USER) == len(PRICE) == 4
