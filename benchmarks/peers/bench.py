"""What both halves of the peer benchmark stand on: settings, environment, data.

An environment or a data set that is there is not made again.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
ENVIRONMENT = HERE / ".venv-fuxictr"
REQUIREMENTS = HERE / "requirements-fuxictr.txt"
SETTINGS = HERE / "settings.yaml"


class BenchmarkError(Exception):
    """A run that cannot go on; its message is one line for the user."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """What every run of one benchmark has in common."""

    settings: dict[str, Any]
    """The content of ``settings.yaml``."""
    layout: Path
    """The data in the layout of FuxiCTR's loader."""
    folder: Path
    """Where the JSON of finished runs is kept."""
    num_threads: int
    """Threads of torch in both libraries."""


def open_bench(num_threads: int) -> Bench:
    """Read the settings, build what is missing and return the benchmark.

    Raises:
        BenchmarkError: If a file is missing, or the environment or the data cannot be made.
    """
    settings = yaml.safe_load(SETTINGS.read_text())
    config = ROOT / settings["recemb"]["config"]
    if not config.is_file():
        raise BenchmarkError(f"{config}: recemb's configuration is not there; see {SETTINGS.name}")
    folder = HERE / "runs" / f"threads{num_threads}"
    (folder / "work").mkdir(parents=True, exist_ok=True)
    build_environment()
    layout = lay_out(prepare_data())
    return Bench(settings=settings, layout=layout, folder=folder, num_threads=num_threads)


def build_environment() -> None:
    """Make FuxiCTR's environment unless it was made whole from the same requirements."""
    stamp = ENVIRONMENT / "built-from.txt"
    wanted = REQUIREMENTS.read_text()
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    print("environment of FuxiCTR: installing, a few minutes", flush=True)
    torch = next(line for line in wanted.splitlines() if line.startswith("torch=="))
    python = str(ENVIRONMENT / "bin" / "python")
    call([sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)], "python -m venv")
    # The pinned torch goes first: a resolver that chooses torch itself may fetch gigabytes.
    for packages in ([torch], ["-r", str(REQUIREMENTS)]):
        call([python, "-m", "pip", "install", "--quiet", *packages], f"pip install {packages[-1]}")
    stamp.write_text(wanted)


def prepare_data() -> Path:
    """Let recemb prepare MovieLens-1M from ``$RECEMB_DATA/ml-1m``; return its folder."""
    code = (
        "import sys; from pathlib import Path; "
        "from recemb.data.movielens import data_root, prepare; "
        "print(prepare(data_root() / 'ml-1m', Path(sys.argv[1])).resolve())"
    )
    folder = HERE / "runs" / "prepared"
    folder.mkdir(parents=True, exist_ok=True)
    return Path(call([sys.executable, "-c", code, str(folder)], "data").splitlines()[-1])


def lay_out(prepared: Path) -> Path:
    """Write the layout of FuxiCTR's loader, unless it is there; return its folder."""
    # Data prepared in another format has another folder name, so no stale layout is read.
    layout = HERE / "runs" / "fuxictr" / "data" / prepared.name / "movielens1m"
    script = HERE / "fuxictr_layout.py"
    command = [str(ENVIRONMENT / "bin" / "python"), str(script), str(prepared), str(layout)]
    call(command, "layout for FuxiCTR")
    return layout


def call(command: list[str], what: str) -> str:
    """Run a short command from the root of the clone and return what it printed.

    Raises:
        BenchmarkError: If it fails, with its last line.
    """
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        raise BenchmarkError(f"{what}: failed with exit code {done.returncode}: {lines[-1]}")
    return done.stdout
