"""Writes down what Jinja2 itself (3.1) makes of templates, null where it raises.

    python3 render.py           of those in jinja.json and in chat/
    python3 render.py FOLDER    of the chat templates (*.jinja) in a folder, as FOLDER/want.json
"""
import datetime
import glob
import json
import os
import sys

import jinja2
import jinja2.ext

here = os.path.dirname(os.path.abspath(__file__))


def load(path):
    with open(path, encoding="utf-8") as f:
        return json.load(f)


class Generation(jinja2.ext.Extension):
    """{% generation %} as transformers has it, but for what it notes."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("text"), [], [], body).set_lineno(line)

    def text(self, caller):
        return caller()


def refuse(message):
    raise jinja2.TemplateError(message)


def table():
    path = os.path.join(here, "jinja.json")
    cases = load(path)
    env = jinja2.Environment(undefined=jinja2.StrictUndefined, extensions=["jinja2.ext.do", "jinja2.ext.loopcontrols"])
    for case in cases["cases"]:
        try:
            case[1] = env.from_string(case[0]).render(item=cases["item"])
        except Exception:
            case[1] = None
    with open(path, "w", encoding="utf-8") as f:
        f.write('{"item": ' + json.dumps(cases["item"], ensure_ascii=False) + ',\n"cases": [\n')
        f.write(",\n".join(json.dumps(c, ensure_ascii=False) for c in cases["cases"]) + "\n]}\n")


def chats(folder):
    env = jinja2.Environment(extensions=[Generation, "jinja2.ext.loopcontrols"])
    env.filters["tojson"] = lambda v, indent=None, ensure_ascii=False, sort_keys=True: json.dumps(
        v, indent=indent, ensure_ascii=ensure_ascii, sort_keys=sort_keys)
    env.globals["raise_exception"] = refuse
    env.globals["strftime_now"] = lambda form: datetime.date(2024, 7, 26).strftime(form)
    want = {}
    for path in sorted(glob.glob(os.path.join(folder, "*.jinja"))):
        with open(path, encoding="utf-8") as f:
            template = env.from_string(f.read())
        texts = want[os.path.basename(path)] = []
        for chat in load(os.path.join(here, "chat", "chats.json")):
            try:
                texts.append(template.render(**chat))
            except Exception as e:
                print(path, e)
                texts.append(None)
    with open(os.path.join(folder, "want.json"), "w", encoding="utf-8") as f:
        json.dump(want, f, ensure_ascii=False, indent=1)
        f.write("\n")


if len(sys.argv) > 1:
    chats(sys.argv[1])
else:
    table()
    chats(os.path.join(here, "chat"))
