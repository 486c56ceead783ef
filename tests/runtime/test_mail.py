"""What actors hand each other through shared memory comes as it was sent, or through Ray."""

from pathlib import Path

import numpy as np
import pytest

from fedsim.aggregation.exact import FixedPointSum
from fedsim.errors import CoordinatorLostError
from fedsim.runtime.mail import LEAST, MOST, Inbox, Letter, Outbox


def numbers(seed: int, size: int = 40_000) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(size)


@pytest.mark.parametrize("copy", [False, True])
def test_a_letter_holds_what_was_sent(tmp_path: Path, copy: bool):
    total = FixedPointSum(40_000)
    total.add(numbers(1), 0.25)
    sent = Outbox(str(tmp_path)).send(0, {"sum": total, "small": np.arange(3), "text": "ü"})
    assert isinstance(sent, Letter) and len(sent.pickled) < 2000
    found = Inbox().read(sent, copy=copy)
    assert np.array_equal(found["sum"].value(), total.value()) and found["sum"].weight == total.weight
    assert found["small"].tolist() == [0, 1, 2] and found["text"] == "ü"
    both = FixedPointSum(40_000)
    both.merge(found["sum"])
    both.merge(total)
    assert np.array_equal(both.value(), 2 * total.value())
    assert np.array_equal(found["sum"].value(), total.value())


def test_a_slot_is_used_again_and_grows(tmp_path: Path):
    outbox, inbox = Outbox(str(tmp_path)), Inbox()
    kept = inbox.read(outbox.send("a", numbers(1)), copy=True)
    seen = inbox.read(outbox.send("a", numbers(1)), copy=False)
    other = inbox.read(outbox.send("b", numbers(2)), copy=False)
    assert np.array_equal(inbox.read(outbox.send("a", numbers(3)), copy=False), numbers(3))
    assert np.array_equal(seen, numbers(3)) and np.array_equal(kept, numbers(1))
    assert np.array_equal(other, numbers(2)) and len(list(tmp_path.iterdir())) == 2
    assert np.array_equal(inbox.read(outbox.send("a", numbers(4, 90_000)), copy=False), numbers(4, 90_000))
    assert len(list(tmp_path.iterdir())) == 2
    outbox.clear()
    assert list(tmp_path.iterdir()) == []
    assert np.array_equal(inbox.read(outbox.send("a", numbers(5)), copy=False), numbers(5))


def test_what_is_small_or_too_large_and_all_without_a_folder_goes_through_ray(tmp_path: Path):
    for folder, size in ((tmp_path, LEAST // 8 - 8), (tmp_path, MOST // 8 + 8), (None, 40_000)):
        content = np.zeros(size)
        sent = Outbox(folder and str(folder)).send(0, content)
        assert sent is content and Inbox().read(sent, copy=True) is content
    assert list(tmp_path.iterdir()) == []


def test_where_no_room_is_left_it_goes_through_ray(small_disk: Path):
    outbox, content = Outbox(str(small_disk)), np.zeros(400_000)
    assert isinstance(outbox.send(0, content), Letter)
    assert outbox.send(1, content) is content  # writing there would end the process
    assert isinstance(outbox.send(0, content), Letter)


def test_what_somebody_removes_is_lost_once(tmp_path: Path):
    outbox, inbox = Outbox(str(tmp_path / "here")), Inbox()
    (tmp_path / "here").mkdir()
    read = outbox.send(0, numbers(1))
    inbox.read(read, copy=True)
    sent = outbox.send(1, numbers(2))
    for path in (tmp_path / "here").iterdir():
        path.unlink()
    assert np.array_equal(inbox.read(read, copy=True), numbers(1)), "it is mapped"
    with pytest.raises(CoordinatorLostError, match="a message was removed from shared memory"):
        inbox.read(sent, copy=True)
    again = outbox.send(1, numbers(2))
    assert again.path != sent.path and np.array_equal(Inbox().read(again, copy=True), numbers(2))
    (tmp_path / "here" / Path(again.path).name).unlink()
    (tmp_path / "here").rmdir()
    content = numbers(3)
    assert outbox.send(0, content) is content and outbox.send(1, content) is content


def test_what_can_be_read_is_read_only(tmp_path: Path):
    found = Inbox().read(Outbox(str(tmp_path)).send(0, numbers(1)), copy=False)
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1.0
