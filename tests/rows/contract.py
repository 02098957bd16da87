"""What every rows store must do, whatever it is made of.

A store's test class inherits :class:`RowsStoreContract` and gives one fixture, ``make_store``. All
expected values come from :class:`Oracle`, which knows the update rules from their papers: dense
float64 tables, gradients of duplicates added one by one, torch's own dense optimizers or a loop
over rows.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from recemb.errors import RecembError
from recemb.physical import PhysicalTable
from recemb.rows.optimizers import SGD, Adagrad, Adam, RowWiseAdagrad, UpdateRule
from recemb.rows.store import RowsStore

MakeStore = Callable[[Mapping[str, PhysicalTable], UpdateRule], RowsStore]
Asked = Sequence[tuple[str, Sequence[int]]]
"""Blocks of one gather: a table and the rows asked of it; a table may come twice."""
Step = Sequence[tuple[Asked, Tensor]]
"""The gathers of one step and the gradient of each."""

OPTIMIZERS: dict[str, UpdateRule] = {
    "sgd": SGD(learning_rate=0.1),
    "adagrad": Adagrad(learning_rate=0.1, eps=1e-6),
    "rowwise_adagrad": RowWiseAdagrad(learning_rate=0.1, eps=1e-6),
    "adam": Adam(learning_rate=0.1, beta1=0.8, beta2=0.95, eps=1e-6),
}
STATE_DIMS: dict[str, dict[str, int]] = {
    "sgd": {},
    "adagrad": {"sum": 4},
    "rowwise_adagrad": {"sum": 1},
    "adam": {"mean": 4, "square": 4},
}
"""Elements of state per row of a table of dim 4."""


class Numbered:
    """Element d of row r is ``start + r * dim + d``: a small integer, so exact in fp32."""

    def __init__(self, start: int) -> None:
        self.start = start

    def __call__(self, rows: Tensor) -> None:
        """Fill ``rows`` in place."""
        rows.copy_((self.start + torch.arange(rows.numel())).reshape(rows.shape))


class Drawn:
    """Multiples of 1/64 in -1..1, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __call__(self, rows: Tensor) -> None:
        """Fill ``rows`` in place."""
        generator = torch.Generator().manual_seed(self.seed)
        rows.copy_(torch.randint(-64, 65, rows.shape, generator=generator) / 64)


def numbered() -> dict[str, PhysicalTable]:
    """Return two tables of width 2 and one of width 3 between them, of known rows."""
    return {
        "a": PhysicalTable(num_rows=4, dim=2, initializer=Numbered(0)),
        "wide": PhysicalTable(num_rows=3, dim=3, initializer=Numbered(500)),
        "b": PhysicalTable(num_rows=5, dim=2, initializer=Numbered(100)),
    }


def drawn() -> dict[str, PhysicalTable]:
    """Return two tables of width 4 and one of width 6 between them."""
    return {
        "a": PhysicalTable(num_rows=7, dim=4, initializer=Drawn(1)),
        "wide": PhysicalTable(num_rows=6, dim=6, initializer=Drawn(2)),
        "b": PhysicalTable(num_rows=9, dim=4, initializer=Drawn(3)),
    }


def gather(store: RowsStore, asked: Asked) -> Tensor:
    """Ask a store for rows as the embeddings module does."""
    blocks = [torch.tensor(rows, dtype=torch.int64) + store.base_row(name) for name, rows in asked]
    sizes = torch.tensor([len(rows) for _, rows in asked])
    return store.gather([name for name, _ in asked], torch.cat(blocks), sizes)


def backward(store: RowsStore, step: Step) -> None:
    """Gather and give back gradients, without the update."""
    for asked, grads in step:
        gather(store, asked).backward(grads)


def train(store: RowsStore, steps: Sequence[Step]) -> None:
    """Do whole steps."""
    for step in steps:
        backward(store, step)
        store.step()


def copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what a store gave, safe from its next step."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def assert_same(got: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Assert that two sets of tensors agree in names and to the bit."""
    assert set(got) == set(wanted)
    for name, tensor in wanted.items():
        assert torch.equal(got[name], tensor), name


def gradient(rows: int, dim: int, generator: torch.Generator) -> Tensor:
    """Return multiples of 1/16 in -2..2: their sums are exact in fp32, in any order."""
    return torch.randint(-32, 33, (rows, dim), generator=generator) / 16


