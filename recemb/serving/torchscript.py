"""TorchScript, which is what export promises, although torch steers its users to torch.export."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def torchscript_expected() -> Iterator[None]:
    """Silence what torch says of every use of ``torch.jit``, and nothing else."""
    with warnings.catch_warnings():
        # By its text: a DeprecationWarning in torch 2.13, a FutureWarning in 2.14.
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is (deprecated|not supported)")
        yield
