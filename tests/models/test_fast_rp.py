"""FastRP by the formula of the random walk, and tables that begin with it."""

import pytest
import torch

from recemb.errors import RecembError
from recemb.models.collaborative_filtering import Training
from recemb.models.fast_rp import FastRP
from recemb.models.propagation import BipartiteGraph
from recemb.tables.hashed import Hashed
from tests.models.pairs import NUM_ITEMS, SEEN, adjacency, build, rows, schema


def test_vectors_are_those_of_powers_of_the_random_walk() -> None:
    own = FastRP(weights=[0.5, 0.0, 2.0], degree_exponent=-0.25, seed=7)
    got = own.vectors(BipartiteGraph(schema().attributes["seen"], NUM_ITEMS + 1), 12)
    edges = (adjacency() > 0).float()
    degree = edges.sum(1)
    walk = edges / degree.clamp(min=1)[:, None]
    draw = torch.rand(16, 12, generator=torch.Generator().manual_seed(7))
    sign = torch.where(draw > 5 / 6, 1.0, torch.where(draw < 1 / 6, -1.0, 0.0))
    # So many elements that no vector is nothing but rounding of numbers that cancel out.
    start = degree.clamp(min=1)[:, None] ** -0.25 * sign
    wanted = torch.zeros(16, 12)
    for power, weight in ((1, 0.5), (3, 2.0)):
        y = torch.matrix_power(walk, power) @ start
        wanted += weight * y / y.norm(dim=1, keepdim=True).clamp(min=1e-12)
    torch.testing.assert_close(got, wanted)
    assert got.abs().max() > 0.5


def test_tables_begin_with_the_vectors_at_the_scale_that_is_asked_for() -> None:
    initial = FastRP(scale=0.3)
    model = build("lightgcn", training=Training(initial=initial))
    both = torch.cat(rows(model))
    assert float(both.square().mean().sqrt()) == pytest.approx(0.3, rel=1e-4)
    vectors = initial.vectors(model.graph, 4)
    torch.testing.assert_close(both / both.norm(), vectors / vectors.norm())
    assert (rows(model)[0][len(SEEN) - 1] == 0).all()


def test_other_kinds_are_refused() -> None:
    from recemb.features import FeatureConfig
    from recemb.models.lightgcn import LightGCN

    tables = {name: Hashed(num_rows=4, dim=4) for name in ("user", "item")}
    features = {name: FeatureConfig(table=name) for name in ("user", "item")}
    with pytest.raises(RecembError, match=r"^initial: table 'user' must be of kind full"):
        LightGCN(schema(), tables, features, training=Training(initial=FastRP()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"weights": [0.0]}, "weights must not all be 0"), ({"scale": 0.0}, "scale must be above 0")],
)
def test_bad_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(RecembError, match=f"^initial: {message}"):
        build("mf", training=Training(initial=FastRP(**settings)))
