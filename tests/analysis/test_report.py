"""The report as text: self-contained, honest about what it rests on, and safe against its data."""

import html
import json
import re
from html.parser import HTMLParser

import pandas as pd
import pytest

import analysis
from analysis import AnalysisError, figures, headline, report
from analysis import page as of_page

HOSTILE = "<script>alert('x')</script><img src=https://example.org/x onerror=alert(1)>"


class Page(HTMLParser):
    """The elements of a page, its text, and the text of its scripts."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.scripts, self.text, self._in = [], [], "", None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._in = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._in = None

    def handle_data(self, data):
        if self._in == "script":
            self.scripts[-1] += data
        elif self._in != "style":
            self.text += data

    def having(self, **attributes):
        return [e for e in self.elements if all(e[1].get(k) == v for k, v in attributes.items())]


def page(folders, tmp_path):
    path = report.write(folders, tmp_path / "out" / "report.html")
    assert path == tmp_path / "out" / "report.html"
    return Page(path.read_text(encoding="utf-8"))


def data(page, name):
    if name == "figures":
        plots = [a["id"] for _, a in page.elements if a.get("class") == "plot"]
        return {key: data(page, key) for key in plots}
    name = f"{name}-data"
    (at,) = [
        i for i, (_, a) in enumerate(e for e in page.elements if e[0] == "script") if a.get("id") == name
    ]
    return json.loads(page.scripts[at])


def test_nothing_is_loaded_from_anywhere(run, tmp_path):
    whole = page(run, tmp_path)
    for tag, attributes in whole.elements:
        for name in ("src", "href", "srcset", "poster", "action", "background"):
            target = attributes.get(name, "data:,")
            assert target == "data:," or target.startswith("#"), (tag, attributes)
    assert not [e for e in whole.elements if e[0] in ("iframe", "object", "embed", "base")]
    policy = next(a["content"] for _, a in whole.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'") and "http" not in policy
    assert sum("plotly.js v" in script for script in whole.scripts) == 1


def test_our_own_text_has_no_address(run):
    text = report.render(analysis.load(run))
    ours = text.replace(report.get_plotlyjs(), "")
    assert not re.search(r"https?:|url\(|@import", ours)
    assert len(ours) < 100_000


def test_headline_and_context(run, tmp_path):
    text = page(run, tmp_path).text
    assert "Federated distillation reaches 88% of centralised training, perplexity 48.0." in text
    # 1.1 MB against 139.2 MB.
    assert "It sends 1.10 MB in all, 127 times less than FedAvg." in text
    assert (
        "Its score is better than the best institution alone, the average institution alone, "
        "training on the public proxy set only and FedAvg." in text
    )


def test_a_worse_result_is_said(make, monkeypatch, tmp_path):
    tables = analysis.load(make("worse"))
    ours = tables.summary["contender"] == "federated_distillation"
    tables.summary.loc[ours, ["score", "ratio_to_centralized"]] = [85.0, 42 / 85]
    text = report.render(tables)
    assert "better than the average institution alone and training on the public proxy set only." in text
    assert "worse than the best institution alone and FedAvg." in text


def test_one_seed_is_called_one_seed(run, make, tmp_path):
    assert "One run, one seed (0), 5 participants, 4 rounds. A single seed" in page(run, tmp_path).text
    text = page([run, make("b", seed=3)], tmp_path).text
    assert "2 runs, 1 setting, seeds 0, 3" in text and "perplexity 49.5 on average over 2 runs" in text
    # Half of the interval of 48 and 51: t(0.975, 1) · 1.5.
    assert "49.5 ± 19.1" in text and "Scores are means over 2 seeds" in text
    text = page([run, make("other", config={"rounds2": 9})], tmp_path).text
    assert "Every setting was run with a single seed, so nothing here has an interval." in text


def test_table_rows_units_and_sort_keys(run, tmp_path):
    whole = page(run, tmp_path)
    order = re.findall(r"Federated distillation(?=the student)|FedAvg(?=averages)|Centralised(?=upper)|"
                       r"Solo, (?:best|mean)(?=the best|mean)|Proxy only(?=the)", whole.text)  # fmt: skip
    assert order == [
        "Federated distillation",
        "FedAvg",
        "Centralised",
        "Solo, best",
        "Solo, mean",
        "Proxy only",
    ]
    assert {"800 kB", "300 kB", "69.6 MB", "100 s", "88%", "48.0"} <= set(re.split(r"\s{2,}|\n", whole.text))
    keys = [a["data-key"] for tag, a in whole.elements if tag == "td"]
    assert keys[:5] == ["48.0", "0.875", "800000.0", "300000.0", "100.0"]
    assert "perplexity ↓" in whole.text and "Lower is better." in whole.text


def test_every_figure_is_there_with_title_caption_and_two_formats(run, tmp_path):
    whole = page(run, tmp_path)
    drawn = data(whole, "figures")
    of_a_run = [key for key in figures.FIGURES if key not in figures.HEADINGS["Settings"]]
    assert list(drawn) == of_a_run
    for key, figure in drawn.items():
        assert whole.having(id=key) and figure["data"]
        # Title and template are the page's, so that they wrap and follow the theme.
        assert not {"title", "template", "meta"} & set(figure["layout"])
        for kind in ("png", "svg"):
            assert whole.having(**{"data-figure": key, "data-save": kind})
    assert "What does each institution gain from taking part?" in whole.text
    assert set(data(whole, "templates")) == {"light", "dark"}
    # What only a sweep has is listed, but it's no warning.
    assert "Heat map: participants and uneven data (α) do not both vary" in whole.text
    assert "⚠" not in whole.text


def test_config_and_provenance_are_shown(run, tmp_path):
    text = page(run, tmp_path).text
    assert "rounds: 4" in text and "versions.torch" in text and "2.13.0" in text


def test_what_is_missing_is_named_and_left_out(make, tmp_path):
    folder = make(
        "partial",
        methods=("federated_distillation", "centralized"),
        without=("partition", "manifest", "summary"),
    )
    whole = page(folder, tmp_path)
    assert "Left out" in whole.text and "⚠" in whole.text and "3 figures are left out" in whole.text
    for file in ("partition.parquet", "manifest.json", "summary.json"):
        assert f"{file} is missing in partial" in whole.text
    assert "Partition: no private examples were recorded" in whole.text
    assert "Gain: no scores of institutions on their own (method solo)" in whole.text
    of_a_run = set(figures.FIGURES) - set(figures.HEADINGS["Settings"])
    assert set(data(whole, "figures")) == of_a_run - {"partition", "gain", "equity"}


def test_a_figure_that_fails_is_named_and_takes_nothing_along(run, monkeypatch):
    tables = analysis.load(run)
    monkeypatch.setitem(figures.HEADINGS["Settings"], "heat-map", lambda tables: 1 / 0)
    with pytest.warns(report.FailedFigureWarning, match="figure heat-map: it could not be drawn"):
        whole = Page(report.render(tables))
    assert "Heat map: it could not be drawn (ZeroDivisionError: division by zero)" in whole.text
    assert "1 figure is left out" in whole.text and "final-scores" in data(whole, "figures")


def test_a_figure_that_fails_fails_a_test(run, monkeypatch):
    monkeypatch.setitem(figures.HEADINGS["Settings"], "heat-map", lambda tables: 1 / 0)
    with pytest.raises(report.FailedFigureWarning):
        report.render(analysis.load(run))


def test_an_interval_that_some_settings_lack_is_null(make):
    """A trial that failed leaves its setting with a single seed."""
    folders = [
        make(f"{share}-{seed}", seed=seed, config={"participants": {"dropout": share}})
        for share, seed in ((0.0, 0), (0.0, 1), (0.4, 0))
    ]
    shown = data(Page(report.render(analysis.load(folders))), "figures")
    bars = shown["robustness"]["data"][0]["error_y"]["array"]
    assert bars[0] > 0 and bars[1] is None


def test_a_run_without_a_single_score_still_opens(make, tmp_path):
    from fedsim import results

    folder = make("new", without=("summary", "participants", "messages", "sections", "partition"))
    results.write_table(folder / "rounds.parquet", "rounds", [])
    whole = page(folder, tmp_path)
    assert "No contender has a score yet." in whole.text
    assert data(whole, "figures") == {}


def test_runs_of_two_metrics_are_not_averaged(run, make, tmp_path):
    tables = analysis.load([run, make("images")])
    images = tables.summary["run"] == "images"
    tables.summary.loc[images, ["metric", "higher_is_better"]] = ["accuracy", True]
    text = report.render(tables)
    assert "Runs with different metrics." in text and "48.0 perplexity" in text


def test_a_foreign_folder_is_one_line(tmp_path):
    with pytest.raises(AnalysisError, match="not the folder of a run"):
        report.write(tmp_path, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_hostile_names_stay_text(make, tmp_path):
    folder = make("hostile", labels={"federated_distillation": HOSTILE, "fedavg": "</script><b>&amp;"})
    (folder / "config.yaml").write_text(f"name: {HOSTILE}\n")
    (folder / "manifest.json").write_text(json.dumps({HOSTILE: HOSTILE}))
    calm_folder = make("calm")
    (calm_folder / "manifest.json").write_text('{"a": 1}')
    calm, whole = page(calm_folder, tmp_path), page(folder, tmp_path)
    # Not one element more than with harmless names.
    assert sorted(tag for tag, _ in calm.elements) == sorted(tag for tag, _ in whole.elements)
    assert HOSTILE in whole.text
    assert not [a for _, a in whole.elements if any(name.startswith("on") for name in a)]
    # Plotly reads a small HTML of its own, so it must be given entities.
    drawn = json.dumps(data(whole, "figures"), ensure_ascii=False)
    assert "<script" not in drawn and "<img" not in drawn and html.escape(HOSTILE[:20], quote=False) in drawn


def test_the_same_folder_gives_the_same_page(run):
    assert report.render(analysis.load(run)) == report.render(analysis.load(run))


def test_the_trials_of_a_sweep_are_listed_with_those_that_did_not_finish(make, tmp_path):
    names = ["0001-alpha=0.1", "0002-alpha=10", f"0003-alpha={HOSTILE}"]
    table = pd.DataFrame({
        "trial": names, "status": ["finished", "finished", "failed"], "reason": ["", "", "no message came"],
        "axis.participants.partition.alpha": ["0.1", "10", HOSTILE], "score": [48.0, 49.0, None],
    })  # fmt: skip
    (tmp_path / "study" / "trials").mkdir(parents=True)
    (tmp_path / "study" / "sweep.yaml").touch()
    table.to_parquet(tmp_path / "study" / "trials.parquet")
    for name, alpha in zip(names[:2], (0.1, 10), strict=True):
        partition = {"participants": {"count": 4, "partition": {"alpha": alpha}}}
        make(name, config=partition).rename(tmp_path / "study" / "trials" / name)
    path = report.write(tmp_path / "study", tmp_path / "report.html", title="my sweep")
    whole = Page(path.read_text(encoding="utf-8"))
    assert "fedsim · my sweep" in whole.text
    assert whole.having(id="trials")
    assert "failed: no message came" in whole.text and names[2] in whole.text
    assert not [e for e in whole.elements if e[0] == "img"]
    assert "alpha=0.1" in whole.text and "of 2 settings" in whole.text
    folders = [tmp_path / "study" / "trials" / name for name in names[:2]]
    assert not Page(report.render(analysis.load(folders))).having(id="trials")


def test_a_sweep_shows_its_trials_settings_and_filter(make_sweep, tmp_path):
    points = [{"participants.count": n} for n in (4, 16)]
    whole = page(make_sweep(points, worse=lambda p: p["participants.count"]), tmp_path)
    assert "fedsim · study" in whole.text
    trials = [a["data-run"] for tag, a in whole.elements if tag == "tr" and "data-run" in a]
    assert trials == ["0001-count=4-seed=0", "0002-count=4-seed=1", "0003-count=16-seed=0",
                      "0004-count=16-seed=1"]  # fmt: skip
    assert "failed: it diverged" in whole.text
    (chosen,) = (a["data-field"] for tag, a in whole.elements if tag == "select")
    assert chosen == "participants.count"
    assert [a["value"] for tag, a in whole.elements if tag == "option"] == ["", "4", "16"]
    known = data(whole, "runs")
    assert [run["setting"] for run in known] == [0, 0, 1, 1]
    assert known[2]["fields"] == {"participants.count": "16"} and known[2]["label"] == "count=16"
    # Points name their setting by its place.
    lines = [t for t in data(whole, "figures")["score-by-round"]["data"] if t.get("name") == "FedAvg"]
    assert {place for t in lines for place in t["customdata"]} == {0, 1}
    rows = [a["data-setting"] for tag, a in whole.elements if tag == "tr" and "data-setting" in a]
    assert rows[:2] == ["count=4", "count=16"] and len(rows) == 12


def test_the_title_names_who_is_compared(make):
    """Somebody without a partner isn't the federation."""
    alone = make("alone", methods=("fedavg",), config={"lonely": True})
    both = [make(f"s{seed}", seed=seed, methods=("federated_distillation", "proxy_only")) for seed in (0, 1)]
    table = of_page.comparisons(analysis.load([alone, *both]))
    assert table.title == "Federated distillation against the others, pair by pair"
    assert [row.cells[3].text for row in table.rows] == ["2 of 2"]
    assert {(row.cells[2].text, row.cells[4].text) for row in table.rows} == {("–", "–")}
    assert "no interval over seeds" in table.note


