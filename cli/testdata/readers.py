"""Loads the part files of a run with the readers of the field and compares what they find with what json finds.

python readers.py READERS FOLDER: READERS is a list as pyarrow,polars,duckdb,pandas,datasets.
"""

import glob
import json
import os
import sys
import tempfile

# Read as docs/datasets.md says: a reader that takes its schema from the first lines is told to look at all of them, and one that
# takes it from the first of several files gets them as one.


def joined(paths):
    return b"".join(open(path, "rb").read() for path in paths)


def by_pyarrow(paths):
    import pyarrow.json

    rows = []
    for path in paths:
        options = pyarrow.json.ReadOptions(block_size=max(1 << 20, os.path.getsize(path) + 1))
        rows += pyarrow.json.read_json(path, read_options=options).to_pylist()
    return rows


def by_polars(paths):
    import polars

    return polars.read_ndjson(joined(paths), infer_schema_length=None).to_dicts()


def by_duckdb(paths):
    import duckdb

    found = duckdb.sql(
        f"select * from read_json({paths!r}, format='newline_delimited', sample_size=-1, union_by_name=true, maximum_object_size=100000000)"
    )
    return [dict(zip(found.columns, row)) for row in found.fetchall()]


def by_pandas(paths):
    import pandas

    return [row for path in paths for row in pandas.read_json(path, lines=True, dtype=False).to_dict("records")]


def by_datasets(paths):
    import datasets

    datasets.disable_progress_bars()
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as file, tempfile.TemporaryDirectory() as cache:
        file.write(joined(paths))
        file.flush()
        return datasets.load_dataset("json", data_files=file.name, split="train", cache_dir=cache).to_list()


def told(row):
    """What every reader must find the same: who, what was said, how it ended."""
    return (
        str(row["id"]),
        int(row["seed"]),
        row["unread"],
        row["outcome"]["status"],
        row["outcome"]["cause"],
        row["outcome"]["stopped"],
        tuple(
            (t["role"], t["text"], t["error"], t["reasoning"], t["hop"], len(t["samples"]), tuple(c["arguments"] for c in t["tool_calls"]),
             tuple((c["kind"], c["name"], c["finish"], c["error"], c["prompt_tokens"], c["seed"]) for c in t["calls"]))
            for t in row["turns"]
        ),
    )


def main():
    readers, folder = sys.argv[1].split(","), sys.argv[2]
    seen = 0
    for name in ("data", "failed"):
        paths = [p for p in sorted(glob.glob(f"{folder}/{name}/part-*.jsonl")) if os.path.getsize(p)]
        if not paths:
            continue
        want = sorted(told(json.loads(line)) for path in paths for line in open(path, encoding="utf-8", newline="\n"))
        seen += len(want)
        for reader in readers:
            try:
                got = sorted(told(row) for row in globals()["by_" + reader](paths))
            except Exception as err:
                sys.exit(f"{reader} of {folder}/{name}: {type(err).__name__}: {err}")
            for g, w in zip(got, want):
                if g != w:
                    sys.exit(f"{reader} of {folder}/{name}:\ngot  {g}\nwant {w}")
            if len(got) != len(want):
                sys.exit(f"{reader} of {folder}/{name}: got {len(got)} rows, want {len(want)}")
    print(seen, "rows")


main()
