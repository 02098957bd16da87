#!/usr/bin/env bash
# polars 2.1.0, pyarrow 26.0.1: one integer of 2^63 or more in a CSV column (hashed ids are often unsigned
# 64-bit numbers) makes polars infer Int128 for it. sink_parquet writes that column, polars reads it back, and
# pyarrow cannot open the file at all: not its schema, and not the other columns either, which have no
# such number ("Integers with more than 64 bits not implemented"). The frame cannot become an Arrow
# table for pyarrow either. Declaring the column UInt64 or String avoids it.
# Fails if polars infers another type, or pyarrow opens the file.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet polars==2.1.0 pyarrow==26.0.1
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

with open("ids.csv", "w") as file:
    file.write("user,item\n17,9223372036854775808\n18,5\n")
scanned = pl.scan_csv("ids.csv")
print("polars infers", dict(scanned.collect_schema()))
assert scanned.collect_schema()["item"] == pl.Int128
scanned.sink_parquet("ids.parquet")
assert pl.read_parquet("ids.parquet")["item"].to_list() == [2**63, 5]
for what, read in {
    "the schema": lambda: pq.ParquetFile("ids.parquet"),
    "the other column": lambda: pq.read_table("ids.parquet", columns=["user"]),
    "the frame": lambda: pa.table(pl.read_parquet("ids.parquet")),
}.items():
    try:
        read()
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
        print(f"pyarrow, {what}: {type(error).__name__}: {error}")
    else:
        raise SystemExit(f"pyarrow reads {what} now")
declared = pl.scan_csv("ids.csv", schema_overrides={"item": pl.UInt64})
declared.sink_parquet("declared.parquet")
assert pq.read_table("declared.parquet")["item"].to_pylist() == [2**63, 5]
print("declared as UInt64 it is read")
PYTHON
