"""Keeps a worker of matrix on each of N bundles of a Ray placement group, spread over its nodes.

It runs as a Ray job beside workers.json, which says what to start, and the program
itself. A worker has the line to join by from its stdin, which an actor holds open:
the worker ends with its actor. Ray starts an actor again whose node or process died.
"""
import json, os, signal, subprocess, sys, threading
import ray
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy


def forget():  # it has the line to join by, and Ray lets all users of a node read it
    try:
        os.remove("workers.json")
    except FileNotFoundError:
        pass


with open("workers.json") as f:
    spec = json.load(f)
forget()


@ray.remote(max_restarts=-1, max_task_retries=-1, max_concurrency=2)
class Worker:
    def run(self, i, spec):
        forget()
        name = "%s-%d-%s" % (spec["id"], i, os.urandom(3).hex())  # a restarted one is another
        os.chmod("matrix", 0o700)
        argv = [name if a == spec["name"] else a for a in spec["argv"]]
        self.p = subprocess.Popen(["./matrix"] + argv, stdin=subprocess.PIPE)
        self.p.stdin.write(spec["join"].encode() + b"\n")
        self.p.stdin.flush()
        return self.p.wait()

    def leave(self):
        self.p.stdin.close()


resources = {"CPU": 1, **spec["resources"]}
cpus, gpus = resources.pop("CPU"), resources.pop("GPU", 0)
ray.init(log_to_driver=True)
group = placement_group([{"CPU": cpus, "GPU": gpus, **resources}] * spec["n"], strategy="SPREAD")
ray.get(group.ready())
workers = [
    Worker.options(num_cpus=cpus, num_gpus=gpus, resources=resources,
                   scheduling_strategy=PlacementGroupSchedulingStrategy(group, i)).remote()
    for i in range(spec["n"])
]
runs = [w.run.remote(i, spec) for i, w in enumerate(workers)]
told = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: told.set())
left = runs
while left:
    if told.is_set():
        told.clear()
        for w in workers:
            w.leave.remote()
    _, left = ray.wait(left, num_returns=len(left), timeout=0.5)
codes = ray.get(runs)
print("exit codes", codes, flush=True)
sys.exit(max(codes, key=abs))
