"""Fixed dimensional encodings: several vectors per user in an index of single vectors.

A user with several interests q_1 .. q_n should get items that are near any one of them:

    s(user, item) = max over j of <q_j, x>

An index answers sums of products only. So space is cut into 2^b cells by the signs of b random
directions. An item is written into the cell that it is in, all other cells being 0; a user has in
each cell the mean of the interests that are in it, or, where there are none, the interest whose
signs differ least. The product of the two is then that of the item with an interest near it. Of r
such cuts the products are averaged; the more cells and cuts, the nearer to the maximum.

In the paper's words an item is a query of one vector and a user a document of several: what is
summed over there is single here.

Shapes: V items, U users, N interests of all users, D elements of a vector, R cuts, C = 2^b cells,
F = R C D elements of an encoding.

Source: Dhulipala et al., "MUVERA: Multi-Vector Retrieval via Fixed Dimensional Encodings", NeurIPS
2024, arXiv:2405.19504.
"""

import torch
from torch import Tensor

from recemb.errors import RecembError
from recemb.jagged import Jagged, bag_of_each


class FixedDimensionalEncoding:
    """Encodes items and users such that products tell the best interest; see the module.

    Args:
        dim: D.
        num_bits: b, at least 0; an encoding is 2^b times as long as a vector.
        num_cuts: R, at least 1; and so many times that.
        seed: Of the directions.

    Raises:
        RecembError: If a size is out of range.

    Attributes:
        dim: F, of an encoding.
    """

    def __init__(self, dim: int, num_bits: int = 3, num_cuts: int = 4, seed: int = 1) -> None:
        for name, value, low in (("dim", dim, 1), ("num_bits", num_bits, 0), ("cuts", num_cuts, 1)):
            if value < low:
                raise RecembError(f"encoding: {name} must be at least {low}, got {value}")
        self.num_cells, self.num_cuts = 1 << num_bits, num_cuts
        self.dim = num_cuts * self.num_cells * dim
        generator = torch.Generator().manual_seed(seed)
        self.directions_RDb = torch.randn(num_cuts, dim, num_bits, generator=generator)
        self.powers_b = 1 << torch.arange(num_bits)

    def _bits(self, x_ND: Tensor) -> Tensor:
        """Return on which side of each direction vectors are: (R, N, b)."""
        return (x_ND @ self.directions_RDb > 0).long()

    def items(self, x_VD: Tensor) -> Tensor:
        """Return the encodings of items: (V, F)."""
        cell_RV = (self._bits(x_VD) * self.powers_b).sum(2)
        number_V = torch.arange(len(x_VD))
        found = x_VD.new_zeros(len(x_VD), self.num_cuts, self.num_cells, x_VD.shape[1])
        for cut, cell_V in enumerate(cell_RV):
            found[number_V, cut, cell_V] = x_VD / self.num_cuts
        return found.flatten(1)

    def users(self, interests: Jagged) -> Tensor:
        """Return the encodings of users, each of one interest at least: (U, F).

        Raises:
            RecembError: If a user has none.
        """
        x_ND, lengths_U = interests
        if len(lengths_U) and int(lengths_U.min()) < 1:
            place = int(lengths_U.argmin())
            raise RecembError(f"encoding: user at place {place} must have an interest, got none")
        user_N = bag_of_each(lengths_U)
        bits_RNb = self._bits(x_ND)
        cell_bits_Cb = torch.arange(self.num_cells).unsqueeze(1) // self.powers_b % 2
        num_users, dim = len(lengths_U), x_ND.shape[1]
        # Among the interests of a user that differ least, the first counts.
        order_N = torch.arange(len(x_ND)).unsqueeze(1)
        found = []
        for bits_Nb in bits_RNb:
            far_NC = (bits_Nb.unsqueeze(1) != cell_bits_Cb).sum(2)
            user_NC = user_N.unsqueeze(1).expand_as(far_NC)
            key_NC = far_NC * max(1, len(x_ND)) + order_N
            first_UC = torch.full((num_users, self.num_cells), torch.iinfo(torch.int64).max)
            first_UC = first_UC.scatter_reduce(0, user_NC, key_NC, "amin") % max(1, len(x_ND))
            is_in_NC = (far_NC == 0).to(x_ND)
            count_UC = is_in_NC.new_zeros(num_users, self.num_cells).index_add(0, user_N, is_in_NC)
            sums_UCD = x_ND.new_zeros(num_users, self.num_cells, dim)
            sums_UCD = sums_UCD.index_add(0, user_N, is_in_NC.unsqueeze(2) * x_ND.unsqueeze(1))
            mean_UCD = sums_UCD / count_UC.clamp(min=1).unsqueeze(2)
            found.append(torch.where(count_UC.unsqueeze(2) > 0, mean_UCD, x_ND[first_UC]))
        return torch.stack(found, 1).flatten(1)
