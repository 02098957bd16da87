"""Export: a checkpoint's model as a TorchScript file that needs nothing but torch."""

from pathlib import Path

import torch
from torch import nn

from recemb.accounting import module_bytes
from recemb.files import whole_file, writing
from recemb.schema import Schema
from recemb.serving.archive import write_checksum, write_program
from recemb.serving.checks import checked_trace
from recemb.serving.next_item import NextItemProgram
from recemb.serving.parity import Case, check_parity, make_request
from recemb.serving.program import ServedProgram
from recemb.serving.recommend import RecommendProgram
from recemb.serving.torchscript import torchscript_expected

AnyProgram = ServedProgram | NextItemProgram | RecommendProgram


def served_program(model: nn.Module) -> AnyProgram:
    """Return what is served of a model, which is put into evaluation mode."""
    if hasattr(model, "recommend"):
        return RecommendProgram(model)
    return NextItemProgram(model) if hasattr(model, "best") else ServedProgram(model)


def trace(program: AnyProgram) -> torch.jit.ScriptModule:
    """Return the program as TorchScript, behind the checks of its inputs."""
    if isinstance(program, ServedProgram):
        generator = torch.Generator().manual_seed(0)
        example = make_request(program.schema, Case("example", 3), generator).raw
    else:
        example = program.example()
    return checked_trace(program, example)


def describe(schema: Schema) -> dict[str, object]:
    """Return what a caller must know of each input."""
    inputs: dict[str, object] = {}
    for name, column in schema.columns.items():
        unknown = schema.vocabularies[column.vocabulary].config.unknown if column.vocabulary else ""
        inputs[name] = {
            "type": "list of int64" if column.is_list else "int64",
            "id": "xxHash64 (seed 0, UTF-8) of the string" if column.is_text else "the integer",
            "unknown": unknown or "no id is unknown",
            "padding": column.padding,
        }
    for name in schema.dense:
        inputs[name] = {"type": "float32"}
    return inputs


def export(model: nn.Module, schema: Schema, output: Path) -> dict[str, object]:
    """Write a model as TorchScript after checking that it says the same.

    Args:
        model: Trained, on the CPU. It is left in evaluation mode, its parameters frozen.
        schema: Of its data.
        output: The file; it is written whole or not at all. Beside it lies its checksum
            (:mod:`recemb.serving.archive`).

    Returns:
        ``parity`` (largest difference per case), ``serving_bytes`` (of tensors), ``file_bytes``,
        ``checksum`` and ``inputs``.

    Raises:
        RecembError: If the program and the model disagree, or the file cannot be written.
    """
    program = served_program(model.requires_grad_(False))
    inputs = describe(schema) if isinstance(program, ServedProgram) else program.describe()
    traced = trace(program)
    with writing(output), whole_file(output) as temporary:
        write_program(traced, temporary, inputs)
        with torchscript_expected():
            loaded = torch.jit.load(temporary)
        if isinstance(program, ServedProgram):
            parity = check_parity(loaded, model.eval(), schema)
        else:
            parity = program.check_parity(loaded, model.eval())
    return {
        "parity": parity,
        "serving_bytes": module_bytes(program),
        "file_bytes": output.stat().st_size,
        "checksum": write_checksum(output),
        "inputs": inputs,
    }
