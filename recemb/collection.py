"""Embedding collection: the tables of a model, for anybody's training loop.

Three concepts come before the first vector: a *table* is storage of a kind
(:mod:`recemb.tables`), a *feature* is a column of ids that reads one, and the *collection* turns
the ids of all features into vectors.

Shapes: B samples, N ids of a feature in all, D elements per vector.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from recemb.embeddings import Embeddings
from recemb.errors import RecembError
from recemb.features import FeatureConfig, ResolvedFeature
from recemb.jagged import Ids, Jagged, KeyedIds, Vectors
from recemb.keyed import bags_of, weights_of
from recemb.physical import PhysicalTable
from recemb.pooling import Pooling
from recemb.rows.choice import new_store
from recemb.rows.optimizers import Adam, UpdateRule
from recemb.rows.store import RowsStore
from recemb.tables.kind import IdSpace, TableConfig
from recemb.vectors import Loaded, composed, load_vectors, reader_of
from recemb.vocabulary import Vocabulary

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True, kw_only=True, slots=True)
class Feature:
    """A column of ids: which table it reads and what its ids are.

    Its ids are the whole numbers from 0 to below ``num_ids``, or the values of a ``vocabulary``; a
    feature with neither has any 64-bit numbers as ids, for kinds of tables that hash.
    """

    table: str
    """The table it reads; naming one table twice shares it."""
    num_ids: int | None = None
    """How many ids there are, from 0."""
    vocabulary: Vocabulary | None = None
    """The values that ids have (:func:`recemb.vocabulary.count_vocabulary`)."""
    ids: str | None = None
    """Whose ids these are. Features of one table read the same row for the same id, unless they
    name different ones here; by default the table's name."""
    pooling: Pooling | None = None
    """None: a sample has one id. Else it has a bag of them, whose vectors are pooled by ``sum``,
    ``mean`` or ``max``, or kept as a sequence by ``none``."""
    lookups: int = 1
    """Lookups per id in a unified table, each adding the table's ``dim`` to the vector."""


