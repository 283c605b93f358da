# Runs functions of a Python file for matrix: questions come as lines of JSON on
# stdin, and answers go as lines to stdout. What functions print goes to stderr.
# Python 3.9 or newer, standard library alone.
import asyncio
import collections.abc
import dataclasses
import enum
import importlib.util
import inspect
import json
import os
import queue
import re
import sys
import threading
import traceback
import types
import typing

out = os.fdopen(os.dup(1), "wb")  # nobody else writes there
inp = os.fdopen(os.dup(0), "rb")
os.dup2(2, 1)
null = os.open(os.devnull, os.O_RDONLY)
os.dup2(null, 0)
sys.stdout = sys.stderr
sys.stdin = open(os.devnull)

lock = threading.Lock()


def send(seq, **what):
    what["seq"] = seq
    line = json.dumps(what, ensure_ascii=False, allow_nan=False).encode("utf-8", "surrogatepass")
    line = line.decode("utf-8", "replace").encode() + b"\n"
    with lock:
        out.write(line)
        out.flush()


class Misfit(Exception):
    """An argument that is not of the type of its parameter."""


class Unusable(Exception):
    """A function whose parameters cannot be described."""


# Types as JSON Schemas.

NoneType = type(None)
PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", NoneType: "null"}
UNION = {typing.Union, getattr(types, "UnionType", typing.Union)}
LISTS = {list, tuple, set, frozenset, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection,
         collections.abc.MutableSequence, collections.abc.Set}
DICTS = {dict, collections.abc.Mapping, collections.abc.MutableMapping}
try:
    from typing import NotRequired, Required
    WRAPPED = {NotRequired, Required}
except ImportError:
    WRAPPED = set()


def enumerated(values):
    kinds = {PLAIN[type(v)] for v in values if type(v) in PLAIN}
    schema = {"enum": list(values)}
    if len(kinds) == 1:
        schema = {"type": kinds.pop(), **schema}
    return schema


def is_model(t):
    return isinstance(t, type) and hasattr(t, "model_json_schema") and hasattr(t, "model_validate")


def schema_of(t, defs, inside=()):
    """The schema of a type; definitions that it refers to go into defs."""
    if t in (inspect.Parameter.empty, typing.Any, object):
        return {}
    if t in PLAIN if isinstance(t, type) else False:
        return {"type": PLAIN[t]}
    origin, args = typing.get_origin(t), typing.get_args(t)
    if hasattr(t, "__metadata__"):  # Annotated
        schema = schema_of(args[0], defs, inside)
        for note in t.__metadata__:
            text = note if isinstance(note, str) else getattr(note, "description", None)
            if isinstance(text, str):
                schema["description"] = text
        return schema
    if origin in WRAPPED:
        return schema_of(args[0], defs, inside)
    if origin in UNION:
        return {"anyOf": [schema_of(a, defs, inside) for a in args]}
    if origin is typing.Literal:
        return enumerated(args)
    kind = origin or t
    if kind in LISTS:
        schema = {"type": "array"}
        if kind is tuple and args and args[-1] is not Ellipsis:
            if args == ((),):
                args = ()
            return {**schema, "prefixItems": [schema_of(a, defs, inside) for a in args], "items": False, "minItems": len(args)}
        if args and args[0] is not Ellipsis and not isinstance(args[0], typing.TypeVar):
            schema["items"] = schema_of(args[0], defs, inside)
        if kind in (set, frozenset, collections.abc.Set):
            schema["uniqueItems"] = True
        return schema
    if kind in DICTS:
        schema = {"type": "object"}
        if len(args) == 2 and not isinstance(args[1], typing.TypeVar):
            schema["additionalProperties"] = schema_of(args[1], defs, inside)
        return schema
    if isinstance(t, type) and issubclass(t, enum.Enum):
        return enumerated([m.value for m in t])
    if is_model(t):
        schema = dict(t.model_json_schema())
        defs.update(schema.pop("$defs", {}))
        return schema
    if t in inside:
        raise Unusable("the type %s holds itself" % t.__name__)
    inside = inside + (t,)
    if dataclasses.is_dataclass(t):
        hints, props, need = typing.get_type_hints(t, include_extras=True), {}, []
        about = parameters_in(t.__doc__ or "")
        for f in dataclasses.fields(t):
            if not f.init:
                continue
            props[f.name] = describe(schema_of(hints[f.name], defs, inside), about.get(f.name), f.default)
            if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
                need.append(f.name)
        return {"type": "object", "properties": props, "required": need, "additionalProperties": False}
    if isinstance(t, type) and issubclass(t, dict) and hasattr(t, "__total__"):  # TypedDict
        hints, about = typing.get_type_hints(t, include_extras=True), parameters_in(t.__doc__ or "")
        return {"type": "object", "additionalProperties": False,
                "properties": {k: describe(schema_of(v, defs, inside), about.get(k)) for k, v in hints.items()},
                "required": [k for k in hints if k in t.__required_keys__]}
    if isinstance(t, typing.TypeVar):
        return {}
    if isinstance(t, typing.NewType) if isinstance(typing.NewType, type) else hasattr(t, "__supertype__"):
        return schema_of(t.__supertype__, defs, inside)
    raise Unusable("the type %s cannot come from JSON" % getattr(t, "__name__", t))


