"""First configuration: a runnable one for a file of rows, with what was found said beside it.

Vectors have 4 elements up to 10 values, 8 up to 1,000 and 16 above; in a DeepFM, whose vectors must
be of one width, all have the widest. A value must be seen twice to have a vector of its own where
there are fewer than 10 rows per value.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import yaml

from recemb.data.encode import error_in
from recemb.data.files import TableFile
from recemb.data.first_look import Found, ids_of, lengths_of, look
from recemb.data.split_file import split, write_parts
from recemb.data.values import ValueAtError, labels
from recemb.errors import RecembError
from recemb.files import whole_file

WIDTHS = ((10, 4), (1_000, 8))
WIDEST = 16
MANY = 1_000_000
"""Values above which a table is hashed, into half as many rows."""
ROWS_PER_VALUE = 10
"""Below, values that are seen once share the vector of unknown ones."""
ALIKE = 0.5
"""Of a list's ids, those that a column must have for both to be of one vocabulary."""
LONGEST = 50
BATCH_SIZES = ((20_000, 256), (1_000_000, 1024))
"""Up to so many rows; 4,096 above."""


@dataclass(frozen=True, slots=True)
class Described:
    """What was found in a file."""

    rows: pl.DataFrame
    train: pl.DataFrame
    columns: dict[str, Found]
    """By the name of the feature."""
    shares: dict[str, str]
    """By list, the column with one id per row whose ids it holds."""
    histories: dict[str, str]
    """By column, the list of the same ids that is its history."""


