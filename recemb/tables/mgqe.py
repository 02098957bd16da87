"""MGQE: product quantisation with more keys for frequent ids.

    as DPQ (vq); the most frequent ids choose among K keys, the rest among the first K' of them
    served: frequent ids * ceil(P log2 K / 8) bytes + others * ceil(P log2 K' / 8) + K * dim * 4

Rare ids have few examples, so a coarse code fits them as well as a fine one. Frequent means: among
the first of the vocabulary, which numbers ids by falling training frequency.

Source: Kang et al., "Learning Multi-granular Quantized Embeddings for Large-Vocab Categorical
Features in Recommender Systems", WWW 2020, arXiv:2002.08530.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from recemb.errors import RecembError
from recemb.tables.codes import Codes, num_frequent
from recemb.tables.dpq import DPQ
from recemb.tables.kind import IdSpace, TableConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class MGQE(DPQ):
    """DPQ whose keys depend on the frequency of the id."""

    kind: Literal["mgqe"] = "mgqe"  # type: ignore[assignment]
    """The name of the kind."""
    response: Literal["vq"] = "vq"
    """How a key is chosen."""
    frequent: float = 0.1
    """Share of the ids of each space that may use all keys, above 0 and below 1."""
    rest_keys: int = 64
    """Keys of the other ids: a power of two in 2..num_keys."""

    formula: ClassVar[str] = "as dpq; frequent ids choose among K keys, the rest among the first K'"
    memory: ClassVar[str] = "served: P x (frequent log2 K + rest log2 K') bits + K x dim"
    paper: ClassVar[str] = "Kang et al. 2020, arXiv:2002.08530"

    def check(self, where: str) -> None:
        """Raise a :class:`RecembError` if a setting is out of range."""
        DPQ.check(self, where)
        if not 0 < self.frequent < 1:
            raise RecembError(
                f"{where}: frequent must be above 0 and below 1, got {self.frequent}; at 1 it is "
                "kind dpq"
            )
        most = self.num_keys or 256
        if self.rest_keys not in [2**bits for bits in range(1, 9)] or self.rest_keys > most:
            raise RecembError(
                f"{where}: rest_keys must be a power of two in 2..{most}, got {self.rest_keys}"
            )

    def _allows(self, num_keys: int) -> bool:
        return num_keys >= self.rest_keys

    def keys_of(self, space: IdSpace) -> tuple[int, int]:
        """Return how many ids are frequent, and the others' keys."""
        return num_frequent(space, self.frequent), self.rest_keys

    def served(self, where: str, spaces: Sequence[IdSpace]) -> TableConfig:
        """Return the kind ``codes`` with two tables."""
        return Codes(
            dim=self.dim,
            num_parts=self.num_parts,
            num_bits=self.key_bits,
            frequent=self.frequent,
            rest_bits=self.rest_keys.bit_length() - 1,
            project=self.project,
            init_scale=self.init_scale,
        )
