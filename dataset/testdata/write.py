"""Writes Parquet files as pyarrow, polars, duckdb and fastparquet do: python write.py DIR [ROWS]"""
import datetime as dt, decimal, itertools, os, sys, random
import pyarrow as pa, pyarrow.parquet as pq
d = sys.argv[1]; os.makedirs(d, exist_ok=True)
r = random.Random(7)
N = int(sys.argv[2]) if len(sys.argv) > 2 else 3000
def maybe(f): return [None if r.random() < 0.2 else f(i) for i in range(N)]
words = ["", "a", "é駅", "the quick brown fox", "x" * 300]
flat = {
  "i8": pa.array(maybe(lambda i: r.randint(-128, 127)), pa.int8()), "u8": pa.array(maybe(lambda i: r.randint(0, 255)), pa.uint8()),
  "i16": pa.array(maybe(lambda i: r.randint(-2**15, 2**15-1)), pa.int16()), "i32": pa.array(maybe(lambda i: r.randint(-2**31, 2**31-1)), pa.int32()),
  "i64": pa.array(maybe(lambda i: r.randint(-2**63, 2**63-1)), pa.int64()), "u32": pa.array(maybe(lambda i: r.randint(0, 2**32-1)), pa.uint32()), "u64": pa.array(maybe(lambda i: r.randint(0, 2**64-1)), pa.uint64()),
  "small": pa.array([i % 17 for i in range(N)], pa.int64()), "up": pa.array([i * 3 for i in range(N)], pa.int32()),
  "f16": pa.array(maybe(lambda i: r.choice([0.1, -2.5, 65504.0, 6e-8, float("nan"), float("inf"), -0.0])), pa.float16()) ,
  "f32": pa.array(maybe(lambda i: r.choice([r.random(), 1.0, float("nan"), 1e30])), pa.float32()), "f64": pa.array(maybe(lambda i: r.choice([r.gauss(0, 1e9), -3.0])), pa.float64()),
  "b": pa.array(maybe(lambda i: r.random() < 0.5), pa.bool_()), "runs": pa.array([i // 100 % 2 == 0 for i in range(N)], pa.bool_()), "req": pa.array([i % 3 == 0 for i in range(N)], pa.bool_()),
  "s": pa.array(maybe(lambda i: r.choice(words) + str(r.randint(0, 10**6))), pa.string()), "few": pa.array(maybe(lambda i: r.choice(words)), pa.string()),
  "sorted": pa.array(sorted("key/%06d/%s" % (i, r.choice(words)) for i in range(N)), pa.large_string()),
  "bin": pa.array(maybe(lambda i: r.choice([b"text", b"\xff\x00", bytes([r.randint(0, 255) for _ in range(9)])])), pa.binary()), "fix": pa.array(maybe(lambda i: r.choice([b"abcd", b"\xff\x00\x01\x02"])), pa.binary(4)),
  "d32": pa.array(maybe(lambda i: dt.date(1900 + i % 200, 1 + i % 12, 1)), pa.date32()),
  "t32": pa.array(maybe(lambda i: dt.time(i % 24, 1, 2, 3000)), pa.time32("ms")), "t64": pa.array(maybe(lambda i: dt.time(i % 24, 1, 2, 3)), pa.time64("us")),
  "ts": pa.array(maybe(lambda i: dt.datetime(1969, 12, 30) + dt.timedelta(microseconds=i * 7919777)), pa.timestamp("us")), "tz": pa.array(maybe(lambda i: dt.datetime(2020, 1, 1) + dt.timedelta(milliseconds=i)), pa.timestamp("ms", tz="UTC")),
  "dec": pa.array(maybe(lambda i: decimal.Decimal(r.randint(-10**8, 10**8)).scaleb(-2)), pa.decimal128(12, 2)), "big": pa.array(maybe(lambda i: decimal.Decimal(r.randint(-10**30, 10**30)).scaleb(-5)), pa.decimal128(38, 5)),
  "none": pa.array([None] * N, pa.string()),
}
def lst(f, n=4): return None if r.random() < 0.1 else [f() for _ in range(r.randint(0, n))]
mb = lambda f: None if r.random() < 0.2 else f()
nested = {
  "li": pa.array([lst(lambda: mb(lambda: r.randint(0, 9))) for _ in range(N)], pa.list_(pa.int64())),
  "lh": pa.array([lst(lambda: mb(lambda: r.choice([1.5, -2.0]))) for _ in range(N)], pa.list_(pa.float16())),
  "ls": pa.array([lst(lambda: mb(lambda: r.choice(words))) for _ in range(N)], pa.list_(pa.string())),
  "lls": pa.array([lst(lambda: lst(lambda: mb(lambda: r.choice(words)))) for _ in range(N)], pa.list_(pa.list_(pa.string()))),
  "st": pa.array([mb(lambda: {"a": mb(lambda: 1), "b": mb(lambda: {"c": r.choice(words), "d": lst(lambda: r.random())})}) for _ in range(N)], pa.struct([("a", pa.int32()), ("b", pa.struct([("c", pa.string()), ("d", pa.list_(pa.float64()))]))])),
  "chat": pa.array([lst(lambda: {"role": r.choice(["user", "assistant"]), "content": mb(lambda: r.choice(words)), "tools": lst(lambda: {"n": 1, "x": lst(lambda: mb(lambda: True))})}) for _ in range(N)],
     pa.list_(pa.struct([("role", pa.string()), ("content", pa.string()), ("tools", pa.list_(pa.struct([("n", pa.int64()), ("x", pa.list_(pa.bool_()))])))]))),
  "m": pa.array([None if r.random() < 0.1 else [("k%d" % i, mb(lambda: r.randint(0, 9))) for i in range(r.randint(0, 3))] for _ in range(N)], pa.map_(pa.string(), pa.int64())),
  "mi": pa.array([[(i, lst(lambda: "v")) for i in range(r.randint(0, 3))] for _ in range(N)], pa.map_(pa.int32(), pa.list_(pa.string()))),
  "n": pa.array(range(N), pa.int64()),
}
tf, tn = pa.table(flat), pa.table(nested)
tr = pa.table([pa.array(range(N)), pa.array([i * 7919 % 100 for i in range(N)])], schema=pa.schema([pa.field("id", pa.int64(), nullable=False), pa.field("s", pa.int64(), nullable=False)]))
for codec, ver, (tname, t) in itertools.product(["none", "snappy", "gzip", "brotli", "zstd", "lz4"], ["1.0", "2.0"], [("flat", tf), ("nested", tn), ("required", tr)]):
    pq.write_table(t, f"{d}/pyarrow-{tname}-{codec}-v{ver[0]}.parquet", compression=codec, data_page_version=ver, row_group_size=N // 3 or 1, data_page_size=4000, write_batch_size=64, write_page_checksum=codec != "none")
pq.write_table(tf, f"{d}/pyarrow-plain.parquet", use_dictionary=False, data_page_version="2.0", compression="lz4")
pq.write_table(tn, f"{d}/pyarrow-nested-plain.parquet", use_dictionary=False, data_page_version="2.0", compression="lz4")
pq.write_table(tf, f"{d}/pyarrow-int96.parquet", use_deprecated_int96_timestamps=True)
pq.write_table(tf, f"{d}/pyarrow-tinydict.parquet", dictionary_pagesize_limit=500, data_page_size=500)
pq.write_table(tf.slice(0, 0), f"{d}/pyarrow-norows.parquet")
for ver in ["1.0", "2.0"]:
  for codec in ["none", "lz4"]:
    t = tf.select(["i32", "i64", "up", "d32", "ts"]); pq.write_table(t, f"{d}/pyarrow-delta-{codec}-v{ver[0]}.parquet", use_dictionary=False, column_encoding={c: "DELTA_BINARY_PACKED" for c in t.column_names}, data_page_version=ver, compression=codec)
    t = tf.select(["s", "few", "sorted", "bin"]); pq.write_table(t, f"{d}/pyarrow-deltabytes-{codec}-v{ver[0]}.parquet", use_dictionary=False, column_encoding={c: "DELTA_BYTE_ARRAY" for c in t.column_names}, data_page_version=ver, compression=codec)
    pq.write_table(t, f"{d}/pyarrow-deltalength-{codec}-v{ver[0]}.parquet", use_dictionary=False, column_encoding={c: "DELTA_LENGTH_BYTE_ARRAY" for c in t.column_names}, data_page_version=ver, compression=codec)
    t = tf.select(["f16", "f32", "f64", "i32", "i64", "fix", "big"]); pq.write_table(t, f"{d}/pyarrow-split-{codec}-v{ver[0]}.parquet", use_dictionary=False, column_encoding={c: "BYTE_STREAM_SPLIT" for c in t.column_names}, data_page_version=ver, compression=codec)
    t = tf.select(["b", "runs", "req"]); pq.write_table(t, f"{d}/pyarrow-rle-{codec}-v{ver[0]}.parquet", use_dictionary=False, column_encoding={c: "RLE" for c in t.column_names}, data_page_version=ver, compression=codec)
import polars as pl
pf = pl.from_arrow(tf.drop(["f16"])); pn = pl.from_arrow(tn.drop(["m", "mi", "lh"]))
for codec in ["uncompressed", "snappy", "gzip", "brotli", "zstd", "lz4"]:
    for name, x in [("flat", pf), ("nested", pn)]:
        try: x.write_parquet(f"{d}/polars-{name}-{codec}.parquet", compression=codec, row_group_size=max(N // 2, 1), data_page_size=3000)
        except Exception as e: print("polars", codec, name, repr(e)[:100])
import duckdb
c = duckdb.connect(); c.register("tf", tf.drop(["f16", "none"])); c.register("tn", tn.drop(["lh"]))
for codec in ["uncompressed", "snappy", "gzip", "brotli", "zstd", "lz4", "lz4_raw"]:
    for v in ["V1", "V2"]:
        for name in ["tf", "tn"]:
            try: c.execute(f"copy (select * from {name}) to '{d}/duckdb-{name}-{codec}-{v}.parquet' (format parquet, compression '{codec}', parquet_version {v}, row_group_size 2048)")
            except Exception as e: print("duckdb", codec, v, name, repr(e)[:150])
import fastparquet, pandas as pd
df = tf.select(["i8", "i32", "i64", "small", "u32", "f32", "f64", "b", "s", "few", "bin", "ts", "tz", "req"]).to_pandas()
df["lst"] = [{"a": i} for i in range(N)]
for codec in ["UNCOMPRESSED", "SNAPPY", "GZIP", "BROTLI", "ZSTD", "LZ4", "LZ4_RAW"]:
    for times in ["int64", "int96"]:
        try: fastparquet.write(f"{d}/fastparquet-{codec}-{times}.parquet", df, compression=codec, times=times, row_group_offsets=max(N // 2, 1), object_encoding={"bin": "bytes", "lst": "json", "b": "bool"})
        except Exception as e: print("fastparquet", codec, times, repr(e)[:150])
pandas_df = pd.DataFrame({"t": pd.to_datetime(["2020-01-01T00:00:00.123456789", "1950-06-07", None], format="ISO8601"), "c": pd.Categorical(["a", "b", "a"])})
pandas_df.to_parquet(f"{d}/pandas-nanos.parquet"); pandas_df.to_parquet(f"{d}/pandas-int96.parquet", use_deprecated_int96_timestamps=True)
