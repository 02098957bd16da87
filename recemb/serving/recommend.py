"""The served program of models that rank all items for a query: raw queries in, best items out.

    <query>  (B,) int64 raw ids: of users, or of the items whose complements are asked for
    ->       (B, K) int64 raw items and (B, K) float32 scores, best first, and (B, D) float32: the
             queries' vectors, with which an index of the items can be searched elsewhere

Items that training has of a query are left out; where fewer than K are left, the last are -1 with a
score of minus infinity. A query that is not known has the mean of all
queries' vectors, so gets what fits most. Vectors that propagate are propagated once, when the
program is made, and it holds them; where vectors are those of the tables, it holds the tables as
they are served. A raw id is the integer of the training file, or xxHash64 (seed 0, UTF-8, as signed
int64) of its string.
"""

from collections.abc import Collection
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from recemb.errors import RecembError
from recemb.schema import Schema
from recemb.serving.checks import Input
from recemb.serving.next_item import NUM_BEST, TOLERANCE, list_difference, raw_or_nothing
from recemb.serving.parity import index_of
from recemb.serving.program import Program


class Recommender(Protocol):
    """What a model must offer to be served."""

    schema: Schema
    query: str
    """The column of queries."""
    answer: str
    """The column of items that are ranked."""
    num_items: int
    is_propagated: bool
    """Whether vectors are more than what the tables compose."""

    def vectors(self, user_B: Tensor, item_C: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vectors that tables compose of queries and items."""

    def all_vectors(self) -> tuple[Tensor, Tensor]:
        """Return the vectors of all queries, unknown ones included, and of all known items."""

    def is_known(self, user_B: Tensor) -> Tensor:
        """Return whether training has learned something of queries: (B,)."""

    def recommend(
        self, user_BD: Tensor, item_VD: Tensor, user_B: Tensor, count: int
    ) -> tuple[Tensor, Tensor]:
        """Return the best items of queries (B, count), as indices or -1, and their scores."""


class RecommendProgram(Program):
    """Vocabulary lookups in front of a recommender; see the module for inputs and outputs.

    Args:
        model: The trained model; it is put into evaluation mode.
    """

    def __init__(self, model: nn.Module) -> None:
        self.is_propagated = bool(model.is_propagated)
        schema, self.query = cast(Schema, model.schema), cast(str, model.query)
        self.space = schema.id_space(self.query)
        self.items = schema.vocabularies[schema.id_space(cast(str, model.answer))]
        kept = () if self.is_propagated else ("embeddings",)
        unused = [name for name, _ in model.named_children() if name not in kept]
        super().__init__(model, unused=[*unused, "bucket_ends"])

    def spaces(self) -> Collection[str | None]:
        """Return the id spaces of queries; items only come out."""
        return {self.space}

    @torch.no_grad()
    def use(self, model: nn.Module) -> None:
        """Keep the vectors, or how the model composes them."""
        recommender = cast(Recommender, model)
        self._model = (recommender,)  # in a tuple, lest it become a part once more
        user_UD, item_VD = recommender.all_vectors()
        self.register_buffer("raw_V1", raw_or_nothing(self.items))
        if self.is_propagated:
            self.register_buffer("user_UD", user_UD)
            self.register_buffer("item_VD", item_VD)
        else:
            self.register_buffer("mean_D", user_UD[-1])
            self.register_buffer("items_V", torch.arange(recommender.num_items))

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the best items, their scores and the queries' vectors."""
        (model,) = self._model
        user_B = self.index(self.query, self.space, inputs[self.query])
        if self.is_propagated:
            user_BD, item_VD = self.get_buffer("user_UD")[user_B], self.get_buffer("item_VD")
        else:
            user_BD, item_VD = model.vectors(user_B, self.get_buffer("items_V"))
            is_known_B1 = model.is_known(user_B).unsqueeze(1)
            user_BD = torch.where(is_known_B1, user_BD, self.get_buffer("mean_D"))
        count = min(NUM_BEST, model.num_items)
        items_BK, scores_BK = model.recommend(user_BD, item_VD, user_B, count)
        return self.get_buffer("raw_V1")[items_BK], scores_BK, user_BD

    def inputs(self) -> list[Input]:
        """Return the inputs."""
        return [Input(self.query)]

    def describe(self) -> dict[str, object]:
        """Return what a caller must know of each input."""
        vocabulary = self.schema.vocabularies[self.space]
        text = "xxHash64 (seed 0, UTF-8) of the string" if vocabulary.is_text else "the integer"
        refused = vocabulary.config.unknown == "error"
        unknown = "error" if refused else "the mean of all others"
        return {self.query: {"type": "int64", "id": text, "unknown": unknown}}

    def queries(self, count: int, unknown_rate: float, generator: torch.Generator) -> Tensor:
        """Return random raw queries; where unknown ones are refused, there are none of them."""
        vocabulary = self.vocabularies[self.space]
        keys_V = vocabulary.keys_V
        known_B = keys_V[torch.randint(0, len(keys_V), (count,), generator=generator)]
        if vocabulary.config.unknown == "error":
            return known_B
        anything_B = torch.randint(0, 2**62, (count,), generator=generator)
        return torch.where(
            torch.rand(count, generator=generator) < unknown_rate, anything_B, known_B
        )

    def example(self) -> dict[str, Tensor]:
        """Return inputs to trace the program with."""
        return {self.query: self.queries(3, 0.1, torch.Generator().manual_seed(0))}

    @torch.no_grad()
    def check_parity(self, loaded: nn.Module, trained: nn.Module) -> dict[str, float]:
        """Return the largest difference of a score in each case, as a share of the largest score.

        Args:
            loaded: As loaded from what will be written.
            trained: The model, in evaluation mode.

        Raises:
            RecembError: If a difference exceeds the tolerance; nothing should be written then.
        """
        model = cast(Recommender, trained)
        user_UD, item_VD = model.all_vectors()
        generator = torch.Generator().manual_seed(1)
        differences = {}
        for name, (count, rate) in {
            "one query": (1, 0.0),
            "one unknown query": (1, 1.0),
            "500 queries": (500, 0.1),
        }.items():
            raw_B = self.queries(count, rate, generator)
            found = index_of(self.schema.vocabularies[self.space], raw_B.tolist())
            user_B = torch.tensor(found, dtype=torch.int64)
            wanted = model.recommend(
                user_UD[user_B], item_VD, user_B, min(NUM_BEST, model.num_items)
            )
            raw_BK, scores_BK, own_BD = loaded({self.query: raw_B})
            difference = list_difference((raw_BK, scores_BK), wanted, self.items)
            wanted_BD = user_UD[user_B]
            apart = (own_BD - wanted_BD).abs().max() / wanted_BD.abs().max().clamp(min=1)
            # In this order: what is no number must stay one.
            difference = difference if difference > apart else float(apart)
            # Written so that a NaN on either side fails too.
            if not difference <= TOLERANCE:
                raise RecembError(
                    f"export: the program must agree with the model within {TOLERANCE}, got a "
                    f"difference of {difference} on {name}; nothing was written"
                )
            differences[name] = difference
        return differences
