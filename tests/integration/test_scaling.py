"""The node types of `cluster.yaml` at work: nodes that Ray only pretends to rent, on this machine."""

import json
import sys
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider
from ray.autoscaler._private.util import prepare_config

ROOT = Path(__file__).parents[2]
FILE = ROOT / "cluster.yaml"
PROGRAM = Path(__file__).with_name("scaling.py")
HEAD, HEAD_TYPE = "f" * 51 + "00000", "ray.head.default"
"""What the provider calls its head."""
PRETENDED = {
    "RAY_FAKE_CLUSTER": "1",
    "RAY_enable_autoscaler_v2": "1",
    "RAY_CLOUD_INSTANCE_ID": HEAD,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD,
    "RAY_NODE_TYPE_NAME": HEAD_TYPE,
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    # Or each node starts a worker per CPU that it doesn't have.
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config() -> dict:
    """The file with another provider and shorter patience; types, resources and limits are its own."""
    config = prepare_config(yaml.safe_load(FILE.read_text(encoding="utf-8")))
    types = config["available_node_types"]
    types[HEAD_TYPE] = types.pop(config["head_node_type"])
    config.update(head_node_type=HEAD_TYPE, idle_timeout_minutes=0.1)
    config["provider"] = {
        "type": "external",
        "module": FakeMultiNodeProvider.__module__ + ".FakeMultiNodeProvider",
        "head_node_id": HEAD,
        "launch_multiple": True,
        "use_node_id_as_ip": True,
    }
    return config


@pytest.fixture(scope="module")
def head(config, start_head):
    return start_head("--num-cpus=0", "--num-gpus=0", environment=PRETENDED, autoscaling=config)


def client(head, *program: object) -> tuple[str, ...]:
    """A program that finds the cluster in its environment."""
    access = [f"{name}={value}" for name, value in {**head.access, "RAY_ADDRESS": head.address}.items()]
    return ("env", *access, f"PYTHONPATH={ROOT}", sys.executable, *map(str, program))


def test_workers_come_when_asked_for_and_leave_afterwards(head, fedsim_command):
    done = fedsim_command(program=client(head, PROGRAM))
    print(done.out)
    stages = {line["stage"]: line for line in map(json.loads, done.out.splitlines())}
    assert stages["at first"]["workers"] == {}
    assert stages["a CPU"]["workers"] == {"cpu_worker": 1}
    assert stages["without it"]["workers"] == {}
    assert stages["quarters of GPUs"]["workers"] == {"gpu_worker_spot": 2}
    assert stages["quarters of GPUs"]["participants"] == [4, 4]
    assert stages["without them"]["workers"] == {}


def test_a_run_waits_for_its_workers(
    head, fedsim_command, configs, digits_run, assert_same_results, tmp_path
):
    """Five participants of two fifths of a GPU, on a cluster that has no CPU and no GPU to begin with."""
    folder = tmp_path / "run"
    settings = ("runtime.executor=ray", "runtime.participant.gpus=0.4", "runtime.wait_s=200")
    program = client(head, "-m", "fedsim")
    fedsim_command("run", configs["distil"], f"output={folder}", *settings, program=program)
    assert_same_results(folder, digits_run, methods=("federated_distillation",))
