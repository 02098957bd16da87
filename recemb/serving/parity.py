"""Parity: the program as it will be loaded must say what the trained model says.

The two sides share no code between raw ids and indices: here ids are looked up by a Python
dictionary, there by a binary search.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recemb.errors import RecembError
from recemb.hashing import rows_of_one
from recemb.jagged import KeyedJagged
from recemb.schema import Schema
from recemb.serving.program import SIZE, Ranker
from recemb.vocabulary import Vocabulary

TOLERANCE = 1e-6
"""Of a probability. Gathers are exact; a product's sums may be ordered by the batch's shape."""


@dataclass(frozen=True, slots=True)
class Request:
    """Samples in both forms: raw for the program, looked up for the model."""

    raw: dict[str, Tensor]
    keyed: KeyedJagged
    dense_BK: Tensor


@dataclass(frozen=True, slots=True)
class Case:
    """A kind of request: its size, share of unknown ids, longest list and whether padded."""

    name: str
    batch: int
    unknown_rate: float = 0.1
    longest: int = 60
    padded: bool = False


CASES = (
    Case("one sample", 1),
    Case("one sample, no history", 1, longest=0),
    Case("10,000 samples", 10_000),
    Case("padding", 100, padded=True),
    Case("unknown ids only", 100, unknown_rate=1.0),
    Case("empty histories", 100, longest=0),
)


def index_of(vocabulary: Vocabulary, values: list[int]) -> list[int]:
    """Return the indices of raw ids, one by one: the readable form of ``Vocabulary.lookup``."""
    known = dict(zip(vocabulary.keys_V.tolist(), vocabulary.index_V.tolist(), strict=True))
    config, num_known = vocabulary.config, vocabulary.num_known
    size = config.num_unknown if config.unknown == "hash" else 1
    return [known.get(value, num_known + rows_of_one(value, 0, size)) for value in values]


def make_request(schema: Schema, case: Case, generator: torch.Generator) -> Request:
    """Return random samples of a case; all lists of a sample are equally long."""
    sizes_B = torch.randint(0, case.longest + 1, (case.batch,), generator=generator)
    raw: dict[str, Tensor] = {}
    values, lengths = [], []
    for name, column in schema.columns.items():
        vocabulary = schema.vocabularies[column.vocabulary] if column.vocabulary else None
        count = int(sizes_B.sum()) if column.is_list else case.batch
        raw[name] = _draw(vocabulary, count, case.unknown_rate, generator)
        plain = raw[name].tolist()
        values.append(
            torch.tensor(index_of(vocabulary, plain) if vocabulary else plain, dtype=torch.int64)
        )
        lengths.append(sizes_B if column.is_list else torch.ones_like(sizes_B))
        if column.is_list:
            raw[f"{name}{SIZE}"] = sizes_B
            if case.padded and column.padding is not None:
                _pad(raw, name, column.padding)
    dense_BK = torch.randn(case.batch, len(schema.dense), generator=generator)
    for k, name in enumerate(schema.dense):
        raw[name] = dense_BK[:, k].contiguous()
    keyed = KeyedJagged(tuple(schema.columns), torch.cat(values), torch.stack(lengths))
    return Request(raw, keyed, dense_BK)


def _draw(
    vocabulary: Vocabulary | None, count: int, unknown_rate: float, generator: torch.Generator
) -> Tensor:
    """Return raw ids, known or not; a column that refuses unknown ids gets none."""
    anything = torch.randint(0, 2**62, (count,), generator=generator)
    if vocabulary is None:
        return anything
    known = vocabulary.keys_V[torch.randint(0, vocabulary.num_known, (count,), generator=generator)]
    if vocabulary.config.unknown == "error":
        return known
    unknown = torch.rand(count, generator=generator) < unknown_rate
    return torch.where(unknown, anything, known)


def _pad(raw: dict[str, Tensor], name: str, padding: int) -> None:
    """Put one padding id in front of every list."""
    lists = raw[name].split(raw[f"{name}{SIZE}"].tolist())
    pad = torch.tensor([padding])
    raw[name] = torch.cat([part for one in lists for part in (pad, one)])
    raw[f"{name}{SIZE}"] = raw[f"{name}{SIZE}"] + 1


@torch.no_grad()
def check_parity(
    program: Callable[[dict[str, Tensor]], Tensor], model: nn.Module, schema: Schema
) -> dict[str, float]:
    """Return the largest difference of a prediction in each case.

    Args:
        program: As loaded from what will be written.
        model: The trained model, in evaluation mode.
        schema: Of its data.

    Raises:
        RecembError: If a difference exceeds :data:`TOLERANCE`; nothing should be written then.
    """
    generator = torch.Generator().manual_seed(1)
    ranker: Ranker = model  # type: ignore[assignment]
    differences = {}
    for case in CASES:
        request = make_request(schema, case, generator)
        wanted_B = ranker.prediction(model(request.keyed, request.dense_BK))
        difference = float((program(request.raw) - wanted_B).abs().max())
        # Written so that a NaN on either side fails too.
        if not difference <= TOLERANCE:
            raise RecembError(
                f"export: the program must agree with the model within {TOLERANCE}, got a "
                f"difference of {difference} on {case.name}; nothing was written"
            )
        differences[case.name] = difference
    return differences
