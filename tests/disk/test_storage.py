"""Results behind a URI: the same verbs for a local folder, S3 and a file system of fsspec's."""

import contextlib
import pickle
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import requests
import torch
from safetensors.numpy import save_file

import fedsim
from fedsim import results, shortage
from fedsim.disk import lease, storage
from fedsim.disk.checkpoints import Checkpoints, hold
from fedsim.disk.lease import Lease
from fedsim.disk.storage import AnyPath, RemotePath, StorageError, locate
from fedsim.errors import ConfigError, RunError
from fedsim.records import Records

PARTITION = [{"participant": 0, "group": "a", "examples": 5}]


@pytest.fixture(params=["local", "s3", "fsspec"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> AnyPath:
    """A folder that is not there yet."""
    if request.param == "s3":
        return request.getfixturevalue("remote")
    return tmp_path / "run" if request.param == "local" else locate(f"memory://bucket{tmp_path}/run")


def files(folder: AnyPath) -> dict[str, str]:
    with storage.loading(folder) as local:
        return {str(p.relative_to(local)): p.read_text() for p in local.rglob("*") if p.is_file()}


# Paths --------------------------------------------------------------------------------------------


def test_a_path_without_a_scheme_is_an_ordinary_one(tmp_path: Path):
    assert locate("runs/one") == Path("runs/one")
    assert locate("file:///a%20b/c") == Path("/a b/c")
    assert locate(tmp_path) is tmp_path
    assert fedsim.load({"output": "runs/one"}).folder == Path("runs/one")
    assert fedsim.load({"name": "two"}).folder == Path("runs/two")


def test_a_uri_keeps_its_slashes_and_options(s3: str):
    text = "s3://results/runs/one?region=eu-west-1"
    path = fedsim.load({"output": text}).folder
    assert isinstance(path, RemotePath)
    assert str(path) == str(locate(str(path))) == text
    assert str(path / "round-0001.json") == "s3://results/runs/one/round-0001.json?region=eu-west-1"
    inside = path / "checkpoints/round-0001.json"
    assert (inside.name, inside.stem, inside.parent.name) == ("round-0001.json", "round-0001", "checkpoints")
    assert inside.parent.parent == path == path.with_name("one") == pickle.loads(pickle.dumps(path))


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("nosuch://bucket/run", "Protocol not known: nosuch"),
        ("dropbox://bucket/run", "dropbox.*install"),
        ("s3:///run", "s3://BUCKET/"),
        ("s3://bucket/run?colour=red", "colour"),
        ("file://elsewhere/run", "this machine"),
    ],
)
def test_what_can_not_be_reached_is_a_wrong_output(uri: str, said: str):
    with pytest.raises(ConfigError, match=said) as caught:
        fedsim.run(fedsim.load({"output": uri, "data": {"source": "digits"}}))
    assert caught.value.field == "output" and "\n" not in str(caught.value)


# Verbs --------------------------------------------------------------------------------------------


def test_a_file_is_replaced_whole(folder: AnyPath):
    folder.mkdir(parents=True)
    path = folder / "partition.parquet"
    results.write_table(path, "partition", [])
    results.write_table(path, "partition", PARTITION)
    assert results.rows(path) == PARTITION

    def fails(part: Path) -> None:
        part.write_text("half")
        raise ValueError("cut off")

    with pytest.raises(ValueError, match="cut off"):
        storage.write(path, fails)
    assert results.rows(path) == PARTITION
    assert [p.name for p in folder.iterdir()] == ["partition.parquet"]
    part = folder / "part.arrow"
    results.write_part(part, {"partition": results.by_column(PARTITION)})
    results.merge_parts(folder, ["partition"], [part, part])
    assert results.rows(path) == PARTITION * 2


