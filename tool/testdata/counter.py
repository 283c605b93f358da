"""An environment of one's own: each task has a counter, which its tools add to."""
import json
import sys

TOOLS = [{"name": "add", "description": "Adds to the counter and says what it is now.",
          "parameters": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}},
         {"name": "show", "description": "Says what the counter is.", "parameters": {"type": "object", "properties": {}}}]
counters = {}  # by lease


def call(lease, name, arguments):
    if name == "add":
        counters[lease] += arguments["n"]
    elif name != "show":
        raise ValueError(f"there is no tool {name}")
    return {"content": str(counters[lease]), "changed": name == "add"}


def answer(q):
    if q["op"] == "hello":
        return {"data": {"name": "counter", "version": "1", "deterministic": True}}
    if q["op"] == "open":  # a new state, or one that is made again
        counters[q["lease"]] = q["row"].get("start", 0)
        for c in q["calls"]:
            if call(q["lease"], c["name"], c["arguments"])["content"] != c["content"]:
                return {"error": f"the call {c['key']} came out in another way"}
        return {"data": {"goal": q["row"].get("goal")}, "shared": {"tools": "tools-1"}}
    if q["op"] == "get":
        return {"data": TOOLS}
    if q["op"] == "call":
        try:
            return call(q["lease"], q["name"], q["arguments"])
        except Exception as e:  # the model is told
            return {"content": f"Error: {e}", "is_error": True, "changed": False}
    if q["op"] == "score":
        said = [r["content"] for t in q["turns"] for r in t.get("tool_results", [])]
        return {"data": {"reward": float(said[-1:] == [str(q["row"]["goal"])])}}
    if q["op"] == "close":
        counters.pop(q["lease"], None)
    return {}


for line in sys.stdin:
    q = json.loads(line)
    print(json.dumps({"seq": q["seq"], **answer(q)}), flush=True)
