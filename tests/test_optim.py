"""The optimizer of rows in torch's terms, against torch's own over dense tables."""

import copy

import lightning
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.utils.data import DataLoader

from recemb import EmbeddingCollection, Feature, Full, Jagged, RecembError
from recemb.optim import SGD, Adagrad, Adam, RowsOptimizer, dense_parameters

IDS = 6
RULES = {"user": SGD(learning_rate=0.5), "item": Adagrad(learning_rate=0.3, eps=1e-8)}


class Model(nn.Module):
    """A user and a bag of items, and a linear layer over both."""

    def __init__(self, optimizer=RULES):
        super().__init__()
        torch.manual_seed(3)
        self.embeddings = EmbeddingCollection(
            {"user": Full(dim=4), "item": Full(dim=4)},
            {
                "user": Feature(table="user", num_ids=IDS),
                "item": Feature(table="item", num_ids=IDS, pooling="sum"),
            },
            optimizer,
        )
        self.last = nn.Linear(8, 1)

    def forward(self, ids):
        vectors = self.embeddings(ids)
        return self.last(torch.cat([vectors["user"], vectors["item"]], 1)).squeeze(1)

    def rows(self):
        """Return all that is learned."""
        tables = self.embeddings.rows.tables()
        learned = {**tables, "weight": self.last.weight, "bias": self.last.bias}
        return {name: one.detach().clone() for name, one in learned.items()}


class Dense(nn.Module):
    """The same of torch's own modules."""

    def __init__(self, model):
        super().__init__()
        values = model.embeddings.rows.values
        self.user = nn.Embedding.from_pretrained(values("user").clone(), freeze=False)
        self.item = nn.EmbeddingBag.from_pretrained(values("item").clone(), False, mode="sum")
        self.last = copy.deepcopy(model.last)

    def forward(self, ids):
        bags = ids["item"]
        starts = bags.lengths.cumsum(0) - bags.lengths
        vectors = [self.user(ids["user"]), self.item(bags.values, starts)]
        return self.last(torch.cat(vectors, 1)).squeeze(1)

    def rows(self):
        """Return all that is learned."""
        learned = {"user": self.user.weight, "item": self.item.weight}
        learned |= {"weight": self.last.weight, "bias": self.last.bias}
        return {name: one.detach().clone() for name, one in learned.items()}

    def optimizers(self, rate=0.1):
        """Return one for each of the rules, and one for the layer."""
        return [
            torch.optim.SGD(self.user.parameters(), lr=0.5),
            torch.optim.Adagrad(self.item.parameters(), lr=0.3, eps=1e-8),
            torch.optim.SGD(self.last.parameters(), lr=rate),
        ]


def batches(count, size=8):
    """Yield ids with duplicates, and what is to be predicted."""
    generator = torch.Generator().manual_seed(5)
    for _ in range(count):
        # The last id is never seen.
        lengths = torch.randint(0, 4, (size,), generator=generator)
        items = torch.randint(0, IDS - 1, (int(lengths.sum()),), generator=generator)
        users = torch.randint(0, IDS - 1, (size,), generator=generator)
        yield (
            {"user": users, "item": Jagged(items, lengths)},
            torch.randn(size, generator=generator),
        )


def both(model, rate=0.1):
    """Return the optimizer of a model, with SGD over its layer."""
    return RowsOptimizer(model, torch.optim.SGD(dense_parameters(model), lr=rate))


def loss_of(model, batch):
    ids, wanted = batch
    return (model(ids) - wanted).square().mean()


def assert_alike(model, dense, atol=1e-5):
    # A few steps of about 0.1, each rounded to fp32 in another order.
    for name, wanted in dense.rows().items():
        torch.testing.assert_close(model.rows()[name], wanted, rtol=0, atol=atol, msg=name)


def clip_norm(model):
    return clip_grad_norm_(model.parameters(), 0.2)


def clip_value(model):
    clip_grad_value_(model.parameters(), 0.05)


@pytest.mark.parametrize("clip", [None, clip_norm, clip_value])
@pytest.mark.parametrize("accumulated", [1, 2])
def test_steps_are_those_of_torchs_optimizers(clip, accumulated):
    model = Model()
    dense = Dense(model)
    own, theirs = both(model), dense.optimizers()
    for number, batch in enumerate(batches(6), 1):
        for one in (model, dense):
            loss_of(one, batch).backward()
        if number % accumulated:
            continue
        if clip is not None:
            norm = clip(model)
            clip(dense)
            assert norm is None or norm > 0.2  # something was clipped
        for one in (own, *theirs):
            one.step()
            one.zero_grad()
        assert_alike(model, dense)


