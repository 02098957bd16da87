"""The vocabulary beside an exported program: what the ids that go in and come out are called.

Like a program it has its checksum in a file beside it, ``vocabulary.parquet.checksum``.
"""

from pathlib import Path

import polars as pl
import torch

from recemb.errors import RecembError
from recemb.files import reading, whole_file
from recemb.schema import Schema
from recemb.serving.archive import REMEDY, check_file, write_checksum
from recemb.vocabulary import Vocabulary

VOCABULARY = "vocabulary.parquet"
COLUMNS = {"id_space": pl.String, "value": pl.String, "raw": pl.Int64, "index": pl.Int64}


def write_vocabulary(schema: Schema, program: Path) -> Path:
    """Write all known ids of a schema beside a program, with their checksum; return the file.

    Columns, a row per known id, in the order of indices within an id space:

        id_space  string: the column (or attribute) that numbers the ids
        value     string: the id as the user's files have it; null where strings were not kept
        raw       int64: what the program takes and answers: the integer, or the string's hash
        index     int64: its rank by falling training frequency

    It is ``vocabulary.parquet``; where that is there already and the folder has another program,
    whose it may be, ``<program>.vocabulary.parquet``.
    """
    target = program.with_name(VOCABULARY)
    if target.exists() and any(is_other(one, program) for one in program.parent.glob("*.pt")):
        target = program.with_name(f"{program.stem}.{VOCABULARY}")
    parts = [rows_of(one) for one in schema.vocabularies.values()]
    with whole_file(target) as temporary:
        pl.concat([pl.DataFrame(schema=COLUMNS), *parts]).write_parquet(temporary)
    write_checksum(target)
    return target


def read_vocabulary(program: Path) -> pl.DataFrame:
    """Return the vocabulary beside a program, whose bytes are those that were written.

    Args:
        program: Its path; columns and names are as :func:`write_vocabulary` has them.

    Raises:
        RecembError: If the vocabulary or its checksum is missing or damaged.
    """
    path = vocabulary_of(program)
    if path is None:
        path = program.with_name(VOCABULARY)
        raise RecembError(f"{path}: the file is missing; {REMEDY}")
    check_file(path, "vocabulary")
    with reading(path, "vocabulary", REMEDY):
        return pl.read_parquet(path, glob=False)


def vocabulary_of(program: Path) -> Path | None:
    """Return the file of a program's vocabulary, or None if there is none beside it."""
    names = (f"{program.stem}.{VOCABULARY}", VOCABULARY)
    places = (program.with_name(name) for name in names)
    return next((one for one in places if one.is_file()), None)


def is_other(found: Path, program: Path) -> bool:
    """Return whether a program is neither this one nor a stage of it."""
    return found.name != program.name and not found.name.startswith(f"{program.stem}.")


def rows_of(vocabulary: Vocabulary) -> pl.DataFrame:
    """Return the rows of one id space."""
    index_V = torch.arange(vocabulary.num_known)
    columns = {
        "id_space": pl.repeat(vocabulary.name, len(index_V), eager=True),
        "value": vocabulary.values(
            index_V if vocabulary.has_names else torch.full_like(index_V, -1)
        ),
        "raw": vocabulary.raw_of_index().numpy(),
        "index": index_V.numpy(),
    }
    return pl.DataFrame(columns).cast(COLUMNS)  # type: ignore[arg-type]


def without_names(schema: Schema) -> list[str]:
    """Return the columns and attributes of strings that nothing can name, for they are hashes."""
    raw = [name for name, one in schema.columns.items() if one.vocabulary is None and one.is_text]
    return [*raw, *(name for name, one in schema.vocabularies.items() if not one.has_names)]
