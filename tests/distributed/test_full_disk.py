"""A full disk leaves the previous checkpoint as it was."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MEGABYTES = 5
"""Of the disk: rows and Adam's two states are 1.9 MB, so two checkpoints fit."""


def small_disk(folder: Path, script: str, kilobytes: int) -> list[str]:
    """Return the command that runs a script with a small disk of its own at a folder."""
    if not sys.platform.startswith("linux") or not shutil.which("unshare"):
        pytest.skip("a small disk needs Linux with unshare")
    mount = f"mount -t tmpfs -o size={kilobytes}k none {folder}"
    inside = ["unshare", "--map-root-user", "--mount", "bash", "-c"]
    if subprocess.run([*inside, mount], capture_output=True).returncode:
        pytest.skip("this user may mount nothing")
    return [*inside, f"{mount} && {script}"]


def test_the_previous_checkpoint_stays(tmp_path: Path) -> None:
    command = f"exec {sys.executable} -W ignore -m tests.distributed.full_disk {tmp_path}"
    script = small_disk(tmp_path, command, kilobytes=MEGABYTES * 1024)
    ended = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert "rows could not be written by process 0" in ended.stdout
    assert "make room, the previous checkpoint is untouched" in ended.stdout