def test_folders_are_saved_loaded_carried_and_removed(folder: AnyPath):
    assert not folder.exists()
    with storage.saving(folder / "one") as local:
        (local / "deep").mkdir()
        (local / "deep" / "a").write_text("1")
    with storage.saving(folder / "one") as local:  # what is there stays
        (local / "b").write_text("2")
    assert files(folder / "one") == {"deep/a": "1", "b": "2"}
    assert (folder / "one").is_dir() and not (folder / "one" / "b").is_dir()
    storage.carry(folder / "one", folder / "two")
    storage.remove(folder / "one")
    storage.remove(folder / "one")
    assert not (folder / "one").exists()
    assert files(folder / "two") == {"deep/a": "1", "b": "2"}
    assert [p.name for p in (folder / "two").glob("*e*")] == ["deep"]
    assert (folder / "two" / "b").read_text() == "2"
    assert (folder / "two" / "b").read_bytes() == b"2"
    with pytest.raises(FileNotFoundError):
        (folder / "two" / "c").read_text()


def test_nothing_of_a_save_that_failed_reaches_a_store(remote: RemotePath):
    with pytest.raises(ValueError, match="cut off"), storage.saving(remote) as local:
        (local / "a").write_text("1")
        raise ValueError("cut off")
    assert not remote.exists()


# Rounds -------------------------------------------------------------------------------------------


def records(round: int) -> Records:
    row = {"method": "m", "round": round, "score": 0.5}
    return Records(row, results.by_column([{**row, "participant": 0}]), {}, {}, {})


def attempt(checkpoints: Checkpoints, round: int, *participants: int, text: str = "") -> None:
    target = checkpoints.partial(round)
    for participant in participants:
        with storage.saving(target / f"participant-{participant:05d}") as local:
            (local / "state").write_text(text or f"round {round}")


def test_a_round_exists_once_its_row_does(folder: AnyPath):
    checkpoints = Checkpoints(folder, "m")
    checkpoints.commit(0, [records(0)])
    attempt(checkpoints, 1, 0, 1, 2)
    assert checkpoints.finished() == 0
    checkpoints.commit(1, [records(1)])
    attempt(checkpoints, 2, 0, 1, text="cut off")
    again = Checkpoints(folder, "m")
    assert again.finished() == 1
    assert files(again.state(1))["participant-00001/state"] == "round 1"
    attempt(again, 2, 1)  # what was cut off is gone, and who did not work is carried over
    again.commit(2, [records(2)])
    assert files(again.state(2)) == {
        "participant-00000/state": "round 1",
        "participant-00001/state": "round 2",
        "participant-00002/state": "round 1",
    }
    attempt(again, 3)  # nobody worked
    again.commit(3, [records(3)])
    assert files(again.state(3))["participant-00001/state"] == "round 2"
    assert not again.state(2).exists()
    assert [row["round"] for row in again.rounds()] == [0, 1, 2, 3]
    parts = [results.read_part(part)["participants"] for part in again.parts()]
    assert [round for part in parts for round in part["round"].to_pylist()] == [0, 1, 2, 3]


# Who works in a folder ----------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_S", 0.2)
    monkeypatch.setattr(lease, "EXPIRES_S", 2.0)


def test_two_runs_can_not_share_a_folder(remote: RemotePath, quick: None):
    first = hold(remote)
    began = time.monotonic()
    with pytest.raises(ConfigError, match="no other run") as caught:
        hold(remote)
    assert caught.value.field == "output" and str(remote) in str(caught.value)
    assert time.monotonic() - began < 1.9, "a run that is alive is seen before one would be taken for dead"
    first.release()
    hold(remote).release()
    assert not remote.exists() or not list(remote.iterdir())


def test_a_run_that_died_lets_go_after_a_while(remote: RemotePath, quick: None):
    (remote / ".lock-dead").write_text("7")
    began = time.monotonic()
    held = Lease(remote)
    assert 1.9 < time.monotonic() - began < 10
    assert not (remote / ".lock-dead").exists()
    held.release()


def test_of_two_that_come_at_once_at_most_one_stays(remote: RemotePath, quick: None):
    held: list[Lease] = []

    def come() -> None:
        with contextlib.suppress(ConfigError):
            held.append(Lease(remote))

    comers = [threading.Thread(target=come) for _ in range(2)]
    for comer in comers:
        comer.start()
    for comer in comers:
        comer.join()
    assert len(held) <= 1
    for one in held:
        one.release()


# What goes wrong ----------------------------------------------------------------------------------


