"""Bad messages in a run: each is an event with its reason, and the round goes on without it."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import fedsim
from fedsim import RunError, simulation
from fedsim.executor import Batch, InProcess, Task
from fedsim.methods import method_of
from fedsim.types import Parameters, Responses
from fedsim.wire.container import pack, unpack
from fedsim.wire.entropy import decode_symbols, encode_symbols
from fedsim.wire.messages import decode, encode

Tamper = Callable[["Tampering", bytes, int], bytes]
CULPRIT = 1


class Tampering(InProcess):
    """Changes what some participants send in one round; all else is the honest executor.

    The coordinator sees the changed bytes, and the host counts them, as they are what is sent.
    """

    def __init__(self, tamper: Tamper, who: tuple[int, ...] = (CULPRIT,), when: int = 1) -> None:
        super().__init__()
        self._tamper, self._who, self._when = tamper, who, when

    def step(self, task: Task, following: Task | None = None) -> Iterator[Batch]:
        self.method, self.round = method_of(self._world, task.contender), task.round
        for batch in super().step(task, following):
            reports, messages = list(batch.reports), list(batch.delivery)
            for place, report in enumerate(reports):
                if report.participant in self._who and task.round == self._when:
                    messages[place] = self._tamper(self, messages[place], report.participant)
                    reports[place] = report._replace(sent=len(messages[place]))
            yield Batch(reports, messages)

    def knowledge(self, data: bytes, who: int) -> Responses | Parameters:
        """What is in an honest message."""
        size = self._coordinator._desk.learner.size
        return decode(data, self.method.expect("up", self.round, who, size), 1 << 26)


def truncated(run: Tampering, data: bytes, who: int) -> bytes:
    return data[:-7]


def corrupted(run: Tampering, data: bytes, who: int) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0x10]) + data[middle + 1 :]


def oversized(run: Tampering, data: bytes, who: int) -> bytes:
    return data + bytes(int(run._world.config.runtime.message_limit_mib * 2**20))


def non_finite(run: Tampering, data: bytes, who: int) -> bytes:
    known = run.knowledge(data, who)
    if isinstance(known, Parameters):
        broken = replace(known, pieces=(np.append(known.vector[:-1], np.float32("nan")),))
    else:
        broken = replace(known, claims=np.full(len(known.samples), np.inf, np.float32))
    return encode(broken, direction="up", round=run.round, sender=who, samples_known=True).data


def off_simplex(run: Tampering, data: bytes, who: int) -> bytes:
    """A well-formed message with a right checksum, whose first row has more than all of its mass."""
    known = run.knowledge(data, who)
    sections = {name: bytes(content) for name, content in unpack(data, 1 << 26).sections.items()}
    counts = np.array(decode_symbols(memoryview(sections["counts"]), int(known.offsets[-1]) - known.rows))
    counts[:] = known.levels
    return pack("responses", "up", run.round, who, {**sections, "counts": encode_symbols(counts)})


def of_another(run: Tampering, data: bytes, who: int) -> bytes:
    """Somebody else's message, sent again under one's own name."""
    known = run.knowledge(data, who)
    return encode(known, direction="up", round=run.round, sender=0, samples_known=True).data


CASES = [
    ("truncated", truncated, "federated_distillation"),
    ("corrupted", corrupted, "federated_distillation"),
    ("oversized", oversized, "federated_distillation"),
    ("non-finite", non_finite, "federated_distillation"),
    ("non-finite", non_finite, "fedavg"),
    ("off-simplex", off_simplex, "federated_distillation"),
    ("unexpected", of_another, "federated_distillation"),
]


@pytest.mark.parametrize(("reason", "tamper", "method"), CASES)
def test_one_bad_message_is_an_event(reason, tamper, method, configs, clean_process, tmp_path):
    entry = {"name": method, **({"specialists": "student"} if method == "fedavg" else {})}
    config = fedsim.load(configs["distil"], output=str(tmp_path / "run"), rounds=2, methods=[entry])
    result = simulation.run(config, executor=Tampering(tamper))

    rounds = result.rounds.set_index("round")
    assert list(rounds.delivered[[1, 2]]) == [4, 5], "it takes part again in the next round"
    assert list(rounds.planned[[1, 2]]) == [5, 5]
    assert np.isfinite(rounds.score).all()
    status = f"rejected:{reason}"
    people = result.participants.set_index(["round", "participant"]).status
    assert people[1, CULPRIT] == status
    assert (people.drop((1, CULPRIT)) == "ok").all()
    up = result.messages[result.messages.direction == "up"].set_index(["round", "participant"])
    assert up.status[1, CULPRIT] == status
    assert (up.status.drop((1, CULPRIT)) == "delivered").all()
    assert rounds.bytes_up[1] == up.bytes[1].sum(), "what is refused was sent all the same"


def test_when_nobody_delivers_the_run_stops_and_can_be_resumed(
    configs, digits_run, assert_same_results, clean_process, tmp_path
):
    config = fedsim.load(configs["distil"], output=str(tmp_path / "run"))
    with pytest.raises(RunError, match=r"round 2: no participant delivered \(rejected:truncated\)"):
        simulation.run(config, executor=Tampering(truncated, who=(0, 1, 2, 3, 4), when=2))
    assert list(simulation.Result(Path(config.folder)).rounds["round"]) == [0, 1]
    fedsim.run(config, resume=True)
    assert_same_results(config.folder, digits_run, methods=("federated_distillation",))


def test_what_the_culprit_sends_does_not_matter(configs, clean_process, tmp_path):
    """The student is the same whatever was wrong: nothing of a refused message gets in."""
    losses = []
    for tamper in (truncated, off_simplex):
        plain = {"output": str(tmp_path / tamper.__name__), "methods": ["federated_distillation"]}
        config = fedsim.load(configs["distil"], rounds=1, **plain)
        losses.append(simulation.run(config, executor=Tampering(tamper)).rounds.loss.iloc[-1])
    assert losses[0] == losses[1]
