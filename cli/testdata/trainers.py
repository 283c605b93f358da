"""Loads folders that were exported with load_dataset, renders them as TRL's trainers do, and compares that with what the
chat template makes of the same rows in NAME.jsonl. Needs trl, datasets and transformers, and no model."""

import glob
import json
import os
import sys

import datasets
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from trl.data_utils import apply_chat_template, extract_prompt, is_conversational, unpair_preference_dataset

# As templates of models with tools do: arguments may be a text, or are written as JSON.
TEMPLATE = """{%- if tools %}<tools>{% for tool in tools %}{{ tool | tojson }}{% endfor %}</tools>
{% endif %}
{%- for m in messages %}<{{ m.role }}>{{ m.content }}
{%- if m.tool_calls %}{% for c in m.tool_calls %}<call>{{ c.function.name }} {% if c.function.arguments is string %}{{ c.function.arguments }}{% else %}{{ c.function.arguments | tojson }}{% endif %}</call>{% endfor %}{% endif %}
{%- if m.tool_call_id %}[{{ m.tool_call_id }}]{% endif %}</{{ m.role }}>
{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"""


def spaced(text):
    """A text without what JSON leaves to the writer."""
    return text.replace(", ", ",").replace(": ", ":")


def main(folder):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]")), chat_template=TEMPLATE)

    def rendered(messages, tools):
        return tokenizer.apply_chat_template(messages, tools=tools, tokenize=False)

    n = 0
    for path in sorted(glob.glob(folder + "/*/README.md")):
        name = os.path.dirname(path)
        loaded = datasets.load_dataset(name)
        splits = {s: [json.loads(line) for line in open(f"{name}.{s}.jsonl", encoding="utf-8")] for s in loaded}
        if sorted(glob.glob(f"{name}.*.jsonl")) != sorted(f"{name}.{s}.jsonl" for s in splits):
            sys.exit(f"{name}: load_dataset found the splits {list(splits)}")
        for split, rows in splits.items():
            got = list(loaded[split])
            if len(got) != len(rows) or not rows:
                sys.exit(f"{name}: {len(got)} rows of {split}, want {len(rows)}")
            for row, want in zip(got, rows):
                if not is_conversational(row):
                    sys.exit(f"{name}: TRL finds no conversation in {row}")
                tools = row.get("tools")
                tools = json.loads(tools) if isinstance(tools, str) else tools  # as SFTTrainer, DPOTrainer and KTOTrainer have it
                said = apply_chat_template({k: v for k, v in row.items() if k not in ("tools", "id")}, tokenizer, tools=tools)
                ends = {"messages": [("text", want.get("messages"))]}
                for key in ("completion", "chosen", "rejected"):
                    if key in want:
                        ends[key] = [(key, want["prompt"] + want[key])]
                for texts in (v for k, v in ends.items() if k in want):
                    for key, messages in texts:
                        text = said[key] if key == "text" else said["prompt"] + said[key]
                        if spaced(text) != spaced(rendered(messages, want.get("tools"))):
                            sys.exit(f"{name}: {key}: got\n{text}\nwant\n{rendered(messages, want.get('tools'))}")
                if row.get("label") != want.get("label"):
                    sys.exit(f"{name}: label is {row.get('label')}, want {want.get('label')}")
            if "chosen" in rows[0]:
                pairs = unpair_preference_dataset(loaded[split].select_columns(["prompt", "chosen", "rejected"]))
                if len(pairs) != 2 * len(rows) or not all(is_conversational(p) for p in pairs):
                    sys.exit(f"{name}: TRL makes {len(pairs)} rows of {len(rows)} pairs")
                whole = {k: want["prompt"] + want[k] for k in ("chosen", "rejected")}
                if extract_prompt(whole)["prompt"] != want["prompt"]:
                    sys.exit(f"{name}: TRL finds another prompt in {whole}")
        n += 1
    print(n)


main(sys.argv[1])
