"""What a run is: one frozen, typed tree, checked before anything starts.

`fedsim.load("experiments/quickstart.yaml", seed=3, **{"participants.count": 8})` reads YAML, applies
overrides, follows `base:` to the file it varies, and raises `ConfigError` (field, value, what would
be right). Every field carries its unit and a suggested value, so the JSON schema documents itself.
"""

from fedsim.config.base import Device, Positive, Settings, Training
from fedsim.config.data import MODALITIES, DataConfig, Partition, Source, Split
from fedsim.config.evaluation import Evaluation, FewShot, Questions
from fedsim.config.participants import Adapter, Adversary, Link, Participants, Privacy
from fedsim.config.run import MethodConfig, RunConfig, json_schema, to_yaml
from fedsim.config.runtime import Demand, Runtime
from fedsim.config.student import Engine, Pretraining, Student

__all__ = [
    "MODALITIES",
    "Adapter",
    "Adversary",
    "DataConfig",
    "Demand",
    "Device",
    "Engine",
    "Evaluation",
    "FewShot",
    "Link",
    "MethodConfig",
    "Participants",
    "Partition",
    "Positive",
    "Pretraining",
    "Privacy",
    "Questions",
    "RunConfig",
    "Runtime",
    "Settings",
    "Source",
    "Split",
    "Student",
    "Training",
    "json_schema",
    "to_yaml",
]