def random_steps(seed: int, num_steps: int = 6) -> list[Step]:
    """Return steps over :func:`drawn` with heavy duplicates and rows that no step asks for."""
    generator = torch.Generator().manual_seed(seed)

    def some(below: int, count: int) -> list[int]:
        return torch.randint(0, below, (count,), generator=generator).tolist()

    steps = []
    for _ in range(num_steps):
        # Rows 5, 6 of a, 6.. of b and 5 of wide are never asked for.
        narrow = [("b", some(6, 30)), ("a", some(5, 20)), ("b", some(3, 10)), ("a", [])]
        wide = [("wide", some(5, 12))]
        steps.append([(narrow, gradient(60, 4, generator)), (wide, gradient(12, 6, generator))])
    return steps


class Oracle:
    """Dense float64 tables and the update rules as published."""

    def __init__(self, physical: Mapping[str, PhysicalTable], optimizer: UpdateRule) -> None:
        self.optimizer = optimizer
        self.num_steps = 0
        self.tables: dict[str, Tensor] = {}
        self.first: dict[str, np.ndarray] = {}
        self.second: dict[str, np.ndarray] = {}
        self.dense: dict[str, torch.optim.Optimizer] = {}
        for name, table in physical.items():
            rows = torch.empty(table.num_rows, table.dim)
            table.initializer(rows)
            self.tables[name] = rows.double()
            self.first[name] = np.zeros(rows.shape)
            self.second[name] = np.zeros(rows.shape)
            if isinstance(optimizer, SGD):
                self.dense[name] = torch.optim.SGD([self.tables[name]], lr=optimizer.learning_rate)
            elif isinstance(optimizer, Adagrad):
                self.dense[name] = torch.optim.Adagrad(
                    [self.tables[name]], lr=optimizer.learning_rate, eps=optimizer.eps
                )

    def step(self, step: Step) -> None:
        """Add up the gradients of every row asked for, then update those rows."""
        self.num_steps += 1
        sums = {name: np.zeros(table.shape) for name, table in self.tables.items()}
        touched: dict[str, set[int]] = {name: set() for name in self.tables}
        for asked, grads in step:
            given = iter(grads.double().numpy())
            for name, rows in asked:
                for row in rows:
                    sums[name][row] += next(given)
                    touched[name].add(row)
        for name, table in self.tables.items():
            if name in self.dense:
                # Rows without gradient stand still under dense SGD and Adagrad anyway.
                table.grad = torch.from_numpy(sums[name])
                self.dense[name].step()
            else:
                for row in touched[name]:
                    self._update_row(name, row, sums[name][row])

    def _update_row(self, name: str, row: int, g: np.ndarray) -> None:
        rule, w = self.optimizer, self.tables[name].numpy()[row]
        m, v = self.first[name][row], self.second[name][row]
        if isinstance(rule, RowWiseAdagrad):
            v += sum(float(x) ** 2 for x in g) / len(g)
            w -= rule.learning_rate * g / (np.sqrt(v) + rule.eps)
            return
        assert isinstance(rule, Adam)
        m[:] = rule.beta1 * m + (1 - rule.beta1) * g
        v[:] = rule.beta2 * v + (1 - rule.beta2) * g**2
        m_hat = m / (1 - rule.beta1**self.num_steps)
        v_hat = v / (1 - rule.beta2**self.num_steps)
        w -= rule.learning_rate * m_hat / (np.sqrt(v_hat) + rule.eps)

    def reset(self, name: str, row: int, value: float) -> None:
        """Let a row begin anew."""
        self.tables[name][row] = value
        self.first[name][row] = self.second[name][row] = 0
        if isinstance(self.optimizer, Adagrad):
            self.dense[name].state[self.tables[name]]["sum"][row] = 0

    def check(self, store: RowsStore) -> None:
        """Assert that the rows of a store are those of the oracle."""
        # Rows stay below 4 and change by about 0.1 a step; each of six steps rounds a few
        # times to fp32 (relative 6e-8), so 2e-6 is ample, and 10,000 times below one update.
        for name, wanted in self.tables.items():
            torch.testing.assert_close(store.tables()[name].double(), wanted, rtol=0, atol=2e-6)


