"""The served program: raw ids in, click probabilities (or what else a model predicts) out.

Inputs are one dictionary of tensors. With B samples and N ids in a column's lists:

    <column>            (B,) int64, one raw id per sample
    <list column>       (N,) int64, the ids of all lists, one list after the other
    <list column>.size  (B,) int64, how many of them each sample has
    <dense column>      (B,) float32

A raw id is the integer of the training file, or xxHash64 (seed 0, UTF-8, as signed int64) of its
string. The output is (B,) float32. Other types of numbers, and other requests than these, are the
matter of :mod:`recemb.serving.checks`.
"""

import copy
from collections.abc import Collection
from dataclasses import replace
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from recemb.embeddings import Embeddings
from recemb.jagged import Ids, Jagged, bag_of_each
from recemb.schema import Schema
from recemb.serving.checks import Input, asserted
from recemb.vocabulary import Vocabulary

SIZE = ".size"
"""Ends the name of the input that holds the sizes of a list column's lists."""


class Ranker(Protocol):
    """What a model must offer to be served."""

    schema: Schema
    embeddings: Embeddings

    def score(self, ids: dict[str, Ids], dense_BK: Tensor) -> Tensor:
        """Return the logits of B samples."""

    def standardize(self, dense_BK: Tensor) -> Tensor:
        """Return numbers on the scale that the model was trained on."""

    def prediction(self, score_B: Tensor) -> Tensor:
        """Return what scores predict."""


def with_served_tables(model: nn.Module) -> nn.Module:
    """Return the model with its tables in the form that is served; itself where that is its own.

    All else is shared with the given model.
    """
    embeddings = cast(Embeddings, model.embeddings)
    served = embeddings.served()
    if served is embeddings:
        return model
    served.requires_grad_(False)  # made to be served, and new
    other = copy.copy(model)
    other._modules = {**model._modules, "embeddings": served}
    return other


class Program(nn.Module):
    """A model with vocabulary lookups in front of it; a subclass says what it is asked.

    Args:
        model: The trained model; it is put into evaluation mode.
        unused: Names of parts of the model that serving has no use for.
    """

    def __init__(self, model: nn.Module, unused: Collection[str] = ()) -> None:
        super().__init__()
        model = with_served_tables(model.eval())
        self.schema = cast(Schema, model.schema)
        # The parts of the model and not the model: what it has for training alone stays out.
        self.parts = nn.ModuleDict(
            {name: part for name, part in model.named_children() if name not in unused}
        )
        for name, buffer in model.named_buffers(recurse=False):
            if name not in unused:
                self.register_buffer(name, buffer)
        self.vocabularies: dict[str, Vocabulary] = {}
        for number, (space, vocabulary) in enumerate(self.schema.vocabularies.items()):
            if space not in self.spaces():
                continue
            # Buffers, so that the saved program holds them as data and not as constants of code.
            self.register_buffer(f"keys_{number}", vocabulary.keys_V)
            self.register_buffer(f"index_{number}", vocabulary.index_V)
            self.vocabularies[space] = replace(
                vocabulary,
                keys_V=self.get_buffer(f"keys_{number}"),
                index_V=self.get_buffer(f"index_{number}"),
            )
        self.use(model)

    def spaces(self) -> Collection[str | None]:
        """Return the id spaces of the inputs."""
        raise NotImplementedError

    def use(self, model: nn.Module) -> None:
        """Keep what is called of the model, whose tables are in the form that is served."""
        raise NotImplementedError

    def index(self, name: str, space: str, values: Tensor) -> Tensor:
        """Return the indices of the raw ids of column ``name``."""
        return known_index(name, self.vocabularies[space], values)


def known_index(name: str, vocabulary: Vocabulary, values: Tensor) -> Tensor:
    """Return the indices of the raw ids of column ``name``, which a trace refuses as data would."""
    index = vocabulary.lookup(values)
    if vocabulary.config.unknown == "error":
        index = asserted(index, (index >= 0).all(), f"column {name}: unknown id")
    return index


class ServedProgram(Program):
    """Predictions for samples; see the module for inputs and output.

    Args:
        model: The trained model; it is put into evaluation mode.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, unused=("metrics",))

    def spaces(self) -> Collection[str | None]:
        """Return the id spaces of the columns."""
        return {column.vocabulary for column in self.schema.columns.values()}

    def use(self, model: nn.Module) -> None:
        """Keep how the model scores samples."""
        ranker: Ranker = model  # type: ignore[assignment]
        self._score, self._standardize = ranker.score, ranker.standardize
        self._prediction = ranker.prediction

    def inputs(self) -> list[Input]:
        """Return the inputs, sizes before what they are of."""
        found: list[Input] = []
        for name, column in self.schema.columns.items():
            first = found[0].name if found else None
            if column.is_list:
                sizes = f"{name}{SIZE}"
                found += [Input(sizes, like=first), Input(name, sizes=sizes)]
            else:
                found.append(Input(name, like=first))
        dense = (Input(name, is_number=True, like=found[0].name) for name in self.schema.dense)
        return [*found, *dense]

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return predictions."""
        return self.predictions(self.ids_of(inputs), inputs)

    def predictions(self, ids: dict[str, Ids], inputs: dict[str, Tensor]) -> Tensor:
        """Return predictions for samples whose ids are looked up."""
        return self._prediction(self._score(ids, self._standardize(self._dense(inputs))))

    def ids_of(self, inputs: dict[str, Tensor]) -> dict[str, Ids]:
        """Return the ids of all columns, looked up and without padding."""
        ids: dict[str, Ids] = {}
        for name, column in self.schema.columns.items():
            values = inputs[name]
            if not column.is_list:
                ids[name] = self._index(name, values)
                continue
            sizes_B = inputs[f"{name}{SIZE}"]
            if column.padding is not None:
                kept_N = values != column.padding
                sizes_B = torch.zeros_like(sizes_B).index_add(
                    0, bag_of_each(sizes_B), kept_N.to(sizes_B.dtype)
                )
                values = values[kept_N]
            ids[name] = Jagged(self._index(name, values), sizes_B)
        return ids

    def _index(self, name: str, values: Tensor) -> Tensor:
        """Return the indices of raw ids; raw columns have none."""
        space = self.schema.columns[name].vocabulary
        return values if space is None else self.index(name, space, values)

    def _dense(self, inputs: dict[str, Tensor]) -> Tensor:
        if self.schema.dense:
            return torch.stack([inputs[name] for name in self.schema.dense], 1)
        # Its batch size is all that a matrix of no columns says, but it must say it.
        first, column = next(iter(self.schema.columns.items()))
        batch = inputs[f"{first}{SIZE}" if column.is_list else first]
        return batch.unsqueeze(1)[:, :0].to(torch.float32)
