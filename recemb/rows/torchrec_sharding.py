"""TorchRec's sharded embedding collections, with the local rows store as their kernel.

TorchRec decides which rank owns which piece of a table, sends row numbers there and vectors back,
and gradients the other way. What happens on the owner is an *embedding kernel*: TorchRec's are
FBGEMM's, which on a CPU know SGD and Adagrad only, no dimension but multiples of 4 and fp32 alone.
Here it is a :class:`~recemb.rows.local.LocalRowsStore` over the pieces of a rank, so that every
optimizer and every precision trains sharded by the same code as in one process. TorchRec has a
place for such kernels: compute kernel ``customized_kernel``, which leaves state to the subclass.

Source: Ivchenko et al., "TorchRec: a PyTorch Domain Library for Recommendation Systems", RecSys
2022.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed._shard.metadata import ShardMetadata
from torch.distributed._shard.sharding_spec.api import EnumerableShardingSpec
from torchrec import EmbeddingCollection, EmbeddingConfig, KeyedJaggedTensor
from torchrec.distributed.embedding import ShardedEmbeddingCollection
from torchrec.distributed.embedding_types import EmbeddingComputeKernel, GroupedEmbeddingConfig
from torchrec.distributed.types import ParameterSharding, ShardingEnv

from recemb.physical import PhysicalTable, zeros
from recemb.rows.local import LocalRowsStore
from recemb.rows.optimizers import UpdateRule
from recemb.rows.placement import Piece, Placement


class Lookup(nn.Module):
    """The pieces of a rank in one TorchRec sharding: row numbers in, vectors out."""

    def __init__(
        self,
        groups: Sequence[GroupedEmbeddingConfig],
        name_of: Mapping[str, str],
        physical: Mapping[str, PhysicalTable],
        optimizer: UpdateRule,
        device: torch.device,
    ) -> None:
        super().__init__()
        pieces = [piece for group in groups for piece in group.embedding_tables]
        self.names = [
            f"{name_of[piece.name]}@{piece.local_metadata.shard_offsets[1]}" for piece in pieces
        ]
        own = {
            name: replace(
                physical[name_of[piece.name]],
                num_rows=piece.local_rows,
                dim=piece.local_cols,
                initializer=zeros,  # the store that owns the whole assigns what it has drawn
            )
            for name, piece in zip(self.names, pieces, strict=True)
        }
        self.store = LocalRowsStore(own, optimizer, seed=0).to(device)
        self.store.titles = {
            name: name_of[piece.name] for name, piece in zip(self.names, pieces, strict=True)
        }
        bases = [self.store.base_row(name) for name in self.names]
        self.register_buffer("base_K", torch.tensor(bases, dtype=torch.int64), persistent=False)
        self.register_buffer("nothing", torch.zeros(0, requires_grad=True), persistent=False)
        self.to(device)

    def forward(self, rows: KeyedJaggedTensor) -> Tensor:
        """Return the vectors of all row numbers, in their order, as one list of elements."""
        if not self.names:
            return self.get_buffer("nothing")
        sizes_K = torch.tensor(rows.length_per_key(), device=rows.values().device)
        base_T = torch.repeat_interleave(self.get_buffer("base_K"), sizes_K)
        gathered = self.store.gather(self.names, rows.values().to(torch.int64) + base_T, sizes_K)
        return gathered.view(-1)

    def named_parameters_by_table(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield nothing: state is the rows store's business."""
        return iter(())

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Return nothing, for the same reason."""
        return {}


class ShardedTables(ShardedEmbeddingCollection):  # type: ignore[misc]
    """Tables of one form, sharded by TorchRec over :class:`Lookup` kernels.

    Args:
        physical: The tables.
        placements: How each is cut.
        optimizer: Of the rows.
        env: World size, rank and process group.
        device: Of this rank's pieces.
    """

    def __init__(
        self,
        physical: Mapping[str, PhysicalTable],
        placements: Mapping[str, Placement],
        optimizer: UpdateRule,
        env: ShardingEnv,
        device: torch.device,
    ) -> None:
        # TorchRec's names are names of modules, which ours need not be.
        key_of = {name: f"table{number}" for number, name in enumerate(physical)}
        configs = [
            EmbeddingConfig(
                name=key_of[name],
                embedding_dim=table.dim,
                num_embeddings=table.num_rows,
                feature_names=[key_of[name]],
            )
            for name, table in physical.items()
        ]
        plan = {
            key_of[name]: ParameterSharding(
                sharding_type=placements[name].how,
                compute_kernel=EmbeddingComputeKernel.CUSTOMIZED_KERNEL.value,
                ranks=list(placements[name].ranks),
                sharding_spec=EnumerableShardingSpec(
                    [_metadata(piece, device) for piece in placements[name].pieces(physical[name])]
                ),
            )
            for name in physical
        }
        self.key_of = key_of
        self._physical, self._optimizer_of_rows = physical, optimizer
        # On the meta device: no table is ever whole in one process.
        whole = EmbeddingCollection(tables=configs, device=torch.device("meta"))
        super().__init__(whole, plan, env, device=device)

    def _create_lookups(self) -> None:
        """Make our kernels where TorchRec would make FBGEMM's."""
        for sharding in self._sharding_type_to_sharding.values():
            self._lookups.append(
                Lookup(
                    sharding._grouped_embedding_configs,
                    {key: name for name, key in self.key_of.items()},
                    self._physical,
                    self._optimizer_of_rows,
                    self._device or torch.device("cpu"),
                )
            )

    def reset_parameters(self) -> None:
        """Draw nothing: the rows store assigns what rows begin with."""

    def stores(self) -> list[LocalRowsStore]:
        """Return this rank's stores, one per sharding type."""
        return [lookup.store for lookup in self._lookups if isinstance(lookup, Lookup)]


def _metadata(piece: Piece, device: torch.device) -> ShardMetadata:
    place = f"rank:{piece.rank}/{device.type}" + (
        f":{piece.rank % torch.cuda.device_count()}" if device.type == "cuda" else ""
    )
    return ShardMetadata(
        shard_offsets=[piece.first_row, piece.first_column],
        shard_sizes=[piece.num_rows, piece.num_columns],
        placement=place,
    )
