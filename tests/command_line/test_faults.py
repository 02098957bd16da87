"""Processes that die, in a training started as a user starts it: what is said, and what is left."""

import copy
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from recemb.checkpoint import read_checkpoint
from recemb.command_line.main import main
from tests.command_line.launch import ONE_THREAD, torchrun, torchrun_command
from tests.command_line.small import ROOT, small_config, write

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="torchrun on Linux")


def fit(config: str, run: Path) -> list[str]:
    """Return the arguments of a training that can be repeated until it ends."""
    strategy = ["--trainer.strategy", "torchrec"]
    return ["fit", "--config", config, *strategy, "--run", str(run), "--resume"]


def ranks(launcher: subprocess.Popen) -> list[int]:
    """Return the process numbers of a launcher's processes."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    return [int(child) for child in children]


def kill_when(is_time: Callable[[], bool], arguments: list[str], rank: int) -> tuple[str, float]:
    """Start two processes, kill one; return what they said and the seconds until all had ended."""
    launcher = subprocess.Popen(
        torchrun_command(2, *arguments),
        cwd=ROOT,
        env=ONE_THREAD,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        while not is_time():
            assert launcher.poll() is None, launcher.communicate()[1][-3000:]
            time.sleep(0.002)
        own = ranks(launcher)
        signal.pidfd_send_signal(os.pidfd_open(own[rank]), signal.SIGKILL)
        killed = time.monotonic()
        errors = launcher.communicate(timeout=60)[1]
    finally:
        launcher.kill()
    assert launcher.returncode
    return errors, time.monotonic() - killed


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    """The run of two processes that nobody disturbed; its configuration lies beside it."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    config = small_config()
    table = config["model"]["init_args"]["tables"]["shared"]
    table["sharding"] = "row_wise"
    config["trainer"]["max_epochs"] = 4
    torchrun(2, *fit(write(config, folder), folder / "run"))
    return folder / "run"


def test_a_killed_process_ends_the_job_which_goes_on_to_the_bit(uninterrupted, tmp_path):
    config, run = str(uninterrupted.parent / "config.yaml"), tmp_path / "run"
    checkpoints = run / "checkpoints"
    seen: set[Path] = set()

    def is_writing(number: int) -> bool:
        seen.update(checkpoints.glob("*.rows-*"))
        return len(seen) >= number

    # In the third folder of rows that it writes: that of the second epoch's best checkpoint.
    errors, seconds = kill_when(lambda: is_writing(3), fit(config, run), rank=1)
    assert seconds < 60
    assert errors.count("recemb fit: another process was lost") == 1
    assert f"{checkpoints / 'last.ckpt'} is whole, go on from it" in errors
    first = read_checkpoint(checkpoints / "last.ckpt")
    assert first["epoch"] == 0

    # Between two checkpoints.
    started = time.monotonic()
    errors, seconds = kill_when(
        lambda: is_writing(5) and time.monotonic() - started > 1, fit(config, run), rank=0
    )
    assert seconds < 60
    assert errors.count("recemb fit: another process was lost") == 1

    torchrun(2, *fit(config, run))
    for name in ("best.ckpt", "last.ckpt"):
        wanted = read_checkpoint(uninterrupted / "checkpoints" / name)
        got = read_checkpoint(checkpoints / name)
        assert got["global_step"] == wanted["global_step"]
        for entry in ("state_dict", "rows_optimizer"):
            assert set(got[entry]) == set(wanted[entry])
            for key, tensor in wanted[entry].items():
                assert torch.equal(got[entry][key], tensor), key
    # Nothing is left of checkpoints that were not finished.
    assert len(list(checkpoints.glob("*.rows-*"))) == 2


def test_resume_starts_a_run_and_refuses_one_that_has_ended(trained, tmp_path, capsys):
    config = small_config()
    config["trainer"]["max_epochs"] = 1
    arguments = ["fit", "--config", write(config, tmp_path), "--run", str(tmp_path / "run")]
    assert main([*arguments, "--resume"]) == 0
    assert main([*arguments, "--resume"]) == 2
    assert "the run has ended; name a new one" in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_text("mine")
    assert main([*arguments[:-1], str(tmp_path / "other"), "--resume"]) == 2
    assert "the folder is of no run" in capsys.readouterr().err
    assert main([*arguments[:3], "--resume"]) == 2
    assert "resume: it is for fit, with the folder that --run names" in capsys.readouterr().err


def test_a_run_that_began_from_a_checkpoint_and_died_begins_there_again(tmp_path, capsys):
    config = small_config()
    config["trainer"]["max_epochs"] = 1
    path = write(config, tmp_path)
    assert main(["fit", "--config", path, "--run", str(tmp_path / "first")]) == 0
    config["trainer"]["max_epochs"] = 2
    path = write(config, tmp_path)
    start = tmp_path / "first/checkpoints/last.ckpt"
    whole = ["fit", "--config", path, "--ckpt_path", str(start), "--run", str(tmp_path / "whole")]
    assert main(whole) == 0
    # What a run has that was killed before its first checkpoint.
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(tmp_path / "whole/config.yaml", run)
    assert main(["fit", "--config", path, "--run", str(run), "--resume"]) == 0
    assert yaml.safe_load((run / "config.yaml").read_text())["ckpt_path"] == str(start)
    wanted, got = (
        read_checkpoint(one / "checkpoints/last.ckpt") for one in (tmp_path / "whole", run)
    )
    assert got["epoch"] == wanted["epoch"] == 1
    assert got["global_step"] == wanted["global_step"]
    for name, tensor in wanted["state_dict"].items():
        assert torch.equal(got["state_dict"][name], tensor), name
    # Where that checkpoint is no more, nothing is trained.
    (run / "results.json").unlink()
    shutil.rmtree(run / "checkpoints")
    start.unlink()
    capsys.readouterr()
    assert main(["fit", "--config", path, "--run", str(run), "--resume"]) == 2
    assert f"{start}: there is no such checkpoint; check the path" in capsys.readouterr().err


def test_a_file_of_another_run_is_refused_by_name_in_one_line(uninterrupted, tmp_path):
    config = copy.deepcopy(small_config())
    last = uninterrupted / "checkpoints/last.ckpt"
    path = next(last.parent.glob("last.ckpt.rows-*")) / "__1_0.distcp"
    content = path.read_bytes()
    try:
        path.write_bytes(bytes(len(content)))
        arguments = ["test", "--config", write(config, tmp_path), "--ckpt_path", str(last)]
        ended = torchrun(2, *arguments, "--trainer.strategy", "torchrec", check=False)
    finally:
        path.write_bytes(content)
    assert ended.returncode
    assert ended.stderr.count("recemb test: ") == 1
    assert f"{path}: a file of the checkpoint's rows is not the one that was saved" in ended.stderr


def test_a_mistake_in_one_process_ends_all(tmp_path):
    config = write(small_config(), tmp_path)
    own = f'$([ "$RANK" = 1 ] && echo {tmp_path}/missing.yaml || echo {config})'
    line = (
        f"exec {sys.executable} -W ignore -m recemb fit --trainer.strategy torchrec --config {own}"
    )
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "--no-python"]
    started = time.monotonic()
    ended = subprocess.run(
        [*command, "bash", "-c", line],
        cwd=ROOT,
        env=ONE_THREAD,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert time.monotonic() - started < 60
    assert ended.returncode
    assert ended.stderr.count("recemb fit: ") == 1, ended.stderr[-3000:]
    assert "missing.yaml" in ended.stderr
