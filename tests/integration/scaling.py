"""Ask a cluster that scales for CPUs, then for fractions of GPUs, and let go: one JSON line per stage.

A program of its own, because it connects to a cluster. Each line has the stage, the seconds it took and
the node types that are there besides the head.
"""

import json
import os
import time
from collections import Counter

import ray
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy


class Participant:
    def node(self):
        return ray.get_runtime_context().get_node_id()


def workers() -> Counter:
    """The types of the nodes that live, without the head."""
    status = get_cluster_status(ray.get_runtime_context().gcs_address)
    nodes = [*status.active_nodes, *status.idle_nodes]
    return Counter(node.ray_node_type_name for node in nodes if node.ray_node_type_name != "ray.head.default")


def report(stage: str, began: float, **facts) -> None:
    line = {"stage": stage, "seconds": round(time.monotonic() - began, 1), "workers": workers(), **facts}
    print(json.dumps(line), flush=True)


def leave(stage: str) -> None:
    began = time.monotonic()
    while workers() and time.monotonic() - began < 120:
        time.sleep(0.5)
    report(stage, began)


ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False)
report("at first", time.monotonic())

began = time.monotonic()
actor = ray.remote(num_cpus=1)(Participant).remote()
ray.get(actor.node.remote(), timeout=120)
report("a CPU", began)
ray.kill(actor)
leave("without it")

# As the runtime packs them: bundles of a whole GPU, four participants of a quarter in each.
began = time.monotonic()
group = placement_group([{"GPU": 1, "CPU": 4}] * 2)
ray.get(group.ready(), timeout=120)
actors = [
    ray.remote(num_cpus=1, num_gpus=0.25)(Participant)
    .options(scheduling_strategy=PlacementGroupSchedulingStrategy(group, place // 4))
    .remote()
    for place in range(8)
]
nodes = Counter(ray.get([actor.node.remote() for actor in actors], timeout=120))
report("quarters of GPUs", began, participants=sorted(nodes.values()))
for actor in actors:
    ray.kill(actor)
remove_placement_group(group)
leave("without them")
