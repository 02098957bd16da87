"""Attributes: what is known of an id (genres of a movie), looked up in the model instead of sent.

A history of fifty movies with their genres would be a list of lists in every row of every file and
every request. Genres are a function of the movie, so the data sends movies and the model keeps one
bag of attribute ids per movie: the input stays flat and the memory is that of one catalogue.

Shapes: N owner ids, V ids of the owner's id space, M attribute ids of all owners.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from recemb.jagged import Jagged, position_of_each
from recemb.schema import Attribute


class AttributeLookup(nn.Module):
    """Return the attribute ids of owner ids.

    Args:
        attributes: By feature name.

    Example:
        >>> genres = Attribute("movie", "genre", True, torch.tensor([5, 6, 7]),
        ...                    torch.tensor([0, 2, 3]))
        >>> AttributeLookup({"genres": genres})("movie", torch.tensor([1, 0]))["genres"].values
        tensor([7, 5, 6])
    """

    def __init__(self, attributes: Mapping[str, Attribute]) -> None:
        super().__init__()
        self.attributes = dict(attributes)
        # By number: a buffer's name may not hold a dot, a feature's may.
        self._numbers = {name: number for number, name in enumerate(attributes)}
        for number, attribute in enumerate(attributes.values()):
            # The schema saves them; a second copy in the state dict would only be larger.
            self.register_buffer(f"values_{number}", attribute.values_M, persistent=False)
            self.register_buffer(f"offsets_{number}", attribute.offsets_V, persistent=False)

    def of_owner(self, space: str) -> list[str]:
        """Return the names of the attributes that describe an id space."""
        return [name for name, one in self.attributes.items() if one.owner == space]

    def forward(self, space: str, owners_N: Tensor) -> dict[str, Tensor | Jagged]:
        """Return, per attribute of ``space``, one id per owner or a bag of ids per owner."""
        found: dict[str, Tensor | Jagged] = {}
        for name in self.of_owner(space):
            values_M = self.get_buffer(f"values_{self._numbers[name]}")
            offsets_V = self.get_buffer(f"offsets_{self._numbers[name]}")
            starts_N = offsets_V[owners_N]
            if not self.attributes[name].is_list:
                found[name] = values_M[starts_N]
                continue
            lengths_N = offsets_V[owners_N + 1] - starts_N
            index = torch.repeat_interleave(starts_N, lengths_N) + position_of_each(lengths_N)
            found[name] = Jagged(values_M[index], lengths_N)
        return found
