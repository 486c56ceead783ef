"""What a cluster can't give, or a run can't do with its data, is said before an actor starts."""

import pytest
import torch

import fedsim
from fedsim import simulation
from fedsim.errors import ConfigError
from fedsim.executor import InProcess


def test_a_gpu_that_is_not_there(fedsim_command, configs, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    done = fedsim_command(
        "run", configs["distil"], f"output={tmp_path / 'run'}", "runtime.executor=ray",
        "runtime.participant.gpus=0.5", status=2,
    )  # fmt: skip
    said = [line for line in done.err.splitlines() if not line.startswith("[")]  # without the progress
    assert said == [
        "fedsim: runtime.participant.gpus: 0.5 is not valid; expected at most 0 for participant 0 "
        "(cpus 0.2, gpus 0.5): the cluster has no GPU"
    ]
    assert "starting actors" not in done.err


def test_a_limit_that_no_message_of_this_proxy_set_could_keep(fedsim_command, configs, tmp_path):
    limit = "runtime.message_limit_mib=0.05"
    done = fedsim_command("run", configs["distil"], f"output={tmp_path / 'run'}", limit, status=2)
    said = [line for line in done.err.splitlines() if not line.startswith("[")]
    assert said == [
        "fedsim: runtime.message_limit_mib: 0.05 is not valid; expected at least 1: messages of "
        "federated_distillation need it"
    ]
    assert "starting actors" not in done.err
    assert not (tmp_path / "run").exists()


def test_a_limit_that_no_model_keeps_is_said_before_participants_train(fedsim_command, configs, tmp_path):
    """How large a model is, is known where it is built, and participants begin before the coordinator."""
    done = fedsim_command(
        "run", configs["distil"], f"output={tmp_path / 'run'}", "runtime.executor=ray",
        "methods=[{name: fedavg, specialists: student}]", "runtime.message_limit_mib=0.05",
        "participants.training.steps=1000000", status=2,
    )  # fmt: skip
    said = [line for line in done.err.splitlines() if not line.startswith("[")]
    assert said == [
        "fedsim: runtime.message_limit_mib: 0.05 is not valid; expected at least 1: messages of "
        "fedavg need it"
    ]
    assert not (tmp_path / "run").exists()


def test_a_pool_that_no_memory_holds(configs, tmp_path, monkeypatch):
    class Never(InProcess):
        def start(self, config):
            raise AssertionError("actors were started")

    monkeypatch.setattr("fedsim.methods.feddf._MOST_LOGITS", 10)
    feddf = [{"name": "feddf", "specialists": "student"}]
    run = fedsim.load(configs["distil"], output=str(tmp_path / "run"), methods=feddf)
    with pytest.raises(ConfigError, match=r"feddf\.proxy_per_round: 1\.0 is not valid; expected at most"):
        simulation.run(run, executor=Never())
    assert not (tmp_path / "run").exists()
