"""Shadow models as Ray tasks, as many at a time as the cluster has CPUs for.

Those of a sweep's trial run in its own process, whose actors are gone by then: no bundle of its placement
group need be as large as a shadow, and outside it trials that keep theirs would wait for each other.
"""

from __future__ import annotations

import ray

from fedsim.attacks.audit import Audit, Observed, shadows
from fedsim.progress import Progress
from fedsim.runtime import enter_directory
from fedsim.runtime.cluster import connect


def gather(audit: Audit, number: int, progress: Progress) -> list[Observed]:
    """What `number` shadows give away, in their order; one that is lost is run again."""
    cluster = connect(audit.config)
    try:
        if ray.util.get_current_placement_group() is not None:
            return shadows(audit, number, progress)
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

    enter_directory()
    return shadow(audit, number)
