"""What ``recommend`` is asked: users or items, by name, by a file, or all of them."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor

from recemb.command_line.id_files import Key, ids_of_words, index_of, is_known, read_table
from recemb.errors import RecembError
from recemb.frames import shown
from recemb.vocabulary import Vocabulary

ALL = "all"
"""The word that asks for every query that the checkpoint knows."""
QUERIES = {
    "users": ("user", "the best items of users"),
    "complements_of": ("item", "what goes with items"),
    "substitutes_of": ("item", "what is like items"),
}
"""By option, what the model must be asked for, and what comes out."""
SESSIONS = "sessions"


@dataclass(frozen=True, slots=True)
class Asked:
    """Queries.

    Attributes:
        names: As the user's files have them: strings or int64.
        index_B: As the model takes them.
        is_known_B: Whether the checkpoint knows them.
    """

    names: pl.Series
    index_B: Tensor
    is_known_B: Tensor


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of which one must be given."""
    one = parser.add_mutually_exclusive_group(required=True)
    for name, (_, meaning) in QUERIES.items():
        dashed = name.replace("_", "-")
        spellings = dict.fromkeys((f"--{name}", f"--{dashed}"))
        one.add_argument(
            *spellings,
            nargs="+",
            metavar="ID",
            help=f"{meaning}; ids as in the data, or {ALL!r} for all that are known",
        )
        one.add_argument(
            f"--{name}_file",
            f"--{dashed}-file",
            type=Path,
            metavar="FILE",
            help=f"{meaning} that a parquet or CSV file has in its column of ids",
        )
    one.add_argument(
        f"--{SESSIONS}",
        type=Path,
        metavar="FILE",
        help="the next items of sessions: a parquet or CSV file of events as the training had",
    )
    parser.add_argument(
        "--query_key",
        "--query-key",
        metavar="COLUMN",
        help="column of ids in the file of users or items (default: what the training's data calls "
        "it, else user or item, or the only column)",
    )


def option_of(options: argparse.Namespace) -> str:
    """Return which of the options was given: a name of :data:`QUERIES`, or :data:`SESSIONS`."""
    given: dict[str, Any] = vars(options)
    if given[SESSIONS] is not None:
        return SESSIONS
    return next(name for name in QUERIES if given[name] or given[f"{name}_file"])


def column_names(config: Mapping[str, Any], role: str) -> list[str]:
    """Return what files may call users or items: as the training's data did, else by their role.

    Args:
        config: Of the checkpoint.
        role: ``user`` or ``item``, by which settings of data modules name the column.
    """
    data = config["data"]
    settings = data.get("init_args") if isinstance(data, Mapping) else None
    settings = settings if isinstance(settings, Mapping) else {}
    sections = [settings, *(one for one in settings.values() if isinstance(one, Mapping))]
    said = [one.get(role) for one in sections]
    return list(dict.fromkeys([*(name for name in said if isinstance(name, str)), role]))


def queries(
    options: argparse.Namespace, option: str, vocabulary: Vocabulary, called: list[str]
) -> Asked:
    """Return the users or items that are asked for, each once.

    Args:
        options: Of the command.
        option: Which of them says what is asked.
        vocabulary: Of the users or items.
        called: What a file's column of them may be called.

    Raises:
        RecembError: If a file cannot be read or an id is not of the vocabulary's type; or if the
            model refuses unknown ids, and one is.
    """
    words, path = getattr(options, option), getattr(options, f"{option}_file")
    if words == [ALL]:
        return all_known(vocabulary)
    if path is None:
        return asked_by_name(ids_of_words(words, vocabulary), vocabulary)
    return asked_in_file(path, Key(options.query_key, called, "--query_key"), vocabulary)


def all_known(vocabulary: Vocabulary) -> Asked:
    """Return all users or items of a vocabulary."""
    index_B = torch.arange(vocabulary.num_known)
    return Asked(vocabulary.values(index_B), index_B, torch.ones_like(index_B, dtype=torch.bool))


def asked_in_file(path: Path, key: Key, vocabulary: Vocabulary) -> Asked:
    """Return the users or items of a file, each once; see :func:`queries`."""
    frame, column = read_table(path, key, vocabulary)
    names = frame[column].drop_nulls().unique(maintain_order=True)
    if names.is_empty():
        raise RecembError(f"{shown(path)}: there are no ids to ask for; the column is empty")
    return asked_by_name(names, vocabulary)


def asked_by_name(names: pl.Series, vocabulary: Vocabulary) -> Asked:
    """Return users or items, which are as the vocabulary has them; see :func:`queries`."""
    index_B = index_of(names, vocabulary)
    if bool((index_B < 0).any()):
        name = names[int((index_B < 0).int().argmax())]
        raise RecembError(
            f"recommend: {vocabulary.name} {name!r} is not in the training data, and this model "
            "was trained with unknown='error'; leave it out"
        )
    return Asked(names, index_B, is_known(index_B, vocabulary))


def unnamed(vocabulary: Vocabulary) -> str:
    """Return what is said where answers hold hashes."""
    return (
        f"{vocabulary.name}s are named by their hashes, because their strings were not kept; train "
        "with keep_strings: true in the data's columns"
    )