class EmbeddingCollection(Embeddings):
    """Turn the ids of all features into vectors, and learn them.

    Rows get gradients wherever ``nn.Embedding`` would: in both modes, unless gradients are off, or
    the table is frozen (:meth:`freeze`). They are stepped by a
    :class:`recemb.optim.RowsOptimizer`, or in the simplest loop by :meth:`step`.

    Args:
        tables: By name, such as ``{"item": Full(dim=16)}``.
        features: By name.
        optimizer: How touched rows change, of all tables or by table; Adam by default.

    Raises:
        RecembError: If features and tables do not fit one another, or a setting is out of range;
            the message begins with the feature or table.

    Example:
        >>> from recemb import Full, Hashed
        >>> collection = EmbeddingCollection(
        ...     {"user": Full(dim=4), "word": Hashed(dim=4, num_rows=10)},
        ...     {
        ...         "user": Feature(table="user", num_ids=3),
        ...         "title": Feature(table="word", pooling="sum"),
        ...     },
        ... )
        >>> titles = Jagged(torch.tensor([123456789, 7, 7]), torch.tensor([2, 1]))
        >>> vectors = collection({"user": torch.tensor([2, 0]), "title": titles})
        >>> vectors["user"].shape, vectors["title"].shape
        (torch.Size([2, 4]), torch.Size([2, 4]))
    """

    def __init__(
        self,
        tables: Mapping[str, TableConfig],
        features: Mapping[str, Feature],
        optimizer: UpdateRule | Mapping[str, UpdateRule] | None = None,
    ) -> None:
        rule: UpdateRule | Mapping[str, UpdateRule] = Adam() if optimizer is None else optimizer
        if isinstance(rule, Mapping):
            _check_rules(rule, tables)
        resolved = [_resolved(name, feature) for name, feature in _checked(features)]
        # No closure: that could not be pickled.
        super().__init__(tables, resolved, partial(_make_store, rule=rule))
        self.vocabularies = {
            name: feature.vocabulary
            for name, feature in features.items()
            if feature.vocabulary is not None
        }

    @torch._disable_dynamo  # type: ignore[attr-defined, untyped-decorator, unused-ignore]
    def forward(
        self,
        ids: Mapping[str, Ids] | KeyedIds,
        weights: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Vectors]:
        """Return the vectors of each feature.

        Args:
            ids: For each feature a tensor (B,) where a sample has one id; where it has a bag, a
                :class:`~recemb.jagged.Jagged` or a nested tensor of torch (layout jagged). Or all
                of them as one ``KeyedJaggedTensor`` of torchrec, whose weights are taken too.
            weights: By feature, a number for each of its ids, (N,) float: vectors are multiplied
                by them, and a mean is divided by their sum. They may require gradients.

        Returns:
            Per feature (B, D), pooled; or a ``Jagged`` of vectors where its pooling is ``none``.

        Raises:
            RecembError: If ids are missing, of another form than their feature's, or unknown.
        """
        if not isinstance(ids, Mapping):
            ids, weights = self._split(ids, weights)
        given = {name: _jagged(one) for name, one in ids.items()}
        found: dict[str, Vectors] = super().forward(self._looked_up(given), weights)
        return found

    def _split(
        self, keyed: KeyedIds, weights: Mapping[str, Tensor] | None
    ) -> tuple[dict[str, Ids], Mapping[str, Tensor] | None]:
        """Return the ids of each feature of a keyed tensor, and its weights where it has some."""
        bags = bags_of(keyed)
        weights = weights_of(keyed, bags, weights)
        lists = {feature.name: feature.is_list for feature in self.features}
        ids: dict[str, Ids] = {}
        for name, bag in bags.items():
            ids[name] = bag if lists.get(name, True) else _one_each(name, bag)
        return ids, weights

    def _looked_up(self, ids: dict[str, Ids]) -> dict[str, Ids]:
        """Return ids in which the values of vocabularies are numbers."""
        for name, vocabulary in list(self.vocabularies.items()):
            asked = ids.get(name)
            values = asked.values if isinstance(asked, Jagged) else asked
            if not isinstance(values, Tensor) or values.is_floating_point():
                continue  # refused with all other forms
            if vocabulary.keys_V.device != values.device:
                vocabulary = self.vocabularies[name] = vocabulary.to(values.device)
            index_N = vocabulary.lookup(values.to(torch.int64))
            if vocabulary.config.unknown == "error" and bool((index_N < 0).any()):
                first = int(values[index_N < 0][0])
                raise RecembError(
                    f"feature {name!r}: value {first} is not in its vocabulary; leave it out, or "
                    "build the vocabulary with unknown='own' or 'hash'"
                )
            ids[name] = Jagged(index_N, asked.lengths) if isinstance(asked, Jagged) else index_N
        return ids

    def load_vectors(self, table: str, ids: Any, vectors: Any) -> Loaded:
        """Give ids of a plain table the vectors that they have elsewhere.

        Args:
            table: Of kind full; or a feature, where several with different ids read it.
            ids: As the user has them: integers, or strings where the vocabulary's are; each once.
            vectors: (N, dim), of numpy or torch (:func:`recemb.read_vectors` reads files).

        Returns:
            How many were taken, how many ids are unknown, and the first of these.

        Raises:
            RecembError: If the table is of another kind, or ids or vectors do not fit.
        """
        vocabulary = self.vocabularies.get(reader_of(self, table).name)
        return load_vectors(self, table, vocabulary, ids, vectors)

    def vectors(self, table: str) -> "pl.DataFrame":
        """Return the vector of each known id: a frame of ``id`` and ``vector``, an array of floats.

        ``vectors("item")["vector"].to_numpy()`` is (N, D).

        Raises:
            RecembError: If there is no such table, or its ids are any numbers.
        """
        import polars as pl  # late: see recemb/__init__.py

        feature = reader_of(self, table)
        vocabulary = self.vocabularies.get(feature.name)
        count = vocabulary.num_known if vocabulary is not None else feature.space.num_ids
        if count is None:
            raise RecembError(
                f"vectors: the ids of {table!r} are any numbers, which nobody has listed; give the "
                "feature num_ids or a vocabulary, or call the collection with ids"
            )
        ids_N = torch.arange(count)
        device = next(iter(self.rows.tables().values())).device
        found_ND = composed(self, feature, ids_N.to(device)).cpu().numpy()
        named = vocabulary.values(ids_N) if vocabulary is not None else pl.Series(ids_N.numpy())
        return pl.DataFrame({"id": named, "vector": found_ND})

    def freeze(self, *tables: str) -> None:
        """Let tables stay as they are: no gradients for their rows and learned parts.

        Gradients that wait for a step are dropped.

        Raises:
            RecembError: If there is no such table.
        """
        self._require_grad(tables, False)

    def unfreeze(self, *tables: str) -> None:
        """Let tables learn again."""
        self._require_grad(tables, True)

    def _require_grad(self, tables: tuple[str, ...], is_trained: bool) -> None:
        parameters = self.rows.rows_parameters()
        for table in tables:
            if table not in self.tables:
                raise RecembError(
                    f"table {table!r}: there is none to freeze or unfreeze, got tables "
                    f"{sorted(self.tables)}"
                )
            for physical in self.physical_of[table].values():
                for one in parameters[physical]:
                    one.requires_grad_(is_trained)
                    if not is_trained:
                        one.release()
            for module in self.dense_of(table):
                module.requires_grad_(is_trained)
                if not is_trained:
                    module.zero_grad()


