"""Part of the contract of table kinds: the served form says the same, alone and elsewhere."""

import warnings
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from recemb.embeddings import Embeddings
from recemb.jagged import Ids, Jagged
from tests.tables.alone import Alone
from tests.tables.case import Case
from tests.tables.helpers import as_tensor, bags, ids

REQUESTS: dict[str, tuple[list[int], list[int], list[list[int]]]] = {
    "as traced": ([0, 19, 3], [7, 49, 7], [[4, 4, 9], [], [0]]),
    "one sample": ([5], [31], [[1, 2]]),
    "no list": ([5, 5], [31, 8], [[], []]),
    "more samples": ([1] * 9, list(range(40, 49)), [[k, k + 1] * k for k in range(9)]),
}


class Program(nn.Module):
    """A model of nothing but embeddings and a linear layer, with tensors as inputs."""

    def __init__(self, embeddings: Embeddings) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.last = nn.Linear(5 * embeddings.dims["one"], 2)

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return an output per sample and the vectors of the unpooled list."""
        asked: dict[str, Ids] = {"who": inputs["who"], "one": inputs["one"]}
        for name in ("sum", "mean", "max", "none"):
            asked[name] = Jagged(inputs["list"], inputs["list.size"])
        got = self.embeddings(asked)
        vectors = [as_tensor(got[name]) for name in ("who", "one", "sum", "mean", "max")]
        return self.last(torch.cat(vectors, 1)), cast(Jagged, got["none"]).values


def request(who: list[int], one: list[int], lists: list[list[int]]) -> dict[str, Tensor]:
    """Return the inputs of a program."""
    values, lengths = bags(lists)
    return {"who": ids(who), "one": ids(one), "list": values, "list.size": lengths}


class ServingContract(Case):
    """Served form and exported program against the trained form in evaluation."""

    served_within: float = 0.0
    """Largest difference of an element between trained and served form."""

    def test_served_form_says_the_same(self, module: Embeddings) -> None:
        batch = self.asked(list(range(50)), [[4, 4, 9], [], list(range(50))], list(range(20)))
        wanted = module.eval()(batch)
        got = module.served()(batch)
        assert set(got) == set(wanted)
        for name, vectors in wanted.items():
            one = [two.values if isinstance(two, Jagged) else two for two in (got[name], vectors)]
            torch.testing.assert_close(*one, rtol=0, atol=self.served_within)

    def test_serving_changes_nothing_in_training(self, module: Embeddings) -> None:
        module.train()
        state = {name: one.clone() for name, one in module.state_dict().items()}
        module.served()
        assert all(one.training for one in module.modules())
        assert all(torch.equal(one, state[name]) for name, one in module.state_dict().items())

    def test_the_served_form_is_served_as_it_is(self, module: Embeddings) -> None:
        served = module.served()
        assert served.served() is served
        assert served.is_final()

    def test_exported_program_runs_where_only_torch_is(
        self, module: Embeddings, alone: Alone, tmp_path: Path
    ) -> None:
        program = Program(module.served().eval()).eval().requires_grad_(False)
        requests = [request(*one) for one in REQUESTS.values()]
        with warnings.catch_warnings():
            # A size that became a number would be wrong for every other request.
            warnings.simplefilter("error", torch.jit.TracerWarning)  # type: ignore[attr-defined]
            traced = torch.jit.trace(program, (requests[0],), check_trace=False)
            torch.jit.save(traced, tmp_path / "model.pt")
        answers = alone(tmp_path / "model.pt", requests)
        for (name, (_, _, lists)), asked, got in zip(
            REQUESTS.items(), requests, answers, strict=True
        ):
            wanted = program(asked)
            assert len(got[1]) == sum(map(len, lists)), name
            for one, other in zip(got, wanted, strict=True):
                # The same operators on the same numbers; products may be fused apart.
                torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
