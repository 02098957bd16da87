"""Latency: how long the served program takes for one request."""

import statistics
import time

import torch
from torch import nn

from recemb.schema import Schema
from recemb.serving.export import served_program, trace
from recemb.serving.next_item import NextItemProgram
from recemb.serving.parity import Case, make_request

SAMPLES, WARM_UP, ROUNDS = 1024, 5, 30


def latency_ms(model: nn.Module, schema: Schema) -> float:
    """Return the median milliseconds of a request to the model as TorchScript, on this machine.

    A request is of 1,024 samples of known ids, lists of up to 60 (of a next-item model: the
    program's own example). What else runs on the machine is in the figure.

    Args:
        model: Trained, on the CPU; it is put into evaluation mode.
        schema: Of its data.
    """
    program = served_program(model)
    if isinstance(program, NextItemProgram):
        request = program.example()
    else:
        case = Case("latency", SAMPLES, unknown_rate=0.0)
        request = make_request(schema, case, torch.Generator().manual_seed(0)).raw
    with torch.no_grad():
        traced = trace(program)
        for _ in range(WARM_UP):
            traced(request)
        seconds = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            traced(request)
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds) * 1000
