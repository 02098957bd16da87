"""Settings of the session transformer, each with what it allows."""

from dataclasses import dataclass, field
from typing import Literal

from recemb.errors import RecembError
from recemb.models.catalogue_ranking import metric_names
from recemb.schema import Schema


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """The encoder of sequences. Its width is that of the tables."""

    num_layers: int = 2
    """Blocks of attention and perceptron."""
    num_heads: int = 2
    """Attention heads, of which the width is a multiple."""
    hidden: int = 256
    """Width of the perceptrons."""
    dropout: float = 0.3
    """Share of values dropped in training."""
    attention_dropout: float = 0.0
    """Share of attention weights dropped in training."""
    max_length: int = 50
    """Of a longer sequence the last so many items are read."""
    weight_decay: float = 0.0
    """Of the network's weights, decoupled from their gradients (AdamW); not of rows."""
    readout: Literal["state", "items"] = "state"
    """What a position expects: ``state``: what the encoder makes of it; ``items``: a mean of the
    items so far, weighted by attention of these states
    (:class:`recemb.models.transformer.Readout`)."""
    products: Literal["fp32", "bf16"] = "fp32"
    """Factors of matrix products in training. ``bf16`` allows a CPU to round them to bf16, which
    those with instructions for it (AMX) do; on others products stay exact, but are oneDNN's, which
    on AMD take a third of the time of MKL's."""

    def check(self, dim: int) -> None:
        """Raise a :class:`RecembError` if a setting is out of range."""
        for name in ("num_layers", "num_heads", "hidden", "max_length"):
            if getattr(self, name) < 1:
                raise RecembError(f"network: {name} must be at least 1, got {getattr(self, name)}")
        for name in ("dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise RecembError(
                    f"network: {name} must be at least 0 and below 1, got {getattr(self, name)}"
                )
        if not self.weight_decay >= 0:
            raise RecembError(f"network: weight_decay must be at least 0, got {self.weight_decay}")
        if dim % self.num_heads:
            raise RecembError(
                f"network: num_heads must divide the width of the tables, got {self.num_heads} for "
                f"{dim}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """What is learned."""

    num_sampled: int | None = None
    """Items drawn per step as candidates beside those of the batch (sampled softmax, corrected for
    how likely each is drawn); None: all items are candidates."""
    unseen: bool = True
    """Whether items that training lacks are candidates too, and so learned to be unlikely. False
    where items are their attributes: it then says nothing against new ones."""
    temperature: float | None = None
    """If given, items and queries are unit vectors, and scores are cosines divided by this."""
    heads: dict[str, float] = field(default_factory=dict)
    """Attributes of the next item that are predicted too, and the weights of their losses."""

    def check(self, schema: Schema) -> None:
        """Raise a :class:`RecembError` if a setting does not fit the data."""
        if self.num_sampled is not None and self.num_sampled < 1:
            raise RecembError(f"objective: num_sampled must be at least 1, got {self.num_sampled}")
        if self.temperature is not None and not self.temperature > 0:
            raise RecembError(f"objective: temperature must be above 0, got {self.temperature}")
        for name, weight in self.heads.items():
            if name not in schema.attributes:
                raise RecembError(
                    f"objective: head {name!r} must be an attribute of items, of "
                    f"{sorted(schema.attributes)}"
                )
            if not weight > 0:
                raise RecembError(
                    f"objective: the weight of head {name!r} must be above 0, got {weight}"
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class Codebook:
    """Output by codes (:mod:`recemb.models.codebook_logits`), found once items have vectors."""

    num_codes: int = 1000
    """Vectors of the output."""
    num_probes: int = 50
    """Codes whose items are looked at for a query."""
    rerank: bool = True
    """Whether those items are scored by their own vectors; else by code and bias, and items have no
    vectors in the output."""
    start_epoch: int = 10
    """Training epoch, from 0, before which items get their codes; until then outputs are items'
    vectors."""

    def check(self, num_items: int) -> None:
        """Raise a :class:`RecembError` if a setting is out of range."""
        for name, high in (("num_codes", num_items), ("num_probes", self.num_codes)):
            if not 1 <= getattr(self, name) <= high:
                raise RecembError(
                    f"codebook: {name} must be in 1..{high}, got {getattr(self, name)}"
                )
        if self.start_epoch < 0:
            raise RecembError(f"codebook: start_epoch must be at least 0, got {self.start_epoch}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """How predictions are measured: all items are ranked."""

    cutoffs: list[int] = field(default_factory=lambda: [5, 10, 20])
    """The k of hr@k, recall@k, ndcg@k and mrr@k."""
    exclude_history: bool = True
    """Whether items of the history are left out of the ranking: where nobody takes one twice."""
    cold: int = 5
    """Items with fewer training clicks are reported apart, and those with none."""
    monitor: str = "ndcg@10"
    """The metric by which the best epoch is chosen."""

    def check(self) -> None:
        """Raise a :class:`RecembError` if a setting is out of range."""
        if not self.cutoffs or min(self.cutoffs) < 1:
            raise RecembError(f"evaluation: cutoffs must be at least 1, got {self.cutoffs}")
        if self.monitor not in metric_names(self.cutoffs):
            raise RecembError(
                f"evaluation: monitor must be one of {metric_names(self.cutoffs)}, got "
                f"{self.monitor!r}"
            )
