"""Join a Ray cluster, or start a private one on this machine; see what it has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray._private.node import Node as Daemons  # no public option leaves its helpers out
from ray._private.state import available_resources_per_node  # no public name tells what a node has free

from fedsim.config import RunConfig
from fedsim.errors import ConfigError, RunError
from fedsim.runtime.packing import UNIT, Node, Resources, Room
from fedsim.runtime.session import Folder, own_sigterm


@dataclass(frozen=True)
class Cluster:
    """A connection.

    folder: the private instance's temporary directory, None if it isn't ours.   outer: whether this
    process was connected before, as in a trial of Tune or a notebook, and stays so.
    """

    folder: Folder | None = None
    outer: bool = False

    def close(self) -> None:
        """Disconnect, and end the instance if it is ours."""
        if self.outer:
            return
        ray.shutdown()
        if self.folder is not None:
            self.folder.remove()


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
                ray.init(address=address, logging_level="ERROR", runtime_env={"env_vars": _environment()})
        except (ConnectionError, ValueError, RuntimeError) as error:
            first = str(error).strip().splitlines()[0]
            raise ConfigError("runtime.address", address, f"a Ray cluster that answers ({first})") from None
        return Cluster()
    folder = Folder()
    os.environ.update(_environment())
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        with own_sigterm(), _without_helpers():
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
        ray.shutdown()
        folder.remove()
        if not isinstance(error, Exception):
            raise
        raise RunError(f"Ray did not start on this machine: {error}") from error
    return Cluster(folder)


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
