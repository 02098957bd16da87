"""The served program of next-item models: raw sessions in, items or scores out.

A model that knows items by id is asked for B sessions of N items in all, and answers with the K
best items of the catalogue:

    history       (N,) int64, the items of all sessions, one session after the other, oldest first
    history.size  (B,) int64, how many each session has
    ->            (B, K) int64 raw ids and (B, K) float32 scores, best first; where there are fewer
                  items to choose from, the last are -1 with a score of minus infinity

A model that knows items by their attributes alone needs no catalogue: items of sessions, and the C
items among which it is to choose, are given by what is known of them, be they new or not. With an
attribute ``color`` of one value per item and ``tags`` of any number:

    history.size                              (B,) int64
    color, tags, tags.size                    of the N items of sessions
    candidate.color, candidate.tags, ...      of the C candidates, in the same form
    ->                                        (B, C) float32 scores

A raw id is the integer of the training file, or xxHash64 (seed 0, UTF-8, as signed int64) of its
string.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from recemb.errors import RecembError
from recemb.jagged import Ids, Jagged
from recemb.schema import Schema
from recemb.serving.checks import Input
from recemb.serving.parity import index_of
from recemb.serving.program import SIZE, Program
from recemb.vocabulary import Vocabulary

ITEM, HISTORY, CANDIDATE = "item", "history", "candidate."
NUM_BEST = 100
"""K, or all items where they are fewer."""
NOTHING = -1
"""Stands, as an index or a raw id, where there are fewer items than asked for."""
TOLERANCE = 1e-5
"""Of a score, as a share of the largest: sums may be ordered by the batch's shape."""


