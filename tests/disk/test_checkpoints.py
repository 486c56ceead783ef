"""What a run finds again after it died: finished rounds, and nothing half done."""

import errno
import fcntl
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedsim import results, shortage
from fedsim.disk import storage
from fedsim.disk.checkpoints import Checkpoints, Lock
from fedsim.disk.scratch import Folder
from fedsim.errors import ConfigError, RunError
from fedsim.records import Records
from fedsim.results import Row


def records(round: int, score: float = 0.5) -> Records:
    row = {"method": "m", "round": round, "score": score}
    return Records(row, results.by_column([{**row, "participant": 0}]), {}, {}, {})


def rows(checkpoints: Checkpoints) -> tuple[list[Row], list[int]]:
    """The rows of the rounds table, and the rounds of the participants table."""
    parts = [results.read_part(part)["participants"] for part in checkpoints.parts()]
    return checkpoints.rounds(), [round for part in parts for round in part["round"].to_pylist()]


def write(checkpoints: Checkpoints, round: int, text: str = "state") -> Path:
    folder = checkpoints.partial(round)
    (folder / "state").write_text(text)
    return folder


def test_a_round_is_there_once_it_is_committed(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path, "m")
    assert (checkpoints.finished(), rows(checkpoints)) == (-1, ([], []))
    checkpoints.commit(0, [records(0)])  # the start has rows and no state
    assert checkpoints.finished() == 0
    for round in (1, 2):
        write(checkpoints, round, f"after {round}")
        assert checkpoints.finished() == round - 1
        checkpoints.commit(round, [records(round)])
    assert (checkpoints.state(2) / "state").read_text() == "after 2"
    assert not checkpoints.state(1).exists()  # one state is kept …
    again = Checkpoints(tmp_path, "m")
    assert again.finished() == 2
    assert rows(again) == ([records(k).round for k in range(3)], [0, 1, 2])  # … and all rows


def test_a_commit_leaves_the_states_of_later_rounds(tmp_path: Path):
    """The start is committed after the first round, whose state in a store has its final name at once."""
    checkpoints = Checkpoints(tmp_path, "m")
    write(checkpoints, 1)
    checkpoints.settle(1)
    checkpoints.commit(0, [records(0)])
    assert (checkpoints.state(1) / "state").exists()


def test_what_an_attempt_left_half_done_is_removed(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path, "m")
    write(checkpoints, 1, "first attempt")
    again = Checkpoints(tmp_path, "m")
    assert again.finished() == -1
    assert list(again.partial(1).iterdir()) == []


def test_a_death_between_the_rename_and_the_rows_costs_the_round_only(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path, "m")
    write(checkpoints, 1, "one")
    checkpoints.commit(1, [records(1)])
    write(checkpoints, 2, "two").rename(checkpoints.state(2))
    again = Checkpoints(tmp_path, "m")
    assert again.finished() == 1
    assert (again.state(1) / "state").read_text() == "one"
    write(again, 2, "two, again")
    again.commit(2, [records(2)])
    assert (again.state(2) / "state").read_text() == "two, again"


def test_rows_keep_what_is_not_a_number(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path, "m")
    checkpoints.commit(1, [records(1, float("nan"))])
    checkpoints.commit(2, [records(2, float("inf"))])
    scores = [row["score"] for row in checkpoints.rounds()]
    assert all(math.isnan(score) for score in scores)  # JSON knows neither: both were no score
    assert rows(checkpoints)[1] == [1, 2]


def test_contenders_do_not_meet(tmp_path: Path):
    one, other = Checkpoints(tmp_path, "one"), Checkpoints(tmp_path, "other")
    one.commit(3, [records(3)])
    assert (one.finished(), other.finished()) == (3, -1)


def test_rounds_beyond_four_digits_are_found(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path, "m")
    for round in (9_999, 10_000, 10_001):
        write(checkpoints, round)
        checkpoints.commit(round, [records(round)])
    assert checkpoints.finished() == 10_001
    assert [row["round"] for row in checkpoints.rounds()] == [9_999, 10_000, 10_001]
    assert sorted(p.name for p in checkpoints.folder.iterdir() if p.is_dir()) == ["round-10001"]


def test_files_of_one_name_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A state is carried on where links can't be made; a full disk is one."""
    state = tmp_path / "one" / "inner"
    state.mkdir(parents=True)
    (state / "weights").write_bytes(b"w" * 9)
    storage.carry(tmp_path / "one", tmp_path / "two")
    assert (tmp_path / "two" / "inner" / "weights").samefile(state / "weights")
    refusal = errno.EPERM

    def link(self: Path, target: Path) -> None:
        raise OSError(refusal, os.strerror(refusal))

    monkeypatch.setattr(Path, "hardlink_to", link)
    storage.carry(tmp_path / "one", tmp_path / "three")
    assert (tmp_path / "three" / "inner" / "weights").read_bytes() == b"w" * 9
    refusal = errno.ENOSPC
    with pytest.raises(OSError) as caught:
        storage.carry(tmp_path / "one", tmp_path / "four")
    assert shortage.disk_full(caught.value, tmp_path)


def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path):
    (tmp_path / "checkpoints").mkdir()
    with (
        pytest.raises(KeyboardInterrupt),
        storage.writing([tmp_path / "checkpoints" / "rows.arrow"]) as (part,),
    ):
        part.write_text("half")
        kept = part.rename(part.with_name(part.name.replace(str(os.getpid()), "1")))
        raise KeyboardInterrupt
    storage.tidy(tmp_path)
    assert not kept.exists() and list((tmp_path / "checkpoints").iterdir()) == []


def test_two_runs_can_not_share_a_folder(tmp_path: Path):
    lock = Lock(tmp_path)
    with pytest.raises(ConfigError, match="no other run"):
        Lock(tmp_path)
    lock.release()
    Lock(tmp_path).release()


def test_where_no_file_can_be_locked_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As on Lustre without its option; nobody else is to blame, and nobody waits for ever."""

    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(ConfigError, match=r"output: .* where files can be locked \(Function not implemented"):
        Lock(tmp_path)
    with pytest.raises(RunError, match=r"no temporary folder can be kept there \(Function not impl.*TMPDIR"):
        Folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_lock_ends_with_its_process(tmp_path: Path):
    code = f"""
import os, signal
from pathlib import Path
from fedsim.disk.checkpoints import Lock
lock = Lock(Path({str(tmp_path)!r}))
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    Lock(tmp_path).release()


def test_rounds_that_an_older_version_wrote_are_refused_in_one_line(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path, "m")
    write(checkpoints, 0)
    checkpoints.commit(0, [records(0)])
    assert checkpoints.finished() == 0
    (checkpoints.folder / "round-0000.arrow").rename(checkpoints.folder / "round-0000.messages.parquet")
    with pytest.raises(ConfigError, match="begun with this version") as caught:
        checkpoints.finished()
    assert str(tmp_path) in str(caught.value)


def test_rounds_of_an_older_version_that_had_a_file_each_go_on(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path, "m")
    checkpoints.commit(1, [records(1)])
    results.write_json(checkpoints.folder / "round-0001.json", records(1, float("nan")).round)
    checkpoints.commit(3, [records(2), records(3)])
    assert [row["round"] for row in checkpoints.rounds()] == [1, 2, 3]
    assert rows(checkpoints)[1] == [1, 2, 3]
    assert math.isnan(checkpoints.rounds()[0]["score"])
