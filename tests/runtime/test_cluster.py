"""A private Ray instance starts what a run needs, and leaves Ray as it was."""

import psutil
import ray
from ray._private.node import Node

import fedsim
from fedsim.runtime import cluster

HELPERS = ("monitor.py", "log_monitor.py", "dashboard.py")


def test_a_private_instance_has_no_helpers(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    before = {name: getattr(Node, name) for name in cluster._HELPERS}
    joined = cluster.connect(fedsim.load({"output": str(tmp_path)}))
    try:
        assert {name: getattr(Node, name) for name in cluster._HELPERS} == before, "Ray is as it was"
        cluster.probe()
        started = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
        assert any("raylet" in line for line in started)
        assert not [line for line in started if line and any(f"/{name}" in line for name in HELPERS)]
        assert sum(room.total.cpus for room in cluster.inventory().nodes) > 0
    finally:
        joined.close()
    assert not ray.is_initialized()
