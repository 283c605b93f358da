"""A command agent: reads one task a line, answers with one line. Standard library only."""
import json
import sys
from collections import Counter

for line in sys.stdin:
    task = json.loads(line)
    words = [w.strip(".,;:!?\"'()").lower() for w in task["item"]["text"].split()]
    counts = Counter(w for w in words if len(w) > 3)
    if counts:
        top = [w for w, _ in sorted(counts.items(), key=lambda c: (-c[1], c[0]))[:3]]
        reply = {"text": ", ".join(top), "data": {"words": len(words), "keywords": top}}
    else:
        reply = {"fail": "there is no word of more than three letters"}
    print(json.dumps({"seq": task["seq"], **reply}), flush=True)
