"""Tables for papers and spreadsheets, and the command that makes them."""

import io
import math
import os

import pandas as pd
import pytest

import analysis
from analysis import export, tables
from fedsim import cli


@pytest.fixture
def summary(make):
    return analysis.load([make(f"s{seed}", seed=seed) for seed in range(3)]).summary


def test_contenders_are_means_over_seeds(summary):
    table = tables.contenders(summary)
    assert list(table.columns) == list(tables.CONTENDERS)
    assert list(table["contender"]) == [
        "federated_distillation", "fedavg", "centralized", "solo_best", "solo_mean", "proxy_only",
    ]  # fmt: skip
    ours = table.iloc[0]
    # 48, 49, 50: t(0.975, 2) · 1/√3.
    assert (ours["score"], ours["n"]) == (49.0, 3)
    assert ours["high"] - 49 == pytest.approx(4.30265 / math.sqrt(3), abs=1e-4)
    assert ours["ratio_to_centralized"] == pytest.approx((42 / 48 + 43 / 49 + 44 / 50) / 3)
    assert (ours["bytes_up"], ours["virtual_s"]) == (800_000, 100.0)


def test_a_repeated_run_counts_once(make):
    twice = tables.contenders(analysis.load([make("a"), make("b")]).summary)
    assert list(twice["n"]) == [1] * 6 and twice["low"].isna().all()


def test_latex_has_means_intervals_and_the_best_in_bold(summary):
    text = export.latex(tables.contenders(summary))
    lines = text.splitlines()
    assert lines[0].startswith("% Scores are means over 3 seeds")
    assert lines[1] == r"\begin{tabular}{lrrrrr}" and lines[2] == r"\toprule"
    assert lines[3] == (
        r"contender & perplexity $\downarrow$ & of centralised & bytes up & bytes down & virtual time \\"
    )
    ours = r"Federated distillation & \textbf{49.0 $\pm$ 2.48} & 88\% & 800 kB & 300 kB & 100 s \\"
    assert lines[5] == ours
    # The upper bound is better, but no method.
    assert lines[7].startswith(r"Centralised & 43.0 $\pm$ 2.48 & 100\% & -- & --")
    assert text.count(r"\textbf") == 1 and text.endswith("\\end{tabular}\n")


def test_latex_escapes_labels(make):
    label = r"a_b & 50% \input{x} $x^2$ ~#"
    summary = analysis.load(make("odd", labels={"fedavg": label})).summary
    text = export.latex(tables.contenders(summary))
    assert r"a\_b \& 50\% \textbackslash{}input\{x\} \$x\textasciicircum{}2\$ \textasciitilde{}\#" in text
    assert "of a single run" in text and r"$\pm$" not in text


def test_csv_keeps_the_numbers(summary):
    table = tables.contenders(summary)
    again = pd.read_csv(io.StringIO(export.csv(table)), keep_default_na=True)
    assert list(again.columns) == list(tables.CONTENDERS)
    for column in ("score", "low", "high", "ratio_to_centralized", "bytes_up"):
        assert again[column].tolist() == pytest.approx(table[column].tolist(), rel=1e-15)


def test_one_command_makes_the_table(make, tmp_path, capsys):
    folders = [str(make(f"s{seed}", seed=seed)) for seed in range(2)]
    assert cli.main(["table", *folders]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split() == ["contender", "perplexity", "↓", "of", "centralised", "bytes", "up", "bytes",
                                "down", "virtual", "time"]  # fmt: skip
    assert shown[1].startswith("Federated distillation") and "48.5 ± 6.35" in shown[1]
    target = tmp_path / "table.tex"
    assert cli.main(["table", *folders, "--format", "latex", "-o", str(target)]) == 0
    assert target.read_text().count(r"\\") == 7 and capsys.readouterr().out == ""
    assert cli.main(["table", str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["table", "report"])
def test_a_target_that_can_not_be_written_is_one_line(run, tmp_path, command, capsys):
    os.mkfifo(tmp_path / "pipe")
    for target, why in {
        tmp_path: "a file, not a folder",
        tmp_path / "nowhere" / "x.html": "a file in a folder that is there",
        tmp_path / "pipe": "a plain file",
        tmp_path / ("x" * 250): "a file that can be written (File name too long)",  # once there is more to it
    }.items():
        assert cli.main([command, str(run), "-o", str(target)]) == 2
        said = capsys.readouterr()
        assert said.out == "" and said.err.startswith("fedsim: --output: ") and said.err.count("\n") == 1
        assert why in said.err
    assert not (tmp_path / "nowhere").exists()
    assert cli.main([command, str(run), "-o", str(tmp_path / "x")]) == 0 and (tmp_path / "x").is_file()


def test_settings_have_a_column_of_their_own(make_sweep):
    summary = analysis.load(make_sweep([{"participants.count": n} for n in (4, 16)])).summary
    head, rows = export.texts(tables.contenders(summary))
    assert head[:2] == ["contender", "setting"] and rows[0][1] == "count=4" and rows[1][1] == "count=16"


def test_each_setting_has_a_best_and_the_luckiest_institution_is_none(make_sweep):
    points = [{"alpha": alpha} for alpha in (0.1, 10.0)]
    summary = analysis.load(make_sweep(points, worse=lambda p: 1 / p["alpha"])).summary
    table = tables.contenders(summary)
    rows = [table.iloc[place] for place in export.best(table)]
    assert [(r["contender"], r["setting"]) for r in rows] == [
        ("federated_distillation", "alpha=0.1"), ("federated_distillation", "alpha=10")
    ]  # fmt: skip
    alone = table.assign(algorithm=table["algorithm"].replace("solo", "fedmd"))
    alone.loc[alone["contender"] == "solo_best", "score"] = 1.0
    assert [alone.iloc[place]["contender"] for place in export.best(alone)] == ["federated_distillation"] * 2


def test_each_metric_has_its_own_direction(run, make):
    summary = analysis.load([run, make("images")]).summary
    images = summary["run"] == "images"
    summary.loc[images, ["metric", "higher_is_better"]] = ["accuracy", True]
    table = tables.contenders(summary)
    head, rows = export.texts(table)
    place = head.index("metric")
    assert "score" in head and {row[place] for row in rows} == {"perplexity ↓", "accuracy ↑"}
    assert r"\uparrow" in export.latex(table)
