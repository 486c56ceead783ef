"""Loading: what comes out of a good folder, and the one line that a bad one gives."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import analysis
from analysis import AnalysisError
from fedsim import results
from fedsim.disk import storage


def test_columns_are_the_documented_ones_behind_the_run(run):
    tables = analysis.load(run)
    for name, columns in results.TABLES.items():
        frame = getattr(tables, name)
        assert list(frame.columns) == ["run", "setting", *columns]
        assert set(frame["run"]) == {"quickstart"}
    assert list(tables.summary.columns) == [
        "run",
        "setting",
        "algorithm",
        "student",
        "seed",
        *results.SUMMARY,
    ]
    assert tables.runs[0].config.startswith("name: quickstart")
    assert tables.runs[0].manifest["versions"]["torch"] == "2.13.0"


def test_rows_survive_the_disk(run):
    tables = analysis.load(str(run))
    assert len(tables.rounds) == 5 * 5 and len(tables.participants) == 3 * 4 * 5
    assert tables.rounds["bytes_up"].sum() == 4 * 5 * (40_000 + 3_480_000)
    # Specialists are only scored in the last round.
    assert tables.participants["score"].notna().sum() == 3 * 5


def test_summary_names_the_algorithm_behind_a_label(make):
    tables = analysis.load(make("named", labels={"fedavg": "averaging", "solo": "alone"}))
    algorithm = dict(zip(tables.summary["contender"], tables.summary["algorithm"], strict=True))
    assert algorithm["averaging"] == "fedavg"
    assert algorithm["alone_best"] == algorithm["alone_mean"] == "solo"


def test_many_runs_lie_one_below_the_other(make):
    tables = analysis.load([make("a"), make("b", seed=1), make("a/../c", seed=2)])
    assert [run.name for run in tables.runs] == ["a", "b", "c"]
    assert tables.rounds.groupby("run")["seed"].first().to_dict() == {"a": 0, "b": 1, "c": 2}


def test_equal_names_get_their_parent_and_the_same_folder_counts_once(make):
    first, second = make("x/run"), make("y/run")
    assert [r.name for r in analysis.load([first, second, first]).runs] == ["x/run", "y/run"]


def test_an_empty_table_of_one_run_changes_no_types(make):
    tables = analysis.load([make("a", without=("messages",)), make("b")], strict=False)
    assert tables.messages["bytes"].dtype == "int64" and set(tables.messages["run"]) == {"b"}


def _error(folder: Path) -> str:
    with pytest.raises(AnalysisError) as caught:
        analysis.load(folder)
    text = str(caught.value)
    assert "\n" not in text and str(folder) in text
    return text


def test_no_such_folder(tmp_path):
    assert "no such folder" in _error(tmp_path / "nowhere")


def test_a_foreign_folder(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    assert "not the folder of a run" in _error(tmp_path)


def test_no_folder_at_all():
    with pytest.raises(AnalysisError, match="no run folder"):
        analysis.load([])


@pytest.mark.parametrize(
    "what", ["participants", "messages", "sections", "partition", "summary", "config", "manifest"]
)
def test_a_missing_file_is_named_or_tolerated(make, what):
    folder = make("partial", without=(what,))
    assert f"{what}." in _error(folder) and "missing" in _error(folder)
    (run,) = analysis.load(folder, strict=False).runs
    assert [Path(file).stem for file in run.missing] == [what]


def test_without_summary_json_the_summary_is_computed(make):
    whole, partial = make("whole"), make("partial", without=("summary",))
    expected = analysis.load(whole).summary.drop(columns="run")
    computed = analysis.load(partial, strict=False).summary.drop(columns="run")
    assert computed.equals(expected)


@pytest.mark.parametrize(("version", "age"), [(0, "an older"), (99, "a newer")])
def test_another_schema_version(make, monkeypatch, version, age):
    with monkeypatch.context() as patch:
        patch.setattr(results, "SCHEMA_VERSION", version)
        folder = make("other")
    text = _error(folder)
    assert f"written by {age} fedsim (schema {version}, this one reads {results.SCHEMA_VERSION})" in text


def test_a_table_of_somebody_else(run):
    pq.write_table(pa.table({"method": ["x"]}), run / "rounds.parquet")
    assert "not a rounds table written by fedsim" in _error(run)


def test_a_column_that_is_missing_or_of_another_type(run):
    path = run / "messages.parquet"
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["bytes"]), path)
    assert "column bytes is missing" in _error(run)
    place = table.schema.get_field_index("bytes")
    texts = pa.array(map(str, table["bytes"].to_pylist()))
    pq.write_table(table.set_column(place, "bytes", texts), path)
    assert "column bytes holds string; expected int64" in _error(run)


def test_damaged_files(run):
    (run / "summary.json").write_text('[{"contender": "a"}]')
    assert "expected a list of rows" in _error(run)
    (run / "summary.json").write_text("{")
    assert "not readable JSON" in _error(run)
    (run / "partition.parquet").write_bytes(b"PAR1 but not really")
    assert "not a readable Parquet file" in _error(run)


def test_loading_is_quick(make):
    folders = [make(f"run-{seed}", seed=seed) for seed in range(20)]
    start = time.process_time()
    analysis.load(folders)
    # 20 ms a run on a slow machine; a report of one run has two seconds.
    assert time.process_time() - start < 2.0


def test_neither_torch_nor_ray_is_imported():
    blocked = "torch=None, ray=None, deepspeed=None, transformers=None"
    code = f"import sys; sys.modules.update({blocked}); import analysis"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(analysis.__file__).parents[1])


def test_tables_can_be_changed_in_place(run):
    rounds = analysis.load(run).rounds
    rounds.loc[rounds["round"] == 1, "score"] = 1.0
    assert rounds["score"].min() == 1.0


def test_wanted_columns_alone_are_read(make, monkeypatch):
    folders = [make(f"r{seed}", seed=seed) for seed in range(3)]
    read = []
    original = pq.ParquetFile.read

    def watched(self, columns=None, **options):
        read.append(set(columns))
        return original(self, columns=columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "read", watched)
    tables = analysis.load(folders, columns={"rounds": ["round", "score", "method"]})
    assert read == [{"method", "round", "score"}] * 3
    assert list(tables.rounds.columns) == ["run", "setting", "method", "round", "score"]
    assert len(tables.rounds) == 3 * 25 and tables.messages.empty and tables.summary.empty
    with pytest.raises(AnalysisError, match="rounds has no column colour; expected some of method, "):
        analysis.load(folders, columns={"rounds": ["colour"]})
    with pytest.raises(AnalysisError, match="no table weights; expected one of rounds, "):
        analysis.load(folders, columns={"weights": []})


def test_memory_is_that_of_the_tables_not_of_copies(make):
    """What Arrow holds at its peak is little more than the tables, whose texts pandas holds as well."""
    folders = [make(f"r{seed}", seed=seed) for seed in range(60)]
    # A pool of its own: the peak of the process's pool is whatever any earlier test reached.
    usual, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(pool)
    try:
        tables = analysis.load(folders)
    finally:
        pa.set_memory_pool(usual)
    names = [*results.TABLES, "summary"]
    size = sum(getattr(tables, name).memory_usage(deep=True).sum() for name in names)
    assert 0 < pool.max_memory() < 2 * size + 8e6
    del tables
    assert pool.bytes_allocated() < 8e6


def test_runs_that_differ_in_the_seed_alone_have_one_setting(make):
    alpha = {"participants": {"count": 4, "partition": {"alpha": 0.1}}}
    other = {"participants": {"count": 4, "partition": {"alpha": 10}}}
    tables = analysis.load(
        [make("a", config=alpha), make("b", seed=1, config=alpha), make("c", config=other)]
    )
    settings = tables.settings.set_index("run")
    assert list(settings["setting"]) == ["alpha=0.1", "alpha=0.1", "alpha=10"]
    assert list(settings["seed"]) == [0, 1, 0]
    assert settings.loc["c", "participants.partition.alpha"] == 10
    assert set(tables.rounds.loc[tables.rounds["run"] == "b", "setting"]) == {"alpha=0.1"}


def test_a_sweep_is_its_finished_trials_with_their_axes(make_sweep):
    tables = analysis.load(make_sweep([{"heterogeneity": h} for h in ("low", "high")]))
    assert [run.name for run in tables.runs] == [
        "0001-heterogeneity=low-seed=0", "0002-heterogeneity=low-seed=1",
        "0003-heterogeneity=high-seed=0", "0004-heterogeneity=high-seed=1",
    ]  # fmt: skip
    assert list(tables.settings["heterogeneity"]) == ["low", "low", "high", "high"]
    assert set(tables.settings["setting"]) == {"heterogeneity=low", "heterogeneity=high"}
    assert list(tables.trials["status"]) == ["finished"] * 4 + ["failed"]


def test_a_sweep_that_has_just_begun_is_one_line(tmp_path):
    (tmp_path / "sweep.yaml").write_text("name: study")
    with pytest.raises(AnalysisError, match="without a finished trial"):
        analysis.load(tmp_path)


def test_two_sweeps_that_call_trials_alike_keep_their_axes(make_sweep):
    slow, fast = (
        make_sweep(
            [{"links": "v1"}, {"links": "v2"}], name=name, seeds=1, fields=lambda p, n=name: {n: p["links"]}
        )
        for name in ("slow", "fast")
    )
    for folder in (slow, fast):
        trials = pd.read_parquet(folder / "trials.parquet")
        trials["axis.links"] = [f"{folder.name} {value}" for value in trials["axis.links"]]
        trials.to_parquet(folder / "trials.parquet")
    settings = analysis.load([slow, fast]).settings
    assert list(settings["links"]) == ["slow v1", "slow v2", "fast v1", "fast v2"]


def test_results_behind_a_uri(make, remote):
    folder = make("a")
    with storage.saving(remote) as local:
        shutil.copytree(folder, local, dirs_exist_ok=True)
    there, here = analysis.load(str(remote)), analysis.load(folder)
    assert there.rounds.drop(columns="run").equals(here.rounds.drop(columns="run"))


def test_a_folder_from_before_a_column_was_added_has_no_number_there(run):
    path = run / "participants.parquet"
    pq.write_table(pq.read_table(path).drop_columns(list(results.LATER["participants"])), path)
    found = analysis.load(run, columns={"participants": ["participant", "local_score"]}).participants
    assert len(found) > 0 and found["local_score"].isna().all()
    assert found["local_score"].dtype == "float64"
    assert analysis.load(run).participants["peak_memory_mib"].isna().all()
