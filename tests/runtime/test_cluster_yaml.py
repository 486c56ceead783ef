"""`cluster.yaml` is one that Ray's launcher accepts, and it keeps doors shut."""

import json
from pathlib import Path

import jsonschema
import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

FILE = Path(__file__).parents[2] / "cluster.yaml"


@pytest.fixture
def config() -> dict:
    return yaml.safe_load(FILE.read_text(encoding="utf-8"))


def test_ray_accepts_it(config):
    schema = Path(ray.__file__).parent / "autoscaler" / "ray-schema.json"
    jsonschema.validate(config, json.loads(schema.read_text(encoding="utf-8")))
    validate_config(prepare_config(config))


def test_a_wrong_head_type_would_be_noticed(config):
    with pytest.raises(ValueError, match="head_node_type"):
        validate_config(prepare_config({**config, "head_node_type": "nobody"}))


def test_nothing_is_open_and_every_start_asks_for_the_token(config):
    starts = [c for c in config["head_start_ray_commands"] if "ray start" in c]
    assert all("--dashboard-host=127.0.0.1" in command for command in starts)
    starts += [c for c in config["worker_start_ray_commands"] if "ray start" in c]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in command for command in starts)


def test_it_installs_with_the_constraints(config):
    assert any("-c ~/fedsim/constraints.txt" in command for command in config["setup_commands"])
