"""Keyed ids: what is taken out of a ``KeyedJaggedTensor`` of torchrec.

Shapes: F features, N ids in all.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from recemb.errors import RecembError
from recemb.jagged import Jagged, split_keyed


def bags_of(keyed: Any) -> dict[str, Jagged]:
    """Return the bags of each feature, of which each may have another number.

    Raises:
        RecembError: If this is no keyed tensor, if it names a feature twice, or if its bags stand
            for several samples each.
    """
    if not all(hasattr(keyed, one) for one in ("keys", "values", "lengths")):
        raise RecembError(
            "ids: they must be a mapping of features to tensors, or a KeyedJaggedTensor, got "
            f"{type(keyed).__name__}"
        )
    names = list(keyed.keys())
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RecembError(
            f"feature {twice!r}: the KeyedJaggedTensor has it twice; name it once, with all its ids"
        )
    if getattr(keyed, "inverse_indices_or_none", lambda: None)() is not None:
        raise RecembError(
            "ids: the KeyedJaggedTensor has inverse indices, which are not followed; give the bag "
            "of each sample, or leave them out and select vectors by them"
        )
    if not getattr(keyed, "variable_stride_per_key", lambda: False)():
        return split_keyed(keyed)
    lengths = keyed.lengths().split(keyed.stride_per_key())
    values = keyed.values().split([int(one.sum()) for one in lengths])
    return {name: Jagged(*bags) for name, *bags in zip(names, values, lengths, strict=True)}


def weights_of(
    keyed: Any, bags: Mapping[str, Jagged], given: Mapping[str, Tensor] | None
) -> Mapping[str, Tensor] | None:
    """Return the weights of each feature's ids: those of the keyed tensor, or those given.

    Raises:
        RecembError: If there are both.
    """
    own = getattr(keyed, "weights_or_none", lambda: None)()
    if own is None:
        return given
    if given is not None:
        raise RecembError(
            "weights: they are given, and the KeyedJaggedTensor has some; leave out either"
        )
    parts = own.split([len(one.values) for one in bags.values()])
    return dict(zip(bags, parts, strict=True))
