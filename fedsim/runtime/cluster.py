"""Join a Ray cluster, or start a private one on this machine; see what it has."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import ray
from ray._private import services  # no public option changes how often Ray looks
from ray._private.node import Node as Daemons  # nor leaves its helpers out
from ray._private.state import available_resources_per_node  # no public name tells what a node has free
from ray._raylet import GcsClient  # type: ignore[attr-defined]  # its stub lacks it

from fedsim.config import RunConfig
from fedsim.disk.scratch import Folder
from fedsim.errors import ConfigError, RunError
from fedsim.process import ARENAS, limit_arenas
from fedsim.runtime import directory, session
from fedsim.runtime.packing import UNIT, Node, Resources, Room
from fedsim.runtime.session import own_sigterm

_SHARED = Path("/dev/shm")  # Linux's


@dataclass(frozen=True)
class Cluster:
    """A connection.

    folder: the private instance's temporary directory, None if it isn't ours.   shared: one in this machine's
    shared memory, where all actors are on it.   outer: whether this process was connected before, as in a
    trial of Tune or a notebook, and stays so.
    """

    folder: Folder | None = None
    shared: Folder | None = None
    outer: bool = False

    def close(self) -> None:
        """Disconnect, and end the instance if it is ours."""
        if self.outer:
            return
        if self.folder is None:
            ray.shutdown()
        else:
            _end(self.folder)
        if self.shared is not None:
            self.shared.remove()


def connect(config: RunConfig) -> Cluster:
    """The cluster at `runtime.address` or RAY_ADDRESS, else a private one.

    A private one keeps its files in a directory of its own and has no dashboard; see also
    `fedsim.runtime.guard`.
    """
    address = config.runtime.address or os.environ.get("RAY_ADDRESS")
    if ray.is_initialized():
        return Cluster(outer=True)
    if address:
        try:
            with own_sigterm():
                ray.init(
                    address=address,
                    logging_level="ERROR",
                    runtime_env={"env_vars": _environment() | directory()},
                )
        except (ConnectionError, ValueError, RuntimeError) as error:
            first = str(error).strip().splitlines()[0]
            raise ConfigError("runtime.address", address, f"a Ray cluster that answers ({first})") from None
        return Cluster()
    folder = session.folder()
    limit_arenas()
    os.environ.update(_environment())
    for name, value in _PRIVATE.items():
        os.environ.setdefault(name, value)
    try:
        with own_sigterm(), _without_helpers(), _looking_often(), _apart():
            ray.init(
                address="local",
                include_dashboard=False,
                num_cpus=max(2, os.cpu_count() or 2),
                _node_ip_address="127.0.0.1",
                _temp_dir=str(folder.path / "ray"),
                logging_level="ERROR",
                log_to_driver=False,
            )
    except BaseException as error:
        _end(folder)
        if not isinstance(error, Exception):
            raise
        raise RunError(f"Ray did not start on this machine: {error}") from error
    return Cluster(folder, _shared_memory())


def _shared_memory() -> Folder | None:
    """A folder in this machine's shared memory, where it has any."""
    try:
        return Folder(_SHARED)
    except RunError:
        return None


def _end(folder: Folder) -> None:
    """End the private instance in a folder, with all its processes: where it was still starting, its agents
    would look for it for another minute."""
    parts: list[psutil.Process] = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):  # it ended meanwhile
            if str(folder.path) in " ".join(child.cmdline()):
                parts += [child, *child.children(recursive=True)]
    ray.shutdown()
    for part in parts:
        with suppress(psutil.NoSuchProcess):
            part.kill()
    folder.remove()


