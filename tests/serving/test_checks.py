"""Every exported program against requests that are wrong: right answers, or one clear error."""

import copy
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from recemb.models.two_stages import SearchProgram
from recemb.serving.checks import checked_trace
from recemb.vocabulary import VocabularyConfig
from tests.models import long_example
from tests.serving.asked import DESCRIBED, REQUESTS, Asked, Request, exported

KINDS = list(REQUESTS)
EVERY = [(kind, name) for kind in KINDS for name in REQUESTS[kind]]
SIZES = [(kind, name) for kind, name in EVERY if name.endswith(".size")]
NUMBERS = [(kind, name) for kind, name in EVERY if REQUESTS[kind][name].is_floating_point()]
IDS = [one for one in EVERY if one not in NUMBERS]
ALONE = {("users", "user"), ("graph", "user"), ("dual", "item"), ("search", "item"),
         ("search", "seen"), ("search by seconds", "item")}  # fmt: skip
"""What no other input need be as many as."""


@pytest.fixture(scope="module")
def programs(tmp_path_factory) -> dict[str, Asked]:
    return exported(tmp_path_factory.mktemp("programs"))


def tensors(answer: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (answer,) if isinstance(answer, Tensor) else answer


def answers(asked: Asked, **other: Tensor) -> tuple[Tensor, ...]:
    return tensors(asked.program({**asked.request, **other}))


def assert_same(got: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> None:
    # Products may round otherwise where vectors lie otherwise in memory; ids are equal.
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


def refuses(asked: Asked, message: str, **other: Tensor) -> None:
    with pytest.raises(RuntimeError, match=message):
        answers(asked, **other)


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_is_answered_without_gradients_and_left_as_it_is(programs, kind):
    asked = programs[kind]
    before = copy.deepcopy(asked.request)
    with torch.enable_grad():
        found = answers(asked)
    assert not any(one.requires_grad for one in found)
    assert not any(one.requires_grad for one in asked.program.parameters())
    assert all(torch.equal(asked.request[name], one) for name, one in before.items())
    # What is not asked for is not read.
    assert_same(answers(asked, unheard_of=torch.ones(2, 2)), found)


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_an_input_that_is_missing_is_named(programs, kind, name):
    request = {key: one for key, one in programs[kind].request.items() if key != name}
    with pytest.raises(RuntimeError, match=rf"RuntimeError: input '{name}' is missing, got \["):
        programs[kind].program(request)


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_another_shape_is_refused(programs, kind, name):
    own = REQUESTS[kind][name]
    size = len(own)
    start = rf"RuntimeError: input '{name}': must have one dimension, got shape "
    refuses(programs[kind], rf"{start}\[{size}, 1\]", **{name: own.unsqueeze(1)})
    refuses(programs[kind], rf"{start}\[1, {size}\]", **{name: own.unsqueeze(0)})
    refuses(programs[kind], rf"{start}\[\]", **{name: own[0]})


@pytest.mark.parametrize(("kind", "name"), IDS)
def test_ids_of_other_widths_are_the_same_ids(programs, kind, name):
    own, wanted = REQUESTS[kind][name], answers(programs[kind])
    for dtype in (torch.int32, torch.int16, torch.uint8, torch.uint16, torch.uint64):
        if torch.equal(own.to(dtype).to(torch.int64), own):
            assert_same(answers(programs[kind], **{name: own.to(dtype)}), wanted)
    start = rf"RuntimeError: input '{name}': must hold whole numbers \(int64\), got float"
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        refuses(programs[kind], start, **{name: own.to(dtype)})


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_tensors_that_are_no_plain_vectors_are_refused(programs, kind, name):
    own, start = REQUESTS[kind][name], rf"RuntimeError: input '{name}': must "
    plain = f"{start}be a dense tensor that holds values"
    for other in (own.to_sparse(), own.to("meta")):
        refuses(programs[kind], plain, **{name: other})
    refuses(programs[kind], f"{start}hold plain numbers", **{name: own.to(torch.complex64)})


@pytest.mark.parametrize(("kind", "name"), [one for one in IDS if one not in SIZES])
def test_truth_values_are_the_ids_0_and_1(programs, kind, name):
    own = torch.arange(len(REQUESTS[kind][name])) % 2
    wanted = answers(programs[kind], **{name: own})
    assert_same(answers(programs[kind], **{name: own.bool()}), wanted)


@pytest.mark.parametrize(("kind", "name"), NUMBERS)
def test_numbers_of_other_types_are_the_same_numbers(programs, kind, name):
    own, wanted = REQUESTS[kind][name], answers(programs[kind])
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        assert_same(answers(programs[kind], **{name: own.to(dtype)}), wanted)
    whole = answers(programs[kind], **{name: own.round()})
    assert_same(answers(programs[kind], **{name: own.round().int()}), whole)
    with torch.enable_grad():
        (found,) = answers(programs[kind], **{name: own.clone().requires_grad_()})
    assert not found.requires_grad


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e39])
@pytest.mark.parametrize(("kind", "name"), NUMBERS)
def test_numbers_that_training_refuses_are_refused(programs, kind, name, value):
    own = REQUESTS[kind][name].double()
    own[1] = value
    message = rf"RuntimeError: input '{name}': a number must be finite in float32"
    refuses(programs[kind], message, **{name: own})


