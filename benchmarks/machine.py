"""What the figures of a benchmark depend on, for the head of its results."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path


def machine() -> str:
    """Return the commit that is checked out, the machine and the versions, as a sentence."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    root = Path(__file__).resolve().parents[1]
    commit = subprocess.run(command, cwd=root, capture_output=True, text=True).stdout.strip()
    return (
        f"Commit {commit or 'unknown'}; {os.cpu_count()} CPUs ({processor()}), Python "
        f"{platform.python_version()}, torch {importlib.metadata.version('torch')}."
    )


def processor() -> str:
    """Return the processor's name, where the system tells it, and its kind elsewhere."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
