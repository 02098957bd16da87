"""Vectors of ids: out of tables, into tables, and in files.

Shapes: N ids, D elements per vector.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from recemb.embeddings import Embeddings
from recemb.errors import RecembError
from recemb.features import ResolvedFeature
from recemb.jagged import Ids, Jagged
from recemb.vocabulary import Vocabulary, raw_ids

if TYPE_CHECKING:
    import polars as pl

PART_IDS = 1 << 16
"""Ids whose vectors are composed at a time."""
SHOWN = 5
"""Unknown ids that are named."""
ENDS = (".parquet", ".npz", ".txt")
"""Of files of vectors that are written; read are ``.npy`` and ``.vec`` too."""


class Loaded(NamedTuple):
    """What became of vectors that were given to a table."""

    num_loaded: int
    """Ids that have their vectors now."""
    num_unknown: int
    """Ids that the table's features do not know."""
    unknown: list[Any]
    """The first of them."""


def reader_of(embeddings: Embeddings, table: str) -> ResolvedFeature:
    """Return a feature that says whose vectors those of a table are.

    Args:
        embeddings: That have it.
        table: A table whose features have the same ids; or a feature.

    Raises:
        RecembError: If there is none of that name, or its features have different ids.
    """
    readers = [one for one in embeddings.features if table in (one.name, one.config.table)]
    if not readers:
        raise RecembError(
            f"vectors: there is no table {table!r}; the model has {sorted(embeddings.tables)}"
        )
    own = [one for one in readers if one.name == table] or readers
    if len({(one.space.name, one.config.lookups) for one in own}) > 1:
        raise RecembError(
            f"vectors: table {table!r} has ids of several features; name one of "
            f"{[one.name for one in own]}"
        )
    return own[0]


@torch.no_grad()
def composed(embeddings: Embeddings, feature: ResolvedFeature, ids_N: Tensor) -> Tensor:
    """Return the vectors that the model reads for ids of a feature, as it serves them: (N, D)."""
    nothing = {one.name: _bags(ids_N[:0], one.is_list) for one in embeddings.features}
    was_training = embeddings.training
    embeddings.eval()
    parts = []
    for some_n in ids_N.split(PART_IDS):
        ids = {**nothing, feature.name: _bags(some_n, feature.is_list)}
        found = Embeddings.forward(embeddings, ids)[feature.name]
        parts.append(found if isinstance(found, Tensor) else found.values)
    embeddings.train(was_training)
    return torch.cat(parts).float()


def _bags(ids_N: Tensor, is_list: bool) -> Ids:
    return Jagged(ids_N, torch.ones_like(ids_N)) if is_list else ids_N


@torch.no_grad()
def load_vectors(
    embeddings: Embeddings, table: str, vocabulary: Vocabulary | None, ids: Any, vectors: Any
) -> Loaded:
    """Give ids of a plain table vectors; see :meth:`EmbeddingCollection.load_vectors`."""
    feature = reader_of(embeddings, table)
    where = f"table {feature.config.table!r}"
    config = embeddings.tables[feature.config.table]
    if config.kind_name != "full" or config.project is not None:
        raise RecembError(
            f"{where}: vectors are loaded into kind full without project, got kind "
            f"{config.kind_name}; its vectors are composed of rows that ids share or learn"
        )
    found_ND = torch.as_tensor(np.asarray(vectors) if not isinstance(vectors, Tensor) else vectors)
    found_ND = found_ND.detach().to("cpu", torch.float32)
    raw_N = raw_ids(ids)
    if found_ND.ndim != 2 or found_ND.shape != (len(raw_N), config.dim):
        raise RecembError(
            f"{where}: vectors of {len(raw_N)} ids must have the shape ({len(raw_N)}, "
            f"{config.dim}), got {tuple(found_ND.shape)}"
        )
    is_finite_N = torch.isfinite(found_ND).all(1)
    if not bool(is_finite_N.all()):
        place = int((~is_finite_N).nonzero()[0])
        raise RecembError(f"{where}: vectors must be finite, got {ids[place]!r} with NaN or more")
    if len(raw_N.unique()) < len(raw_N):
        raise RecembError(f"{where}: an id is given twice; leave one of them out")
    _check_type(where, vocabulary, ids)
    if vocabulary is None:
        index_N, count = raw_N, feature.space.num_ids or 0
    else:
        held = vocabulary.to(torch.device("cpu"))
        index_N, count = held.lookup(raw_N), held.num_known
    is_known_N = (index_N >= 0) & (index_N < count)
    own_N = index_N[is_known_N]
    if len(own_N):
        device = next(iter(embeddings.rows.tables().values())).device
        ((physical, rows_N1),) = embeddings.rows_read(feature.name, own_N.to(device)).items()
        values_RD = embeddings.rows.values(physical).clone()
        values_RD[rows_N1.squeeze(1)] = found_ND[is_known_N].to(device)
        embeddings.rows.assign(physical, values_RD)
    unknown = (~is_known_N).nonzero().flatten().tolist()
    return Loaded(len(own_N), len(unknown), [ids[place] for place in unknown[:SHOWN]])