@pytest.mark.parametrize(("kind", "name"), [one for one in EVERY if one not in ALONE])
def test_one_more_or_less_is_refused(programs, kind, name):
    own = REQUESTS[kind][name]
    for other in (torch.cat([own, own[:1]]), own[:-1], own[:0]):
        # The one at fault is this one or the one that it does not fit.
        refuses(programs[kind], r"RuntimeError: input '[a-z_.]+': .* got \d+", **{name: other})


def wrong_sizes(sizes: Tensor) -> Iterator[Tensor]:
    total = int(sizes.sum())
    last = len(sizes) - 2
    large, half = 2**62, 2**63 - 1
    # The sum is right, and so it is where it passes 2^64.
    yield torch.tensor([-1, total + 1] + [0] * last)
    yield torch.tensor([total + 5, -5] + [0] * last)
    yield torch.tensor([half, half] + [total + 2] + [0] * (last - 1)) if last else -sizes
    yield torch.tensor([-large, large] + [total] + [0] * (last - 1)) if last else -sizes
    yield sizes + 1
    yield torch.zeros_like(sizes)
    yield torch.full_like(sizes, large)
    yield torch.full_like(sizes, -(2**63))


@pytest.mark.parametrize(("kind", "name"), SIZES)
def test_sizes_that_do_not_fit_are_refused(programs, kind, name):
    for sizes in wrong_sizes(REQUESTS[kind][name]):
        refuses(programs[kind], rf"RuntimeError: input '{name}': ", **{name: sizes})


def test_a_sum_that_would_pass_the_largest_number_is_refused_by_a_size(programs):
    # 4 x 2^62 is 2^64, of which int64 keeps 0: the sum of no ids.
    request = {"history": torch.tensor([10]), "history.size": torch.tensor([2**62] * 4 + [1])}
    with pytest.raises(RuntimeError, match=r"'history.size': a size must be at most the 1 values"):
        programs["session"].program(request)


@pytest.mark.parametrize(
    ("kind", "name", "columns"),
    [
        ("din", "seen.size", ["seen", "seen_shop"]),
        ("din", "seen_shop.size", ["seen", "seen_shop"]),
        ("seconds", "seen.size", ["seen", "ago"]),
        ("seconds", "ago.size", ["seen", "ago"]),
    ],
)
def test_parallel_histories_of_other_sizes_are_refused(programs, kind, name, columns):
    for sizes in ([3, 0, 2], [0, 2, 3], [5, 0, 0]):
        message = rf"columns \['{columns[0]}', '{columns[1]}'\]: parallel histories must have equal"
        refuses(programs[kind], message, **{name: torch.tensor(sizes)})


