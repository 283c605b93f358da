"""Writes beside each Parquet file of a folder what pyarrow reads in it, a row a line: python values.py DIR

FILE.values has the rows as JSON in the form that dataset/columns.go describes; FILE.error has the error of a file that
pyarrow does not read. What is there already stays."""
import base64, json, math, pathlib, sys
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
import datetime as dt

def string(s): return json.dumps(s, ensure_ascii=False)

def binary(b, plain=True):
    coded = base64.b64encode(b).decode()
    if not plain: return string(coded)
    try:
        if not b.startswith(b"data:;base64,"): return string(b.decode())
    except UnicodeDecodeError: pass
    return string("data:;base64," + coded)

PARTS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}

def moment(n, unit, zone):
    seconds, rest = divmod(n, PARTS[unit])
    day, second = divmod(seconds, 86400)
    try: date = np.datetime64(day, "D").astype(dt.date).isoformat()
    except Exception: date = str(np.datetime64(day, "D"))
    part = ("%09d" % (rest * 10**9 // PARTS[unit])).rstrip("0")
    clock = "%02d:%02d:%02d%s" % (second // 3600, second // 60 % 60, second % 60, "." + part if part else "")
    return string((date + "T" if zone is not None else "") + clock + (zone or ""))

def value(x, t, kinds):
    """x: a scalar, kinds: the leaves' (physical, logical) types by path, of this column."""
    if isinstance(x, pa.ExtensionScalar):
        if t.extension_name == "arrow.uuid": return string(str(x.as_py()))
        if t.extension_name == "arrow.json" and x.is_valid: return json.dumps(json.loads(x.as_py()), ensure_ascii=False)
        x, t = x.value, t.storage_type
    if not x.is_valid: return "null"
    if pa.types.is_dictionary(t): x, t = x.value, t.value_type
    if not x.is_valid: return "null"
    if pa.types.is_timestamp(t): return moment(x.value, t.unit, "Z" if t.tz or any(k == "INT96" for k, _ in kinds) else "")
    if pa.types.is_time(t): return moment(x.value, t.unit, None)
    if pa.types.is_duration(t): return str(x.value)
    if pa.types.is_date64(t): return string(x.as_py().isoformat())
    if pa.types.is_map(t):
        pairs = [(value(e["key"], t.key_type, kinds), value(e["value"], t.item_type, kinds)) for e in x.values]
        if pa.types.is_string(t.key_type) or pa.types.is_large_string(t.key_type):
            return "{" + ",".join(k + ":" + v for k, v in dict(pairs).items()) + "}"
        return "[" + ",".join('{"key":%s,"value":%s}' % p for p in pairs) + "]"
    if pa.types.is_list(t) or pa.types.is_large_list(t) or pa.types.is_fixed_size_list(t):
        return "[" + ",".join(value(e, t.value_type, kinds) for e in x.values) + "]"
    if pa.types.is_struct(t): return "{" + ",".join(string(f.name) + ":" + value(x[i], f.type, kinds) for i, f in enumerate(t)) + "}"
    x = x.as_py()
    if pa.types.is_boolean(t): return "true" if x else "false"
    if pa.types.is_integer(t): return str(x)
    if pa.types.is_decimal(t): return format(x, "f")
    if pa.types.is_float32(t): return str(np.float32(x)) if math.isfinite(x) else "null"
    if pa.types.is_floating(t): return repr(float(x)) if math.isfinite(x) else "null"
    if isinstance(x, bytes): return binary(x, all(l not in ("INTERVAL", "BSON", "GEOMETRY", "GEOGRAPHY") for _, l in kinds))
    if hasattr(x, "isoformat"): return string(x.isoformat())
    return string(x)

for path in sorted(pathlib.Path(sys.argv[1]).glob("*.parquet")):
    if any(pathlib.Path(str(path) + end).exists() for end in (".values", ".error")): continue
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
        leaves = [file.schema.column(i) for i in range(len(file.schema))]
        table = file.read()
        lines = [[] for _ in range(table.num_rows)]
        for f, column in zip(table.schema, table.columns):
            kinds = [(l.physical_type, "INTERVAL" if l.converted_type == "INTERVAL" else l.logical_type.type) for l in leaves if l.path.split(".")[0] == f.name]
            for line, x in zip(lines, column): line.append(string(f.name) + ":" + value(x, f.type, kinds))
        with open(str(path) + ".values", "w", encoding="utf-8") as out:
            for line in lines: out.write("{" + ",".join(line) + "}\n")
    except Exception as e:
        with open(str(path) + ".error", "w", encoding="utf-8") as out: out.write(repr(e)[:300] + "\n")
