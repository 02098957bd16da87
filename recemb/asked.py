"""Asked ids: what is checked of their form before they are encoded.

Whether an id is in its space is for kinds to check (:mod:`recemb.tables.numbered`): to some, any
64-bit number is an id.

Shapes: B bags.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from recemb.errors import RecembError
from recemb.features import ResolvedFeature
from recemb.jagged import Ids, Jagged

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def check_forms(
    names: Sequence[str], are_lists: Sequence[bool], ids: Mapping[str, Ids], device: torch.device
) -> None:
    """Raise a :class:`RecembError` if the ids of a feature are no tensor, or no bags, as it needs.

    Args:
        names: Of features.
        are_lists: Which of them have bags.
        ids: By feature.
        device: Where they must be.
    """
    for name, is_list in zip(names, are_lists, strict=True):
        asked = ids[name]
        if not is_list:
            _check_tensor(name, "ids", asked, device)
            continue
        if not isinstance(asked, Jagged):
            raise RecembError(
                f"feature {name!r}: it has a bag of ids per sample, so they must come as "
                f"Jagged(values, lengths), got {_said(asked)}"
            )
        _check_tensor(name, "ids of its bags", asked.values, device)
        _check_tensor(name, "sizes of its bags", asked.lengths, device)
        if device.type == "cpu":  # a GPU would have to be waited for
            _check_sizes(name, asked)


def _check_tensor(name: str, what: str, asked: object, device: torch.device) -> None:
    if not isinstance(asked, Tensor) or asked.ndim != 1 or asked.dtype not in INTEGERS:
        raise RecembError(
            f"feature {name!r}: {what} must be a tensor of whole numbers in one dimension, such "
            f"as torch.tensor([3, 5]), got {_said(asked)}"
        )
    if asked.device != device:
        raise RecembError(
            f"feature {name!r}: {what} must be on {device}, where the embeddings are, got "
            f"{asked.device}; move either"
        )


def _check_sizes(name: str, bags: Jagged) -> None:
    lengths_B = bags.lengths
    if lengths_B.numel() and int(lengths_B.min()) < 0:
        raise RecembError(
            f"feature {name!r}: sizes of its bags must be at least 0, got {int(lengths_B.min())}"
        )
    if int(lengths_B.sum()) != len(bags.values):
        raise RecembError(
            f"feature {name!r}: its bags must have as many ids as their sizes say, "
            f"{int(lengths_B.sum())}, got {len(bags.values)}"
        )


def check_weights(
    weights: Mapping[str, Tensor], ids: Mapping[str, Ids], features: Mapping[str, ResolvedFeature]
) -> None:
    """Raise a :class:`RecembError` if weights are not one for each id of their features.

    Args:
        weights: By feature.
        ids: By feature.
        features: By name.
    """
    if not isinstance(weights, Mapping):
        raise RecembError(f"weights must be given by feature, got {_said(weights)}")
    for name, own in weights.items():
        where = f"feature {name!r}: weights"
        if name not in features:
            raise RecembError(f"{where} are given, but there is no such feature; leave them out")
        asked = ids[name]
        values = asked.values if isinstance(asked, Jagged) else asked
        fits = isinstance(own, Tensor) and own.is_floating_point() and own.shape == values.shape
        if not fits or own.device != values.device:
            raise RecembError(
                f"{where} must be a tensor of floating point with one for each of its "
                f"{len(values)} ids, where they are, got {_said(own)}"
            )
        if features[name].is_list and features[name].config.pooling == "max":
            raise RecembError(f"{where} have no meaning where the pooling is max; leave them out")


def _said(asked: object) -> str:
    if isinstance(asked, Tensor):
        return f"a tensor of {asked.dtype} with shape {tuple(asked.shape)}"
    return f"a {type(asked).__name__}"