def test_the_norm_is_that_of_the_dense_gradient():
    model = Model()
    dense = Dense(model)
    both(model)
    (batch,) = batches(1)
    for one in (model, dense):
        loss_of(one, batch).backward()
    own = clip_grad_norm_(model.parameters(), 1e9)
    torch.testing.assert_close(own, clip_grad_norm_(dense.parameters(), 1e9), rtol=1e-5, atol=0)


def test_schedules_reach_every_group():
    model = Model()
    dense = Dense(model)
    own, theirs = both(model), dense.optimizers()
    schedules = [torch.optim.lr_scheduler.StepLR(one, 2, 0.5) for one in (own, *theirs)]
    for batch in batches(6):
        for one in (model, dense):
            loss_of(one, batch).backward()
        for one in (own, *theirs):
            one.step()
            one.zero_grad()
        for one in schedules:
            one.step()
    assert_alike(model, dense)
    assert [group["lr"] for group in own.param_groups] == [0.1 / 8, 0.5 / 8, 0.3 / 8]
    assert [group.get("table") for group in own.param_groups] == [None, "user", "item"]


def test_a_rate_may_fall_to_nothing_and_not_below():
    model = Model()
    own = both(model)
    before = model.rows()
    own.rows_groups[0]["lr"] = 0.0
    (batch,) = batches(1)
    loss_of(model, batch).backward()
    own.step()
    assert torch.equal(model.rows()["user"], before["user"])
    assert not torch.equal(model.rows()["item"], before["item"])
    own.rows_groups[1]["lr"] = -0.1
    loss_of(model, batch).backward()
    with pytest.raises(
        RecembError, match=r"^RowsOptimizer: group of table 'item': lr must be at l"
    ):
        own.step()


def test_weight_decay_is_torchs_on_rows_that_are_touched():
    model = Model({name: SGD(learning_rate=0.5, weight_decay=0.2) for name in RULES})
    dense = Dense(model)
    theirs = torch.optim.SGD([dense.user.weight, dense.item.weight], lr=0.5, weight_decay=0.2)
    before = model.rows()
    (batch,) = batches(1, size=64)
    for one in (model, dense):
        loss_of(one, batch).backward()
    RowsOptimizer(model).step()
    theirs.step()
    for name in RULES:
        found, wanted = model.rows()[name], dense.rows()[name]
        torch.testing.assert_close(found[:-1], wanted[:-1], rtol=0, atol=1e-6)
        assert torch.equal(found[-1], before[name][-1])


def test_a_closure_is_run_before_the_step():
    model = Model()
    dense = Dense(model)
    own, theirs = both(model), dense.optimizers()
    for batch in batches(3):

        def closure(batch=batch):
            own.zero_grad()
            loss = loss_of(model, batch)
            loss.backward()
            return loss

        wanted = loss_of(dense, batch)
        wanted.backward()
        torch.testing.assert_close(own.step(closure), wanted, rtol=1e-5, atol=1e-6)
        for one in theirs:
            one.step()
            one.zero_grad()
    assert_alike(model, dense)


# Scaled losses


def test_a_scaled_loss_makes_the_same_steps():
    model = Model()
    dense = Dense(model)
    own, theirs = both(model), dense.optimizers()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    for batch in batches(4):
        scaler.scale(loss_of(model, batch)).backward()
        scaler.unscale_(own)
        clip_norm(model)
        scaler.step(own)
        scaler.update()
        own.zero_grad()
        loss_of(dense, batch).backward()
        clip_norm(dense)
        for one in theirs:
            one.step()
            one.zero_grad()
    assert_alike(model, dense)


