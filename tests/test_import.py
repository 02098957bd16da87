"""Importing recemb: nothing that takes long but torch."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAVY = {
    "faiss", "fbgemm_gpu", "jsonargparse", "lightning", "matplotlib", "optuna", "pandas", "polars",
    "polars_hash", "pyarrow", "pytorch_lightning", "scipy", "sklearn", "tensorboard", "tensordict",
    "torch._dynamo", "torchmetrics", "torchrec", "yaml",
}  # fmt: skip
NAMES = """
import sys, torch
before = set(sys.modules)
import recemb
new = set(sys.modules) - before
print(*sorted({name.partition(".")[0] for name in new} | new & {"torch._dynamo"}))
"""


def test_importing_recemb_imports_nothing_heavy():
    done = subprocess.run(
        [sys.executable, "-c", NAMES],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    imported = set(done.stdout.split())
    assert "recemb" in imported
    assert not imported & HEAVY