def _check_type(where: str, vocabulary: Vocabulary | None, ids: Any) -> None:
    is_text = len(ids) > 0 and isinstance(ids[0], str)
    wanted = vocabulary is not None and vocabulary.is_text
    if len(ids) and is_text != wanted:
        kinds = ("integers", "strings")
        raise RecembError(f"{where}: its ids are {kinds[wanted]}, got {kinds[is_text]}; cast them")


def read_vectors(path: str | Path) -> tuple["pl.Series", Tensor]:
    """Return the ids of a file and their vectors: (N,) and (N, D) float32.

    ``.parquet``: columns ``id`` and ``vector``; ``.npz``: arrays ``id`` and ``vector``; ``.npy``:
    vectors of the ids from 0; ``.txt`` and ``.vec``: the text of word2vec and gensim: a line with
    the number of words and of elements, then a word and its elements per line.

    Raises:
        RecembError: If the file cannot be read, or a vector has another width; it names the line.
    """
    import polars as pl

    from recemb.files import reading

    path = Path(path)
    if path.suffix in (".txt", ".vec"):
        return _read_text(path)
    if path.suffix not in (".parquet", ".npz", ".npy"):
        raise RecembError(
            f"{path}: must end in .parquet, .npz, .npy, .txt or .vec, got {path.suffix!r}"
        )
    with reading(path, "file of vectors (id, vector)", "write it again"):
        if path.suffix == ".parquet":
            frame = pl.read_parquet(path, columns=["id", "vector"], glob=False)
            ids, vectors = frame["id"], _array(frame["vector"])
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as held:
                ids, vectors = pl.Series("id", held["id"]), held["vector"].astype(np.float32)
        else:
            vectors = np.load(path, allow_pickle=False).astype(np.float32)
            ids = pl.Series("id", np.arange(len(vectors)))
    if vectors.ndim != 2 or len(vectors) != len(ids):
        raise RecembError(f"{path}: vectors must be one of equal width for each id")
    return ids, torch.from_numpy(vectors)


def _array(column: "pl.Series") -> "np.ndarray[Any, Any]":
    """Return a column of lists or arrays as (N, D) float32."""
    import polars as pl

    if isinstance(column.dtype, pl.List):
        widths = column.list.len().unique().to_list()
        if len(widths) != 1 or widths[0] is None:
            raise ValueError(f"vectors have the widths {widths[:5]}")
        column = column.cast(pl.Array(pl.Float32, widths[0]))
    return column.to_numpy().astype(np.float32)


def _read_text(path: Path) -> tuple["pl.Series", Tensor]:
    import polars as pl

    from recemb.files import reading

    with reading(path, "text file in UTF-8", "write it again"):
        text = path.read_text(encoding="utf-8")
    head, *lines = text.rstrip("\n").split("\n")
    sizes = head.split()
    if len(sizes) != 2 or not all(one.isdecimal() for one in sizes):
        raise RecembError(f"{path}: line 1 must be the numbers of words and elements, got {head!r}")
    count, dim = map(int, sizes)
    if len(lines) != count:
        raise RecembError(f"{path}: line 1 says {count} words, got {len(lines)} lines after it")
    words, rows = [], np.empty((count, dim), np.float32)
    for place, line in enumerate(lines):
        word, *numbers = line.rstrip(" \r").rsplit(" ", dim)
        try:
            if len(numbers) != dim or not word:
                raise ValueError
            rows[place] = numbers
        except ValueError:
            raise RecembError(
                f"{path}: line {place + 2} must be a word and {dim} numbers, got {line[:60]!r}"
            ) from None
        words.append(word)
    return pl.Series("id", words, dtype=pl.String), torch.from_numpy(rows)


def write_vectors(path: Path, frame: "pl.DataFrame") -> None:
    """Write ``id`` and ``vector`` as :func:`read_vectors` reads them, by the end of the name.

    Raises:
        RecembError: If the name ends otherwise, or ids cannot be words of a text.
    """
    from recemb.files import whole_file

    check_end(path)
    vectors_ND = frame["vector"].to_numpy()
    if path.suffix == ".txt" and any(len(str(one).split()) != 1 for one in frame["id"]):
        raise RecembError(f"{path}: ids with spaces are no words of a text; write .parquet")
    with whole_file(path) as temporary:
        if path.suffix == ".parquet":
            frame.write_parquet(temporary)
        elif path.suffix == ".npz":
            ids = frame["id"].to_numpy()
            ids = ids.astype(str) if ids.dtype == object else ids
            with temporary.open("wb") as file:
                np.savez(file, id=ids, vector=vectors_ND)
        else:
            with temporary.open("w", encoding="utf-8") as text:
                text.write(f"{len(frame)} {vectors_ND.shape[1]}\n")
                for word, row in zip(frame["id"], vectors_ND, strict=True):
                    text.write(f"{word} {' '.join(map(repr, row.tolist()))}\n")


def check_end(path: Path) -> None:
    """Raise a :class:`RecembError` if a file of that name could not be written."""
    if path.suffix not in ENDS:
        raise RecembError(f"{path}: must end in {', '.join(ENDS)}, got {path.suffix!r}")
