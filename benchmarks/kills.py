"""Kill processes of a sharded training at random; hold what comes out against an undisturbed one.

Run ``python benchmarks/kills.py`` from the root with ``RECEMB_DATA`` set. The same command, with
``--resume``, is started until it ends well; one process, drawn at random, is killed (SIGKILL) in
each life but the last: half of the times while a checkpoint is being written, else at a random
moment of training. Prints each kill and whether weights and optimizer states are equal to the bit.
"""

import argparse
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from recemb.checkpoint import read_checkpoint

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "configs/dcn/movielens1m.yaml"


def start(processes: int, epochs: int, run: Path) -> subprocess.Popen:
    """Start the training, or go on with it."""
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run"]
    command += ["--nproc-per-node", str(processes), "--rdzv-backend", "c10d"]
    command += ["--rdzv-endpoint", "localhost:0", "-m", "--", "recemb", "fit", "--config", CONFIG]
    command += ["--trainer.strategy", "torchrec", "--trainer.max_epochs", str(epochs)]
    # Short epochs, so that checkpoints are many; none ends the training early.
    command += ["--data.init_args.batch_size", "8192", "--trainer.callbacks", "[]"]
    command += ["--trainer.enable_progress_bar", "false", "--run", str(run), "--resume"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def ranks(launcher: subprocess.Popen) -> list[int]:
    """Return the process numbers of a launcher's processes, as far as they are there."""
    path = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
    return [int(child) for child in path.read_text().split()]


def state(path: Path) -> tuple[int, dict[str, torch.Tensor]]:
    """Return the number of steps and every weight and state of a checkpoint."""
    checkpoint = read_checkpoint(path)
    return checkpoint["global_step"], {**checkpoint["state_dict"], **checkpoint["rows_optimizer"]}


def kill_one(
    args: argparse.Namespace, run: Path, draw: random.Random, when: str
) -> tuple[str, float] | None:
    """Live until a kill; return what happened and the seconds until all had ended.

    None if the training ended before.
    """
    checkpoints = run / "checkpoints"
    folders, logs = set(checkpoints.glob("*.rows-*")), set(run.glob("csv*"))
    launcher = start(args.processes, args.epochs, run)
    wait = draw.uniform(0, args.seconds)
    begun: float | None = None
    while launcher.poll() is None:
        now = time.monotonic()
        if begun is None and set(run.glob("csv*")) - logs:
            begun = now
        if when == "writing" and set(checkpoints.glob("*.rows-*")) - folders:
            time.sleep(draw.uniform(0, 0.05))
            break
        if when == "training" and begun is not None and now - begun > wait:
            break
        time.sleep(0.001)
    else:
        errors = launcher.communicate()[1]
        assert launcher.returncode == 0, errors[-3000:]
        return None
    victim = draw.randrange(args.processes)
    os.kill(ranks(launcher)[victim], signal.SIGKILL)
    killed = time.monotonic()
    errors = launcher.communicate(timeout=120)[1]
    seconds = time.monotonic() - killed
    lines = errors.count("another process was lost")
    step = state(checkpoints / "last.ckpt")[0] if (checkpoints / "last.ckpt").is_file() else 0
    what = (
        f"rank {victim} while {when}; all ended after {seconds:.1f} s with {lines} line(s); last "
        f"checkpoint readable, step {step}"
    )
    return what, seconds


def main() -> None:
    """Kill, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=8.0, help="of training before a kill")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    draw = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as temporary:
        quiet, run = Path(temporary) / "quiet", Path(temporary) / "run"
        errors = start(args.processes, args.epochs, quiet).communicate()[1]
        assert (quiet / "results.json").is_file(), errors[-3000:]
        seconds: list[float] = []
        while len(seconds) < args.kills:
            found = kill_one(args, run, draw, draw.choice(("writing", "training")))
            assert found is not None, "the training ended before the last kill; raise --epochs"
            seconds.append(found[1])
            print(f"kill {len(seconds)}: {found[0]}", flush=True)
        errors = start(args.processes, args.epochs, run).communicate()[1]
        assert (run / "results.json").is_file(), errors[-3000:]
        for name in ("last.ckpt", "best.ckpt"):
            (steps, wanted), (got_steps, got) = (
                state(folder / "checkpoints" / name) for folder in (quiet, run)
            )
            same = set(wanted) == set(got) and all(torch.equal(wanted[k], got[k]) for k in wanted)
            equal = "equal to the bit" if same and steps == got_steps else "DIFFERENT"
            print(f"{name}: step {got_steps} of {steps}, {len(wanted)} tensors {equal}")
        print(
            f"{len(seconds)} kills; seconds until all had ended: median "
            f"{statistics.median(seconds):.1f}, at most {max(seconds):.1f}; "
            f"{platform.machine()}, torch {torch.__version__}"
        )


if __name__ == "__main__":
    main()
