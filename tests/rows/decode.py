"""Stored rows as numbers, read element by element: the oracle of every precision."""

from collections.abc import Mapping

import torch
from torch import Tensor

from recemb.physical import PhysicalTable


def decoded(entries: Mapping[str, Tensor], name: str, table: PhysicalTable) -> Tensor:
    """Return a table's rows as fp32 (codes: as they are), from what a store keeps of it."""
    codes = entries[name]
    if codes.is_floating_point() or table.precision == "uint8":
        return codes.clone() if table.precision == "uint8" else codes.to(torch.float32, copy=True)
    rows = []
    for row, stored in enumerate(codes.tolist()):
        if table.precision == "int4":
            # Two elements to a byte, the first in the low half; 8 stands for 0.
            halves = [half - 8 for byte in stored for half in (byte % 16, byte // 16)]
            stored = halves[: table.dim]
        scale, bias = 0.0, 0.0
        if table.step == "table":
            scale = float(entries[f"{name}.step"][0])
        elif table.step == "learned":
            scale = float(entries[f"{name}.step"][row, 0])
        else:
            scale, bias = entries[f"{name}.scale"][row].float().tolist()
        rows.append([code * scale + bias for code in stored])
    return torch.tensor(rows, dtype=torch.float32).reshape(len(codes), table.dim)


def units(entries: Mapping[str, Tensor], name: str, table: PhysicalTable) -> Tensor:
    """Return the distance of neighbouring numbers at each element: (num_rows, dim); 0 of codes."""
    values = decoded(entries, name, table)
    if table.precision in ("fp32", "uint8"):
        return torch.zeros_like(values)
    if table.precision in ("fp16", "bf16"):
        mantissa, least = (10, 2.0**-24) if table.precision == "fp16" else (7, 2.0**-133)
        exponent = torch.frexp(values).exponent - 1
        return torch.ldexp(torch.ones_like(values), exponent - mantissa).clamp(min=least)
    if table.step == "table":
        return entries[f"{name}.step"].expand_as(values)
    if table.step == "learned":
        return entries[f"{name}.step"].expand_as(values)
    return entries[f"{name}.scale"][:, :1].float().expand_as(values)
