"""A private Ray instance starts what a run needs, and leaves Ray as it was."""

import psutil
import ray
from ray._private import services
from ray._private.node import Node
from ray._raylet import GcsClient

import fedsim
from fedsim.runtime import cluster

HELPERS = ("monitor.py", "log_monitor.py", "dashboard.py")


def test_a_private_instance_has_no_helpers(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    before = {name: getattr(Node, name) for name in cluster._HELPERS}
    registered = []

    def get_node(address, node_id):  # which looks once a second
        registered.append(len(GcsClient(address=address).get_all_node_info(timeout=5)))
        return looked(address, node_id)

    looked = services.get_node
    monkeypatch.setattr(services, "get_node", get_node)
    joined = cluster.connect(fedsim.load({"output": str(tmp_path)}))
    try:
        assert {name: getattr(Node, name) for name in cluster._HELPERS} == before, "Ray is as it was"
        assert services.get_node is get_node
        assert registered == [1], "Ray looked before there was anything to see"
        cluster.probe()
        started = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
        assert any("raylet" in line for line in started)
        assert not [line for line in started if line and any(f"/{name}" in line for name in HELPERS)]
        assert sum(room.total.cpus for room in cluster.inventory().nodes) > 0
    finally:
        joined.close()
    assert not ray.is_initialized()
