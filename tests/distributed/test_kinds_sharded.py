"""Every kind of table has the losses of one process on two and on four."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from recemb.tables.registry import KINDS as REGISTERED
from tests.distributed.kinds import KINDS, NUM_STEPS, SHARDINGS


@pytest.fixture(scope="module")
def losses(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, list[float]]]:
    """The losses by number of processes."""
    folder: Path = tmp_path_factory.mktemp("kinds")
    found = {}
    for world_size in SHARDINGS:
        command = [sys.executable, "-W", "ignore", "-m", "tests.distributed.kinds", str(folder)]
        ranks = [
            subprocess.Popen(
                [*command, str(rank), str(world_size)], stderr=subprocess.PIPE, text=True
            )
            for rank in range(world_size)
        ]
        errors = [rank.communicate(timeout=400)[1] for rank in ranks]
        assert all(rank.returncode == 0 for rank in ranks), "\n".join(one[-1500:] for one in errors)
        found[world_size] = json.loads((folder / f"losses-{world_size}.json").read_text())
    return found


def test_every_kind_is_here() -> None:
    assert {name.split()[0] for name in KINDS} == set(REGISTERED)


@pytest.mark.parametrize(
    ("world_size", "sharding"), [(size, how) for size in (2, 4) for how in SHARDINGS[size]]
)
@pytest.mark.parametrize("name", KINDS)
def test_the_losses_are_those_of_one_process(
    name: str, world_size: int, sharding: str, losses: dict[int, dict[str, list[float]]]
) -> None:
    wanted = losses[1][f"{name}, row_wise"]
    assert len(wanted) == NUM_STEPS
    assert losses[world_size][f"{name}, {sharding}"] == pytest.approx(wanted, rel=1e-5)
