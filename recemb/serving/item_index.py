"""Item index: the items whose vectors have the largest products with a query, found by FAISS.

Three forms: ``flat`` looks at every item, ``ivf_pq`` at codes of those in the nearest lists,
``hnsw`` walks along a graph of neighbours. A filter leaves some items only. Where few are left,
lists and graph hold hardly any of them near a query, so those few are then scored exactly.

Shapes: V items, B queries, D elements of a vector, K items found.

Sources: Johnson, Douze and Jegou, "Billion-scale similarity search with GPUs", 2017,
arXiv:1702.08734; product quantisation: Jegou et al., TPAMI 2011; HNSW: Malkov and Yashunin, TPAMI
2020, arXiv:1603.09320.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recemb.checksums import check_manifest, write_manifest
from recemb.errors import RecembError
from recemb.files import reading, whole_folder
from recemb.packages import needed

Kind = Literal["flat", "ivf_pq", "hnsw"]
INDEX, VECTORS, SETTINGS = "index.faiss", "vectors.npy", "settings.json"
REMEDY = "write it again with recemb index"
IDS = "ids.parquet"
CHECKPOINT = "checkpoint"
"""The key of the settings under which the checkpoint stands that vectors are of."""


def faiss() -> Any:
    """Return the module; it is no requirement of the engine.

    Raises:
        RecembError: If it is not installed.
    """
    return needed("faiss", "an index")


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexSettings:
    """How items are indexed and looked for."""

    kind: Kind = "flat"
    """``flat``, ``ivf_pq`` or ``hnsw``."""
    num_lists: int = 256
    """Of ``ivf_pq``: lists that items are put into."""
    num_parts: int = 16
    """Of ``ivf_pq``: bytes of a code, of which the width of vectors is a multiple."""
    num_probes: int = 16
    """Of ``ivf_pq``: lists that are looked at."""
    num_links: int = 32
    """Of ``hnsw``: neighbours of an item in the graph."""
    search_width: int = 128
    """Of ``hnsw``: items that a walk keeps in view."""
    exact_below: float = 0.05
    """If a filter leaves at most this share of items, they are scored one by one."""

    def check(self, num_items: int, dim: int) -> None:
        """Raise a :class:`RecembError` if a setting is out of range."""
        for name in ("num_lists", "num_parts", "num_probes", "num_links", "search_width"):
            if getattr(self, name) < 1:
                raise RecembError(f"index: {name} must be at least 1, got {getattr(self, name)}")
        if self.kind == "ivf_pq" and dim % self.num_parts:
            raise RecembError(
                f"index: num_parts must divide the width of vectors, got {self.num_parts} for {dim}"
            )
        if self.kind == "ivf_pq" and num_items < max(256, self.num_lists):
            raise RecembError(
                f"index: ivf_pq needs as many items as lists, and 256 for its codes, got "
                f"{num_items} items for num_lists={self.num_lists}; use flat"
            )
        if not 0 <= self.exact_below <= 1:
            raise RecembError(f"index: exact_below must be in 0..1, got {self.exact_below}")


class ItemIndex:
    """Finds items by vectors; made by :meth:`build`, :meth:`load` or :meth:`exactly`.

    Attributes:
        settings: How items are looked for.
        vectors_VD: The vectors of items, float32.
        checkpoint: The fingerprint of the checkpoint that the vectors are of; empty if they are of
            none.
    """

    def __init__(
        self, settings: IndexSettings, vectors_VD: np.ndarray, index: Any, checkpoint: str = ""
    ) -> None:
        self.settings = settings
        self.vectors_VD = vectors_VD
        self.checkpoint = checkpoint
        self._index = index

    @classmethod
    def build(
        cls, vectors_VD: Tensor, settings: IndexSettings, checkpoint: str = ""
    ) -> "ItemIndex":
        """Return an index of items' vectors.

        Args:
            vectors_VD: The vectors.
            settings: How items are looked for.
            checkpoint: The fingerprint of the checkpoint that they are of.

        Raises:
            RecembError: If a setting is out of range, or a vector is not finite.
        """
        num_items, dim = vectors_VD.shape
        settings.check(num_items, dim)
        if not bool(vectors_VD.isfinite().all()):
            raise RecembError("index: vectors must be finite; the model is broken")
        library = faiss()
        own_VD = np.ascontiguousarray(vectors_VD.detach().cpu().numpy(), dtype=np.float32)
        product = library.METRIC_INNER_PRODUCT
        if settings.kind == "flat":
            index = library.IndexFlatIP(dim)
        elif settings.kind == "ivf_pq":
            coarse = library.IndexFlatIP(dim)
            index = library.IndexIVFPQ(
                coarse, dim, settings.num_lists, settings.num_parts, 8, product
            )
            # k-means warns of few points per centroid; what that costs is told by the recall.
            index.cp.min_points_per_centroid = index.pq.cp.min_points_per_centroid = 1
            index.train(own_VD)
        else:
            index = library.IndexHNSWFlat(dim, settings.num_links, product)
        index.add(own_VD)
        return cls(settings, own_VD, index, checkpoint)

    @classmethod
    def exactly(cls, vectors_VD: Tensor) -> "ItemIndex":
        """Return what finds items by scoring all of them, without FAISS."""
        return cls(IndexSettings(), vectors_VD.detach().cpu().numpy(), None)

    @property
    def num_bytes(self) -> int:
        """Bytes of the index as it is written, without the vectors beside it."""
        return int(faiss().serialize_index(self._index).nbytes)

    def search(
        self, query_BD: Tensor, count: int, allowed_V: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the items with the largest products and these: (B, K) each, best first.

        Where fewer are found, the last items are -1 and their scores minus infinity.

        Args:
            query_BD: Queries.
            count: K.
            allowed_V: Which items may be found; None: all.
        """
        share = 1.0 if allowed_V is None else float(allowed_V.float().mean())
        if self._index is None or share <= self.settings.exact_below:
            return self.exact(query_BD, count, allowed_V)
        return self.approximate(query_BD, count, allowed_V)

    def approximate(
        self, query_BD: Tensor, count: int, allowed_V: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return what the index alone finds; see :meth:`search`."""
        library, settings = faiss(), self.settings
        chosen: dict[str, Any] = {}
        if allowed_V is not None:
            bits = np.packbits(allowed_V.cpu().numpy(), bitorder="little")
            chosen["sel"] = library.IDSelectorBitmap(bits)
        if settings.kind == "ivf_pq":
            probes = min(settings.num_probes, settings.num_lists)
            parameters = library.SearchParametersIVF(nprobe=probes, **chosen)
        elif settings.kind == "hnsw":
            width = max(settings.search_width, count)
            parameters = library.SearchParametersHNSW(efSearch=width, **chosen)
        else:
            parameters = library.SearchParameters(**chosen)
        queries = np.ascontiguousarray(query_BD.detach().cpu().numpy(), dtype=np.float32)
        scores_BK, items_BK = self._index.search(queries, count, params=parameters)
        items, scores = torch.from_numpy(items_BK), torch.from_numpy(scores_BK)
        return items, scores.masked_fill(items < 0, -torch.inf)

    def exact(
        self, query_BD: Tensor, count: int, allowed_V: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the right answer, by scoring every item that may be found; see :meth:`search`."""
        vectors_VD = torch.from_numpy(np.asarray(self.vectors_VD))
        ids_A = torch.arange(len(vectors_VD))
        if allowed_V is not None:
            ids_A = ids_A[allowed_V]
        scores_BA = query_BD.float() @ vectors_VD[ids_A].t()
        found = scores_BA.topk(min(count, len(ids_A)), 1)
        missing = count - found.values.shape[1]
        items_BK = torch.nn.functional.pad(ids_A[found.indices], (0, missing), value=-1)
        scores_BK = torch.nn.functional.pad(found.values, (0, missing), value=-torch.inf)
        return items_BK, scores_BK

    def recall(
        self, query_BD: Tensor, count: int, selectivities: list[float], seed: int = 1
    ) -> list[dict[str, float]]:
        """Return, per share of items that a random filter leaves, how much of the truth is found.

        Args:
            query_BD: Queries.
            count: K.
            selectivities: Shares, above 0; 1 is no filter.
            seed: Of the filters.

        Returns:
            ``selectivity``, ``recall`` of :meth:`search` and ``index_recall`` of the index alone.
        """
        generator = torch.Generator().manual_seed(seed)
        found = []
        for share in selectivities:
            allowed_V = None
            if share < 1:
                order_V = torch.randperm(len(self.vectors_VD), generator=generator)
                allowed_V = order_V < max(1, round(share * len(order_V)))
            truth = self.exact(query_BD, count, allowed_V)[0]
            found.append(
                {
                    "selectivity": share,
                    "recall": _overlap(self.search(query_BD, count, allowed_V)[0], truth),
                    "index_recall": _overlap(
                        self.approximate(query_BD, count, allowed_V)[0], truth
                    ),
                }
            )
        return found

    def save(self, folder: Path, ids_V: pl.Series | None = None) -> None:
        """Write the index into a new folder, whole or not at all.

        Args:
            folder: The folder.
            ids_V: What items are called: ``ids.parquet`` names the item of vector i in row i.
        """
        settings = {**asdict(self.settings), CHECKPOINT: self.checkpoint}
        with whole_folder(folder) as new:
            faiss().write_index(self._index, str(new / INDEX))
            np.save(new / VECTORS, self.vectors_VD)
            (new / SETTINGS).write_text(json.dumps(settings, indent=1))
            if ids_V is not None:
                ids_V.to_frame().write_parquet(new / IDS)
            write_manifest(new)

    @classmethod
    def load(cls, folder: Path) -> "ItemIndex":
        """Return the index in a folder, every byte of it checked; its vectors stay on the disk.

        Raises:
            RecembError: If there is none, or it is not the one that was written.
        """
        if not (folder / SETTINGS).is_file():
            raise RecembError(f"{folder}: there is no index; write one with recemb index")
        library = faiss()
        with reading(folder, "index", REMEDY):
            check_manifest(folder, remedy=REMEDY)
            written = json.loads((folder / SETTINGS).read_text())
            checkpoint = written.pop(CHECKPOINT)
            settings = IndexSettings(**written)
            vectors_VD = np.load(folder / VECTORS, mmap_mode="c", allow_pickle=False)
            index = library.read_index(str(folder / INDEX))
        return cls(settings, vectors_VD, index, checkpoint)


def _overlap(got_BK: Tensor, truth_BK: Tensor) -> float:
    """Return how many of the items of the truth were got."""
    is_item_BK = truth_BK >= 0
    is_got_BK = (truth_BK.unsqueeze(2) == got_BK.unsqueeze(1)).any(2) & is_item_BK
    return float(is_got_BK.sum() / is_item_BK.sum())
