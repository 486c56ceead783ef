"""Runs on a cluster that loses machines on the way: `lost.py CONFIG FOLDER spare|vain`.

spare: another machine has room for what was lost.   vain: none has, until one is added and the run resumed.
A program of its own, because it has to start Ray in its process. What it saw goes to FOLDER/seen.json.
"""

import contextlib
import json
import os
import sys
import time
from pathlib import Path

# Ray keeps the address of a test cluster in a file of its default folder: not the user's.
os.environ["RAY_TMPDIR"] = os.environ["TMPDIR"]
(Path(os.environ["TMPDIR"]) / "ray").mkdir()

from fedsim import loading, runtime, simulation  # noqa: E402
from fedsim.errors import RunError  # noqa: E402

runtime.guard(None)

import psutil  # noqa: E402
import ray  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402

from fedsim.runtime.executor import OnRay  # noqa: E402

STORE = {"object_store_memory": 100 * 2**20}
# A machine that answers nothing is given up after a second; Ray's own patience is fifteen.
HEALTH = {
    "health_check_initial_delay_ms": 0, "health_check_period_ms": 300, "health_check_failure_threshold": 3
}  # fmt: skip


class Losing(OnRay):
    """Loses in round 2 the machine of the hosts, or that of the coordinator.

    when: `delivered`, by the first who is done; `opened`, when the broadcast lies with the coordinator; or
    `never`.
    """

    def __init__(self, when: str) -> None:
        super().__init__()
        self.when, self.lost = when, False

    def lose(self, actor) -> None:
        where = ray.get(actor.__ray_call__.remote(lambda self: ray.get_runtime_context().get_node_id()))
        node = next(node for node in cluster.worker_nodes if node.node_id == where)
        (raylet,) = node.all_processes["raylet"]
        gone = psutil.Process(raylet.process.pid).children(recursive=True)
        cluster.remove_node(node, allow_graceful=False)
        for process in gone:  # what Ray started there notices only after a while that its machine is lost
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.lost, self.since = True, time.monotonic()

    def receive(self, lane, batch):
        if self.when == "delivered" and self.round == 2 and not self.lost:
            self.lose(self._hosts[batch.delivery.host])
        super().receive(lane, batch)

    def step(self, task, following=None):
        self.round = task.round
        if self.when == "opened" and self.round == 2 and not self.lost:
            ray.wait([task.opening.payload], fetch_local=False)
            self.lose(self._lanes[task.lane].coordinator)
        yield from super().step(task)  # without what follows: hosts would have a broadcast before it is lost


def run(name: str, executor: Losing, resume: bool = False) -> None:
    """One machine is full with the coordinator, one has room for the hosts."""
    config = loading.load(
        path,
        output=str(folder / name),
        methods=[method for method in loading.load(path).methods if method.name == "fedavg"],
        runtime__participant={"cpus": 0.3},
        runtime__participants_per_actor=1,
        runtime__coordinator={"cpus": 2},
    )
    simulation.run(config, executor=executor, resume=resume)


def in_vain(when: str, resume: bool) -> tuple[str, float]:
    """What is said where no other machine has room, and how many seconds after the loss."""
    executor = Losing(when)
    try:
        run("vain", executor, resume)
    except RunError as error:
        return str(error), time.monotonic() - executor.since
    raise AssertionError("it went on")


path, folder, spare = sys.argv[1], Path(sys.argv[2]), sys.argv[3] == "spare"
folder.mkdir()
head = {**STORE, "num_cpus": 0, "include_dashboard": False, "_system_config": HEALTH}
cluster = Cluster(initialize_head=True, head_node_args=head)
for _ in range(3 if spare else 2):
    cluster.add_node(**STORE, num_cpus=2)
ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
seen = {}
try:
    for when in ("delivered", "opened"):
        if spare:
            run(when, losing := Losing(when))
            seen[when] = losing.lost
        else:
            seen[when] = in_vain(when, resume=(folder / "vain").exists())
        cluster.add_node(**STORE, num_cpus=2)
    if not spare:
        run("vain", Losing("never"), resume=True)
finally:
    (folder / "seen.json").write_text(json.dumps(seen))
    ray.shutdown()
    cluster.shutdown()
