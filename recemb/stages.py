"""Stages: which of validation and test a data module has, and a clear word where one is missing."""

from typing import Any, Literal

from recemb.errors import RecembError

Stage = Literal["validation", "test"]


def has_stage(data: Any, stage: Stage) -> bool:
    """Return whether data has a stage; a data module that does not say so has both."""
    return bool(getattr(data, f"has_{stage}", True))


def require_stage(data: Any, stage: Stage) -> None:
    """Raise a :class:`RecembError` if data lacks a stage."""
    if not has_stage(data, stage):
        raise RecembError(f"the data has no {stage} file; name one in data.init_args.{stage}")
