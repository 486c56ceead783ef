"""The tables on disk, and the summary that is made of them."""

import json
import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from fedsim import results
from fedsim.results import SUMMARY, TABLES, Row, by_column, summarise, write_json, write_table

NAN = float("nan")


def round_row(method: str, round: int, score: float, higher: bool = False, **changes: Any) -> Row:
    row: Row = {column: 0 for column in results.ROUNDS}
    row.update(method=method, algorithm=method, round=round, score=score, higher_is_better=higher)
    row["student"] = method != "solo"
    row.update(metric="accuracy" if higher else "perplexity", bytes_up=10, bytes_down=100, virtual_s=1.5)
    return {**row, "wall_s": 0.25, **changes}


def institution(round: int, participant: int, score: float, method: str = "solo") -> Row:
    row: Row = {column: 0 for column in results.PARTICIPANTS}
    return {**row, "method": method, "round": round, "participant": participant, "score": score}


def by_name(rows: list[Row]) -> dict[str, Row]:
    assert all(list(row) == list(SUMMARY) for row in rows)
    return {row["contender"]: row for row in rows}


# Tables -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_its_columns_types_and_documentation(tmp_path: Path, name: str):
    columns = TABLES[name]
    values = {"string": "x", "int64": 3, "double": 0.5, "bool": True}
    rows = [{c: values[str(kind)] for c, (kind, _) in columns.items()}] * 2
    write_table(tmp_path / f"{name}.parquet", name, rows)
    table = pq.read_table(tmp_path / f"{name}.parquet")
    assert table.to_pylist() == rows
    assert {f.name: f.type for f in table.schema} == {c: kind for c, (kind, _) in columns.items()}
    documented = {f.name: f.metadata[b"doc"].decode() for f in table.schema}
    assert documented == {c: doc for c, (_, doc) in columns.items()}
    assert table.schema.metadata[b"fedsim_table"].decode() == name
    assert int(table.schema.metadata[b"fedsim_schema"]) == results.SCHEMA_VERSION


def test_a_table_can_be_empty_and_is_replaced_whole(tmp_path: Path):
    write_table(tmp_path / "partition.parquet", "partition", [])
    assert pq.read_table(tmp_path / "partition.parquet").num_rows == 0
    write_table(
        tmp_path / "partition.parquet", "partition", [{"participant": 0, "group": "a", "examples": 5}]
    )
    write_table(tmp_path / "partition.parquet", "partition", [{"participant": 1, "group": "b"}])
    rows = pq.read_table(tmp_path / "partition.parquet").to_pylist()
    assert rows == [{"participant": 1, "group": "b", "examples": None}]
    assert [p.name for p in tmp_path.iterdir()] == ["partition.parquet"]  # no half-written file is left


def test_parts_from_before_a_column_was_added_are_merged_with_later_ones(tmp_path: Path, monkeypatch):
    """A run that began with an older fedsim and is resumed."""
    texts = {"method": "solo", "model": "mlp", "status": "ok", "metric": "accuracy"}
    row = {**institution(1, 0, 0.25), **texts, "local_score": 0.5}
    parts = [tmp_path / "old.arrow", tmp_path / "new.arrow"]
    with monkeypatch.context() as earlier:
        then = {c: v for c, v in TABLES["participants"].items() if c not in results.LATER["participants"]}
        earlier.setitem(TABLES, "participants", then)
        results.write_part(parts[0], {"participants": {c: [v] for c, v in row.items() if c in then}})
    results.write_part(parts[1], {"participants": by_column([row])})
    results.merge_parts(tmp_path, ["participants"], parts)
    merged = pq.read_table(tmp_path / "participants.parquet")
    assert merged.schema.equals(results.schema("participants"), check_metadata=True)
    assert merged["local_score"].to_pylist() == [None, 0.5] and merged["score"].to_pylist() == [0.25, 0.25]


def test_the_tables_of_a_part_come_back_as_they_were(tmp_path: Path):
    tables = {
        "partition": [{"participant": k, "group": "ü" * k, "examples": k**2} for k in range(3)],
        "measures": [{"method": "m", "seed": 0, "round": 1, "name": "x", "value": NAN}],
        "messages": [],
    }
    results.write_part(tmp_path / "a.arrow", {name: by_column(rows) for name, rows in tables.items()})
    found = {name: table.to_pylist() for name, table in results.read_part(tmp_path / "a.arrow").items()}
    assert repr(found) == repr(tables)  # NaN is no equal of itself
    assert [p.name for p in tmp_path.iterdir()] == ["a.arrow"]  # no half-written file is left


def test_a_column_that_nobody_documented_is_refused(tmp_path: Path):
    write_table(tmp_path / "partition.parquet", "partition", [])
    with pytest.raises(KeyError, match="colour"):
        write_table(tmp_path / "partition.parquet", "partition", [{"participant": 0, "colour": "red"}])
    assert pq.read_table(tmp_path / "partition.parquet").num_rows == 0


