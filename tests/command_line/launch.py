"""Start the command on several processes, as a user does."""

import os
import subprocess
import sys

from tests.command_line.small import ROOT

ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def torchrun_command(processes: int, *arguments: str) -> list[str]:
    """Return a command line that runs a verb on several processes."""
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run"]
    command += ["--nproc-per-node", str(processes), "--rdzv-backend", "c10d"]
    return [*command, "--rdzv-endpoint", "localhost:0", "-m", "--", "recemb", *arguments]


def torchrun(processes: int, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
    """Run a verb on several processes; return what it printed."""
    ended = subprocess.run(
        torchrun_command(processes, *arguments),
        cwd=ROOT,
        env=ONE_THREAD,
        capture_output=True,
        text=True,
        timeout=200,
    )
    if check:
        assert ended.returncode == 0, ended.stderr[-3000:]
    return ended