def test_parallel_histories_are_compared_without_padding(programs):
    asked = programs["din"]
    shops, sizes = asked.request["seen_shop"], asked.request["seen_shop.size"]
    padded = torch.cat([torch.tensor([70]), shops, torch.tensor([70])])
    sizes = sizes + torch.tensor([1, 0, 1])
    assert_same(answers(asked, **{"seen_shop": padded, "seen_shop.size": sizes}), answers(asked))
    # As many as items, until the padding among them is dropped.
    shops = shops.clone()
    shops[0] = 70
    refuses(asked, r"columns \['seen', 'seen_shop'\]: parallel", seen_shop=shops)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_answered_with_nothing(programs, kind):
    asked = programs[kind]
    found = tensors(asked.program({name: one[:0] for name, one in asked.request.items()}))
    assert all(len(one) == 0 for one in found)
    for one, other in zip(found, answers(asked), strict=True):
        assert one.dtype == other.dtype
        assert one.dim() == other.dim()


@pytest.mark.parametrize("kind", ["search", "search by seconds"])
def test_a_search_of_no_history_finds_nothing(programs, kind):
    asked = programs[kind]
    none = {name: one[:0] for name, one in asked.request.items() if name != "item"}
    (found,) = answers(asked, **none)
    assert found.tolist() == [[-1, -1, -1]] * 2


def by_rows(request: Request, row: int) -> Request:
    """Return the request of one sample."""
    found: Request = {}
    for name, one in request.items():
        sizes = request.get(f"{name}.size")
        found[name] = one[row : row + 1] if sizes is None else one.split(sizes.tolist())[row]
    return found


@pytest.mark.parametrize("kind", ["dlrm", "din", "long", "seconds", "session", "users", "dual"])
def test_each_sample_has_the_answer_that_it_has_alone(programs, kind):
    asked = programs[kind]
    for row in range(3):
        alone = tensors(asked.program(by_rows(asked.request, row)))
        for one, other in zip(alone, answers(asked), strict=True):
            torch.testing.assert_close(one[0], other[row], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_columns_of_a_matrix_are_answered_as_vectors(programs, kind):
    apart = {name: torch.stack([one, one], 1)[:, 0] for name, one in REQUESTS[kind].items()}
    assert not any(one.is_contiguous() for one in apart.values() if len(one) > 1)
    assert_same(answers(programs[kind], **apart), answers(programs[kind]))


OF_VOCABULARIES = [
    (kind, name) for kind, name in IDS if not name.endswith((".size", "ages", "ago"))
]


@pytest.mark.parametrize(("kind", "name"), OF_VOCABULARIES)
def test_any_number_is_an_id_known_or_not(programs, kind, name):
    size = len(REQUESTS[kind][name])
    unknown = answers(programs[kind], **{name: torch.full((size,), 987_654_321)})
    for value in (-(2**63), 2**63 - 1, -1, 5, 2**62):
        assert_same(answers(programs[kind], **{name: torch.full((size,), value)}), unknown)


@pytest.mark.parametrize(
    ("kind", "name"), [("rank", "ages"), ("seconds", "ago"), ("search by seconds", "ago")]
)
def test_any_number_is_a_time(programs, kind, name):
    size = len(REQUESTS[kind][name])
    for value, within in ((-(2**63), 0), (-1, 0), (2**63 - 1, 2**40)):
        wanted = answers(programs[kind], **{name: torch.full((size,), within)})
        assert_same(answers(programs[kind], **{name: torch.full((size,), value)}), wanted)


def test_without_candidates_there_are_no_scores(programs):
    none = {name: one[:0] for name, one in DESCRIBED.items() if name.startswith("candidate.")}
    (scores,) = answers(programs["described"], **none)
    assert scores.shape == (3, 0)


def test_a_search_refuses_unknown_ids_where_data_do():
    program = SearchProgram(long_example.build())
    strict = VocabularyConfig(unknown="error")
    program.vocabularies = {
        name: replace(one, config=strict) for name, one in program.vocabularies.items()
    }
    request = {"item": torch.tensor([30, 0]), "seen": torch.tensor([10, 20, 30])}
    loaded = checked_trace(program, request)
    assert torch.equal(loaded(request), program(request))
    for name in ("item", "seen"):
        with pytest.raises(RuntimeError, match=f"column {name}: unknown id"):
            loaded({**request, name: torch.tensor([0, 777, 10])})
