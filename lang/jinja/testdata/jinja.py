"""Writes jinja.json: what Jinja2 itself (3.1) makes of the templates in it, null where it raises.

    python3 jinja.py
"""
import json
import os

import jinja2

path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "jinja.json")
table = json.load(open(path, encoding="utf-8"))
env = jinja2.Environment(undefined=jinja2.StrictUndefined, extensions=["jinja2.ext.do", "jinja2.ext.loopcontrols"])
for case in table["cases"]:
    try:
        case[1] = env.from_string(case[0]).render(item=table["item"])
    except Exception:
        case[1] = None
with open(path, "w", encoding="utf-8") as f:
    f.write('{"item": ' + json.dumps(table["item"], ensure_ascii=False) + ',\n"cases": [\n')
    f.write(",\n".join(json.dumps(c, ensure_ascii=False) for c in table["cases"]) + "\n]}\n")
