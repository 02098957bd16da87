"""A process in which torch can be imported and the rest of this project's world cannot."""

import json
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor

BLOCKED = """
import json, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"recemb", "models", "data", "tests", "torchrec", "fbgemm_gpu",
                                  "lightning", "polars", "polars_hash", "torchmetrics"}:
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Blocked())
import warnings
warnings.simplefilter("ignore")
import torch
torch.set_num_threads(1)
for line in sys.stdin:
    program, inputs, outputs = json.loads(line)
    try:
        loaded = torch.jit.load(program)
        answers = [loaded(one) for one in torch.load(inputs, weights_only=True)]
        torch.save([tuple(one) for one in answers], outputs)
        print(json.dumps("done"), flush=True)
    except Exception as error:
        print(json.dumps(f"{type(error).__name__}: {error}"), flush=True)
"""


class Alone:
    """Runs exported programs, one after the other, in one such process."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", BLOCKED],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
        )

    def __call__(
        self, program: Path, requests: list[dict[str, Tensor]]
    ) -> list[tuple[Tensor, ...]]:
        """Return the answers to some requests."""
        inputs, outputs = program.with_suffix(".in"), program.with_suffix(".out")
        torch.save(requests, inputs)
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps([str(program), str(inputs), str(outputs)]) + "\n")
        self.process.stdin.flush()
        said = self.process.stdout.readline()
        assert said == '"done"\n', said or f"it ended with {self.process.wait(10)}"
        answers: list[tuple[Tensor, ...]] = torch.load(outputs, weights_only=True)
        return answers

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()
