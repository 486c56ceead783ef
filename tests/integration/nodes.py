"""Runs on a cluster of several nodes with GPUs that are not there: `nodes.py CONFIG FOLDER`.

A program of its own, because it has to start Ray in its process. What it saw goes to FOLDER/seen.json.
"""

import json
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# Ray keeps the address of a test cluster in a file of its default folder: not the user's.
os.environ["RAY_TMPDIR"] = os.environ["TMPDIR"]
(Path(os.environ["TMPDIR"]) / "ray").mkdir()

from fedsim import loading, runtime, simulation  # noqa: E402
from fedsim.errors import ConfigError  # noqa: E402

runtime.guard(None)

import ray  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402
from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group  # noqa: E402
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy  # noqa: E402

from fedsim.runtime.cluster import inventory  # noqa: E402
from fedsim.runtime.executor import OnRay  # noqa: E402
from fedsim.runtime.placement import bundles  # noqa: E402
from fedsim.runtime.reservation import Reservation  # noqa: E402

FRACTIONS = [0.8, 0.3, 0.7, 0.4, 0.6]
MIXED = {
    "runtime.executor": "ray",
    "runtime.participant": [{"gpus": gpus} for gpus in FRACTIONS],
    "runtime.coordinator": {"cpus": 0.5, "gpus": 0.5},
    "runtime.participants_per_actor": 1,
}
NODE = {"num_cpus": 2, "num_gpus": 2, "object_store_memory": 200 * 2**20}


def whereabouts(actor) -> tuple[str, list[str], str]:
    """Node, GPUs as Ray counts them, and what CUDA would see."""

    def look(self):
        context = ray.get_runtime_context()
        gpus = context.get_accelerator_ids()["GPU"]
        return context.get_node_id(), gpus, os.environ.get("CUDA_VISIBLE_DEVICES", "unset")

    return ray.get(actor.__ray_call__.remote(look))


class Watched(OnRay):
    """Notes where everybody is, and kills a host on the way."""

    def prepare(self, *arguments):
        super().prepare(*arguments)
        self.coordinator = whereabouts(self._lanes[0].coordinator)
        self.before = {k: whereabouts(self._hosts[number]) for k, number in self._home.items()}

    def step(self, task, following=None):
        if (task.contender, task.round) == ("federated_distillation", 2):
            os.kill(ray.get(self._hosts[0].__ray_call__.remote(lambda self: os.getpid())), signal.SIGKILL)
        yield from super().step(task, following)

    def export(self, *arguments):
        self.after = {k: whereabouts(self._hosts[number]) for k, number in self._home.items()}
        super().export(*arguments)


def refused(**overrides) -> tuple[str, float]:
    """What is said, and after how many seconds."""
    began = time.monotonic()
    try:
        simulation.run(loading.load(path, output=str(folder / "refused"), **{**MIXED, **overrides}))
    except ConfigError as error:
        return str(error), time.monotonic() - began
    raise AssertionError("it was not refused")


def in_a_trial() -> None:
    """A run inside a placement group, as Tune has them; other actors hold what it does not reserve."""
    first = loading.load(path).methods[:1]
    trial = loading.load(path, output=str(folder / "trial"), methods=first, **MIXED)
    group = placement_group(bundles(trial, inventory()))
    ray.get(group.ready(), timeout=30)
    groups = len(placement_group_table())

    def drive() -> int:
        simulation.run(trial)
        return len(placement_group_table())

    place = PlacementGroupSchedulingStrategy(group, 0)
    options = {"num_cpus": group.bundle_specs[0]["CPU"], "scheduling_strategy": place}
    assert ray.get(ray.remote(**options)(drive).remote()) == groups, "it made a group of its own"
    remove_placement_group(group)


def held() -> list[str]:
    return [each["state"] for each in placement_group_table().values() if each["state"] != "REMOVED"]


path, folder = sys.argv[1], Path(sys.argv[2])
folder.mkdir()
cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
cluster.add_node(**NODE)
ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
seen = {}
try:
    watched = Watched()
    simulation.run(loading.load(path, output=str(folder / "mixed"), **MIXED), executor=watched)
    seen.update(coordinator=watched.coordinator, before=watched.before, after=watched.after, held=held())

    seen["too much"] = refused(**{"runtime.participant": [{"gpus": 0.9 - k / 20} for k in range(5)]})
    other = placement_group([{"GPU": 2}])
    ray.get(other.ready(), timeout=30)
    seen["taken"] = refused()
    remove_placement_group(other)

    in_a_trial()
    seen["held after the trial"] = held()

    hungry = {**MIXED, "runtime.coordinator.gpus": 2, "runtime.wait_s": 60}
    growing = Reservation(loading.load(path, **hungry))
    with ThreadPoolExecutor(1) as beside:
        made = beside.submit(growing.make)
        cluster.add_node(**NODE)
        made.result()
    seen["grown"] = [len(growing.plan.hosts), len(inventory().nodes)]
    growing.release()

    vain = {**hungry, "runtime.wait_s": 1, "runtime.participants_per_actor": "auto"}
    vain = {**vain, "runtime.participant": {"gpus": 0.8}, "participants.count": 8}
    settled = Reservation(loading.load(path, **vain))
    asked_for = len(settled.plan.hosts)
    settled.make()
    seen["settled"] = [asked_for, len(settled.plan.hosts)]
    settled.release()
finally:
    (folder / "seen.json").write_text(json.dumps(seen))
    ray.shutdown()
    cluster.shutdown()
