"""Loads N.parquet and N.jsonl of a folder with the field's readers, and compares what they hold."""

import glob
import json
import sys

import duckdb
import polars
import pyarrow.parquet


def same(x, y):
    """Whether a value of a file with types is that of JSON: there, what a file without leaves out is null, and
    arguments and tools are JSON as text."""
    if isinstance(x, str) and isinstance(y, (dict, list)):
        x = json.loads(x)
    if isinstance(y, dict):
        x = x or {}
        return not set(y) - set(x) - {k for k, v in y.items() if v in (None, {})} and all(same(v, y.get(k)) for k, v in x.items())
    if isinstance(y, list):
        return x is not None and len(x) == len(y) and all(map(same, x, y))
    return x == y or x in (None, {}) and y in (None, {})



def main(folder):
    files = sorted(glob.glob(folder + "/*.parquet"))
    for path in files:
        want = [json.loads(line) for line in open(path.replace(".parquet", ".jsonl"), encoding="utf-8")]
        table = pyarrow.parquet.read_table(path)
        rows = table.to_pylist()
        if len(rows) != len(want) or not want:
            sys.exit(f"{path}: {len(rows)} rows, want {len(want)}")
        for got, row in zip(rows, want):
            if not same(got, row):
                sys.exit(f"{path}: got\n{got}\nwant\n{row}")
        if polars.read_parquet(path).to_dicts() != rows:
            sys.exit(f"{path}: polars reads something else than pyarrow")
        if duckdb.read_parquet(path).fetchall() != [tuple(row.values()) for row in rows]:
            sys.exit(f"{path}: duckdb reads something else than pyarrow")
        if polars.read_ndjson(path.replace(".parquet", ".jsonl"), infer_schema_length=None).height != len(want):
            sys.exit(f"{path}: polars reads other lines")
    print(len(files))


main(sys.argv[1])
