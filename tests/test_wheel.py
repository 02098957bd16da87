"""The wheel: it has all of the tree, and works where there is no clone."""

import os
import random
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXPORT = """
from recemb.command_line.main import main
assert main("export run/checkpoints/best.ckpt --output model.pt --run exported".split()) == 0
import recemb, recemb.models.din
from recemb.command_line.configs import with_found_configurations
print(recemb.__file__, recemb.models.din.__file__)
print(with_found_configurations(["--config", "din/synthetic.yaml"])[1])
"""
pytest.importorskip("setuptools")


def call(*command: str, cwd: Path, path: Path | None = None) -> str:
    """Run Python somewhere, with one folder to import from beside the environment."""
    # Isolated from the clone, which the environment may have installed as editable.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if path is not None:
        env["PYTHONPATH"] = str(path)
    ended = subprocess.run(
        [sys.executable, *command], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    # Building writes beside the sources.
    for name in ("recemb", "models", "data", "configs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    # No network: neither to build, nor for what it requires.
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir"]
    call("-m", "pip", "wheel", *options, str(folder), str(source), cwd=folder)
    (built,) = folder.glob("recemb-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel) -> Path:
    target = wheel.parent / "installed"
    options = ["--no-deps", "--no-index", "--quiet", "--target", str(target)]
    call("-m", "pip", "install", *options, str(wheel), cwd=wheel.parent)
    return target


def test_it_has_every_module_and_configuration(wheel):
    wanted = {"recemb/py.typed"}
    for folder, ends in (("recemb", "*.py"), ("models", "*.py"), ("data", "*.py"),
                         ("configs", "*.yaml")):  # fmt: skip
        above = ROOT if folder == "recemb" else ROOT / "recemb"
        wanted |= {
            (above / path.relative_to(ROOT)).relative_to(ROOT).as_posix()
            for path in (ROOT / folder).rglob(ends)
        }
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == wanted


def test_it_trains_and_exports_in_an_empty_folder(installed, tmp_path):
    draw = random.Random(1)
    rows = [
        f"{n % 2},u{draw.randrange(20)},{draw.randrange(9)},"
        f"{'|'.join(str(draw.randrange(9)) for _ in range(draw.randrange(4)))}"
        for n in range(400)
    ]
    (tmp_path / "clicks.csv").write_text("\n".join(["clicked,user,item,seen", *rows]) + "\n")
    verb = ("-W", "ignore", "-m", "recemb")
    for arguments in (
        "init clicks.csv --label clicked",
        "fit --config clicks.yaml --run run --trainer.max_epochs 1",
    ):
        call(*verb, *arguments.split(), cwd=tmp_path, path=installed)
    *_, own, model, found = call("-W", "ignore", "-c", EXPORT, cwd=tmp_path, path=installed).split()
    assert (tmp_path / "model.pt").is_file()
    for file in (own, model, found):
        assert Path(file).is_relative_to(installed)
