"""World: the processes that share rows, what each may hold, and how fast each moves bytes."""

from dataclasses import dataclass
from typing import Literal

from recemb.errors import RecembError

Device = Literal["cpu", "cuda"]
SHARE = 0.85
"""Of a process's memory, what rows and their batch may take; the rest is for the network, its
activations and the allocator. TorchRec's planner keeps as much back."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """How fast one process moves bytes; each above 0, but the time of a message may be 0."""

    memory: float
    """Bytes per second, read or written, in its own memory."""
    local: float
    """Bytes per second to processes of its machine."""
    network: float
    """Bytes per second to processes of other machines."""
    message_s: float
    """Seconds that a collective takes however little is in it."""


_GIB = 1 << 30
RATES: dict[Device, Rates] = {
    # Fitted to LocalRowsStore and TorchRecRowsStore on 2 cores of an AMD EPYC, two processes over
    # gloo: an exchange is bound by what TorchRec does around it, not by the wire.
    "cpu": Rates(memory=8e9, local=0.3e9, network=0.3e9, message_s=6e-4),
    # TorchRec's, without importing it, so that plans need it as little as training in one process
    # does: HBM of a V100, NVLink of an A100, a network of 100 Gb/s. It has no time per message;
    # this one is that of a few kernel launches and is an assumption.
    "cuda": Rates(memory=897 * _GIB, local=600 * _GIB, network=12.5 * _GIB, message_s=5e-5),
}
"""What is taken of a device of which nothing else is said."""


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """Processes, equal to each other.

    Attributes:
        size: How many; at least 1.
        local_size: How many of them a machine has; at least 1.
        batch_size: Samples of a training batch, of all processes together; at least 1.
        rates: How fast bytes move.
        memory_bytes: Of each process; None: no limit.
        share: Of that memory, what rows and their batch may take; above 0 and at most 1.

    Raises:
        RecembError: If a number is out of its range.
    """

    size: int
    local_size: int
    batch_size: int
    rates: Rates
    memory_bytes: int | None = None
    share: float = SHARE

    def __post_init__(self) -> None:
        for name in ("size", "local_size", "batch_size"):
            if getattr(self, name) < 1:
                raise RecembError(f"world: {name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.share <= 1:
            raise RecembError(f"world: share must be above 0 and at most 1, got {self.share}")

    @property
    def limit_bytes(self) -> float:
        """What rows and their batch may take in each process; infinite without a limit."""
        return float("inf") if self.memory_bytes is None else int(self.memory_bytes * self.share)

    def exchange_s(self, num_bytes: float) -> float:
        """Return the seconds of an exchange, without those of its messages.

        Args:
            num_bytes: Those that a process sends to all, itself among them, in equal parts.
        """
        near = min(self.local_size, self.size)
        per_byte = (near - 1) / self.rates.local + (self.size - near) / self.rates.network
        return num_bytes * per_byte / self.size
