"""What a failed trial is said to have failed of, from the text that Tune keeps."""

import traceback
from types import SimpleNamespace

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from fedsim.errors import DivergedError, RunError
from fedsim.runtime.tune import _reason


def failed(error):
    """The error that Ray makes of one that was raised in a trial's process."""
    try:
        raise error
    except Exception as raised:
        return RayTaskError("ImplicitFunc.train", traceback.format_exc(), raised)


@pytest.fixture
def reason(tmp_path):
    def read(*errors):
        path = tmp_path / "error.txt"
        # As ray.tune.experiment.Trial.handle_error writes it.
        path.write_text("".join(f"Failure # {n} (occurred at …)\n{e}\n" for n, e in enumerate(errors, 1)))
        return _reason(SimpleNamespace(error_file=str(path)))

    return read


def test_it_is_the_message_of_the_last_error(reason):
    later = failed(RunError("fedavg, round 2: 3 coordinators died in it (a, b)"))
    assert reason(failed(DivergedError("the training loss is nan"))) == "the training loss is nan"
    assert reason(failed(DivergedError("x")), later) == "fedavg, round 2: 3 coordinators died in it (a, b)"
    assert reason(failed(ValueError())) == "ValueError"


def test_an_error_of_an_actor_of_the_trial_is_the_actors(reason):
    inner = failed(DivergedError("the training loss is inf"))
    assert reason(failed(inner.as_instanceof_cause())) == "the training loss is inf"


def test_a_process_that_is_gone_left_no_traceback(reason):
    assert reason(ActorDiedError()).startswith("The actor died")
    assert _reason(SimpleNamespace(error_file=None)) == "it ended without a reason"
