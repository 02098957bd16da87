"""Requests: what exported programs are asked, where a part of it is wrong or in another form."""

import functools
import random
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recemb.errors import RecembError
from recemb.serving.archive import load_program
from recemb.serving.export import export
from tests.fuzz.judge import Case, MayRefuse
from tests.serving.asked import MODELS, REQUESTS

KINDS = ("din", "session", "users")
Change = Callable[[Tensor], Tensor]


@functools.cache
def program(kind: str) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        model = MODELS[kind]().eval()
        export(model, model.schema, Path(folder) / "model.pt")
        return load_program(Path(folder) / "model.pt")


def answers(kind: str, request: dict[str, Tensor]) -> list[Any]:
    """Ask a program; its one error is a line of its own at the end of torch's trace."""
    try:
        found = program(kind)(request)
    except RuntimeError as error:
        lines = str(error).strip().splitlines()
        refusal = re.fullmatch(r"RuntimeError: (input '.*)", lines[-1])
        if refusal is None:
            raise
        raise RecembError(refusal[1]) from error
    parts = found if isinstance(found, tuple) else (found,)
    return [part.tolist() for part in parts]


def same(kind: str, request: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether another form of a request has the answer of the request."""
    return answers(kind, other) == answers(kind, request)


WRONG: dict[str, Change] = {
    "two dimensions": lambda one: one.unsqueeze(1),
    "no dimension": lambda one: one[0],
    "three dimensions": lambda one: one.reshape(1, -1, 1),
    "NaN": lambda one: torch.full(one.shape, torch.nan),
    "infinite": lambda one: torch.full(one.shape, torch.inf),
    "complex": lambda one: one.to(torch.complex64),
    "a fraction in ids": lambda one: one + 0.5,
}
OTHER: dict[str, Change] = {
    "int32": lambda one: one.to(torch.int32),
    "int16": lambda one: one.to(torch.int16),
    "strided": lambda one: torch.stack([one, one], 1).reshape(-1)[::2],
    "not contiguous": lambda one: torch.stack([one, one], 1)[:, 0],
    "with a gradient": lambda one: one.clone().requires_grad_() if one.is_floating_point() else one,
    "float64": lambda one: one.double() if one.is_floating_point() else one,
}
SIZES: dict[str, Change] = {
    "below zero": lambda one: torch.cat([one[:1] - 100, one[1:]]),
    "that cancel": lambda one: torch.cat([one[:1] - 7, one[1:2] + 7, one[2:]]),
    "whose sum passes 2^63": lambda one: torch.full_like(one, 2**62),
    "the largest": lambda one: torch.full_like(one, 2**63 - 1),
    "the smallest": lambda one: torch.full_like(one, -(2**63)),
    "too large": lambda one: one + 1,
    "too small": torch.zeros_like,
}


def case(
    kind: str, name: str, key: str, load: Callable[[], Any], right: Any, may: MayRefuse
) -> Case:
    return Case(
        group=f"requests: {kind}",
        name=name,
        # A refusal names the input.
        make=lambda folder: folder / key,
        load=lambda path: load(),
        right=right,
        may_refuse=may,
    )


def cases(rng: random.Random, kinds: Sequence[str] = KINDS) -> Iterator[Case]:
    """All cases of requests to some programs."""
    for kind in kinds:
        request = REQUESTS[kind]
        for key, values in request.items():

            def changed(change: Change, kind: str = kind, key: str = key) -> Callable[[], Any]:
                own = REQUESTS[kind]
                return lambda: answers(kind, {**own, key: change(own[key])})

            rest = {name: one for name, one in request.items() if name != key}
            missing = functools.partial(answers, kind, rest)
            yield case(kind, f"{key} is missing", key, missing, None, "only")
            for label, change in WRONG.items():
                if label == "a fraction in ids" and values.is_floating_point():
                    continue
                yield case(kind, f"{key}: {label}", key, changed(change), None, "only")
            for label, change in OTHER.items():
                if values.is_floating_point() and label.startswith("int"):
                    continue
                other = {**request, key: change(values)}
                load = functools.partial(same, kind, request, other)
                yield case(kind, f"{key}: {label}", key, load, True, "never")
            if key.endswith(".size"):
                for label, change in SIZES.items():
                    yield case(kind, f"{key}: {label}", key, changed(change), None, "only")
