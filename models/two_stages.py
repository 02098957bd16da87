"""Serving in two stages: find the behaviours that matter, then score with those alone.

    search(targets, history) -> positions        once per user and request, over all behaviours
    rank(targets, found behaviours) -> clicks     over k of them per target

The search holds nothing but vocabularies and the attention vectors of all ids, as bytes: a row of
int8 and one scale per id. Ten thousand behaviours never reach the ranking program.

Both are TorchScript that needs only torch, as ``recemb export`` writes it.

Shapes: C targets of a request, L behaviours, k kept ones, V ids, d attention vector.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from recemb.accounting import module_bytes
from recemb.errors import RecembError
from recemb.files import whole_file, writing
from recemb.jagged import Ids, Jagged
from recemb.models.byte_rows import ByteRows
from recemb.models.history_search import compiled_search
from recemb.models.long_history import (
    AGES,
    LongHistoryTask,
    times_of_ages,
    times_of_seconds,
)
from recemb.serving.archive import write_checksum, write_program
from recemb.serving.checks import Checked, Input, checked_trace
from recemb.serving.export import describe
from recemb.serving.parity import TOLERANCE
from recemb.serving.program import SIZE, ServedProgram, known_index, with_served_tables
from recemb.serving.torchscript import torchscript_expected
from recemb.vocabulary import Vocabulary

NOWHERE = -1
"""Stands where a history has fewer than k behaviours."""
CHUNK = 1 << 16
"""Ids whose vectors are made at once."""
REQUESTS = ((1, 1), (3, 7), (40, 200), (17, 2_500))
"""Targets and behaviours of the requests that are compared before anything is written."""
SEARCH_TOLERANCE = 1e-5
"""Of a logit: its sums may be ordered by the shape of a request."""


class SearchProgram(nn.Module):
    """The search of a trained model over one history.

    Inputs are a dictionary of raw ids: ``<target>`` (C,), ``<history column>`` (L,) oldest first
    and, where the model has it, ``<seconds>`` (L,). The output is (C, k) int64: positions of the
    history, the most attended first, and -1 where it has fewer than k behaviours.

    Args:
        model: Trained, with attention by products (:class:`recemb.models.dare.DotAttention`), in
            evaluation mode.

    Raises:
        RecembError: If ids have no vocabulary, so that vectors cannot be kept for all of them.
    """

    def __init__(self, model: LongHistoryTask) -> None:
        super().__init__()
        self.history = model.history
        self.seconds = model.seconds
        self.keep = model.network.keep
        self.num_times = model.network.num_times
        self.register_buffer("edges_T", model.get_buffer("edges_T"))
        self.vocabularies: dict[str, Vocabulary] = {}
        self.queries, self.keys = nn.ModuleDict(), nn.ModuleDict()
        dims = 0
        for number, name in enumerate(self.history):
            query_Vd, key_Vd = attention_of_all(model, name)
            dims += key_Vd.shape[1]
            self.keys[str(number)] = keys = ByteRows(key_Vd)
            is_shared = torch.equal(query_Vd, key_Vd)
            self.queries[str(number)] = keys if is_shared else ByteRows(query_Vd)
            vocabulary = model.schema.vocabularies[model.schema.id_space(name)]
            # Buffers, so that the saved program holds them as data and not as constants of code.
            self.register_buffer(f"known_{number}", vocabulary.keys_V)
            self.register_buffer(f"index_{number}", vocabulary.index_V)
            self.vocabularies[name] = replace(
                vocabulary,
                keys_V=self.get_buffer(f"known_{number}"),
                index_V=self.get_buffer(f"index_{number}"),
            )
        self.scale: float = dims**-0.5
        query_Td, key_Td = model.attention_of_times()
        time_scale: float = key_Td.shape[1] ** -0.5
        self.register_buffer("time_T", (key_Td @ query_Td[0]).detach() * time_scale)
        self.search = compiled_search()

    def inputs(self) -> list[Input]:
        """Return the inputs."""
        targets, histories = list(self.history), list(self.history.values())
        if self.seconds is not None:
            histories.append(self.seconds)
        return [
            Input(name, like=first if number else None)
            for first, *others in (targets, histories)
            for number, name in enumerate([first, *others])
        ]

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return positions; see the class."""
        return self.search(*self.vectors(inputs), self.keep)

    def error(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return how far each logit may be from the model's, for bytes are no floats: (C, L)."""
        query_Cd, key_Ld, _ = self.vectors(inputs)
        errors: list[list[Tensor]] = [[], []]
        for number, (name, column) in enumerate(self.history.items()):
            sides = ((self.queries, name), (self.keys, column))
            for found, (rows, asked) in zip(errors, sides, strict=True):
                ids_N = self.vocabularies[name].lookup(inputs[asked])
                found.append(cast(ByteRows, rows[str(number)]).error(ids_N))
        query_error_Cd, key_error_Ld = (torch.cat(found, 1) for found in errors)
        query_error_Cd = query_error_Cd * self.scale
        by_key_CL = (query_Cd.abs() + query_error_Cd) @ key_error_Ld.t()
        return by_key_CL + query_error_Cd @ key_Ld.abs().t()

    def vectors(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries (C, d), keys (L, d) and what the time adds (L,)."""
        queries: list[Tensor] = []
        keys: list[Tensor] = []
        for number, (name, column) in enumerate(self.history.items()):
            sides = ((queries, self.queries, name), (keys, self.keys, column))
            for found, rows, asked in sides:
                ids_N = known_index(asked, self.vocabularies[name], inputs[asked])
                found.append(rows[str(number)](ids_N))
        first_L = inputs[next(iter(self.history.values()))]
        if self.seconds is None:
            times_L = times_of_ages(torch.ones_like(first_L).cumsum(0).flip(0) - 1, self.num_times)
        else:
            times_L = times_of_seconds(inputs[self.seconds], self.get_buffer("edges_T"))
        time_L = self.get_buffer("time_T").index_select(0, times_L)
        return torch.cat(queries, 1) * self.scale, torch.cat(keys, 1), time_L


class RankProgram(ServedProgram):
    """The served program for behaviours that a search has found.

    Its inputs are those of :class:`ServedProgram`, the histories cut to what was found, in any
    order; and, where the model counts behaviours, ``ages``: for each of those in the order of the
    lists, how many came after it in the whole history.
    """

    def use(self, model: nn.Module) -> None:
        """Keep how the model scores samples, and which history ages are of."""
        super().use(model)
        self._history = next(iter(cast(LongHistoryTask, model).history.values()))

    def inputs(self) -> list[Input]:
        """Return the inputs, sizes before what they are of."""
        return [*super().inputs(), Input(AGES, like=self._history)]

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return click probabilities."""
        ids = self.ids_of(inputs)
        ids[AGES] = Jagged(inputs[AGES], cast(Jagged, ids[self._history]).lengths)
        return self.predictions(ids, inputs)


def attention_of_all(model: LongHistoryTask, name: str) -> tuple[Tensor, Tensor]:
    """Return the queries and keys of all ids of a target column: (V, d) both.

    Raises:
        RecembError: If its ids have no vocabulary.
    """
    num_ids = model.schema.num_ids(name)
    if num_ids is None:
        raise RecembError(
            f"column {name!r}: a search keeps a vector per id, and raw ids have no last one; give "
            "it a vocabulary"
        )
    queries, keys = zip(
        *(attention_of_ids(model, name, ids_n) for ids_n in torch.arange(num_ids).split(CHUNK)),
        strict=True,
    )
    return torch.cat(queries), torch.cat(keys)


@torch.no_grad()
def attention_of_ids(model: LongHistoryTask, name: str, ids_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return the queries and keys of some ids of a target column: (N, d) both."""
    one = ids_N.new_zeros(1)
    asked: dict[str, Ids] = {
        other: Jagged(one, one + 1) if model.schema.is_list(other) else one
        for other in [*model.history, *model.context]
    }
    asked = model.described({**asked, name: ids_N})
    asked |= {copy: asked[original] for copy, original in model.copies.items()}
    vectors = cast(dict[str, Tensor], model.embeddings(asked))
    representation_ND = torch.cat([vectors[own] for own in model.names_of(name)], 1)
    return model.attention_of(name, vectors, representation_ND)


def export_stages(model: LongHistoryTask, output: Path) -> dict[str, object]:
    """Write ``<output>.search.pt`` and ``<output>.rank.pt`` after checking them.

    Args:
        model: Trained, on the CPU.
        output: The program in one stage, beside whose name these are put.

    Returns:
        By program its ``path`` and ``bytes`` (of tensors); which share of what the search finds is
        among the k best of the model itself, at the worst request (``recall``); how far the click
        probabilities of both stages are from the model's at most (``difference``).

    Raises:
        RecembError: If a program disagrees with the model, or cannot be made or written.
    """
    for column in model.history.values():
        if model.schema.columns[column].padding is not None:
            raise RecembError(
                f"column {column!r}: positions found by a search would not be those of a list "
                "with padding; leave padding out of the data"
            )
    model = cast(LongHistoryTask, with_served_tables(model.eval().requires_grad_(False)))
    example = Request.drawn(model, targets=3, length=50)
    search = SearchProgram(model)
    rank = ServedProgram(model) if model.seconds is not None else RankProgram(model)
    with torch.no_grad():
        asked = {"search": example.search_inputs()}
        asked["rank"] = example.rank_inputs(search(asked["search"]))
    programs: dict[str, nn.Module] = {"search": search, "rank": rank}
    paths = {name: output.with_suffix(f".{name}.pt") for name in programs}
    with ExitStack() as files:
        # Both are checked before either has its name.
        loaded: dict[str, nn.Module] = {}
        for name, program in programs.items():
            files.enter_context(writing(paths[name]))
            temporary = files.enter_context(whole_file(paths[name]))
            traced = checked_trace(cast(Checked, program), asked[name])
            write_program(traced, temporary, descriptions(model)[name])
            with torchscript_expected():
                loaded[name] = torch.jit.load(temporary)
        report: dict[str, object] = check_stages(model, search, loaded)
    for name, path in paths.items():
        report[name] = {
            "path": str(path),
            "bytes": module_bytes(programs[name]),
            "checksum": write_checksum(path),
        }
    return report


def descriptions(model: LongHistoryTask) -> dict[str, dict[str, object]]:
    """Return what a caller must know of each input, by program."""
    every = describe(model.schema)
    own = [*model.history, *model.history.values(), *([model.seconds] if model.seconds else [])]
    ages = {"type": "list of int64", "meaning": "behaviours after each one that was found"}
    rank = every if model.seconds else {**every, AGES: ages}
    return {"search": {name: every[name] for name in own}, "rank": rank}


@dataclass(frozen=True, slots=True)
class Request:
    """Random targets, with what else a sample has, and one history.

    Attributes:
        model: Whose request it is.
        single: By column with one value per sample, (C,); numbers too.
        lists: By list column that is no history, the bags of the targets.
        history: By history column (and seconds), (L,).
    """

    model: LongHistoryTask
    single: dict[str, Tensor]
    lists: dict[str, Jagged]
    history: dict[str, Tensor]

    @classmethod
    def drawn(cls, model: LongHistoryTask, targets: int, length: int, seed: int = 0) -> "Request":
        """Return a request of known ids.

        Args:
            model: Whose request it is.
            targets: C.
            length: L.
            seed: Of the draws.
        """
        generator = torch.Generator().manual_seed(seed)

        def ids(name: str, count: int) -> Tensor:
            space = model.schema.columns[name].vocabulary
            if space is None:
                return torch.randint(0, 10**7, (count,), generator=generator)
            known_V = model.schema.vocabularies[space].keys_V
            return known_V[torch.randint(len(known_V), (count,), generator=generator)]

        own = [*model.history.values(), *([model.seconds] if model.seconds else [])]
        single = {
            name: ids(name, targets)
            for name, one in model.schema.columns.items()
            if not one.is_list
        }
        for name in model.schema.dense:
            single[name] = torch.randn(targets, generator=generator)
        others = [n for n, one in model.schema.columns.items() if one.is_list and n not in own]
        twice = torch.full((targets,), 2)
        lists = {name: Jagged(ids(name, 2 * targets), twice) for name in others}
        return cls(model, single, lists, {name: ids(name, length) for name in own})

    def search_inputs(self) -> dict[str, Tensor]:
        """Return the inputs of the search."""
        return {**{name: self.single[name] for name in self.model.history}, **self.history}

    def rank_inputs(self, position_Ck: Tensor | None) -> dict[str, Tensor]:
        """Return the inputs of a ranking program, with the found behaviours or all of them."""
        targets = next(iter(self.single.values())).shape[0]
        length = next(iter(self.history.values())).shape[0]
        inputs = dict(self.single)
        for name, bags in self.lists.items():
            inputs |= {name: bags.values, f"{name}{SIZE}": bags.lengths}
        if position_Ck is None:
            position_Ck = torch.arange(length).expand(targets, -1)
        is_found_Ck = position_Ck != NOWHERE
        position_M = position_Ck[is_found_Ck]
        for name, values_L in self.history.items():
            inputs[name] = values_L[position_M]
            inputs[f"{name}{SIZE}"] = is_found_Ck.sum(1)
        if self.model.seconds is None:
            inputs[AGES] = length - 1 - position_M
        return inputs


@torch.no_grad()
def check_stages(
    model: LongHistoryTask, search: SearchProgram, loaded: Mapping[str, nn.Module]
) -> dict[str, object]:
    """Return how well both stages do what the model does in one.

    Raises:
        RecembError: If the search's logits are further from the model's than bytes explain, a
            loaded search does not find the largest of its own, or the ranking of what the model
            keeps differs from the model.
    """
    whole = ServedProgram(model)
    recalls, difference = [], 0.0
    for number, (targets, length) in enumerate(REQUESTS):
        request = Request.drawn(model, targets, length, seed=number + 1)
        asked = request.search_inputs()
        exact_CL = logits_by_model(model, request)
        query_Cd, key_Ld, time_L = search.vectors(asked)
        own_CL = query_Cd @ key_Ld.t() + time_L
        far_CL = (own_CL - exact_CL).abs() - search.error(asked)
        count = min(length, model.network.keep)
        found_Ck = loaded["search"](asked)
        got_Ck = own_CL.gather(1, found_Ck[:, :count].clamp(min=0))
        wanted_Ck = own_CL.topk(count, 1).values
        kept_Ck = exact_CL.topk(count, 1)
        wanted_C = whole(request.rank_inputs(None))
        ranked_C = loaded["rank"](request.rank_inputs(kept_Ck.indices))
        # Written so that a NaN fails too.
        agrees = (
            float(far_CL.max()) <= SEARCH_TOLERANCE
            and bool((found_Ck[:, count:] == NOWHERE).all())
            and float((got_Ck - wanted_Ck).abs().max()) <= SEARCH_TOLERANCE
            and float((ranked_C - wanted_C).abs().max()) <= TOLERANCE
        )
        if not agrees:
            raise RecembError(
                f"export: the stages must agree with the model, got another result for {targets} "
                f"targets and {length} behaviours; no stage was written"
            )
        # Of behaviours that are equally good, any will do.
        exact_Ck = exact_CL.gather(1, found_Ck[:, :count])
        recalls.append(
            float((exact_Ck >= kept_Ck.values[:, -1:] - SEARCH_TOLERANCE).double().mean())
        )
        staged_C = loaded["rank"](request.rank_inputs(found_Ck))
        difference = max(difference, float((staged_C - wanted_C).abs().max()))
    return {"recall": min(recalls), "difference": difference}


def logits_by_model(model: LongHistoryTask, request: Request) -> Tensor:
    """Return what the model itself attends to: (C, L)."""
    items, _ = model.read(ServedProgram(model).ids_of(request.rank_inputs(None)))
    targets = items[0].places.lengths_B.shape[0]
    return model.logits_of(items).view(targets, -1)
