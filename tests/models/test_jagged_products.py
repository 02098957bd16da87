"""Products over bags of places: against loops, forward and backward."""

import pytest
import torch

from recemb.models.jagged_products import Places, dots, sums

LENGTHS = [3, 0, 1, 4, 0]
PLACES = [2, 0, 2, 1, 4, 4, 0, 1]
"""Item 3 of five is in no bag; two bags are empty, the last among them."""


def example():
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    item = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    weight = torch.randn(8, generator=generator, dtype=torch.float64)
    bag = [b for b, length in enumerate(LENGTHS) for _ in range(length)]
    return query, item, weight, bag


def places():
    return Places(torch.tensor(PLACES), torch.tensor(LENGTHS))


def test_dots_are_those_of_a_loop():
    query, item, _, bag = example()
    found = dots(query, item, places())
    for n in range(8):
        assert found[n].item() == pytest.approx(float((query[bag[n]] * item[PLACES[n]]).sum()))


def test_sums_are_those_of_a_loop():
    _, item, weight, bag = example()
    wanted = torch.zeros(5, 4, dtype=torch.float64)
    for n in range(8):
        wanted[bag[n]] += weight[n] * item[PLACES[n]]
    torch.testing.assert_close(sums(weight, item, places()), wanted)
    assert not sums(weight, item, places())[[1, 4]].any()


def test_gradients_are_those_of_differences():
    query, item, weight, _ = example()
    for one in (query, item, weight):
        one.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda q, i: dots(q, i, places()), (query, item))
    assert torch.autograd.gradcheck(lambda w, i: sums(w, i, places()), (weight, item))


def test_one_tensor_may_be_query_and_item():
    # TWIN: the gradients of both uses add.
    _, item, _, bag = example()
    item.requires_grad_(True)
    dots(item, item, places()).sum().backward()
    wanted = torch.zeros_like(item)
    with torch.no_grad():
        for n in range(8):
            wanted[bag[n]] += item[PLACES[n]]
            wanted[PLACES[n]] += item[bag[n]]
    torch.testing.assert_close(item.grad, wanted)


def test_a_traced_program_says_the_same_of_another_size():
    query, item, weight, _ = example()

    def both(query, item, weight, place, lengths):
        own = Places(place, lengths)
        return dots(query, item, own), sums(weight, item, own)

    one = torch.tensor([1, 1]), torch.tensor([1, 1])
    traced = torch.jit.trace(both, (query[:2], item, weight[:2], *one), check_trace=False)
    asked = (query, item, weight, torch.tensor(PLACES), torch.tensor(LENGTHS))
    for found, wanted in zip(traced(*asked), both(*asked), strict=True):
        torch.testing.assert_close(found, wanted)
