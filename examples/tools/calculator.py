"""A tool as a command agent: answers the calls of the newest turn. Standard library only."""
import ast
import json
import operator
import sys

OPERATORS = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.Pow: operator.pow, ast.USub: operator.neg, ast.UAdd: operator.pos,
}


def value(node):
    match node:
        case ast.Expression(body):
            return value(body)
        case ast.Constant(n) if isinstance(n, (int, float)):
            return n
        case ast.BinOp(left, op, right) if type(op) in OPERATORS:
            left, right = value(left), value(right)
            if isinstance(op, ast.Pow) and abs(right) > 100:
                raise ValueError("the exponent is too large")
            return OPERATORS[type(op)](left, right)
        case ast.UnaryOp(op, operand) if type(op) in OPERATORS:
            return OPERATORS[type(op)](value(operand))
    raise ValueError("use numbers, + - * / ** and parentheses alone")


for line in sys.stdin:
    task = json.loads(line)
    results = []
    for call in task["turns"][-1]["tool_calls"]:
        try:
            answer = value(ast.parse(call["arguments"]["expression"], mode="eval"))
            results.append({"id": call["id"], "content": f"{answer:.10g}"})
        except (ArithmeticError, SyntaxError, ValueError) as e:
            results.append({"id": call["id"], "content": str(e), "is_error": True})
    print(json.dumps({"seq": task["seq"], "tool_results": results}), flush=True)
