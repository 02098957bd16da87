"""Two machines whose network fails: network namespaces with a virtual cable between them."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from recemb.checkpoint import read_checkpoint
from tests.command_line.launch import ONE_THREAD
from tests.command_line.small import ROOT, small_config, write

ADDRESSES = ("10.213.7.1", "10.213.7.2")
PATIENCE = 8
"""Seconds that a process waits for the others here."""

# A network of its own, in which this user is root, so that nothing outside is touched.
INSIDE = ("unshare", "--map-root-user", "--net", "--mount")
BOTH = """
set -e
mount -t tmpfs none /run
for side in 0 1; do ip netns add side$side; done
ip link add cable0 type veth peer name cable1
for side in 0 1; do
  ip link set cable$side netns side$side
  ip -n side$side link set lo up
  ip -n side$side link set cable$side up
done
ip -n side0 address add {}/24 dev cable0
ip -n side1 address add {}/24 dev cable1
echo ready
while read command; do eval "$command"; echo done; done
""".format(*ADDRESSES)


class Network:
    """Two machines and the cable between them."""

    def __init__(self) -> None:
        self.shell = subprocess.Popen(
            [*INSIDE, "bash", "-c", BOTH],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.shell.stdin
        assert self.shell.stdout
        self.works = self.shell.stdout.readline() == "ready\n"

    def run(self, command: str) -> None:
        """Run a command of a shell where the cable is."""
        assert self.shell.stdin
        assert self.shell.stdout
        self.shell.stdin.write(f"{command}\n")
        self.shell.stdin.flush()
        assert self.shell.stdout.readline() == "done\n"

    def close(self) -> None:
        """Take everything down."""
        os.killpg(self.shell.pid, signal.SIGKILL)
        self.shell.communicate()


@pytest.fixture
def network() -> Iterator[Network]:
    """Two machines, or a skipped test where this user may not have any."""
    if not sys.platform.startswith("linux") or not all(map(shutil.which, ("unshare", "ip"))):
        pytest.skip("network namespaces need Linux with unshare and ip")
    network = Network()
    if not network.works:
        pytest.skip(f"this user may have no network namespace: {network.shell.communicate()[1]}")
    yield network
    network.close()


def test_a_cut_cable_ends_the_job_on_both_sides(network, tmp_path):
    config = small_config()
    config["model"]["init_args"]["tables"]["shared"]["sharding"] = "row_wise"
    config["trainer"]["max_epochs"] = 1000
    arguments = ["fit", "--config", write(config, tmp_path), "--run", str(tmp_path / "run")]
    arguments += ["--trainer.strategy", "torchrec", "--resume"]
    for side in (0, 1):
        launch = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--nnodes", "2"]
        launch += [
            "--node-rank",
            str(side),
            "--master-addr",
            ADDRESSES[0],
            "--master-port",
            "29513",
        ]
        command = [*launch, "--nproc-per-node", "1", "-m", "--", "recemb", *arguments]
        log, ended = tmp_path / f"side{side}.log", tmp_path / f"side{side}.ended"
        network.run(
            f"(cd {ROOT}; export GLOO_SOCKET_IFNAME=cable{side} RECEMB_PATIENCE={PATIENCE} "
            f"OMP_NUM_THREADS=1 PATH={ONE_THREAD['PATH']}; "
            f"ip netns exec side{side} {' '.join(command)} > {log} 2>&1 || touch {ended}) &"
        )
    last = tmp_path / "run/checkpoints/last.ckpt"

    def wait(is_so, seconds: float) -> float:
        started = time.monotonic()
        while not is_so():
            assert time.monotonic() - started < seconds, logs()
            time.sleep(0.01)
        return time.monotonic() - started

    def logs() -> str:
        return "\n".join(path.read_text()[-3000:] for path in sorted(tmp_path.glob("*.log")))

    wait(lambda: last.is_file() or any(tmp_path.glob("*.ended")), 120)
    assert last.is_file(), logs()
    network.run("ip -n side1 link set cable1 down")
    # Both sides wait for the other's next message, and no longer; then Python and the launcher end.
    wait(lambda: len(list(tmp_path.glob("*.ended"))) == 2, PATIENCE + 50)
    for side in (0, 1):
        text = (tmp_path / f"side{side}.log").read_text()
        assert text.count("recemb fit: another process was lost") == 1, text[-3000:]
        assert f"{last} is whole" in text
    assert read_checkpoint(last)["epoch"] >= 0