_PRIVATE = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Nobody asks a private instance how it is: its agent took a hundredth of two processors to note it down.
    "RAY_enable_metrics_collection": "0",
    "RAY_task_events_report_interval_ms": "0",
    # Ray looks for its own socket a moment before it is there, and again after a second; ten seconds in all.
    "RAY_raylet_client_connect_timeout_milliseconds": "20",
    "RAY_raylet_client_num_connect_attempts": "500",
    # As the driver. Behind it (Ray's is 15) every call between actors waits until it rests: a twentieth of a
    # small model's round. What can wait stands back by itself (`process.yielding`).
    "RAY_worker_niceness": "0",
    # Up to 2 MB go along with a call (100 kB by default) rather than through the object store, which takes a
    # tenth of a small model's round. Not more: 6 MB take longer so. What they leave behind must not pile up.
    "RAY_max_direct_call_object_size": "2000000",
    "MALLOC_ARENA_MAX": str(ARENAS),
}
"""Settings of a private instance, where the environment has none."""
_HELPERS = "start_monitor", "start_log_monitor", "start_api_server"
"""What starts Ray's autoscaler, what carries logs to the driver, and what serves the dashboard."""


@contextmanager
def _without_helpers() -> Iterator[None]:
    """Start none of the processes that a private instance has no use for: it can't grow, its logs are read in
    its folder, and nobody looks at it. They cost a second before the first actor; a Ray that knows no such
    names starts as it is."""

    def start_none(self: Daemons, **_: Any) -> None:
        self._webui_url = None

    kept = {name: vars(Daemons)[name] for name in _HELPERS if name in vars(Daemons)}
    try:
        for name in kept:
            setattr(Daemons, name, start_none)
        yield
    finally:
        for name, method in kept.items():
            setattr(Daemons, name, method)


@contextmanager
def _looking_often() -> Iterator[None]:
    """See at once that a private instance's node has registered. Ray looks after a tenth of a second and then
    every second, and it takes about one."""
    once_a_second = services.get_node

    def get_node(address: str, node_id: str) -> Any:
        client, end = GcsClient(address=address), time.monotonic() + 30
        while not client.get_all_node_info(timeout=5) and time.monotonic() < end:
            time.sleep(0.02)
        return once_a_second(address, node_id)

    try:
        vars(services)["get_node"] = get_node
        yield
    finally:
        vars(services)["get_node"] = once_a_second


@contextmanager
def _apart() -> Iterator[None]:
    """Start Ray's processes in process groups of their own. What `timeout`, Slurm and others send to ours is
    the driver's to heed: it can end a run in order only as long as Ray is there, and ends Ray itself."""
    in_ours = services.ConsolePopen

    class Apart(in_ours):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, process_group=0, **kwargs)

    try:
        vars(services)["ConsolePopen"] = Apart
        yield
    finally:
        vars(services)["ConsolePopen"] = in_ours


def inventory() -> Room:
    """What the cluster's machines have and what is free now; those with fewer GPUs come first."""
    free = available_resources_per_node()
    nodes = [
        (node["NodeID"], Node(Resources.from_ray(node["Resources"]), _free(free.get(node["NodeID"], {}))))
        for node in ray.nodes()
        if node["Alive"]
    ]
    nodes.sort(key=lambda named: (named[1].total, named[0]))
    return Room(tuple(node for _, node in nodes), ray.cluster_resources().get("CPU", 0.0))


def _free(amounts: dict[str, float]) -> Resources:
    free = Resources.from_ray(amounts)
    # Which GPUs other jobs have a part of isn't known: those that are whole in sum.
    return replace(free, gpus=free.gpus // UNIT * UNIT)


def _environment() -> dict[str, str]:
    """Read by the math libraries of every worker before its first line runs."""
    return {
        "OMP_NUM_THREADS": "1",
        "MKL_DYNAMIC": "FALSE",
        "TOKENIZERS_PARALLELISM": "false",
        # An actor without a GPU must not see every GPU.
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    }


def probe() -> None:
    """Run one task, to see that workers start; raises what Ray raises."""

    def task() -> int:  # Ray takes no built-in function
        return os.getpid()

    ray.get(ray.remote(num_cpus=0)(task).remote(), timeout=60)
