"""Propagation against a dense matrix, whole and sampled, values and gradients."""

import torch

from models.propagation import BipartiteGraph
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
    (got,) = torch.autograd.grad((around.layers[0](x_ND) * weight_ND).sum(), x_ND)
    torch.testing.assert_close(around.layers[0](x_ND), dense @ x_ND)
    torch.testing.assert_close(got, dense.T @ weight_ND)


def test_the_last_layer_of_the_whole_leads_to_what_is_asked_for() -> None:
    torch.manual_seed(1)
    dense = adjacency()
    x_ND = torch.randn(len(dense), 5, requires_grad=True)
    asked = torch.tensor([1, 4, 5, 8])  # user 5 has no items
    around = graph().whole(2, asked)
    first, last = around.layers
    y_ND = first(x_ND)
    assert torch.equal(last.own(y_ND), y_ND[asked])
    y_SD = last(y_ND)
    weight_SD = torch.randn(4, 5)
    (got,) = torch.autograd.grad((y_SD * weight_SD).sum(), x_ND)
    torch.testing.assert_close(y_SD, (dense @ dense @ x_ND)[asked])
    torch.testing.assert_close(got, (dense @ dense)[asked].T @ weight_SD)


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
        y_ND = layer(y_ND)
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
        sums += layer(x_ND[read][around.place_N])
    wanted = (dense @ x_ND)[asked]
    # A mean of that many draws is off by a fiftieth of what one draw is off by.
    assert (sums / count - wanted).abs().max() < 0.06
    assert wanted.abs().max() > 0.3
