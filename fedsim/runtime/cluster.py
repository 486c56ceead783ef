"""Join a Ray cluster, or start a private one on this machine; see what it can hold."""

from __future__ import annotations

import os
from dataclasses import dataclass

import ray

from fedsim.config import Demand, RunConfig
from fedsim.errors import ConfigError, RunError
from fedsim.runtime.session import Folder, own_sigterm


@dataclass(frozen=True)
class Cluster:
    """A connection; `folder` is the private instance's temporary directory, None if it isn't ours."""

    folder: Folder | None
    cpus: float
    gpus: int

    def close(self) -> None:
        """Disconnect, and end the instance if it is ours."""
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
        return _describe(None)
    if address:
        try:
            with own_sigterm():
                ray.init(address=address, logging_level="ERROR", runtime_env={"env_vars": _environment()})
        except (ConnectionError, ValueError, RuntimeError) as error:
            first = str(error).strip().splitlines()[0]
            raise ConfigError("runtime.address", address, f"a Ray cluster that answers ({first})") from None
        return _describe(None)
    folder = Folder()
    os.environ.update(_environment())
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        with own_sigterm():
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
    return _describe(folder)


def hosts(config: RunConfig, cluster: Cluster) -> int:
    """How many actors the participants get; raises ConfigError where not even one can be placed."""
    runtime, count = config.runtime, config.participants.count
    lanes = min(runtime.parallel_methods, len(config.methods))
    home = runtime.coordinator
    for field, demand in (("participant", runtime.participant), ("coordinator", home)):
        if demand.gpus > cluster.gpus:
            have = f"{cluster.gpus} GPUs" if cluster.gpus else "no GPU"
            raise ConfigError(
                f"runtime.{field}.gpus", demand.gpus, f"at most {cluster.gpus}: the cluster has {have}"
            )
    ranks = lanes * config.student.engine.ranks
    cpus = cluster.cpus - ranks * home.cpus
    gpus = cluster.gpus - ranks * home.gpus
    capacity = _capacity(runtime.participant, cpus, gpus, count)
    if capacity < 1:
        raise ConfigError(
            "runtime.participant",
            runtime.participant.model_dump(),
            f"what fits: the cluster has {cluster.cpus:g} CPUs and {cluster.gpus} GPUs, of which "
            f"{ranks} coordinator process(es) take {ranks * home.cpus:g} and {ranks * home.gpus:g}",
        )
    if runtime.participants_per_actor == "auto":
        return min(count, capacity)
    wanted = -(-count // runtime.participants_per_actor)
    if wanted > capacity:
        raise ConfigError(
            "runtime.participants_per_actor",
            runtime.participants_per_actor,
            f"`auto` or at least {-(-count // capacity)}: the cluster can hold {capacity} such actors",
        )
    return wanted


def _capacity(demand: Demand, cpus: float, gpus: float, most: int) -> int:
    """How many actors of that demand fit; on GPUs a fraction never spans two of them."""
    fits = most
    if demand.cpus:
        fits = min(fits, int(cpus / demand.cpus + 1e-6))
    if demand.gpus >= 1:
        fits = min(fits, int(gpus / demand.gpus + 1e-6))
    elif demand.gpus:
        fits = min(fits, int(gpus + 1e-6) * int(1 / demand.gpus + 1e-6))
    return fits


def _describe(folder: Folder | None) -> Cluster:
    have = ray.cluster_resources()
    return Cluster(folder, have.get("CPU", 0.0), int(have.get("GPU", 0)))


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
