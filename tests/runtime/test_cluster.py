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
        children = psutil.Process().children(recursive=True)
        started = [" ".join(child.as_dict(["cmdline"], ad_value=[])["cmdline"]) for child in children]
        assert any("raylet" in line for line in started)
        assert not [line for line in started if line and any(f"/{name}" in line for name in HELPERS)]
        assert sum(room.total.cpus for room in cluster.inventory().nodes) > 0
    finally:
        joined.close()
    assert not ray.is_initialized()


def test_what_a_small_model_needs_goes_along_with_the_calls(tmp_path, monkeypatch):
    """A megabyte, ten times what Ray lets through by itself, lies on no node; three do."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    joined = cluster.connect(fedsim.load({"output": str(tmp_path)}))
    try:
        make = ray.remote(lambda size: bytes(size))
        made = [make.remote(10**6), make.remote(3 * 10**6)]
        ray.wait(made, num_returns=2)
        where = ray.experimental.get_object_locations(made)
        assert [len(where[ref]["node_ids"]) for ref in made] == [0, 1]
    finally:
        joined.close()
