"""The verbs sweep and report, on a click log that is trained on in seconds."""

import html.parser
import json
from pathlib import Path

import pytest
import yaml

from recemb.command_line.main import main
from recemb.command_line.sweep.trial import EPOCH, SIZE, Trials
from recemb.command_line.train import TrainingCLI
from recemb.sweep.report.content import read_runs
from tests.command_line.launch import torchrun
from tests.command_line.small import small_config, write

pytest.importorskip("optuna")

LIGHTNING = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec:FutureWarning",
    "ignore:.*does not have many workers",
    "ignore:.*exists and is not empty",
    "ignore:.*is deprecated",
)
"""Notices of Lightning's own, which the command line silences."""
USER = "model.init_args.tables.user"
RATE = "model.init_args.rows_optimizer.learning_rate"
SPACE = {
    USER: {
        "choice": {
            "plain": {"kind": "full", "dim": 8, "precision": {"choice": ["fp32", "int8"]}},
            "hashed": {"kind": "hashed", "dim": 8, "share": {"float": [0.1, 0.5]}},
            "too_large": {"kind": "hashed", "dim": 8, "num_rows": 1_000_000},
        }
    },
    RATE: {"choice": [0.003, 0.01, 1e30]},
    "first": [
        {USER: "plain", f"{USER}.plain.precision": "int8", RATE: "0.01"},
        {USER: "plain", f"{USER}.plain.precision": "fp32", RATE: "1e+30"},
        {USER: "too_large", RATE: "0.01"},
        {USER: "hashed", f"{USER}.hashed.share": 0.2, RATE: "0.003"},
    ],
}


def config() -> dict:
    """A plain table of users beside a unified one."""
    found = small_config()
    model = found["model"]["init_args"]
    model["tables"] = {"shared": {"kind": "unified", "num_rows": 300, "dim": 8}}
    model["tables"]["user"] = {"kind": "full", "dim": 8}
    model["features"]["user"] = {"table": "user"}
    found["trainer"]["max_epochs"] = 2
    return found