class RowsStoreContract:
    """Inherit, and give a fixture ``make_store(physical, optimizer)``."""

    @pytest.fixture
    def store(self, make_store: MakeStore) -> RowsStore:
        """A store of :func:`numbered` tables."""
        return make_store(numbered(), SGD(learning_rate=0.5))

    @pytest.fixture(params=list(OPTIMIZERS))
    def optimizer(self, request: pytest.FixtureRequest) -> UpdateRule:
        """Every optimizer in turn."""
        return OPTIMIZERS[request.param]

    # Reading

    def test_initializers_fill_the_tables(self, store: RowsStore) -> None:
        assert {name: rows.tolist() for name, rows in store.tables().items()} == {
            "a": [[0, 1], [2, 3], [4, 5], [6, 7]],
            "wide": [[500, 501, 502], [503, 504, 505], [506, 507, 508]],
            "b": [[100, 101], [102, 103], [104, 105], [106, 107], [108, 109]],
        }

    def test_gather_returns_rows_in_the_order_asked_for(self, store: RowsStore) -> None:
        assert gather(store, [("b", [4, 0, 2])]).tolist() == [[108, 109], [100, 101], [104, 105]]

    def test_gather_repeats_duplicates(self, store: RowsStore) -> None:
        assert gather(store, [("a", [3, 3, 0, 3])]).tolist() == [[6, 7], [6, 7], [0, 1], [6, 7]]

    def test_gather_reads_blocks_of_several_tables(self, store: RowsStore) -> None:
        asked = [("b", [0]), ("a", [3, 0]), ("b", [4, 0])]
        assert gather(store, asked).tolist() == [[100, 101], [6, 7], [0, 1], [108, 109], [100, 101]]

    def test_gather_of_another_width(self, store: RowsStore) -> None:
        assert gather(store, [("wide", [2, 0])]).tolist() == [[506, 507, 508], [500, 501, 502]]

    def test_gather_takes_empty_blocks(self, store: RowsStore) -> None:
        assert gather(store, [("a", []), ("b", [1]), ("a", [])]).tolist() == [[102, 103]]

    def test_gather_of_nothing_keeps_its_width(self, store: RowsStore) -> None:
        assert gather(store, [("wide", []), ("wide", [])]).shape == (0, 3)

    def test_gather_keeps_every_bit(self, make_store: MakeStore) -> None:
        physical = {"a": PhysicalTable(num_rows=4, dim=1, initializer=Numbered(0))}
        store = make_store(physical, SGD())
        bits = torch.tensor([[1], [-(2**31)], [0x3F9D70A4], [0x00800000]], dtype=torch.int32)
        store.load_tables({"a": bits.view(torch.float32)})
        assert gather(store, [("a", [3, 2, 1, 0])]).view(torch.int32).flatten().tolist() == [
            0x00800000,
            0x3F9D70A4,
            -(2**31),
            1,
        ]

    def test_evaluation_reads_the_same_rows(self, store: RowsStore) -> None:
        with torch.no_grad():
            read = gather(store.eval(), [("b", [4, 4]), ("a", [1])])
        assert read.tolist() == [[108, 109], [108, 109], [2, 3]]

    # Updating

    def test_update_equals_the_oracle(self, make_store: MakeStore, optimizer: UpdateRule) -> None:
        store, oracle = make_store(drawn(), optimizer), Oracle(drawn(), optimizer)
        for step in random_steps(seed=11):
            train(store, [step])
            oracle.step(step)
            oracle.check(store)

    # torch says once per process that it does not check sparse indices.
    @pytest.mark.filterwarnings("ignore:Sparse invariant checks")
    def test_adam_is_torchs_sparse_adam(self, make_store: MakeStore) -> None:
        # SparseAdam adds eps before the bias correction of the root, so they agree for small eps.
        rule = Adam(learning_rate=0.1, eps=1e-12)
        physical = {"a": drawn()["a"]}
        store, generator = make_store(physical, rule), torch.Generator().manual_seed(5)
        weight = store.tables()["a"].clone().double().requires_grad_()
        theirs = torch.optim.SparseAdam([weight], lr=0.1, eps=1e-12)
        for _ in range(8):
            rows = torch.randint(0, 6, (25,), generator=generator)
            grads = gradient(25, 4, generator)
            train(store, [[([("a", rows.tolist())], grads)]])
            weight.grad = torch.sparse_coo_tensor(rows.unsqueeze(0), grads.double(), (7, 4))
            theirs.step()
        # fp32 against fp64 over eight steps of about 0.1.
        torch.testing.assert_close(store.tables()["a"].double(), weight.detach(), rtol=0, atol=2e-6)

    def test_rows_that_no_step_asked_for_keep_every_bit(
        self, make_store: MakeStore, optimizer: UpdateRule
    ) -> None:
        store = make_store(drawn(), optimizer)
        train(store, random_steps(seed=1, num_steps=1))
        rows, state = copies(store.tables()), copies(store.optimizer_state())
        train(store, [[([("a", [2, 2]), ("b", [0])], torch.ones(3, 4))]])
        keep = {"a": [0, 1, 3, 4, 5, 6], "b": [1, 2, 3, 4, 5, 6, 7, 8], "wide": [0, 1, 2, 3, 4, 5]}
        assert_same(
            {name: table[keep[name]] for name, table in store.tables().items()},
            {name: table[keep[name]] for name, table in rows.items()},
        )
        per_row = [name for name in state if name != "step"]
        assert_same(
            {name: store.optimizer_state()[name][keep[name.split("/")[0]]] for name in per_row},
            {name: state[name][keep[name.split("/")[0]]] for name in per_row},
        )
        assert not torch.equal(store.tables()["a"][2], rows["a"][2])
        assert not torch.equal(store.tables()["b"][0], rows["b"][0])

    def test_rows_read_without_a_backward_pass_keep_every_bit(
        self, make_store: MakeStore, optimizer: UpdateRule
    ) -> None:
        store = make_store(drawn(), optimizer)
        train(store, random_steps(seed=1, num_steps=1))
        rows, state = copies(store.tables()), copies(store.optimizer_state())
        gather(store, [("a", [1, 3])])
        train(store, [[([("a", [2])], torch.ones(1, 4))]])
        assert torch.equal(store.tables()["a"][[1, 3]], rows["a"][[1, 3]])
        for name in [name for name in state if name.startswith("a/")]:
            assert torch.equal(store.optimizer_state()[name][[1, 3]], state[name][[1, 3]])

    def test_evaluation_leaves_no_gradient(
        self, make_store: MakeStore, optimizer: UpdateRule
    ) -> None:
        store = make_store(drawn(), optimizer)
        before = copies(store.tables())
        with torch.no_grad():
            gather(store.eval(), [("a", [1, 3])])
        store.train().step()
        assert_same(store.tables(), before)

    @pytest.mark.parametrize("is_training", [True, False])
    def test_rows_train_in_every_mode(
        self, make_store: MakeStore, optimizer: UpdateRule, is_training: bool
    ) -> None:
        store, oracle = make_store(drawn(), optimizer), Oracle(drawn(), optimizer)
        store.train(is_training)
        (step,) = random_steps(seed=7, num_steps=1)
        train(store, [step])
        oracle.step(step)
        oracle.check(store)

    def test_frozen_rows_ask_for_no_gradient_and_stay(self, make_store: MakeStore) -> None:
        store = make_store(drawn(), SGD(learning_rate=0.5))
        before = copies(store.tables())
        store.requires_grad_(False)
        assert not gather(store, [("a", [1, 3]), ("b", [0])]).requires_grad
        store.step()
        assert_same(store.tables(), before)
        store.requires_grad_(True)
        train(store, [[([("a", [1])], torch.ones(1, 4))]])
        assert torch.equal(store.tables()["a"][1], before["a"][1] - 0.5)

    @pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
    @pytest.mark.parametrize("asked", [[4, 2, 4], list(range(9))], ids=["some rows", "all rows"])
    def test_gradients_that_are_not_finite_change_nothing_anywhere(
        self, make_store: MakeStore, optimizer: UpdateRule, wrong: float, asked: list[int]
    ) -> None:
        store = make_store({"b": drawn()["b"], "wide": drawn()["wide"]}, optimizer)
        oracle = Oracle({"b": drawn()["b"], "wide": drawn()["wide"]}, optimizer)
        first = [([("b", asked), ("b", [1])], torch.ones(len(asked) + 1, 4))]
        train(store, [first])
        oracle.step(first)
        rows, state = copies(store.tables()), copies(store.optimizer_state())
        grads = torch.ones(len(asked), 4)
        grads[1, 3] = wrong
        backward(store, [([("wide", [3])], torch.ones(1, 6)), ([("b", asked)], grads)])
        with pytest.raises(RecembError, match=r"^table 'b': step 2 was not made, .* not finite"):
            store.step()
        assert_same(store.tables(), rows)
        assert_same(store.optimizer_state(), state)
        # The gradients are gone, and who catches the error may go on.
        train(store, [first])
        oracle.step(first)
        oracle.check(store)

    def test_backward_passes_before_a_step_add_up(
        self, make_store: MakeStore, optimizer: UpdateRule
    ) -> None:
        store, oracle = make_store(drawn(), optimizer), Oracle(drawn(), optimizer)
        first, second, third = random_steps(seed=2, num_steps=3)
        for one in (first, second):
            backward(store, one)
        store.step()
        oracle.step([*first, *second])
        oracle.check(store)
        # Nothing of it is left for the next step.
        train(store, [third])
        oracle.step(third)
        oracle.check(store)

    def test_one_backward_pass_through_several_gathers_adds_up(
        self, make_store: MakeStore, optimizer: UpdateRule
    ) -> None:
        store, oracle = make_store(drawn(), optimizer), Oracle(drawn(), optimizer)
        (step,) = random_steps(seed=4, num_steps=1)
        both = [*step, *step]
        torch.autograd.backward(
            [gather(store, asked) for asked, _ in both], [grads for _, grads in both]
        )
        store.step()
        oracle.step(both)
        oracle.check(store)

    def test_discard_forgets_gradients(self, make_store: MakeStore, optimizer: UpdateRule) -> None:
        store = make_store(drawn(), optimizer)
        first, second = random_steps(seed=3, num_steps=2)
        train(store, [first])
        rows, state = copies(store.tables()), copies(store.optimizer_state())
        backward(store, second)
        store.discard()
        assert_same(store.tables(), rows)
        assert_same(store.optimizer_state(), state)
        store.step()
        assert_same(store.tables(), rows)

    def test_training_after_discard_is_as_if_nothing_had_been(
        self, make_store: MakeStore, optimizer: UpdateRule
    ) -> None:
        store, oracle = make_store(drawn(), optimizer), Oracle(drawn(), optimizer)
        first, second = random_steps(seed=3, num_steps=2)
        backward(store, first)
        store.discard()
        train(store, [second])
        oracle.step(second)
        oracle.check(store)

    def test_a_rate_may_change_between_steps(self, make_store: MakeStore) -> None:
        store = make_store(drawn(), Adam(learning_rate=0.1))
        oracle = Oracle(drawn(), Adam(learning_rate=0.1))
        first, second = random_steps(seed=6, num_steps=2)
        train(store, [first])
        oracle.step(first)
        store.optimizer = Adam(learning_rate=0.02)
        oracle.optimizer = Adam(learning_rate=0.02)
        train(store, [second])
        oracle.step(second)
        oracle.check(store)

    # Beginning anew

    def test_reset_rows_have_their_vectors_and_no_state(
        self, make_store: MakeStore, optimizer: UpdateRule
    ) -> None:
        store = make_store(drawn(), optimizer)
        train(store, random_steps(seed=1, num_steps=2))
        rows, state = copies(store.tables()), copies(store.optimizer_state())
        values = torch.tensor([[1.0, 2, 3, 4], [-0.5, 0, 0.25, 8]])
        store.reset("b", torch.tensor([4, 0]), values)
        rows["b"][4], rows["b"][0] = values
        assert_same(store.tables(), rows)
        for name, one in state.items():
            if name.startswith("b/"):
                assert one[[4, 0]].any()
                one[[4, 0]] = 0
        assert_same(store.optimizer_state(), state)
        assert gather(store, [("b", [0, 4])]).tolist() == values[[1, 0]].tolist()

    def test_reset_rows_train_as_new_ones(
        self, make_store: MakeStore, optimizer: UpdateRule
    ) -> None:
        store, oracle = make_store(drawn(), optimizer), Oracle(drawn(), optimizer)
        first, second = random_steps(seed=5, num_steps=2)
        train(store, [first])
        oracle.step(first)
        store.reset("a", torch.tensor([1]), torch.full((1, 4), 0.5))
        oracle.reset("a", 1, 0.5)
        train(store, [second])
        oracle.step(second)
        oracle.check(store)

    def test_resetting_no_row_changes_nothing(self, store: RowsStore) -> None:
        before = copies(store.tables())
        store.reset("a", torch.zeros(0, dtype=torch.int64), torch.zeros(0, 2))
        assert_same(store.tables(), before)

    # Saving and loading

    def test_tables_are_whole_and_named(self, store: RowsStore) -> None:
        shapes = {name: tuple(rows.shape) for name, rows in store.tables().items()}
        assert shapes == {"a": (4, 2), "wide": (3, 3), "b": (5, 2)}

    def test_optimizer_state_is_whole_named_and_zero_at_first(
        self, make_store: MakeStore, optimizer: UpdateRule, request: pytest.FixtureRequest
    ) -> None:
        physical = {name: table for name, table in drawn().items() if table.dim == 4}
        state = make_store(physical, optimizer).optimizer_state()
        dims = STATE_DIMS[optimizer.kind]
        wanted = {
            f"{name}/{key}": (physical[name].num_rows, n)
            for name in physical
            for key, n in dims.items()
        }
        assert {name: tuple(t.shape) for name, t in state.items()} == {"step": (), **wanted}
        assert not any(tensor.any() for tensor in state.values())

    def test_steps_are_counted(self, make_store: MakeStore) -> None:
        store = make_store(drawn(), OPTIMIZERS["adam"])
        train(store, random_steps(seed=3, num_steps=3))
        assert int(store.optimizer_state()["step"]) == 3

    def test_loaded_store_continues_bit_for_bit(
        self, make_store: MakeStore, optimizer: UpdateRule
    ) -> None:
        steps = random_steps(seed=9)
        store, other = make_store(drawn(), optimizer), make_store(drawn(), optimizer)
        train(store, steps[:3])
        # Another order, as a file may give it.
        rows, state = copies(store.tables()), copies(store.optimizer_state())
        other.load_tables(dict(reversed(rows.items())))
        other.load_optimizer_state(dict(reversed(state.items())))
        train(store, steps[3:])
        train(other, steps[3:])
        assert_same(other.tables(), store.tables())
        assert_same(other.optimizer_state(), store.optimizer_state())
        assert not torch.equal(store.tables()["a"], rows["a"])

    def test_load_copies(self, store: RowsStore) -> None:
        given = {name: torch.zeros_like(rows) for name, rows in store.tables().items()}
        store.load_tables(given)
        given["a"] += 1
        assert gather(store, [("a", [0])]).tolist() == [[0, 0]]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"b": None}, r"^rows: table 'b' is missing, got \['a', 'wide'\]"),
            ({"c": torch.zeros(1, 1)}, r"^rows: table 'c' is not among \['a', 'b', 'wide'\]"),
            ({"b": torch.zeros(4, 2)}, r"^rows: table 'b' must have shape \(5, 2\), got \(4, 2\)"),
            ({"b": torch.zeros(2, 5)}, r"^rows: table 'b' must have shape \(5, 2\), got \(2, 5\)"),
        ],
    )
    def test_wrong_tables_are_refused_by_name_and_change_nothing(
        self, store: RowsStore, change: dict[str, Tensor | None], message: str
    ) -> None:
        before = copies(store.tables())
        given = {name: torch.zeros_like(rows) for name, rows in before.items()} | change
        with pytest.raises(RecembError, match=message):
            store.load_tables({name: rows for name, rows in given.items() if rows is not None})
        assert_same(store.tables(), before)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"b/mean": None}, "^rows optimizer: .*'b/mean' is missing"),
            ({"step": None}, "^rows optimizer: .*'step' is missing"),
            ({"b/sum": torch.zeros(9, 4)}, "^rows optimizer: .*'b/sum' is not among"),
            (
                {"wide/square": torch.zeros(6, 4)},
                r"^rows optimizer: .*'wide/square' must have shape \(6, 6\), got \(6, 4\)",
            ),
        ],
    )
    def test_wrong_state_is_refused_by_name_and_changes_nothing(
        self, make_store: MakeStore, change: dict[str, Tensor | None], message: str
    ) -> None:
        store = make_store(drawn(), OPTIMIZERS["adam"])
        train(store, random_steps(seed=1, num_steps=1))
        before = copies(store.optimizer_state())
        given = {name: torch.zeros_like(one) for name, one in before.items()} | change
        with pytest.raises(RecembError, match=message):
            store.load_optimizer_state({n: one for n, one in given.items() if one is not None})
        assert_same(store.optimizer_state(), before)