def refuse(s3: str, after: str) -> None:
    """From that many requests on, the server wants to know the key."""
    requests.post(f"{s3}/moto-api/reset-auth", data=after, timeout=10).raise_for_status()


def tiny(output: str) -> fedsim.RunConfig:
    return fedsim.load(
        {
            "output": output,
            "data": {"source": "digits"},
            "participants": {"models": ["mlp"]},
            "student": {"model": "mlp"},
            "runtime": {"executor": "in_process"},
        }
    )


def test_a_bucket_that_is_missing_and_a_key_that_is_refused(remote: RemotePath, s3: str):
    with pytest.raises(ConfigError, match=r"written to .*'nobody-has-it' not found") as caught:
        fedsim.run(tiny("s3://nobody-has-it/run"))
    assert caught.value.field == "output"
    remote.mkdir()
    refuse(s3, "0")
    try:
        with pytest.raises(ConfigError, match=r"written to .*ACCESS_DENIED") as caught:
            fedsim.run(tiny(str(remote)))
        with pytest.raises(StorageError, match="INVALID_ACCESS_KEY") as lost:
            results.write_json(remote / "x.json", {})
    finally:
        refuse(s3, "1e18")
    assert caught.value.field == "output" and "\n" not in str(caught.value)
    assert isinstance(lost.value, RunError) and str(remote) in str(lost.value)


def test_a_place_on_this_machine_that_can_not_be_written(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"output: .*written to \(.*Not a directory"):
        fedsim.run(tiny(str(tmp_path / "file" / "run")))


LARGE = np.zeros(1_000_000)
"""8 MB, twice of what the disk holds."""


def test_every_writer_says_that_the_disk_is_full(small_disk: Path, monkeypatch: pytest.MonkeyPatch):
    folder = small_disk / "run"
    writers = {
        "safetensors": lambda local: save_file({"x": LARGE}, str(local / "x")),
        "torch": lambda local: torch.save(torch.from_numpy(LARGE), local / "x"),
        "python": lambda local: (local / "x").write_bytes(LARGE.tobytes()),
    }
    for name, write in writers.items():
        said = pytest.raises(RunError, match=r"the disk is full \([0-9.]+ MB free\); make room")
        with said as caught, storage.saving(folder) as local:
            write(local)
        assert str(folder) in str(caught.value) and "--resume" in str(caught.value), name
        storage.remove(folder)
    folder.mkdir()
    results.write_table(folder / "partition.parquet", "partition", PARTITION)
    rows = [{"participant": k, "group": f"{k * 7919 % 999_983}", "examples": k**2} for k in range(400_000)]
    with pytest.raises(RunError, match="the disk is full"):
        results.write_table(folder / "partition.parquet", "partition", rows)
    assert results.rows(folder / "partition.parquet") == PARTITION
    assert [p.name for p in folder.iterdir()] == ["partition.parquet"], "half a file takes no room"
    # On the way to a store it is the temporary folder that is full.
    monkeypatch.setattr("tempfile.tempdir", str(small_disk))
    full = pytest.raises(RunError, match="the disk is full")
    with full as caught, storage.saving(locate("memory://bucket/full")) as local:
        save_file({"x": LARGE}, str(local / "x"))
    assert str(small_disk) in str(caught.value)


def test_memory_that_can_not_be_had_is_told_from_other_errors():
    def error(make) -> BaseException:
        with pytest.raises((MemoryError, RuntimeError)) as caught:
            make()
        return caught.value

    def thread() -> None:
        before = threading.stack_size(2**50)
        try:
            threading.Thread(target=print).start()
        finally:
            threading.stack_size(before)

    for make in (lambda: np.zeros(2**58), lambda: torch.zeros(2**58), lambda: bytearray(2**60), thread):
        assert shortage.out_of_memory(error(make)), make
    assert not shortage.out_of_memory(error(lambda: torch.zeros(2) @ torch.zeros(3)))
    assert shortage.explained(ValueError("x"), Path("/")) is None
    assert shortage.explained(RunError("out of memory"), Path("/")) is None, "it is one line already"
    said = str(shortage.explained(error(lambda: np.zeros(2**58)), Path("/")))
    assert "this process ran out of memory" in said and "batch_size" in said and "resumed" in said