def options(folder: Path, space: dict = SPACE, trials: int = 3) -> list[str]:
    """Write configuration and space, and return the command."""
    folder.mkdir(exist_ok=True)
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump(space))
    where = [
        "--config",
        write(config(), folder),
        "--space",
        str(path),
        "--run",
        str(folder / "run"),
    ]
    return ["sweep", *where, "--n-trials", str(trials), "--pruner", "none", "--budget", "1MB"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Path:
    """The run folder of a finished sweep with a goal."""
    folder = tmp_path_factory.mktemp("sweep")
    assert main([*options(folder), "--goal", "loss<=0.5"]) == 0
    return folder / "run"


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_trials_are_counted_failed_and_refused(swept):
    trials = read(swept / "trials.json")["trials"]
    assert [one["state"] for one in trials] == ["complete", "failed", "refused", "complete"]
    assert "not finite" in trials[1]["attrs"]["reason"].lower()
    assert "32.0" in trials[2]["attrs"]["reason"]  # 1,000,000 rows of 8 fp32 elements
    assert "exceed the budget of 1.00 MB" in trials[2]["attrs"]["reason"]
    assert read(swept / "results.json")["trials"] == {"complete": 2, "failed": 1, "refused": 1}


def test_bytes_are_those_of_the_trained_tables(swept):
    for one in read(swept / "trials.json")["trials"]:
        if one["state"] == "complete":
            tables = one["attrs"]["tables"]
            assert one["values"][1] == sum(table["bytes"] for table in tables.values())


def test_the_best_trial_is_reproduced_to_the_bit(swept, tmp_path):
    results = read(swept / "results.json")
    fitted = tmp_path / "fitted"
    assert main(["fit", "--config", str(swept / "best.yaml"), "--run", str(fitted)]) == 0
    metrics = read(fitted / "results.json")["metrics"]
    best = results["best"]
    assert metrics["val/auc"] == best["values"]["val/auc"]
    assert {name: metrics[name] for name in best["test"]} == best["test"]


def test_the_goal_has_its_evidence(swept):
    goal = read(swept / "results.json")["goal"]
    done = {
        one["number"]: one["values"]
        for one in read(swept / "trials.json")["trials"]
        if one["state"] == "complete"
    }
    smallest = min(done, key=lambda number: done[number][1])
    assert goal["answer"]["trial"] == smallest
    assert goal["answer"]["loss"] == goal["full"]["quality"] - done[smallest][0]
    assert goal["full"]["bytes"] == 401 * 8 * 4 + 300 * 8 * 4
    assert set(goal["full"]["test"]) == {"test/auc", "test/logloss"}


def test_only_what_is_chosen_is_tested(swept):
    answer = read(swept / "results.json")["goal"]["answer"]["trial"]
    assert {path.name for path in (swept / "tests").iterdir()} == {"full", f"{answer:04d}"}
    logged = (swept / "trials" / f"{answer:04d}" / "results.json").read_text()
    assert "test/" not in logged


def test_a_repeated_command_adds_nothing_and_more_trials_go_on(swept, capsys):
    folder = swept.parent
    before = read(swept / "trials.json")["trials"]
    assert main([*options(folder), "--goal", "loss<=0.5"]) == 0
    assert read(swept / "trials.json")["trials"] == before
    assert "loss <= 0.5: trial" in capsys.readouterr().out


def test_a_trial_that_runs_out_of_memory_is_one_line_and_the_next_one_is_trained(tmp_path):
    # 1.1 PB: more than a process can address.
    rows = {"kind": "hashed", "dim": 1024, "num_rows": 2**38}
    space = {
        USER: {"choice": {"small": {"kind": "full", "dim": 8}, "endless": rows}},
        "first": [{USER: "endless"}, {USER: "small"}],
    }
    command = options(tmp_path, space, trials=2)
    del command[command.index("--budget") :]
    assert main(command) == 0
    failed, trained = read(tmp_path / "run/trials.json")["trials"]
    assert (failed["state"], trained["state"]) == ("failed", "complete")
    assert "memory" in failed["attrs"]["reason"]
    assert "\n" not in failed["attrs"]["reason"]
    assert read(tmp_path / "run/results.json")["best"]["trial"] == 1


class Page(html.parser.HTMLParser):
    """What a browser would ask the network for, and the headings."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.headings: list[str] = []
        self._heading = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        names = ("src", "href", "xlink:href")
        self.asked += [v for k, v in attrs if k in names and not v.startswith(("#", "data:"))]
        self._heading = tag in ("h1", "h2")

    def handle_data(self, data):
        if self._heading:
            self.headings.append(data)
            self._heading = False


def test_the_report_of_a_sweep_needs_no_network(swept, tmp_path):
    output = tmp_path / "report.html"
    assert main(["report", str(swept), "--output", str(output)]) == 0
    text = output.read_text()
    page = Page(text)
    assert page.asked == []
    assert "@import" not in text
    assert {"Quality against bytes", "The goal", "Learning curves", "Trials"} <= set(page.headings)
    assert "training diverged at step" in text  # why a trial failed
    for name in ("front", "dimensions", "curves"):
        assert (tmp_path / "report" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    by_storage = tmp_path / "by_storage.html"
    storage = f"sqlite:///{swept / 'study.db'}"
    assert main(["report", storage, "--output", str(by_storage)]) == 0
    assert Page(by_storage.read_text()).headings == page.headings


def test_the_report_of_runs_says_in_what_they_differ(swept, tmp_path, capsys):
    runs = [str(swept / "full"), str(swept / "trials/0000"), str(swept / "trials/0003")]
    assert main(["report", *runs, "--output", str(tmp_path / "runs.html")]) == 0
    text = (tmp_path / "runs.html").read_text()
    assert {"Runs", "Learning curves", "Configurations"} <= set(Page(text).headings)
    for setting in ("tables.user.precision", "rows_optimizer.learning_rate"):
        assert f"<code>model.init_args.{setting}</code>" in text
    assert "<code>data.init_args" not in text
    # Restored weights are measured again after the last epoch; that is no epoch.
    for run in read_runs([Path(one) for one in runs]):
        assert [epoch for epoch, _ in run.curves["val/auc"]] == [1, 2]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({f"{USER}.dmi": {"int": [2, 8]}}, f"no setting '{USER}.dmi'; the nearest is '{USER}.dim'"),
        ({RATE: {"float": [1, 0.1]}}, "the low end must be at most the high one"),
    ],
)
def test_a_mistake_in_the_space_is_one_line(tmp_path, capsys, monkeypatch, change, line):
    # In this process: a worker would say the same, only later.
    monkeypatch.setattr("recemb.command_line.sweep.run.Jobs.do", _here)
    assert main(options(tmp_path, change)) == 2
    errors = capsys.readouterr().err
    assert line in errors
    assert errors.startswith("recemb sweep: ")
    assert errors.count("\n") == 1


def _here(jobs, request):
    return Trials()(dict(request), lambda what, payload: True)


@LIGHTNING
def test_data_is_prepared_once_and_trials_do_not_touch_each_other(tmp_path):
    trials = Trials()
    heard: list[tuple] = []

    def ask(what, payload):
        heard.append((what, payload))
        return True

    outcomes = []
    for name, dim in (("a", 8), ("b", 4), ("c", 8)):
        folder = tmp_path / name
        folder.mkdir()
        content = config()
        content["model"]["init_args"]["tables"]["user"]["dim"] = dim
        content["model"]["init_args"]["network"]["dropout"] = 0.0
        content["trainer"]["max_epochs"] = 1
        content["model"]["init_args"]["features"] = {
            key: {**one, "table": "user"}
            for key, one in content["model"]["init_args"]["features"].items()
            if key == "user"
        } | {"item": {"table": "shared", "lookups": 2}}
        content["model"]["init_args"]["history"] = {"item": "history_item"}
        path = write(content, folder)
        request = {"do": "train", "config": path, "folder": folder, "lock": folder / "lock"}
        outcomes.append(trials(request, ask))
    assert len(trials.data._kept) == 1
    assert outcomes[0]["metrics"] == outcomes[2]["metrics"] != outcomes[1]["metrics"]
    assert [what for what, _ in heard] == [SIZE, EPOCH] * 3
    assert heard[0][1] == 401 * 8 * 4 + 300 * 8 * 4
    assert outcomes[0]["table_bytes"] == heard[0][1]
    # The same as without anything kept.
    alone = TrainingCLI(
        "fit", ["--config", str(tmp_path / "a/config.yaml"), "--run", str(tmp_path / "d")]
    )
    alone.trainer.fit(alone.model, datamodule=alone.datamodule)
    assert float(alone.trainer.callback_metrics["val/auc"]) == heard[1][1]["value"]


def test_several_processes_train_a_trial_together(tmp_path):
    content = config()
    content["trainer"] |= {"strategy": "torchrec", "max_epochs": 2}
    content["model"]["init_args"]["network"]["dropout"] = 0.0
    # With one trial in two going on, the worse of two is ended after an epoch,
    # but never one to begin with: the second is the sampler's, from slow rates but one.
    space = {RATE: {"choice": [0.01, 1e-9, 1e-10, 1e-11]}, "first": [{RATE: "0.01"}]}
    command = options(tmp_path, space, trials=2)
    command[command.index("none")] = "halving"
    write(content, tmp_path)
    torchrun(2, *command, "--objectives", "quality", "--first_epochs", "1", "--reduction", "2")
    trials = read(tmp_path / "run/trials.json")["trials"]
    assert [one["state"] for one in trials] == ["complete", "pruned"]
    assert trials[1]["attrs"]["epochs"] == 1
    assert trials[0]["params"][RATE] == "0.01"
    assert float(trials[1]["params"][RATE]) < 1e-8
    results = read(tmp_path / "run/results.json")
    assert set(results["best"]["test"]) == {"test/auc", "test/logloss"}
    logs = {path.name for path in (tmp_path / "run/locks").glob("*.log")}
    assert logs == {"worker-0.log", "worker-1.log"}
    # What one process trains, but for the order of sums.
    content["trainer"].pop("strategy")
    one = write(content, tmp_path)
    rate = f"--{RATE}=0.01"
    assert main(["fit", "--config", one, rate, "--run", str(tmp_path / "one")]) == 0
    metrics = read(tmp_path / "one/results.json")["metrics"]
    assert trials[0]["values"] == [pytest.approx(metrics["val/auc"], abs=1e-5)]
    assert results["best"]["test"]["test/auc"] == pytest.approx(metrics["test/auc"], abs=1e-5)


def test_several_processes_want_sharded_tables(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "0")
    assert main(options(tmp_path)) == 2
    assert "under torchrun trainer.strategy must be torchrec" in capsys.readouterr().err
