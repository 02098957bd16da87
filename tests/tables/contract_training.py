"""Part of the contract of table kinds: gradients reach what is stored, and training works."""

import torch
from torch import Tensor

from recemb.embeddings import Embeddings
from recemb.jagged import Ids
from recemb.rows.optimizers import Adam
from recemb.tables.kind import TableConfig
from tests.rows.decode import units
from tests.tables.case import Case
from tests.tables.helpers import SPACES, Stored, as_tensor, embeddings, grads_of, stored

KEYS, LISTS, USERS = [5, 21, 5], [[1, 2, 1], [], [5, 49]], [3, 0, 3]
"""Duplicates within a feature and between features, an empty bag and an unknown value."""


class TrainingContract(Case):
    """Gradients against autograd through the oracle, and a loss that falls."""

    trains_in: bool = True
    """The mode in which gradients are compared with the oracle's."""
    left_loss: float = 0.05
    """What 100 steps leave of the first loss, at most."""

    def weights(self) -> Tensor:
        """Return what the vectors of the three samples are multiplied by in a loss."""
        return torch.randn(3, self.width, generator=torch.Generator().manual_seed(2))

    def loss_of(self, module: Embeddings) -> Tensor:
        """Return a loss over a plain feature, a pooled one and one of another id space."""
        got = module(self.asked(KEYS, LISTS, USERS))
        total = as_tensor(got["one"]) + as_tensor(got["mean"]) - as_tensor(got["who"])
        return (total * self.weights()).sum()

    def expected_loss(self, held: Stored) -> Tensor:
        """Return the same, id by id."""
        losses = []
        for n, weight in enumerate(self.weights()):
            one = self.vector(held, KEYS[n], in_training=True)
            who = self.vector(held, USERS[n], "user", in_training=True)
            losses.append(((one - who) * weight).sum())
            losses += [
                (self.vector(held, key, in_training=True) * weight).sum() / len(LISTS[n])
                for key in LISTS[n]
            ]
        return torch.stack(losses).sum()

    def units(self, module: Embeddings, part: str) -> Tensor:
        """Return the distance of the numbers that a part can hold: 0 where it is fp32."""
        physical = module.physical_of["ads"][part]
        return units(module.rows.tables(), physical, module.rows.physical[physical])

    def test_gradients_equal_those_of_the_oracle(self, module: Embeddings) -> None:
        module.train(self.trains_in)
        held = stored(module).leaves()
        self.expected_loss(held).backward()
        self.loss_of(module).backward()
        module.step()
        after = stored(module)
        for part, rows in held.rows.items():
            if not rows.is_floating_point():
                continue
            moved = torch.zeros_like(rows) if rows.grad is None else self.rate * rows.grad
            difference = (after.rows[part] - (rows - moved)).detach().abs()
            # SGD: the step is the gradient. Some ten terms of about 1, summed in fp32; low
            # precision rounds to a neighbour.
            allowed = 2e-6 + 1e-5 * moved.abs() + self.units(module, part)
            assert (difference <= allowed).all(), part
        for name, grad in grads_of(module).items():
            wanted = held.learned[name].grad
            wanted = torch.zeros_like(grad) if wanted is None else wanted
            torch.testing.assert_close(grad, wanted, rtol=1e-4, atol=1e-5, msg=name)
        if held.projection is not None:
            parameters = dict(module.named_parameters())
            grad = parameters["projections.table_ads.weight"].grad
            torch.testing.assert_close(grad, held.projection.grad, rtol=1e-4, atol=1e-5)

    def test_everything_that_is_stored_is_trained(self, module: Embeddings) -> None:
        before = stored(module)
        users, items = list(range(SPACES["user"])), list(range(SPACES["item"]))
        got = module.train()(self.asked(items, [], users))
        weights = torch.randn(70, self.width, generator=torch.Generator().manual_seed(3))
        vectors = torch.cat([as_tensor(got["who"]), as_tensor(got["one"])])
        ((vectors * weights).sum() + module.loss()).backward()
        module.step()
        after = stored(module)
        for part, rows in before.rows.items():
            physical = module.rows.physical[module.physical_of["ads"][part]]
            if physical.precision != "uint8":
                assert (rows != after.rows[part]).any(), part
        for name, parameter in module.named_parameters():
            if not name.startswith("rows."):
                assert parameter.grad is not None, name
                assert parameter.grad.any(), name

    def test_rows_are_trained_in_evaluation_mode_too(self, module: Embeddings) -> None:
        before = stored(module)
        users, items = list(range(SPACES["user"])), list(range(SPACES["item"]))
        got = module.eval()(self.asked(items, [], users))
        weights = torch.randn(70, self.width, generator=torch.Generator().manual_seed(3))
        vectors = torch.cat([as_tensor(got["who"]), as_tensor(got["one"])])
        with torch.no_grad():
            again = module(self.asked(items, [], users))
        assert torch.equal(as_tensor(again["one"]), as_tensor(got["one"]))
        (vectors * weights).sum().backward()
        module.step()
        after = stored(module)
        for part, rows in before.rows.items():
            physical = module.rows.physical[module.physical_of["ads"][part]]
            if physical.precision != "uint8":
                assert (rows != after.rows[part]).any(), part

    def test_a_step_changes_the_rows_asked_for_and_no_other(self, module: Embeddings) -> None:
        keys = [5, 21, 5]
        before = stored(module)
        # Towards 0, so that no integer step has to grow. Id 8 is read but gets no gradient.
        vectors = as_tensor(module.train()(self.asked(keys, [[8]]))["one"])
        vectors.square().sum().backward()
        module.step()
        after = stored(module)
        for part, rows in before.rows.items():
            physical = module.rows.physical[module.physical_of["ads"][part]]
            wanted = {
                row for key in keys for row in self.rows_of_id("ads", before, "item", key)[part]
            }
            changed = set((after.rows[part] != rows).any(1).nonzero().flatten().tolist())
            if physical.precision == "uint8":
                wanted = set()
            if physical.precision == "fp32":
                assert changed == wanted
            # A small change may round to none.
            assert changed <= wanted

    def test_training_moves_a_loss_down(self, config: TableConfig) -> None:
        module = embeddings({"ads": config}, self.features(), Adam(learning_rate=0.02))
        self.prepared(module).train()
        batch = self.asked(list(range(10)), [[20, 21], [30]], [4, 5])
        # One number for all, which ids that share rows can reach too.
        losses = train(module, batch, torch.full((14, self.width), 0.1), 100)
        assert losses[-1] < self.left_loss * losses[0]


def train(module: Embeddings, batch: dict[str, Ids], targets: Tensor, steps: int) -> list[float]:
    """Draw the vectors of ``batch`` to targets, as a model's task does, and return the losses."""
    rows = {id(parameter) for parameter in module.rows.parameters()}
    dense = [one for one in module.parameters() if id(one) not in rows]
    optimizer = torch.optim.Adam(dense, lr=0.02) if dense else None
    losses = []

    def run() -> float:
        if optimizer:
            optimizer.zero_grad()
        total = torch.zeros(())
        for _ in module.training_forms():
            got = module(batch)
            vectors = torch.cat([as_tensor(got[name]) for name in ("one", "who", "mean")])
            total = total + (vectors - targets).square().sum()
        (total + module.loss()).backward()
        return float(total.detach())

    for _ in range(steps):
        losses.append(run())
        if optimizer:
            optimizer.step()
        module.step(run)
    return losses
