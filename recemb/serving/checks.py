"""Checks of a served program: every request is right, or refused by the name of an input.

A trace records operations and believes its inputs, and an operator may read memory at a place that
a size says. So around each trace lies a scripted program that looks at its inputs first:

- none is missing; what else the dictionary holds is not read;
- each is one vector; ids and sizes are whole numbers of any type, made int64; numbers are of any
  type, made float32, and finite in it;
- those that must have equally many have; sizes are at least 0 and add up to the ids given.

A request that fails is refused with a ``RuntimeError`` (in C++ a ``std::runtime_error``). An answer
needs no gradient, whatever the mode it was asked in.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from recemb.serving.torchscript import torchscript_expected


@dataclass(frozen=True, slots=True)
class Input:
    """One input of a program."""

    name: str
    is_number: bool = False
    """Whether it holds float32 numbers and not int64 ids or sizes."""
    like: str | None = None
    """An input before it that has as many values."""
    sizes: str | None = None
    """An input before it that holds sizes, which add up to the number of its values."""


class Checked(Protocol):
    """What a program must say of itself to be traced."""

    def inputs(self) -> list[Input]:
        """Return the inputs, sizes before what they are of."""


def refuse(message: str) -> Tensor:
    """Raise a ``RuntimeError``; what is returned must be used.

    TorchScript makes of ``raise`` an error that is none of Python's, and drops a check of whose
    result nothing is made.
    """
    zero = torch.zeros([1])
    result: Tensor = torch.ops.aten._functional_assert_async(zero > 0, message, zero)
    return result


def asserted(values: Tensor, is_right: Tensor, message: str) -> Tensor:
    """Return ``values``, which a trace refuses with a ``RuntimeError`` unless they are right.

    Args:
        values: Of any type; what is made of them is made after the check.
        is_right: One truth value.
        message: Of the error.
    """
    zero = torch.zeros((), dtype=values.dtype)
    # The zero is added lest TorchScript drop a check of whose result nothing is made.
    checked: Tensor = torch.ops.aten._functional_assert_async.msg(is_right, message, zero)
    return values + checked


def _vector(name: str, values: Tensor, is_number: bool) -> Tensor:
    """Return one input as the program reads it."""
    if values.layout != torch.strided or values.is_nested or values.is_meta:
        return refuse(f"input '{name}': must be a dense tensor that holds values")
    if values.dim() != 1:
        return refuse(f"input '{name}': must have one dimension, got shape {list(values.shape)}")
    wanted = torch.float32 if is_number else torch.int64
    if values.dtype == wanted:  # so it mostly is, and looking costs less than converting
        return values.contiguous()
    if values.is_quantized or values.is_complex():
        return refuse(f"input '{name}': must hold plain numbers, got quantized or complex ones")
    if not is_number and values.is_floating_point():
        return refuse(f"input '{name}': must hold whole numbers (int64), got floating-point ones")
    return values.to(wanted).contiguous()


def _like(name: str, values: Tensor, other: str, like: Tensor) -> Tensor:
    """Return values that are as many as those of another input."""
    if values.size(0) != like.size(0):
        return refuse(
            f"input '{name}': must have as many values as input '{other}', got {values.size(0)} "
            f"for {like.size(0)}"
        )
    return values


def _sized(name: str, values: Tensor, other: str, sizes: Tensor) -> Tensor:
    """Return values that are as many as sizes add up to."""
    count, total = values.size(0), 0
    if sizes.size(0) > 0:
        # Each within its bounds first: a sum of anything may pass the end of its type.
        smallest, largest = torch.aminmax(sizes)
        if int(smallest) < 0:
            return refuse(f"input '{other}': a size must be at least 0, got {int(smallest)}")
        if int(largest) > count:
            return refuse(
                f"input '{other}': a size must be at most the {count} values of input '{name}', "
                f"got {int(largest)}"
            )
        total = int(sizes.sum())
    if total != count:
        return refuse(
            f"input '{other}': sizes must add up to the {count} values of input '{name}', got "
            f"{total}"
        )
    return values


class CheckedProgram(nn.Module):
    """A traced program behind the checks of its inputs; see the module. It is made to be scripted.

    Args:
        program: The trace.
        inputs: Of it.
    """

    def __init__(self, program: nn.Module, inputs: Sequence[Input]) -> None:
        super().__init__()
        self.program = program
        # Whoever reads a program's vectors finds them by their own names; they are stored once.
        for name, buffer in program.named_buffers(recurse=False):
            self.register_buffer(name, buffer)
        self.names = [one.name for one in inputs]
        self.is_number = [one.is_number for one in inputs]
        # TorchScript has no lists of values that may be None.
        place: dict[str | None, int] = {None: -1} | {name: k for k, name in enumerate(self.names)}
        self.like = [place[one.like] for one in inputs]
        self.sizes = [place[one.sizes] for one in inputs]

    def forward(self, inputs: dict[str, Tensor]):  # type: ignore[no-untyped-def]
        """Return what the program answers."""
        with torch.no_grad():
            answer = self.program(self.checked(inputs))
        return answer  # noqa: RET504 (TorchScript leaves no block by return)

    def checked(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the inputs as the program reads them."""
        given: list[Tensor] = []
        numbers: list[Tensor] = []
        found: dict[str, Tensor] = {}
        for k, name in enumerate(self.names):
            if name not in inputs:
                found[name] = refuse(f"input '{name}' is missing, got {list(inputs.keys())}")
            values = _vector(name, inputs[name], self.is_number[k])
            like, sizes = self.like[k], self.sizes[k]
            if like >= 0:
                values = _like(name, values, self.names[like], given[like])
            if sizes >= 0:
                values = _sized(name, values, self.names[sizes], given[sizes])
            if self.is_number[k]:
                numbers.append(values)
            given.append(values)
            found[name] = values
        if len(numbers) > 0 and not bool(torch.stack(numbers).isfinite().all()):
            for k, name in enumerate(self.names):
                if self.is_number[k] and not bool(found[name].isfinite().all()):
                    found[name] = refuse(f"input '{name}': a number must be finite in float32")
        return found


def checked_trace(program: Checked, example: dict[str, Tensor]) -> torch.jit.ScriptModule:
    """Return a program as TorchScript, behind the checks of its inputs.

    Tracing records tensor operations. A size that Python turned into a number would be frozen into
    the program and be wrong for every other request, so the tracer's warning of it is an error.

    Args:
        program: A module from a dictionary of its inputs to tensors.
        example: Inputs to trace it with.
    """
    module = cast(nn.Module, program)
    with torchscript_expected(), torch.no_grad():
        warnings.simplefilter("error", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        traced = torch.jit.trace(module, (example,), check_trace=False)
        scripted = torch.jit.script(CheckedProgram(traced, program.inputs()))
    assert isinstance(scripted, torch.jit.ScriptModule)
    return scripted
