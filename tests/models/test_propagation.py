"""Propagation against a dense matrix, whole and sampled, values and gradients."""

import pytest
import torch

from recemb.models.propagation import BipartiteGraph
from tests.models.pairs import NUM_ITEMS, adjacency, schema


def graph() -> BipartiteGraph:
    return BipartiteGraph(schema().attributes["seen"], NUM_ITEMS + 1)


def test_a_layer_is_the_product_with_the_normalised_matrix() -> None:
    torch.manual_seed(1)
    dense = adjacency()
    x_ND = torch.randn(len(dense), 5, requires_grad=True)
    around = graph().whole(1)
    assert around.users_A.tolist() == list(range(7))
    assert around.items_C.tolist() == list(range(9))
    weight_ND = torch.randn_like(x_ND)
    own_ND, sum_ND, asked_ND = around.layers[0](x_ND)
    assert torch.equal(own_ND, x_ND)
    assert torch.equal(asked_ND, x_ND)
    (got,) = torch.autograd.grad((sum_ND * weight_ND).sum(), x_ND)
    torch.testing.assert_close(sum_ND, dense @ x_ND)
    torch.testing.assert_close(got, dense.T @ weight_ND)


def test_the_last_layer_of_the_whole_leads_to_what_is_asked_for() -> None:
    torch.manual_seed(1)
    dense = adjacency()
    x_ND = torch.randn(len(dense), 5, requires_grad=True)
    asked = torch.tensor([1, 4, 5, 8])  # user 5 has no items
    around = graph().whole(2, asked)
    first, last = around.layers
    _, y_ND, x_SD = first(x_ND)
    own_SD, y_SD, before_SD = last(y_ND)
    assert torch.equal(x_SD, x_ND[asked])
    assert torch.equal(own_SD, y_ND[asked])
    assert torch.equal(before_SD, y_ND[asked])
    weight_SD = torch.randn(4, 5)
    (got,) = torch.autograd.grad((y_SD * weight_SD).sum(), x_ND)
    torch.testing.assert_close(y_SD, (dense @ dense @ x_ND)[asked])
    torch.testing.assert_close(got, (dense @ dense)[asked].T @ weight_SD)


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("is_whole", [True, False])
@pytest.mark.parametrize("sends", [True, False])
def test_gradients_of_all_that_a_layer_returns_meet(
    num_layers: int, is_whole: bool, sends: bool
) -> None:
    torch.manual_seed(1)
    asked = torch.tensor([1, 4, 5, 8])
    own = graph()
    around = own.whole(num_layers, asked) if is_whole else own.sampled(asked, [2] * num_layers)
    num_nodes = len(around.users_A) + len(around.items_C)
    sends_N1 = torch.rand(num_nodes, 1, dtype=torch.float64) if sends else None
    layers = [
        one._replace(
            matrix=one.matrix._replace(weights_E=one.matrix.weights_E.double()),
            transposed=one.transposed._replace(weights_E=one.transposed.weights_E.double()),
        )
        for one in around.layers
    ]

    def all_of(x_ND: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found: list[torch.Tensor] = []
        for layer in layers:
            *others, x_ND = (layer(x_ND, sends_N1)[place] for place in (0, 2, 1))
            found += others
        return (*found, x_ND)

    x_ND = torch.randn(num_nodes, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(all_of, x_ND)


def test_a_sample_with_room_for_all_neighbours_is_the_whole() -> None:
    torch.manual_seed(1)
    dense, own = adjacency(), graph()
    x_ND = torch.randn(len(dense), 5, requires_grad=True)
    asked = torch.tensor([4, 8, 1, 6])  # two users, an item, and the unknown user
    around = own.sampled(asked, [9, 9])
    read = torch.cat([around.users_A, around.items_C + 7])
    # User 5 has no items.
    assert len(read) == len(set(read.tolist()))
    assert 5 not in read
    y_ND = x_ND[read][around.place_N]
    for layer in around.layers:
        _, y_ND, _ = layer(y_ND)
    weight_SD = torch.randn(4, 5)
    (got,) = torch.autograd.grad((y_ND * weight_SD).sum(), x_ND)
    torch.testing.assert_close(y_ND, (dense @ dense @ x_ND)[asked])
    torch.testing.assert_close(got, (dense @ dense)[asked].T @ weight_SD)


def test_a_sample_of_neighbours_is_right_on_average() -> None:
    torch.manual_seed(1)
    dense, own = adjacency(), graph()
    x_ND = torch.randn(len(dense), 2)
    asked = torch.tensor([0, 7, 8])
    sums = torch.zeros(3, 2)
    count = 4000
    for _ in range(count):
        around = own.sampled(asked, [2])
        read = torch.cat([around.users_A, around.items_C + 7])
        (layer,) = around.layers
        assert layer.matrix.offsets_N1.diff().max() <= 2
        sums += layer(x_ND[read][around.place_N])[1]
    wanted = (dense @ x_ND)[asked]
    # A mean of that many draws is off by a fiftieth of what one draw is off by.
    assert (sums / count - wanted).abs().max() < 0.06
    assert wanted.abs().max() > 0.3
