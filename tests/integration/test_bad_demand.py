"""What a cluster can't give, or a run can't do with its data, is said before an actor starts."""

import pytest
import torch


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
