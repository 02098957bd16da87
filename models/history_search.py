"""Search: the k behaviours of one long history that each of many targets attends to most, exactly.

    logit[c, l] = <query_c, key_l> + bias_l          positions of the k largest logits of each c

Sorting is what costs: a product of 512 queries with 10,000 keys takes a few milliseconds, choosing
from its rows twice that and more. So whole segments are ruled out first. The maxima of segments of
8 logits, and of 8 such maxima, and so on, make a pyramid:

    the k largest of n values lie in the k segments with the largest maxima

for any value elsewhere is at most its own segment's maximum, which k others reach. From the top,
each level costs a choice of k among 8 k. Maxima are taken over all targets side by side, of logits
that are still in the processor's cache.

Shapes: C targets, L behaviours, d attention vector, S segments of a level.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from recemb.serving.torchscript import torchscript_expected

Search = Callable[[Tensor, Tensor, Tensor, int], Tensor]


@functools.cache
def compiled_search() -> Search:
    """Return :func:`search_history` as TorchScript, which a traced program can hold.

    A trace alone would freeze the number of levels, which depends on the history's length.
    """
    with torchscript_expected():
        compiled: Any = torch.jit.script(search_history)
    return compiled  # type: ignore[no-any-return]


def search_history(query_Cd: Tensor, key_Ld: Tensor, bias_L: Tensor, keep: int) -> Tensor:
    """Return the positions of the ``keep`` largest logits of each target, the largest first.

    Args:
        query_Cd: Of the targets, on the CPU or a GPU.
        key_Ld: Of the behaviours.
        bias_L: Of the behaviours.
        keep: k, at least 1.

    Returns:
        (C, k) int64; -1 where the history is shorter. Which of equal logits is taken is not said.
    """
    # The numbers below are written out because TorchScript reads no constants of a module. As many
    # targets at a time as have 5 M logits, 20 MB: of longer histories fewer, so that the cost of a
    # logit does not rise as they leave the cache. In 64s, as products like them.
    targets = max(64, 5 * (1 << 20) // max(1, key_Ld.shape[0]) // 64 * 64)
    count = min(keep, key_Ld.shape[0])
    # The bias is one more element, for which every target asks.
    key_Ld = torch.cat([key_Ld, bias_L.unsqueeze(1)], 1)
    query_Cd = F.pad(query_Cd, [0, 1], "constant", 1.0)
    found: list[Tensor] = []
    for first in range(0, query_Cd.shape[0], targets):
        query_dC = query_Cd[first : first + targets].t().contiguous()
        found.append(_search_block(query_dC, key_Ld, count))
    if len(found) == 0:
        return torch.zeros([0, keep], dtype=torch.int64, device=key_Ld.device)
    return F.pad(torch.cat(found), [0, keep - count], "constant", -1.0)


def _search_block(query_dC: Tensor, key_Ld: Tensor, keep: int) -> Tensor:
    """Return the positions of the ``keep`` largest logits of each column: (C, k), k <= L."""
    length, targets = key_Ld.shape[0], query_dC.shape[1]
    # Segments of 8: a choice among n costs about n, and there are log(L) of them among 8 k.
    segments = (length + 7) // 8
    logit_LC = torch.empty([segments * 8, targets], dtype=key_Ld.dtype, device=key_Ld.device)
    logit_LC[length:] = float("-inf")
    maximum_SC = torch.empty([segments, targets], dtype=key_Ld.dtype, device=key_Ld.device)
    # Blocks of 1,024 behaviours: their logits are reduced while they are in the cache.
    for first in range(0, segments * 8, 1024):
        last = min(first + 1024, segments * 8)
        torch.mm(
            key_Ld[first : min(last, length)], query_dC, out=logit_LC[first : min(last, length)]
        )
        torch.amax(
            logit_LC[first:last].view([-1, 8, targets]), 1, out=maximum_SC[first // 8 : last // 8]
        )
    levels = [logit_LC, maximum_SC]
    while levels[-1].shape[0] > 8 * keep:
        below_SC = levels[-1]
        below_SC = F.pad(below_SC, [0, 0, 0, -below_SC.shape[0] % 8], "constant", float("-inf"))
        levels[-1] = below_SC
        levels.append(below_SC.view([-1, 8, targets]).amax(1))
    top_CS = levels[-1].t().contiguous()
    place_Ck = top_CS.topk(min(keep, top_CS.shape[1]), 1)[1]
    step_8 = torch.arange(8, device=key_Ld.device)
    column_C1 = torch.arange(targets, device=key_Ld.device).unsqueeze(1)
    for number in range(len(levels) - 2, -1, -1):
        below_Cm = (place_Ck.unsqueeze(2) * 8 + step_8).flatten(1)
        value_Cm = levels[number].flatten()[below_Cm * targets + column_C1]
        chosen_Ck = value_Cm.topk(min(keep, value_Cm.shape[1]), 1)[1]
        place_Ck = below_Cm.gather(1, chosen_Ck)
    return place_Ck