def describe(schema, text, default=inspect.Parameter.empty):
    if text:
        schema = {**schema, "description": text}
    if default not in (inspect.Parameter.empty, dataclasses.MISSING) if not hasattr(default, "__array__") else False:
        try:
            schema = {**schema, "default": json.loads(json.dumps(plain(default), allow_nan=False))}
        except (TypeError, ValueError):
            pass
    return schema


def convert(v, t, at):
    """A value of JSON as one of a type. What fits no type is a Misfit at a place."""
    origin, args = typing.get_origin(t), typing.get_args(t)
    if hasattr(t, "__metadata__") or origin in WRAPPED:
        return convert(v, args[0], at)
    if hasattr(t, "__supertype__"):
        return convert(v, t.__supertype__, at)
    if t in (inspect.Parameter.empty, typing.Any, object) or isinstance(t, typing.TypeVar):
        return v
    if t is float and type(v) is int:
        return float(v)
    if t is int and type(v) is float and v.is_integer():
        return int(v)
    if isinstance(t, type) and t in PLAIN:
        if type(v) is not t:
            raise Misfit("%s is %s, want %s" % (at, shown(v), PLAIN[t]))
        return v
    if origin in UNION:
        for exact in (True, False):
            for a in args:
                if exact and type(v) is not (typing.get_origin(a) or a):
                    continue
                try:
                    return convert(v, a, at)
                except Misfit:
                    pass
        raise Misfit("%s is %s, which is none of what it may be" % (at, shown(v)))
    if origin is typing.Literal:
        for a in args:
            if a == v and type(a) is type(v):
                return a
        raise Misfit("%s is %s, want one of %s" % (at, shown(v), ", ".join(map(shown, args))))
    kind = origin or t
    if kind in LISTS:
        if not isinstance(v, list):
            raise Misfit("%s is %s, want a list" % (at, shown(v)))
        if kind is tuple and args and args[-1] is not Ellipsis:
            if args == ((),):
                args = ()
            if len(v) != len(args):
                raise Misfit("%s has %d items, want %d" % (at, len(v), len(args)))
            return tuple(convert(x, a, "%s[%d]" % (at, i)) for i, (x, a) in enumerate(zip(v, args)))
        of = args[0] if args else typing.Any
        items = [convert(x, of, "%s[%d]" % (at, i)) for i, x in enumerate(v)]
        made = {tuple: tuple, set: set, frozenset: frozenset, collections.abc.Set: set}.get(kind, list)
        try:
            return made(items)
        except TypeError as e:
            raise Misfit("%s: %s" % (at, e))
    if kind in DICTS:
        if not isinstance(v, dict):
            raise Misfit("%s is %s, want an object" % (at, shown(v)))
        keys = args[0] if len(args) == 2 else str
        of = args[1] if len(args) == 2 else typing.Any
        if keys not in (int, float):
            keys = lambda k: k
        try:
            return {keys(k): convert(x, of, "%s.%s" % (at, k)) for k, x in v.items()}
        except ValueError as e:
            raise Misfit("%s: %s" % (at, e))
    if isinstance(t, type) and issubclass(t, enum.Enum):
        try:
            return t(v)
        except ValueError:
            raise Misfit("%s is %s, want one of %s" % (at, shown(v), ", ".join(shown(m.value) for m in t)))
    if is_model(t):
        try:
            return t.model_validate(v)
        except ValueError as e:
            raise Misfit("%s: %s" % (at, e))
    if not isinstance(v, dict):
        raise Misfit("%s is %s, want an object" % (at, shown(v)))
    hints = typing.get_type_hints(t, include_extras=True)
    for k in v:
        if k not in hints:
            raise Misfit("%s has %s, which %s does not know" % (at, k, t.__name__))
    values = {k: convert(x, hints[k], "%s.%s" % (at, k)) for k, x in v.items()}
    if not dataclasses.is_dataclass(t):
        for k in t.__required_keys__:
            if k not in values:
                raise Misfit("%s has no %s" % (at, k))
        return values
    try:
        return t(**values)
    except TypeError as e:
        raise Misfit("%s: %s" % (at, e))


