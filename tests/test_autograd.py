"""What torch's autograd does with rows, against ``nn.Embedding``."""

import copy
import threading

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils.checkpoint import checkpoint

from recemb import EmbeddingCollection, Feature, Full, RecembError
from recemb.optim import SGD, RowsOptimizer

IDS = 5


class Model(nn.Module):
    """Two tables of one form, so of one gather."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.embeddings = EmbeddingCollection(
            {"a": Full(dim=3), "b": Full(dim=3)},
            {name: Feature(table=name, num_ids=IDS) for name in "ab"},
            SGD(learning_rate=0.1),
        )
        self.last = nn.Linear(6, 1)

    def forward(self, ids):
        vectors = self.embeddings(ids)
        return self.last(torch.cat([vectors["a"], vectors["b"]], 1))


class Dense(nn.Module):
    """The same of torch's own modules."""

    def __init__(self, model):
        super().__init__()
        values = model.embeddings.rows.values
        self.a = nn.Embedding.from_pretrained(values("a").clone(), freeze=False)
        self.b = nn.Embedding.from_pretrained(values("b").clone(), freeze=False)
        self.last = copy.deepcopy(model.last)

    def forward(self, ids):
        return self.last(torch.cat([self.a(ids["a"]), self.b(ids["b"])], 1))


def some_ids(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randint(IDS, (7,), generator=generator) for name in "ab"}


def parameter_of(model, table):
    return model.embeddings.rows.rows_parameters()[table][0]


def dense_grad(model, table):
    """Return the gradient of a table as that of ``nn.Embedding``."""
    parameter = parameter_of(model, table)
    full = torch.zeros(IDS, 3)
    place = list(model.embeddings.rows.physical).index(table) * IDS
    full[parameter.rows_U - place] = parameter.grad
    return full


def test_gradients_of_chosen_tables_alone():
    model = Model()
    dense = Dense(model)
    model(some_ids()).square().sum().backward(inputs=[parameter_of(model, "b")])
    dense(some_ids()).square().sum().backward(inputs=[dense.b.weight])
    assert parameter_of(model, "a").grad is None
    torch.testing.assert_close(dense_grad(model, "b"), dense.b.weight.grad)


@pytest.mark.parametrize("allow_unused", [True, False])
def test_gradients_of_rows_are_left_and_not_returned(allow_unused):
    model = Model()
    loss = model(some_ids()).sum()
    with pytest.raises(RecembError, match=r"table '[ab]': torch.autograd.grad cannot return"):
        torch.autograd.grad(loss, list(model.parameters()), allow_unused=allow_unused)
    assert parameter_of(model, "a").grad is None
    assert parameter_of(model, "b").grad is None


def test_a_penalty_on_the_gradient_of_vectors_reaches_rows():
    model = Model()
    dense = Dense(model)
    vectors = model.embeddings(some_ids())
    pairs = [
        (model.last, [vectors["a"], vectors["b"]]),
        (dense.last, [dense.a(some_ids()["a"]), dense.b(some_ids()["b"])]),
    ]
    for last, asked in pairs:
        score = last(torch.cat(asked, 1).square()).sum()
        gradients = torch.autograd.grad(score, asked, create_graph=True)
        sum(one.square().sum() for one in gradients).backward()
    for table, grad in (("a", dense.a.weight.grad), ("b", dense.b.weight.grad)):
        torch.testing.assert_close(dense_grad(model, table), grad)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_lookups_that_are_checkpointed(use_reentrant):
    model = Model()
    dense = Dense(model)
    one = torch.ones((), requires_grad=True)
    for module in (model, dense):
        again = checkpoint(
            lambda scale, module=module: module(some_ids()) * scale,
            one,
            use_reentrant=use_reentrant,
        )
        (again.square().sum() + module(some_ids(1)).sum()).backward()
    torch.testing.assert_close(dense_grad(model, "a"), dense.a.weight.grad)


def test_backward_passes_of_several_threads():
    model = Model()
    dense = Dense(model)
    losses = [model(some_ids(seed)).square().sum() for seed in range(20)]
    threads = [threading.Thread(target=loss.backward) for loss in losses]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(20):
        dense(some_ids(seed)).square().sum().backward()
    torch.testing.assert_close(dense_grad(model, "a"), dense.a.weight.grad)


@pytest.mark.parametrize("hook", ["register_hook", "register_post_accumulate_grad_hook"])
def test_hooks_on_rows_are_refused(hook):
    parameter = parameter_of(Model(), "b")
    with pytest.raises(RecembError, match=f"table 'b': {hook} cannot be had"):
        getattr(parameter, hook)(lambda one: one)


def test_parameters_that_were_replaced_are_refused():
    model = Model()
    copies = {name: one.detach().clone() for name, one in model.named_parameters()}
    for one in copies.values():
        one.requires_grad_()
    with pytest.raises(RecembError, match="table 'a': its parameter was replaced"):
        torch.func.functional_call(model, copies, (some_ids(),))
    own = {name: one for name, one in copies.items() if name.startswith("last")}
    torch.func.functional_call(model, own, (some_ids(),)).sum().backward()
    assert copies["last.bias"].grad == 7  # a sum over 7 samples


def test_processes_whose_rows_would_differ_are_refused():
    dist.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    try:
        wrapped = nn.parallel.DistributedDataParallel(Model())
        with pytest.raises(RecembError, match="table 'a': DistributedDataParallel would let"):
            wrapped(some_ids())
    finally:
        dist.destroy_process_group()


def test_a_backward_pass_that_fails_leaves_nothing_behind():
    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx, vectors):
            return vectors.clone()

        @staticmethod
        def backward(ctx, grad):
            raise ValueError("half-way")

    model = Model()
    dense = Dense(model)
    optimizer = RowsOptimizer(model.embeddings)
    # The later lookup goes back first, and has left its gradients when the earlier one fails.
    failing = Fails.apply(model.embeddings(some_ids(1))["a"])
    later = model.embeddings(some_ids(2))["b"]
    with pytest.raises(ValueError, match="half-way"):
        (failing.sum() + later.sum()).backward()
    optimizer.zero_grad()
    for module in (model, dense):
        module(some_ids()).sum().backward()
    torch.testing.assert_close(dense_grad(model, "b"), dense.b.weight.grad)
