"""Packages that recemb can do without: every verb says on a line how one is installed."""

import importlib.metadata
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from recemb.errors import RecembError
from recemb.packages import EXTRAS, check_sharding, check_torch
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
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    # fbgemm is of the device, and torchrec is installed without its requirements.
    apart = {"fbgemm-gpu": "cpu.txt", "torchrec": "torchrec.txt"}
    for package, extra in EXTRAS.values():
        if package in apart:
            assert package in (ROOT / "requirements" / apart[package]).read_text()
        else:
            assert package in " ".join(extras[extra]) or package == "sqlalchemy"  # optuna's own


@pytest.fixture
def installed(monkeypatch):
    """Versions of packages; those that are not named are not installed."""

    def say(**versions: str) -> None:
        named = {name.replace("_", "-"): version for name, version in versions.items()}

        def version(package: str) -> str:
            if package in named:
                return named[package]
            raise importlib.metadata.PackageNotFoundError(package)

        monkeypatch.setattr(importlib.metadata, "version", version)

    return say


@pytest.mark.parametrize("version", ["2.8.0", "2.13.0+cpu", "2.15.1", "3.0.0a1"])
def test_torch_of_2_8_or_newer_will_do(version, installed):
    installed(torch=version)
    check_torch()


def test_an_older_torch_is_named(installed):
    installed(torch="2.7.1+cpu")
    with pytest.raises(RecembError) as refused:
        check_torch()
    line = "recemb needs torch 2.8 or newer, got 2.7; pip install --upgrade torch"
    assert str(refused.value) == line


def test_what_shards_is_of_the_release_that_fits_torch(installed):
    installed(torch="2.13.0+cpu", torchrec="1.8.0", fbgemm_gpu_cpu="1.8.0")
    check_sharding()
    installed(torch="2.14.1", torchrec="1.9.2", fbgemm_gpu="1.9.0")
    check_sharding()
    installed(torch="2.14.1")
    check_sharding()


@pytest.mark.parametrize("package", ["torchrec", "fbgemm-gpu", "fbgemm-gpu-cpu"])
def test_what_does_not_fit_torch_is_named(package, installed):
    versions = {"torchrec": "1.9.2", "fbgemm_gpu": "1.9.0"}
    installed(torch="2.14.1", **{**versions, package.replace("-", "_"): "1.8.0"})
    with pytest.raises(RecembError) as refused:
        check_sharding()
    assert str(refused.value) == (
        f"torch 2.14 needs {package} 1.9, got 1.8; pip install 'recemb[distributed]' "
        "'fbgemm-gpu-cpu==1.9.*' (with a GPU fbgemm-gpu), then pip install --no-deps "
        "'torchrec==1.9.*'"
    )


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
    ("hidden", "arguments", "package", "extra"),
    [
        ("torchrec,fbgemm_gpu", ["fit", "--config", "config.yaml", "--run", "new",
                                 "--trainer.strategy", "torchrec"], "torchrec", "distributed"),
        ("optuna,sqlalchemy", ["sweep", "--config", "config.yaml", "--space", "space.yaml",
                               "--n-trials", "1", "--run", "swept"], "optuna", "sweep"),
        ("matplotlib", ["report", "run"], "matplotlib", "sweep"),
        ("matplotlib", ["search", "--config", "config.yaml", "--share", "0.5", "--plots",
                        "--run", "searched"], "matplotlib", "sweep"),
    ],
    ids=["fit", "sweep", "report", "search"],
)  # fmt: skip
def test_a_missing_package_is_one_line_with_the_way_to_install_it(
    hidden, arguments, package, extra, files, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    line = refused(without(hidden, *arguments, cwd=files))
    assert f"needs {package}, which is not installed; pip install 'recemb[{extra}]'" in line


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
