"""Shadow models as Ray tasks, as many at a time as the cluster has CPUs for."""

from __future__ import annotations

import ray

from fedsim.attacks.audit import Audit, Observed
from fedsim.progress import Progress
from fedsim.runtime.cluster import connect


def gather(audit: Audit, number: int, progress: Progress) -> list[Observed]:
    """What `number` shadows give away, in their order; one that is lost is run again."""
    cluster = connect(audit.config)
    try:
        task = ray.remote(num_cpus=audit.config.runtime.threads, max_retries=3)(_shadow)
        shared = ray.put(audit)
        running = [task.remote(shared, k) for k in range(number)]
        left = running
        while left:
            _, left = ray.wait(left)
            progress.phase(f"{number - len(left)} of {number} shadows")
        found: list[Observed] = ray.get(running)
        return found
    finally:
        cluster.close()


def _shadow(audit: Audit, number: int) -> Observed:
    from fedsim.attacks.audit import shadow

    return shadow(audit, number)
