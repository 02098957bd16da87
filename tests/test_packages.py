"""Packages that recemb can do without: every verb says on a line how one is installed."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from recemb.packages import INSTALL
from recemb.rows.world import RATES
from tests.command_line.small import small_config

ROOT = Path(__file__).parents[1]
WITHOUT = """
import importlib.metadata, sys
hidden, *arguments = sys.argv[1:]
hidden = set(hidden.split(","))
class Without:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            return None
        return self.finder.find_spec(name, path, target)
    def find_distributions(self, context=importlib.metadata.DistributionFinder.Context()):
        if context.name and context.name.replace("-", "_").lower() in hidden:
            return []
        return getattr(self.finder, "find_distributions", lambda context: [])(context)
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
from recemb.command_line.main import main
sys.exit(main(arguments))
"""


def without(hidden: str, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    """Run a verb where some packages are not installed."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITHOUT, hidden, *arguments],
        cwd=cwd, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def refused(ended: subprocess.CompletedProcess) -> str:
    assert ended.returncode == 2, ended.stderr[-2000:]
    (line,) = [one for one in ended.stderr.splitlines() if not one.startswith("Seed set")]
    return line


def test_what_is_offered_exists():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for package, command in INSTALL.values():
        for extra in re.findall(r"\[(\w+)\]", command):
            required = " ".join(project["optional-dependencies"][extra])
            assert package in required or package == "sqlalchemy"  # optuna's own
        for path in re.findall(r"requirements/\w+\.txt", command):
            assert package in (ROOT / path).read_text()


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    (folder / "config.yaml").write_text(yaml.safe_dump(small_config(), sort_keys=False))
    (folder / "space.yaml").write_text("trainer.max_epochs: {int: [1, 2]}\n")
    run = folder / "run"
    run.mkdir()
    (run / "results.json").write_text('{"verb": "fit", "run": "run", "metrics": {"val/auc": 0.5}}')
    return folder


@pytest.mark.parametrize(
    ("hidden", "arguments", "package"),
    [
        ("torchrec,fbgemm_gpu", ["fit", "--config", "config.yaml", "--run", "new",
                                 "--trainer.strategy", "torchrec"], "torchrec"),
        ("optuna,sqlalchemy", ["sweep", "--config", "config.yaml", "--space", "space.yaml",
                               "--n-trials", "1", "--run", "swept"], "optuna"),
        ("matplotlib", ["report", "run"], "matplotlib"),
        ("matplotlib", ["search", "--config", "config.yaml", "--share", "0.5", "--plots",
                        "--run", "searched"], "matplotlib"),
    ],
    ids=["fit", "sweep", "report", "search"],
)  # fmt: skip
def test_a_missing_package_is_one_line_with_the_way_to_install_it(
    hidden, arguments, package, files, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    line = refused(without(hidden, *arguments, cwd=files))
    assert f"needs {package}, which is not installed; {INSTALL[package][1]}" in line


SHARDED = "torchrec,fbgemm_gpu,tensordict,iopath,pyre_extensions"


WHOLE = """
for line in sys.stdin:
    if main(line.split()):
        sys.exit(f"failed: {line}")
"""
IMPORTS = """
import importlib, pkgutil, sys
for package in ("models", "data", "command_line"):
    path = importlib.import_module(f"recemb.{package}").__path__
    for found in pkgutil.walk_packages(path, f"recemb.{package}."):
        importlib.import_module(found.name)
print("imported", sorted(set(sys.argv[1].split(",")) & set(sys.modules)))
"""


def test_one_process_trains_predicts_and_exports_without_what_shards(files, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    fit = "fit --config config.yaml --run alone --trainer.max_epochs 1"
    checkpoint = "alone/checkpoints/best.ckpt"
    verbs = [
        f"{fit} --trainer.limit_train_batches 2",
        f"predict --config config.yaml --ckpt_path {checkpoint} --run predicted",
        f"export {checkpoint} --output model.pt",
    ]
    code = WITHOUT.replace("sys.exit(main(arguments))\n", WHOLE)
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, SHARDED],
        cwd=files, input="\n".join(verbs), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert list((files / "predicted").glob("predictions.*"))
    assert (files / "model.pt").is_file()


def test_verbs_models_and_readers_never_import_what_shards(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    command = [sys.executable, "-W", "ignore", "-c", IMPORTS, SHARDED]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ended.stdout == "imported []\n", ended.stderr[-2000:]


def test_a_sweep_and_a_plan_need_no_torchrec_of_their_own():
    for verb in ("sweep", "plan"):
        assert without("torchrec,fbgemm_gpu", verb, "--help").returncode == 0


def test_rates_of_a_gpu_are_those_of_torchrec():
    constants = pytest.importorskip("torchrec.distributed.planner.constants")
    rates = RATES["cuda"]
    assert rates.memory == pytest.approx(constants.HBM_MEM_BW * 1000)
    assert rates.local == pytest.approx(constants.INTRA_NODE_BANDWIDTH * 1000)
    assert rates.network == pytest.approx(constants.CROSS_NODE_BANDWIDTH * 1000)