def write_first(
    path: Path, label: str, time: str | None, time_format: str | None, output: Path
) -> list[str]:
    """Write a configuration that trains on a file, and the parts of the file beside it.

    Args:
        path: Parquet or CSV, one row per sample; it is held in memory.
        label: Its column of 0 and 1.
        time: Its column of times; None: the first that seems to be one, if any does.
        time_format: Of times that are text of another form than ISO 8601.
        output: The configuration. The parts lie beside it, in a folder of its name.

    Returns:
        What was found, in lines of text.

    Raises:
        RecembError: If the file cannot be read, has no such column or too few rows, or its label is
            not both 0 and 1; or if the configuration or the folder is there already.
    """
    folder = output.with_name(f"{output.stem}_split")
    for place in (output, folder):
        if place.exists():
            raise RecembError(f"{place}: it is there already; remove it, or give another --output")
    file = TableFile(path)
    file.require([label, *([time] if time is not None else [])])
    rows = file.collect(file.scan())
    positive = _share_of_clicks(path, rows[label], label, file.is_text)
    found = [look(name, rows[name], file.is_text) for name in rows.columns if name != label]
    times = [one.name for one in found if one.kind == "time"]
    time = time if time is not None else next(iter(times), None)
    parts = split(path, rows, time, time_format)
    described = _described(rows, parts["train"], found, time, file.is_text)
    if not any(one.kind in ("id", "list") for one in described.columns.values()):
        raise RecembError(f"{path}: no column seems to hold ids; write the configuration by hand")
    text = _text(path, label, positive, time, folder, described)
    write_parts(parts, folder, path.suffix)
    with whole_file(output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return _said(described)


def _share_of_clicks(path: Path, values: pl.Series, label: str, from_text: bool) -> float:
    try:
        share = float(labels(values.rename(""), from_text).double().mean())
    except ValueAtError as error:
        raise error_in(path, label, error) from None
    if share in (0.0, 1.0):
        raise RecembError(
            f"{path}: column {label!r}: there must be rows of 0 and of 1, got {share:.0f} in all; "
            "name another --label"
        )
    return share


def _described(
    rows: pl.DataFrame, train: pl.DataFrame, found: list[Found], time: str | None, from_text: bool
) -> Described:
    columns: dict[str, Found] = {}
    for one in found:
        why = one.why
        if one.name == time:
            why = "it orders the rows"
        elif one.kind == "time":
            why = "it is a time"
        elif one.kind == "id" and not _num_known(train, one):
            why = "hardly any value is seen twice"
        kept = Found(name=one.name, kind="out", why=why) if why else one
        name = re.sub(r"\W", "_", one.name) or "column"
        while name in columns:
            name += "_"
        columns[name] = kept
    own = {n: set(ids_of(rows[one.name], one)) for n, one in columns.items() if one.kind == "id"}
    shares: dict[str, str] = {}
    for name, one in columns.items():
        if one.kind == "list":
            ids = set(ids_of(rows[one.name], one))
            best = max(own, key=lambda column: len(own[column] & ids), default=None)
            if best is not None and len(own[best] & ids) >= ALIKE * len(ids):
                shares[name] = best
    histories: dict[str, str] = {}
    for name, owner in shares.items():
        lengths = [
            lengths_of(rows[columns[n].name], columns[n]).fill_null(0)
            for n in (name, *histories.values())
        ]
        # Histories are of the same events: side by side, and of the same lengths.
        if owner not in histories and (lengths[0] == lengths[-1]).all():
            histories[owner] = name
    return Described(rows, train, columns, shares, histories)


def _min_count(rows: int, found: Found) -> int:
    return 2 if rows < ROWS_PER_VALUE * found.distinct else 1


def _num_known(train: pl.DataFrame, found: Found) -> int:
    """Return how many values have a vector of their own."""
    counts = ids_of(train[found.name], found).value_counts()["count"]
    return int((counts >= _min_count(len(train), found)).sum())


def _width(distinct: int) -> int:
    return next((width for most, width in WIDTHS if distinct <= most), WIDEST)


def _table(distinct: int, width: int) -> str:
    if distinct <= MANY:
        return f"{{kind: full, dim: {width}}}"
    return f"{{kind: hashed, num_rows: {distinct // 2}, dim: {width}, num_hashes: 2}}"


def _text(
    path: Path,
    label: str,
    positive: float,
    time: str | None,
    folder: Path,
    described: Described,
) -> str:
    """Return the configuration."""
    rows, columns = described.rows, described.columns
    kinds = {kind: {n: one for n, one in columns.items() if one.kind == kind} for kind in
             ("id", "list", "number", "out")}  # fmt: skip
    owners = {
        **kinds["id"],
        **{n: o for n, o in kinds["list"].items() if n not in described.shares},
    }
    is_din = bool(described.histories)
    widest = max(_width(one.distinct) for one in owners.values())
    tables, features = [], []
    for name, one in owners.items():
        width = _width(one.distinct) if is_din else widest
        tables.append(
            f"      {_word(name)}: {_table(one.distinct, width)}  # {one.distinct:,} values"
        )
    for name in [*kinds["id"], *kinds["list"]]:
        if name not in described.histories.values():
            features.append(
                f"      {_word(name)}: {{table: {_word(described.shares.get(name, name))}}}"
            )
    batch_size = next((size for most, size in BATCH_SIZES if len(rows) <= most), 4096)
    by = (
        f"by {time!r}: the last tenth is the test, the tenth before it validation"
        if time is not None
        else "by a hash of each row's number: a tenth is the test, a tenth validation"
    )
    lines = [
        f"# Written by `recemb init` from {_one_line(path)}: {len(rows):,} rows, {positive:.1%} of "
        "them with label 1.",
        "# It is a start, told by the values alone: say otherwise what you know better.",
        f"# Split {_one_line(by)}.",
        *(["# Left out:"] if kinds["out"] else []),
        *(f"#   {_one_line(one.name)}: {_one_line(one.why)}" for one in kinds["out"].values()),
        "seed_everything: 1",
        "model:",
        f"  class_path: recemb.models.{'din.DIN' if is_din else 'deepfm.DeepFM'}",
        "  init_args:",
        "    # Vectors of 4 elements up to 10 values, 8 up to 1,000, 16 above"
        + ("." if is_din else "; of one width in a DeepFM."),
        "    tables:",
        *tables,
        "    features:",
        *features,
        *_histories(described.histories),
        "    learning_rate: 0.001",
        "    rows_optimizer: {kind: adam, learning_rate: 0.001}",
        "data:",
        "  class_path: recemb.data.tabular.Tabular",
        "  init_args:",
        f"    folder: {_word(folder.as_posix())}",
        *(f"    {stage}: {stage}{path.suffix}" for stage in ("train", "validation", "test")),
        f"    label: {_word(label)}",
        *_section("categorical", _ids(kinds["id"], len(described.train))),
        *_section("lists", _lists(kinds["list"], described, len(described.train))),
        *_section("dense", {n: _settings(n, one, []) for n, one in kinds["number"].items()}),
        f"    batch_size: {batch_size}",
        "trainer:",
        f"  log_every_n_steps: {min(50, -(-len(described.train) // batch_size))}",
        "  max_epochs: 20",
        "  callbacks:",
        "    # Ends after two epochs that are no better in validation.",
        "    - class_path: lightning.pytorch.callbacks.EarlyStopping",
        "      init_args: {monitor: val/auc, mode: max, patience: 2}",
    ]
    return "\n".join(lines) + "\n"


def _histories(histories: Mapping[str, str]) -> list[str]:
    if not histories:
        return []
    pairs = ", ".join(f"{_word(column)}: {_word(name)}" for column, name in histories.items())
    return ["    # Lists of the ids that the columns have: what came before the row.",
            f"    history: {{{pairs}}}"]  # fmt: skip


def _ids(columns: Mapping[str, Found], num_rows: int) -> dict[str, str]:
    return {n: _settings(n, one, _seen(num_rows, one)) for n, one in columns.items()}


def _seen(num_rows: int, found: Found) -> list[str]:
    least = _min_count(num_rows, found)
    return [f"min_count: {least}"] if least > 1 else []


def _lists(columns: Mapping[str, Found], described: Described, num_rows: int) -> dict[str, str]:
    lines = {}
    for name, one in columns.items():
        owner = described.shares.get(name)
        said = [f"vocabulary: {_word(owner)}"] if owner is not None else _seen(num_rows, one)
        if one.separator is not None:
            said.append(f'separator: "{one.separator}"')
        if one.longest > LONGEST:
            said.append(f"max_length: {LONGEST}")
        lines[name] = _settings(name, one, said) + f"  # up to {one.longest:,} ids"
    return lines


def _settings(name: str, found: Found, said: list[str]) -> str:
    column = [f"column: {_word(found.name)}"] if found.name != name else []
    return "{" + ", ".join([*column, *said]) + "}"


def _section(name: str, lines: Mapping[str, str]) -> list[str]:
    if not lines:
        return []
    return [f"    {name}:", *(f"      {_word(key)}: {text}" for key, text in lines.items())]


def _word(text: str) -> str:
    """Return a string as YAML has it within a line."""
    plain = re.fullmatch(r"[A-Za-z][\w./-]*", text) and isinstance(yaml.safe_load(text), str)
    return text if plain else yaml.safe_dump(text, default_style='"', width=1 << 30).strip()


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


def _said(described: Described) -> list[str]:
    lines = []
    for one in described.columns.values():
        what = {
            "id": f"ids, {one.distinct:,} values",
            "list": f"lists of ids, {one.distinct:,} values",
            "number": "numbers",
            "out": f"left out: {one.why}",
        }[one.kind]
        lines.append(f"  {_one_line(one.name)}: {_one_line(what)}")
    return lines