def _checked(features: Any) -> list[tuple[str, Feature]]:
    if not isinstance(features, Mapping):
        raise RecembError(
            "features: they must be a mapping of names to Features, such as "
            f"{{'user': Feature(table='user', num_ids=10)}}, got {type(features).__name__}"
        )
    for name, feature in features.items():
        where = f"feature {name!r}"
        if not isinstance(feature, Feature):
            raise RecembError(f"{where}: it must be a Feature, got {feature!r}")
        if feature.vocabulary is not None and not isinstance(feature.vocabulary, Vocabulary):
            raise RecembError(
                f"{where}: vocabulary must be a Vocabulary, got "
                f"{type(feature.vocabulary).__name__}; see recemb.count_vocabulary"
            )
        if feature.num_ids is not None and feature.vocabulary is not None:
            raise RecembError(
                f"{where}: it has num_ids and a vocabulary, which says how many there are; leave "
                "num_ids out"
            )
    _check_shared(features)
    return list(features.items())


def _check_shared(features: Mapping[str, Feature]) -> None:
    """Refuse features that read the same rows and number their values otherwise."""
    first_of: dict[tuple[str, str], tuple[str, Feature]] = {}
    for name, feature in features.items():
        space = feature.table, feature.table if feature.ids is None else feature.ids
        other, first = first_of.setdefault(space, (name, feature))
        if not _is_same(feature.vocabulary, first.vocabulary):
            raise RecembError(
                f"feature {name!r}: it reads the same rows as feature {other!r} but has another "
                "vocabulary, so one id would be two values; give both one vocabulary, or name "
                "whose ids they are (ids=)"
            )


def _is_same(one: Vocabulary | None, other: Vocabulary | None) -> bool:
    if one is None or other is None or one is other:
        return one is other
    return torch.equal(one.keys_V, other.keys_V) and torch.equal(one.index_V, other.index_V)


def _resolved(name: str, feature: Feature) -> ResolvedFeature:
    pooling = feature.pooling if feature.pooling is not None else "mean"
    config = FeatureConfig(table=feature.table, pooling=pooling, lookups=feature.lookups)
    space = feature.ids if feature.ids is not None else feature.table
    if feature.vocabulary is not None:
        known = feature.vocabulary
        ids = IdSpace(space, known.num_ids, known.counts_V)
    else:
        ids = IdSpace(space, feature.num_ids)
    return ResolvedFeature(name, config, ids, feature.pooling is not None)


def _check_rules(rules: Mapping[str, UpdateRule], tables: Mapping[str, TableConfig]) -> None:
    for name in tables:
        if name not in rules:
            raise RecembError(
                f"optimizer: table {name!r} has none, got some for {sorted(rules)}; add it"
            )
    for name in rules:
        if name not in tables:
            raise RecembError(
                f"optimizer: there is no table {name!r}, got tables {sorted(tables)}; rename it"
            )


def _make_store(
    physical: Mapping[str, PhysicalTable], rule: UpdateRule | Mapping[str, UpdateRule]
) -> RowsStore:
    if not isinstance(rule, Mapping):
        return new_store(physical, rule)
    return new_store(physical, {name: rule[_owner(name, rule)] for name in physical})


def _owner(physical: str, tables: Mapping[str, object]) -> str:
    """Return the table that a physical one is, or is a part of."""
    owners = [name for name in tables if physical == name or physical.startswith(f"{name}.")]
    return max(owners, key=len)


def _jagged(asked: Any) -> Any:
    """Return a nested tensor of torch as the bags that it is; all else as it is."""
    if isinstance(asked, Tensor) and asked.is_nested:
        nested: Any = asked
        if nested.layout != torch.jagged or nested.lengths() is not None:  # there are holes
            nested = torch.nested.as_nested_tensor(list(nested.unbind()), layout=torch.jagged)
        return Jagged(nested.values(), nested.offsets().diff())
    return asked


def _one_each(name: str, bag: Jagged) -> Tensor:
    """Return the ids of a feature that has one for each sample."""
    lengths_B = bag.lengths
    is_one = len(bag.values) == len(lengths_B)
    if is_one and lengths_B.device.type == "cpu":  # a GPU would have to be waited for
        is_one = bool((lengths_B == 1).all())
    if not is_one:
        raise RecembError(
            f"feature {name!r}: each sample must have one id, got bags of other sizes; give the "
            "feature a pooling"
        )
    return bag.values
