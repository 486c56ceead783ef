"""Single institutions are no federation: what becomes of that doesn't touch them."""

from fedsim import simulation
from fedsim.loading import load
from fedsim.progress import Quiet


def test_who_is_asked_and_who_drops_out_changes_nothing(tmp_path):
    training = {"steps": 3, "batch_size": 8}
    base = {
        "rounds": 3,
        "data": {"source": "digits", "max_examples": 150},
        "participants": {"count": 4, "models": ["vit-micro"], "training": training},
        "student": {"model": "vit-micro", "training": training},
        "runtime": {"executor": "in_process"},
        "methods": ["solo"],
    }
    trouble = {
        "participants.participation": 0.5,
        "participants.dropout": 0.3,
        "participants.message_loss": 0.3,
    }
    calm, rough = (
        simulation.run(load(base, output=str(tmp_path / name), **overrides), progress=Quiet())
        for name, overrides in (("calm", {}), ("rough", trouble))
    )
    columns = ["round", "participant", "status", "score", "loss", "flops"]
    assert len(rough.participants) == 12 and (rough.participants.status == "ok").all()
    assert calm.participants[columns].equals(rough.participants[columns])
    assert calm.summary[["contender", "score"]].equals(rough.summary[["contender", "score"]])
