"""The methods of compression, by name."""

from typing import get_args

from recemb.compress.dedup import Deduplication
from recemb.compress.method import Method
from recemb.compress.pq import ProductQuantization
from recemb.compress.precision import Quantized, ToPrecision
from recemb.compress.prune import MagnitudePruning
from recemb.compress.svd import LowRank

PRECISIONS: dict[str, Method] = {name: ToPrecision(name) for name in get_args(Quantized)}
"""Those that only change how rows are stored."""

METHODS: dict[str, Method] = {
    **PRECISIONS,
    **{one.name: one for one in (ProductQuantization(), LowRank(), MagnitudePruning())},
    Deduplication.name: Deduplication(),
}
"""All of them."""
