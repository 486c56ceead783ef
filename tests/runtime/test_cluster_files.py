"""`cluster.yaml` and `clusters/` are what Ray's launcher and KubeRay accept, and they keep doors shut."""

import json
import re
import shlex
from pathlib import Path

import jsonschema
import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from fedsim.config.trees import parse_override
from fedsim.loading import load

ROOT = Path(__file__).parents[2]
KUBERAY = ROOT / "clusters" / "kuberay.yaml"
LAUNCHED = {"aws": ROOT / "cluster.yaml", "local": ROOT / "clusters" / "local.yaml"}


def read(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.fixture(params=LAUNCHED)
def config(request) -> dict:
    """One after the other the files for Ray's launcher."""
    return read(LAUNCHED[request.param])


@pytest.fixture
def manifest() -> dict:
    return read(KUBERAY)


def test_ray_accepts_it(config):
    schema = Path(ray.__file__).parent / "autoscaler" / "ray-schema.json"
    jsonschema.validate(config, json.loads(schema.read_text(encoding="utf-8")))
    validate_config(prepare_config(config))


def test_nothing_is_open_and_every_start_asks_for_the_token(config):
    starts = [c for c in config["head_start_ray_commands"] if "ray start" in c]
    assert all("--dashboard-host=127.0.0.1" in command for command in starts)
    starts += [c for c in config["worker_start_ray_commands"] if "ray start" in c]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in command for command in starts)


def test_it_installs_what_runs_with_the_constraints(config):
    (command,) = (command for command in config["setup_commands"] if "pip install" in command)
    assert "-c ~/fedsim/constraints.txt" in command and command.endswith('-e "$HOME/fedsim[run]"')


def test_a_wrong_head_type_would_be_noticed():
    with pytest.raises(ValueError, match="head_node_type"):
        validate_config(prepare_config({**read(LAUNCHED["aws"]), "head_node_type": "nobody"}))


def test_all_nodes_have_the_image_that_is_named_once():
    text = LAUNCHED["aws"].read_text(encoding="utf-8")
    assert len(re.findall(r"ami-[0-9a-f]+", text)) == 1, "the command on top replaces it"
    kinds = yaml.safe_load(text.replace("ami-00000000000000000", "ami-1"))["available_node_types"].values()
    assert {kind["node_config"]["ImageId"] for kind in kinds} == {"ami-1"}


def test_workers_begin_at_none_and_spot_comes_first():
    types = read(LAUNCHED["aws"])["available_node_types"]
    workers = {name: kind for name, kind in types.items() if name != "head"}
    assert all(kind["min_workers"] == 0 for kind in workers.values())
    gpus = {name: kind for name, kind in workers.items() if kind["resources"].get("GPU")}
    spot, fallback = sorted(gpus.values(), key=lambda kind: -kind.get("priority", 0))
    assert spot["priority"] > fallback.get("priority", 0)
    assert spot["resources"] == fallback["resources"]
    assert "InstanceMarketOptions" in spot["node_config"]
    assert "InstanceMarketOptions" not in fallback["node_config"]


def test_the_manifest_asks_for_the_token_and_scales_from_zero(manifest):
    spec = manifest["spec"]["rayClusterSpec"]
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["enableInTreeAutoscaling"] is True
    assert all(group["minReplicas"] == group["replicas"] == 0 for group in spec["workerGroupSpecs"])
    limits = [group["template"]["spec"]["containers"][0]["resources"] for group in spec["workerGroupSpecs"]]
    assert [each["limits"].get("nvidia.com/gpu") for each in limits] == [None, "1"]
    assert all(each["limits"] == each["requests"] for each in limits)


def test_the_manifest_runs_this_project(manifest):
    spec = manifest["spec"]["rayClusterSpec"]
    assert f"ray=={spec['rayVersion']}\n" in (ROOT / "constraints.txt").read_text()
    command = shlex.split(manifest["spec"]["entrypoint"])
    assert command[:4] == ["python", "-m", "fedsim", "run"]
    overrides = dict(map(parse_override, command[5:]))
    config = load(ROOT / command[4].removeprefix("/fedsim/"), **overrides)
    assert config.runtime.wait_s > 0, "or it would be refused before the workers come"
    pods = [group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]
    for pod in pods:
        (container,) = pod["containers"]
        (mount,) = container["volumeMounts"]
        assert config.folder.is_relative_to(mount["mountPath"]), "results lie where every pod sees them"
        assert pod["volumes"][0]["name"] == mount["name"]
    assert len({pod["containers"][0]["image"] for pod in pods}) == 1
    assert f"FROM rayproject/ray:{spec['rayVersion']}-py311" in KUBERAY.read_text(encoding="utf-8")
