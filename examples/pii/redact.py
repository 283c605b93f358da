"""A filter: puts marks in the place of personal data. Standard library only."""
import json
import re
import sys

MARKS = [
    ("EMAIL", r"[\w.+-]+@[\w-]+(\.[\w-]+)+"),
    ("IBAN", r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b"),
    ("CARD", r"\b\d(?:[ -]?\d){12,18}\b"),
    ("IP", r"\b(?:\d{1,3}\.){3}\d{1,3}\b"),
    ("PHONE", r"(?<!\w)(?:\+|00?)\d[\d /()-]{6,}\d\b"),
    ("NAME", r"(?<=\b(?:Mr|Ms|Dr)\. )[A-Z]\w+(?: [A-Z]\w+)*"),
]


def luhn(digits):
    """Whether the check digit of a card number is right: order numbers stay."""
    doubled = [d * (1 + i % 2) for i, d in enumerate(reversed([int(c) for c in digits if c.isdigit()]))]
    return sum(d - 9 * (d > 9) for d in doubled) % 10 == 0


for line in sys.stdin:
    task = json.loads(line)
    text, found = task["item"]["text"], 0
    for mark, pattern in MARKS:
        def put(match):
            global found
            if mark == "CARD" and not luhn(match[0]):
                return match[0]
            found += 1
            return f"[{mark}]"
        text = re.sub(pattern, put, text)
    secret = "it holds a password" if re.search(r"(?i)\bpassword\b\s*(is|:)", text) else ""
    print(json.dumps({"seq": task["seq"], "text": text, "data": {"found": found, "secret": secret}}), flush=True)