def test_nan_stays_nan_in_a_table_and_is_null_in_json(tmp_path: Path):
    write_table(tmp_path / "rounds.parquet", "rounds", [round_row("m", 1, NAN)])
    assert math.isnan(pq.read_table(tmp_path / "rounds.parquet")["score"][0].as_py())
    write_json(tmp_path / "x.json", {"a": [NAN, float("inf"), 1.5], "b": {"c": NAN}, "d": "ü"})
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"a": [None, None, 1.5], "b": {"c": None}, "d": "ü"}
    assert "ü" in text


def test_a_failed_write_leaves_the_old_file(tmp_path: Path):
    write_json(tmp_path / "x.json", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", object())
    assert (tmp_path / "x.json").read_text() == "1\n"


# Summary ------------------------------------------------------------------------------------------


def test_a_contender_is_judged_by_its_last_score_and_all_its_bytes():
    rounds = [round_row("fd", r, s) for r, s in ((0, 90.0), (1, 60.0), (2, 50.0), (3, NAN))]
    (row,) = summarise(rounds, [])
    assert row["score"] == 50.0  # round 3 was not evaluated …
    assert (row["bytes_up"], row["bytes_down"], row["virtual_s"], row["wall_s"]) == (40, 400, 6.0, 1.0)
    assert row["ratio_to_centralized"] is None


@pytest.mark.parametrize(("higher", "score", "ratio"), [(False, 50.0, 0.8), (True, 0.7, 0.875)])
def test_the_ratio_is_1_at_the_upper_bound_in_either_direction(higher: bool, score: float, ratio: float):
    bound = 0.8 if higher else 40.0
    rounds = [
        round_row("fd", 2, score, higher),
        round_row("upper", 2, bound, higher, algorithm="centralized"),  # found by what it is
    ]
    rows = by_name(summarise(rounds, []))
    assert rows["fd"]["ratio_to_centralized"] == pytest.approx(ratio)
    assert rows["upper"]["ratio_to_centralized"] == 1.0


@pytest.mark.parametrize(("higher", "best"), [(False, 80.0), (True, 120.0)])
def test_institutions_on_their_own_are_two_contenders(higher: bool, best: float):
    rounds = [round_row("solo", 2, 100.0, higher)]
    people = [
        institution(2, 0, 80.0),
        institution(2, 1, 120.0),
        institution(1, 0, 1.0),
        institution(1, 1, 999.0),
    ]
    people += [institution(2, 0, 10.0, method="fd"), institution(2, 3, NAN)]
    rows = by_name(summarise(rounds, people))
    assert set(rows) == {"solo_best", "solo_mean"}
    assert rows["solo_best"]["score"] == best
    assert rows["solo_mean"]["score"] == 100.0


def test_an_institution_that_was_not_asked_last_has_the_score_that_it_had():
    people = [
        institution(1, 0, 90.0),
        institution(1, 1, 70.0),
        institution(2, 1, 60.0),
        institution(2, 2, 75.0),
    ]
    rows = by_name(summarise([round_row("solo", 2, 67.5)], people))
    assert rows["solo_best"]["score"] == 60.0
    assert rows["solo_mean"]["score"] == 75.0


def test_an_institution_that_diverged_is_never_the_best():
    people = [institution(1, 0, math.inf), institution(1, 1, 80.0), institution(1, 2, 90.0)]
    rows = by_name(summarise([round_row("solo", 1, math.inf)], people))
    assert (rows["solo_best"]["score"], rows["solo_mean"]["score"]) == (80.0, 85.0)
    higher = [institution(1, 0, math.inf), institution(1, 1, 0.4)]
    rows = by_name(summarise([round_row("solo", 1, math.inf, higher=True)], higher))
    assert rows["solo_best"]["score"] == 0.4


@pytest.mark.parametrize("score", [NAN, math.inf, None])
def test_who_has_no_score_is_not_in_the_summary(score: float | None):
    rounds = [round_row("solo", 1, 70.0), round_row("fd", 1, score), round_row("fedavg", 1, 60.0)]
    assert set(by_name(summarise(rounds, [institution(1, 0, score)]))) == {"fedavg"}
    assert summarise([], []) == []


def test_an_unscored_upper_bound_is_no_bound():
    rounds = [round_row("fd", 1, 50.0), round_row("centralized", 1, NAN)]
    assert by_name(summarise(rounds, []))["fd"]["ratio_to_centralized"] is None
    zero = [round_row("fd", 1, 0.0, True), round_row("centralized", 1, 0.0, True)]
    assert by_name(summarise(zero, []))["fd"]["ratio_to_centralized"] is None