def test_better_and_worse_are_said_of_pairs(make):
    """FedAvg in eight bits is not FedAvg, and a hard setting that it was not run in is none of its merits."""
    coded = {"fedavg": "fedavg_8bit"}
    easy = make("easy", config={"alpha": 10.0})
    hard = make("hard", methods=("federated_distillation",), worse=100.0, config={"alpha": 0.1})
    eight = make("eight", methods=("fedavg",), labels=coded, worse=-30.0, config={"alpha": 10.0})
    text = headline.context(analysis.load([easy, hard, eight]))
    assert "and FedAvg." in text.split("better than")[1] and "worse than" not in text
    assert "127 times less than FedAvg" in text


def test_pairs_are_compared_where_there_are_seeds(make, run, tmp_path):
    text = page([make(f"s{seed}", seed=seed) for seed in range(3)], tmp_path).text
    assert "Federated distillation against the others, pair by pair" in text
    assert "below zero is better" in text and "3 of 3" in text
    assert "pair by pair" not in page(run, tmp_path).text


def test_what_runs_share_is_said_once(make, tmp_path):
    shared = {"participants": {"count": 4, "partition": {"alpha": 0.5}}}
    other = {"participants": {"count": 4, "partition": {"alpha": 0.1}}}
    whole = page([make("a", config=shared), make("b", seed=1, config=other)], tmp_path)
    assert whole.text.count("count: 4") == 1 and whole.text.count("versions.torch") == 1
    # What is the second's own stands below the sections it is in.
    assert re.search(r"participants:\n  partition:\n    alpha: 0.1", whole.text)
    assert len(whole.having(id="runs")) == 1


def test_files_that_many_runs_lack_are_one_line(make, tmp_path):
    folders = [make(f"r{k}", seed=k, without=("sections",)) for k in range(8)]
    text = page(folders, tmp_path).text
    assert "sections.parquet is missing in r0, r1, r2, r3, r4 and 3 more runs" in text


def test_a_run_that_has_not_finished_is_named(make, tmp_path):
    folder = make("going")
    (folder / "manifest.json").write_text('{"status": "running"}')
    assert "not finished, shown as far as it came: going" in page(folder, tmp_path).text


def test_a_page_of_hundreds_of_trials_stays_small(make_sweep):
    points = [{"student.training.learning_rate": k / 1000} for k in range(1, 21)]
    tables = analysis.load(make_sweep(points, seeds=1))
    ours = report.render(tables).replace(report.get_plotlyjs(), "")
    assert len(ours) < 20 * 30_000 + 60_000, len(ours)  # 500 trials: less than 15 MB
    shown = Page(ours)
    hidden = [a for tag, a in shown.elements if tag == "tr" and "hidden" in a]
    assert len(hidden) == (20 * 6 - 12) + (21 - 12)