def shown(v):
    text = json.dumps(v, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "..."


def plain(v):
    """A value as what json.dumps writes: of any depth, with keys as texts."""
    if isinstance(v, enum.Enum):
        return plain(v.value)
    if v is None or isinstance(v, (bool, int, float, str)):
        return v
    if isinstance(v, dict):
        return {k if isinstance(k, str) else json.dumps(plain(k)) if not isinstance(k, enum.Enum) else str(k.value): plain(x) for k, x in v.items()}
    if isinstance(v, (list, tuple)):
        return [plain(x) for x in v]
    if isinstance(v, (set, frozenset)):
        items = [plain(x) for x in v]
        return sorted(items, key=lambda x: json.dumps(x, sort_keys=True))
    if dataclasses.is_dataclass(v) and not isinstance(v, type):
        return {f.name: plain(getattr(v, f.name)) for f in dataclasses.fields(v)}
    if hasattr(v, "model_dump"):
        return plain(v.model_dump(mode="json"))
    if hasattr(v, "isoformat"):
        return v.isoformat()
    if hasattr(v, "tolist"):  # of numpy
        return plain(v.tolist())
    if hasattr(v, "__fspath__"):
        return os.fspath(v)
    raise TypeError("a %s is not JSON" % type(v).__name__)


# What a docstring says: Google's form, numpy's and reST's.

SECTION = re.compile(r"(args|arguments|parameters|params|attributes|other parameters|keyword args|keyword arguments|returns?|raises|yields?|"
                     r"examples?|notes?|see also|references|warnings?|warns|todo|methods)\s*:?\s*$", re.I)
OF_PARAMETERS = re.compile(r"(args|arguments|parameters|params|attributes|other parameters|keyword args|keyword arguments)\b", re.I)


def sections(doc):
    """The text before the first section, and the lines of each one, by name."""
    lines = inspect.cleandoc(doc).split("\n")
    head, found, i = [], [], 0
    while i < len(lines):
        line = lines[i]
        m = SECTION.match(line.strip())
        ruled = i + 1 < len(lines) and re.fullmatch(r"\s*-{3,}\s*", lines[i + 1])
        if m and line == line.lstrip() and (ruled or line.rstrip().endswith(":")):
            found.append((m.group(1), bool(ruled), []))
            i += 2 if ruled else 1
            continue
        (found[-1][2] if found else head).append(line)
        i += 1
    return head, found


def parameters_in(doc):
    """What a docstring says of parameters, by name."""
    about, name = {}, None
    head, found = sections(doc)
    for line in head + [x for _, _, lines in found for x in lines]:
        m = re.match(r"\s*:(?:param|parameter|arg|argument|key|ivar|var)\s+(?:[^:]*?\s)?\**(\w+)\s*:\s*(.*)$", line)
        if m:
            name = m.group(1)
            about[name] = [m.group(2)]
        elif re.match(r"\s*:\w+", line) or not line.strip():
            name = None
        elif name:
            about[name].append(line.strip())
    for title, ruled, lines in found:
        if not OF_PARAMETERS.match(title):
            continue
        name, depth = None, None
        for line in lines:
            if not line.strip():
                continue
            indent = len(line) - len(line.lstrip())
            depth = indent if depth is None else depth
            if ruled and indent <= depth:
                names = re.match(r"\s*([\w*,\s]+?)\s*(?::.*)?$", line)
                name = [n.strip(" *") for n in names.group(1).split(",")] if names else None
                for n in name or []:
                    about.setdefault(n, [])
            elif not ruled and indent <= depth:
                m = re.match(r"\s*\**(\w+)\s*(?:\([^)]*\))?\s*:\s*(.*)$", line)
                name = [m.group(1)] if m else None
                if m:
                    about[m.group(1)] = [m.group(2)]
            elif name:
                for n in name:
                    about[n].append(line.strip())
    return {k: " ".join(x for x in v if x) for k, v in about.items()}


def summary(doc):
    """What a docstring says before it comes to parameters, one paragraph a line."""
    head, _ = sections(doc)
    keep = []
    for line in head:
        if re.match(r"\s*:(param|parameter|arg|argument|key|returns?|rtype|type|raises?|except|exception|yields?)\b", line):
            break
        keep.append(line)
    return re.sub(r"(?<!\n)\n(?!\n)", " ", "\n".join(x.strip() for x in keep).strip())


# Functions.

class Function:
    def __init__(self, name, f):
        self.name, self.f = name, f
        self.is_async = inspect.iscoroutinefunction(f) or inspect.iscoroutinefunction(getattr(f, "__call__", None))
        signature = inspect.signature(f)
        target = f if inspect.isfunction(f) or inspect.ismethod(f) else inspect.unwrap(f)
        hints = typing.get_type_hints(target, include_extras=True) if hasattr(target, "__annotations__") else {}
        doc = inspect.getdoc(f) or ""
        about, props, need, defs = parameters_in(doc), {}, [], {}
        self.parameters, self.rest = {}, None
        extra = False
        for p in signature.parameters.values():
            t = hints.get(p.name, inspect.Parameter.empty)
            if p.kind is p.VAR_KEYWORD:
                self.rest = t
                extra = schema_of(t, defs) or True
                continue
            if p.kind is p.VAR_POSITIONAL:
                continue
            try:
                schema = schema_of(t, defs)
            except Unusable as e:
                if p.default is not p.empty:  # it has its default, then
                    continue
                raise Unusable("its parameter %s: %s" % (p.name, e))
            if p.default is None and t is not p.empty and "anyOf" not in schema and schema and schema.get("type") != "null":
                schema = {"anyOf": [schema, {"type": "null"}]}
                t = typing.Optional[t]
            self.parameters[p.name] = (p, t)
            props[p.name] = describe(schema, about.get(p.name), p.default)
            if p.default is p.empty:
                need.append(p.name)
        schema = {"type": "object", "properties": props, "required": need, "additionalProperties": extra}
        if not need:
            del schema["required"]
        if defs:
            schema["$defs"] = defs
        self.definition = {"name": name, "description": summary(doc), "parameters": schema}

    def bind(self, arguments):
        first, named = [], {}
        for k, v in arguments.items():
            if k not in self.parameters and self.rest is None:
                raise Misfit("there is no parameter %s" % k)
        for name, (p, t) in self.parameters.items():
            if name not in arguments:
                if p.default is p.empty:
                    raise Misfit("the parameter %s is missing" % name)
                if p.kind is p.POSITIONAL_ONLY:
                    first.append(p.default)
                continue
            v = convert(arguments[name], t, name)
            if p.kind is p.POSITIONAL_ONLY:
                first.append(v)
            else:
                named[name] = v
        if self.rest is not None:
            for k, v in arguments.items():
                if k not in self.parameters:
                    named[k] = convert(v, self.rest, k)
        return first, named


functions, file = {}, ""


def load(path, names):
    """Imports a file. The answer names its functions, or says why there are none."""
    global file
    file = os.path.abspath(path)
    sys.path.insert(0, os.path.dirname(file))
    name = re.sub(r"\W", "_", os.path.splitext(os.path.basename(file))[0])
    try:
        spec = importlib.util.spec_from_file_location(name, file)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    except SyntaxError as e:
        return {"broken": {"message": "SyntaxError: %s" % e.msg, "file": e.filename or file, "line": e.lineno or 0}}
    except (Exception, SystemExit) as e:
        return {"broken": where(e)}
    chosen = names or [n for n, f in vars(module).items()
                       if not n.startswith("_") and inspect.isfunction(f) and f.__module__ == module.__name__]
    if not chosen:
        return {"broken": {"message": "it has no function whose name does not begin with _", "file": file, "line": 0}}
    for n in chosen:
        f = getattr(module, n, None)
        if not callable(f):
            known = sorted(k for k, f in vars(module).items() if inspect.isfunction(f) and not k.startswith("_"))
            what = "it has no function %s" % n if f is None else "%s is no function" % n
            return {"broken": {"message": what, "file": file, "line": 0, "known": known}}
        try:
            functions[n] = Function(n, f)
        except Exception as e:
            code = getattr(inspect.unwrap(f), "__code__", None)
            why = str(e) if isinstance(e, Unusable) else "its type hints cannot be read: %s: %s" % (type(e).__name__, e)
            return {"broken": {"message": "%s: %s" % (n, why), "file": file, "line": code.co_firstlineno if code else 0}}
    return {"functions": [{**f.definition, "async": f.is_async} for f in functions.values()],
            "version": "%d.%d.%d" % sys.version_info[:3]}


def where(e):
    """An exception, with the innermost line of the user's own file that it came through."""
    at, line = file, 0
    for frame in traceback.extract_tb(e.__traceback__):
        if os.path.abspath(frame.filename) == file:
            line = frame.lineno
    text = "".join(traceback.format_exception_only(type(e), e)).strip()
    return {"message": text, "file": at, "line": line}


def answer(seq, value):
    try:
        value = plain(value)
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as e:
        send(seq, error="it returned what cannot be written as JSON: %s" % e)
        return
    send(seq, value=value)


told = set()


def failed(seq, e):
    if isinstance(e, Misfit):
        send(seq, misfit=str(e))
        return
    w = where(e)
    if (type(e), w["line"]) not in told:  # once of each place: what raises for a row mostly does for many
        told.add((type(e), w["line"]))
        traceback.print_exception(type(e), e, e.__traceback__, file=sys.stderr)
        sys.stderr.flush()
    send(seq, error=w["message"], line=w["line"])


calls = queue.SimpleQueue()  # of functions that are not async: one after the other, in the main thread
running = {}  # id to the task of an async one
loop = None


async def one(seq, f, first, named):
    try:
        answer(seq, await f.f(*first, **named))
    except asyncio.CancelledError:
        send(seq, error="it was ended")
    except (Exception, SystemExit) as e:
        failed(seq, e)


def begin(id, *call):
    running[id] = task = loop.create_task(one(*call))
    task.add_done_callback(lambda _: running.pop(id, None))


def cancel(seq, id):
    if id not in running:
        send(seq)
        return
    running[id].add_done_callback(lambda _: send(seq))
    running[id].cancel()


def read():
    global loop
    for line in inp:
        q = json.loads(line)
        seq, op = q["seq"], q["op"]
        if op == "load":
            calls.put((seq, None, q))
            continue
        if op == "cancel":
            loop.call_soon_threadsafe(cancel, seq, q["id"])
            continue
        f = functions.get(q["name"])
        try:
            first, named = f.bind(q["arguments"])
        except Exception as e:
            failed(seq, e)
            continue
        if not f.is_async:
            calls.put((seq, f, (first, named)))
            continue
        if loop is None:
            loop = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, daemon=True).start()
        loop.call_soon_threadsafe(begin, q["id"], seq, f, first, named)
    calls.put(None)


threading.Thread(target=read, daemon=True).start()
while True:
    call = calls.get()
    if call is None:
        sys.stderr.flush()
        os._exit(0)
    seq, f, given = call
    if f is None:
        send(seq, **load(given["file"], given["names"]))
        continue
    try:
        answer(seq, f.f(*given[0], **given[1]))
    except (Exception, SystemExit) as e:
        failed(seq, e)