def test_a_step_that_the_scaler_leaves_out_changes_nothing(recwarn):
    model = Model({"user": Adam(learning_rate=0.5), "item": RULES["item"]})
    own = both(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    first, second = batches(2)
    loss_of(model, first).backward()
    own.step()
    own.zero_grad()
    rows = model.rows()
    state = {k: v.clone() for k, v in model.embeddings.rows.optimizer_state().items()}
    scaler.scale(loss_of(model, second) * float("inf")).backward()
    scaler.step(own)
    scaler.update()
    own.zero_grad()
    assert scaler.get_scale() == 2.0**15
    for name, before in rows.items():
        assert torch.equal(model.rows()[name], before)
    for name, before in state.items():
        assert torch.equal(model.embeddings.rows.optimizer_state()[name], before)
    # And training goes on.
    loss_of(model, second).backward()
    own.step()
    assert not torch.equal(model.rows()["user"], rows["user"])
    assert all(one.isfinite().all() for one in model.rows().values())
    assert not [one for one in recwarn.list if "dropped" in str(one.message)]


# State


@pytest.mark.parametrize("by", ["state_dict", "deepcopy"])
def test_what_was_saved_goes_on_to_the_bit(by):
    model = Model({"user": Adam(learning_rate=0.1), "item": RULES["item"]})
    own = RowsOptimizer(model, torch.optim.Adam(dense_parameters(model), lr=0.1))
    schedule = torch.optim.lr_scheduler.ExponentialLR(own, 0.7)
    first, *rest = batches(4)

    def train(model, own, batches, schedule=None):
        for batch in batches:
            loss_of(model, batch).backward()
            own.step()
            own.zero_grad()
            if schedule is not None:
                schedule.step()
        return model.rows()

    train(model, own, [first], schedule)
    if by == "deepcopy":
        other, again = copy.deepcopy((model, own))
    else:
        other = Model({"user": Adam(learning_rate=0.2), "item": RULES["item"]})
        again = RowsOptimizer(other, torch.optim.Adam(dense_parameters(other), lr=0.2))
        other.load_state_dict(model.state_dict())
        again.load_state_dict(copy.deepcopy(own.state_dict()))
    assert [g["lr"] for g in again.param_groups] == pytest.approx([0.07, 0.07, 0.21])
    wanted = train(model, own, rest)
    found = train(other, again, rest)
    for name in wanted:
        assert torch.equal(found[name], wanted[name]), name


def test_the_state_of_other_tables_is_refused():
    model = Model()
    state = both(model).state_dict()
    other = Model({"user": Adam(), "item": Adam()})
    with pytest.raises(
        RecembError, match=r"^RowsOptimizer: the state is of table 'user' under sgd"
    ):
        both(other).load_state_dict(state)
    del state["rows"]
    with pytest.raises(RecembError, match=r"^RowsOptimizer: the state has none of rows"):
        both(model).load_state_dict(state)


# What is refused


def test_what_is_no_model_of_tables_is_refused():
    with pytest.raises(RecembError, match=r"^RowsOptimizer: Linear has no tables"):
        RowsOptimizer(nn.Linear(1, 1))


@pytest.mark.parametrize("is_within", [True, False])
def test_an_optimizer_of_torch_is_refused_rows_before_it_changes_anything(is_within):
    model = Model()
    dense = torch.optim.Adam(model.parameters(), lr=0.1)
    if is_within:
        with pytest.raises(RecembError, match=r"^RowsOptimizer: dense was given the rows of table"):
            RowsOptimizer(model, dense)
        return
    before = model.rows()
    (batch,) = batches(1)
    loss_of(model, batch).backward()
    with pytest.raises(RecembError, match=r"^Adam: it was given the rows of table 'user'"):
        dense.step()
    for name, rows in before.items():
        assert torch.equal(model.rows()[name], rows)


# A plain trainer of Lightning


class Plain(lightning.LightningModule):
    """A user's own module, which knows nothing of how rows are stepped."""

    def __init__(self):
        super().__init__()
        self.model = Model()

    def training_step(self, batch):
        return loss_of(self.model, batch)

    def configure_optimizers(self):
        own = both(self.model)
        return {
            "optimizer": own,
            "lr_scheduler": {
                "scheduler": torch.optim.lr_scheduler.StepLR(own, 3, 0.5),
                "interval": "step",
            },
        }


def trainer(folder, **settings):
    return lightning.Trainer(
        **{
            "max_epochs": 1,
            "accelerator": "cpu",
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": folder,
            **settings,
        }
    )


def loader(count):
    return DataLoader(list(batches(count)), batch_size=None)


QUIET = pytest.mark.filterwarnings(
    "ignore:.*num_workers", "ignore:.*LeafSpec", "ignore:Be aware that when using `ckpt_path`"
)


@QUIET
@pytest.mark.parametrize(
    ("settings", "clip"),
    [
        ({}, None),
        ({"gradient_clip_val": 0.2}, clip_norm),
        ({"gradient_clip_val": 0.05, "gradient_clip_algorithm": "value"}, clip_value),
        ({"accumulate_grad_batches": 2}, None),
    ],
)
def test_a_plain_trainer_makes_torchs_steps(settings, clip, tmp_path):
    plain = Plain()
    dense = Dense(plain.model)
    theirs = dense.optimizers()
    schedules = [torch.optim.lr_scheduler.StepLR(one, 3, 0.5) for one in theirs]
    accumulated = settings.get("accumulate_grad_batches", 1)
    trainer(tmp_path, enable_checkpointing=False, **settings).fit(plain, loader(6))
    for number, batch in enumerate(batches(6), 1):
        (loss_of(dense, batch) / accumulated).backward()
        if number % accumulated:
            continue
        if clip is not None:
            clip(dense)
        for one in (*theirs, *schedules):
            one.step()
        for one in theirs:
            one.zero_grad()
    assert_alike(plain.model, dense)


@QUIET
@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_mixed_precision_reaches_rows(precision, tmp_path):
    plain = Plain()
    dense = Dense(plain.model)
    if precision == "16-mixed":
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        settings = {"plugins": [MixedPrecision("16-mixed", "cpu", scaler)]}
    else:
        settings = {"precision": precision}
    trainer(tmp_path, enable_checkpointing=False, **settings).fit(plain, loader(3))
    theirs = dense.optimizers()
    for batch in batches(3):
        loss_of(dense, batch).backward()
        for one in theirs:
            one.step()
            one.zero_grad()
    # Products in 8 (bf16) and 11 bits: steps of about .1 are some percent off.
    assert_alike(plain.model, dense, atol=0.05)
    assert (plain.model.rows()["user"] - Model().rows()["user"]).abs().max() > 0.05


@QUIET
def test_a_plain_trainer_resumes_to_the_bit(tmp_path):
    whole = Plain()
    trainer(tmp_path, max_epochs=3, enable_checkpointing=False).fit(whole, loader(4))
    first = trainer(tmp_path, max_epochs=2)
    first.fit(Plain(), loader(4))
    path = tmp_path / "last.ckpt"
    first.save_checkpoint(path)
    again = Plain()
    trainer(tmp_path, max_epochs=3, enable_checkpointing=False).fit(
        again, loader(4), ckpt_path=path
    )
    for name, wanted in whole.model.rows().items():
        assert torch.equal(again.model.rows()[name], wanted), name


def test_a_setting_out_of_range_is_refused_before_anything_changes():
    model = Model()
    optimizer = both(model)
    before = model.rows()
    loss_of(model, next(batches(1))).backward()
    optimizer.param_groups[-1]["lr"] = -1.0
    with pytest.raises(RecembError, match="lr must be at least 0"):
        optimizer.step()
    for name, one in model.rows().items():
        assert torch.equal(one, before[name])


def test_a_group_that_is_added_goes_to_the_dense_optimizer():
    model = Model()
    more = nn.Parameter(torch.ones(1))
    optimizer = both(model)
    optimizer.add_param_group({"params": [more], "lr": 0.5})
    assert [group.get("table") for group in optimizer.param_groups] == [None, None, "user", "item"]
    (loss_of(model, next(batches(1))) + 3 * more.sum()).backward()
    optimizer.step()
    assert more.item() == 1 - 0.5 * 3  # as torch.optim.SGD has it
    rows = [one for one in model.parameters() if hasattr(one, "table")]
    with pytest.raises(RecembError, match="dense was given the rows of table"):
        optimizer.add_param_group({"params": rows})
    assert len(optimizer.param_groups) == len(optimizer.dense.param_groups) + 2 == 4
    with pytest.raises(RecembError, match="it has no dense optimizer"):
        RowsOptimizer(model).add_param_group({"params": [nn.Parameter(torch.ones(1))]})


@pytest.mark.parametrize("saved", [{}, "rows alone", "with another group"])
def test_the_state_of_an_optimizer_of_other_groups_is_refused(saved):
    model = Model()
    optimizer = both(model)
    if saved == "rows alone":
        saved = RowsOptimizer(model).state_dict()
    elif saved == "with another group":
        other = both(model)
        other.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
        saved = other.state_dict()
    with pytest.raises(RecembError, match=r"the state has \d groups of dense parameters"):
        optimizer.load_state_dict(saved)