class NextItemModel(Protocol):
    """What a model must offer to be served."""

    schema: Schema
    names: list[str]
    is_described: bool
    """Whether items are their attributes alone."""

    def __call__(self, history: Jagged) -> Tensor:
        """Return the queries (B, D) of sessions of ids."""

    def best(self, history: Jagged, count: int) -> tuple[Tensor, Tensor]:
        """Return the best items (B, count) of sessions, as indices or -1, and their scores."""

    def embed(self, asked: Mapping[str, Ids], output_C: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return vectors of items by their features."""

    def query(self, vectors: Jagged) -> Tensor:
        """Return the queries (B, D) of sequences of item vectors."""


@dataclass(frozen=True, slots=True)
class Sessions:
    """Random sessions of random items, raw for the program and looked up for the model.

    Attributes:
        raw: The program's inputs.
        items: Features of the sessions' items, looked up.
        sizes_B: Items per session.
        candidates: Features of the candidates, looked up; empty where ids are known.
    """

    raw: dict[str, Tensor]
    items: dict[str, Ids]
    sizes_B: Tensor
    candidates: dict[str, Ids]


class NextItemProgram(Program):
    """Vocabulary lookups in front of a next-item model; see the module for inputs and outputs.

    Args:
        model: The trained model; it is put into evaluation mode.
    """

    def __init__(self, model: nn.Module) -> None:
        self.by_attributes = bool(model.is_described)
        self.names = cast(list[str], model.names)
        super().__init__(model, unused=("heads",))

    def spaces(self) -> Collection[str | None]:
        """Return the id spaces of the inputs."""
        return {self.schema.id_space(name) for name in self._inputs()}

    def use(self, model: nn.Module) -> None:
        """Keep how the model finds items."""
        self._model = (cast(NextItemModel, model),)  # in a tuple, lest it become a part once more
        if not self.by_attributes:
            self.register_buffer("raw_V1", raw_or_nothing(self.schema.vocabularies[ITEM]))

    def _inputs(self) -> list[str]:
        return self.names if self.by_attributes else [ITEM]

    def inputs(self) -> list[Input]:
        """Return the inputs, sizes before what they are of."""
        sizes = f"{HISTORY}{SIZE}"
        found = [Input(sizes)]
        if not self.by_attributes:
            return [*found, Input(HISTORY, sizes=sizes)]
        first_candidate = None
        for start in ("", CANDIDATE):
            for name in self.names:
                own = f"{start}{name}"
                rows = f"{own}{SIZE}" if self.schema.is_list(name) else own
                if start == CANDIDATE:
                    found.append(Input(rows, like=first_candidate))
                    first_candidate = first_candidate or rows
                else:
                    found.append(Input(rows, sizes=sizes))
                if rows != own:
                    found.append(Input(own, sizes=rows))
        return found

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor] | Tensor:
        """Return the best items and their scores, or the scores of the candidates."""
        (model,) = self._model
        sizes_B = inputs[f"{HISTORY}{SIZE}"]
        if self.by_attributes:
            none = sizes_B[:0]
            vectors_ND, _ = model.embed(self._described(inputs, ""), none)
            candidate_CD, _ = model.embed(self._described(inputs, CANDIDATE), none)
            return model.query(Jagged(vectors_ND, sizes_B)) @ candidate_CD.t()
        history = Jagged(self.index(HISTORY, ITEM, inputs[HISTORY]), sizes_B)
        items_BK, scores_BK = model.best(history, NUM_BEST)
        return self.get_buffer("raw_V1")[items_BK], scores_BK

    def _described(self, inputs: Mapping[str, Tensor], start: str) -> dict[str, Ids]:
        """Return the features of items that are given by their attributes."""
        described: dict[str, Ids] = {}
        for name in self.names:
            own = self.index(name, self.schema.id_space(name), inputs[f"{start}{name}"])
            is_list = self.schema.is_list(name)
            described[name] = Jagged(own, inputs[f"{start}{name}{SIZE}"]) if is_list else own
        return described

    def describe(self) -> dict[str, object]:
        """Return what a caller must know of each input."""
        sizes = {"type": "int64", "meaning": "items of each session"}
        inputs: dict[str, object] = {f"{HISTORY}{SIZE}": sizes}
        if not self.by_attributes:
            inputs[HISTORY] = self._value(ITEM, ITEM)
            return inputs
        for start in ("", CANDIDATE):
            for name in self.names:
                inputs[f"{start}{name}"] = self._value(name, self.schema.id_space(name))
                if self.schema.is_list(name):
                    inputs[f"{start}{name}{SIZE}"] = {"type": "int64", "meaning": "values per item"}
        return inputs

    def _value(self, name: str, space: str) -> dict[str, object]:
        vocabulary = self.schema.vocabularies[space]
        text = "xxHash64 (seed 0, UTF-8) of the string" if vocabulary.is_text else "the integer"
        return {"type": "int64", "id": text, "unknown": vocabulary.config.unknown}

    # Parity

    def sessions(
        self, count: int, longest: int, unknown_rate: float, generator: torch.Generator
    ) -> Sessions:
        """Return random sessions in both forms; ids are looked up by a dictionary."""
        sizes_B = torch.randint(0, longest + 1, (count,), generator=generator)
        raw = {f"{HISTORY}{SIZE}": sizes_B}
        items: dict[str, Ids] = {}
        candidates: dict[str, Ids] = {}
        total = int(sizes_B.sum())
        if not self.by_attributes:
            raw[HISTORY], items[ITEM] = self._draw(ITEM, total, unknown_rate, generator)
            return Sessions(raw, items, sizes_B, candidates)
        for start, number, found in (("", total, items), (CANDIDATE, 500, candidates)):
            for name in self.names:
                sizes_N = torch.ones(number, dtype=torch.int64)
                if self.schema.is_list(name):
                    sizes_N = torch.randint(0, 5, (number,), generator=generator)
                    raw[f"{start}{name}{SIZE}"] = sizes_N
                values, index = self._draw(name, int(sizes_N.sum()), unknown_rate, generator)
                raw[f"{start}{name}"] = values
                found[name] = Jagged(index, sizes_N) if self.schema.is_list(name) else index
        return Sessions(raw, items, sizes_B, candidates)

    def _draw(
        self, name: str, count: int, unknown_rate: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return raw ids and their indices."""
        vocabulary = self.schema.vocabularies[self.schema.id_space(name)]
        places = torch.randint(0, vocabulary.num_known, (count,), generator=generator)
        values = vocabulary.keys_V[places]
        if vocabulary.config.unknown != "error":
            unknown = torch.rand(count, generator=generator) < unknown_rate
            anything = torch.randint(0, 2**62, (count,), generator=generator)
            values = torch.where(unknown, anything, values)
        return values, torch.tensor(index_of(vocabulary, values.tolist()), dtype=torch.int64)

    def example(self) -> dict[str, Tensor]:
        """Return inputs to trace the program with."""
        return self.sessions(3, 4, 0.1, torch.Generator().manual_seed(0)).raw

    @torch.no_grad()
    def check_parity(self, loaded: nn.Module, trained: nn.Module) -> dict[str, float]:
        """Return the largest difference of a score in each case, as a share of the largest score.

        Args:
            loaded: As loaded from what will be written.
            trained: The model, in evaluation mode.

        Raises:
            RecembError: If a difference exceeds :data:`TOLERANCE`; nothing should be written then.
        """
        model = cast(NextItemModel, trained)
        generator = torch.Generator().manual_seed(1)
        cases = {
            "one session": (1, 20, 0.1),
            "one session, empty": (1, 0, 0.0),
            "500 sessions": (500, 60, 0.1),
            "unknown ids only": (50, 20, 1.0),
            "empty sessions": (50, 0, 0.0),
        }
        differences = {}
        for name, (count, longest, unknown_rate) in cases.items():
            asked = self.sessions(count, longest, unknown_rate, generator)
            difference = self._difference(loaded(asked.raw), model, asked)
            # Written so that a NaN on either side fails too.
            if not difference <= TOLERANCE:
                raise RecembError(
                    f"export: the program must agree with the model within {TOLERANCE}, got a "
                    f"difference of {difference} on {name}; nothing was written"
                )
            differences[name] = difference
        return differences

    def _difference(
        self, answer: tuple[Tensor, Tensor] | Tensor, model: NextItemModel, asked: Sessions
    ) -> float:
        if isinstance(answer, Tensor):
            none = asked.sizes_B[:0]
            vectors_ND, _ = model.embed(asked.items, none)
            candidate_CD, _ = model.embed(asked.candidates, none)
            query_BD = model.query(Jagged(vectors_ND, asked.sizes_B))
            wanted = query_BD @ candidate_CD.t()
            return float((answer - wanted).abs().max() / wanted.abs().max().clamp(min=1))
        history = Jagged(cast(Tensor, asked.items[ITEM]), asked.sizes_B)
        return list_difference(
            answer, model.best(history, NUM_BEST), self.schema.vocabularies[ITEM]
        )


def raw_or_nothing(vocabulary: Vocabulary) -> Tensor:
    """Return the raw id of each known index, and behind them -1, which index -1 reads: (V + 1,)."""
    return nn.functional.pad(vocabulary.raw_of_index(), (0, 1), value=NOTHING)


def list_difference(
    answer: tuple[Tensor, Tensor], own: tuple[Tensor, Tensor], vocabulary: Vocabulary
) -> float:
    """Return the largest difference of a score in lists of best items, as a share of the largest.

    Args:
        answer: Raw items and scores, of a program: (B, K) each.
        own: Indices of items and scores, of its model.
        vocabulary: Of the items.
    """
    raw_BK, scores_BK = answer
    wanted_BK, wanted_scores_BK = own
    # Minus infinity stands for no item, in the same places.
    is_item_BK = wanted_scores_BK > -torch.inf
    if not torch.equal(scores_BK > -torch.inf, is_item_BK):
        return float("inf")
    if not bool((raw_BK[~is_item_BK] == NOTHING).all()):
        return float("inf")
    wanted = wanted_scores_BK.masked_fill(~is_item_BK, 0.0)
    scale = wanted.abs().max().clamp(min=1)
    difference = float((scores_BK.masked_fill(~is_item_BK, 0.0) - wanted).abs().max() / scale)
    # Items whose scores differ by no more than rounding may have changed places.
    index = dict(zip(vocabulary.keys_V.tolist(), vocabulary.index_V.tolist(), strict=True))
    for b in range(min(20, len(wanted))):
        known = is_item_BK[b]
        score_of = dict(zip(wanted_BK[b][known].tolist(), wanted[b][known], strict=True))
        for raw, score in zip(raw_BK[b][known].tolist(), wanted[b][known], strict=True):
            # An item below the last of the list may have come into it.
            other = score_of.get(index[raw], wanted[b][known][-1])
            difference = max(difference, float((score - other).abs() / scale))
    return difference
