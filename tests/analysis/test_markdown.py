"""The document that stands for a sweep: its sections, its cells, and what is left out."""

import pytest

from analysis import markdown
from fedsim import cli
from fedsim.disk.storage import locate
from tests.analysis.conftest import save_sweep


def cells(text: str, row: str, after: str = "") -> list[str]:
    """The cells of the first row of that name, behind some other text."""
    lines = text[text.index(after) :].splitlines()
    return next(
        [c.strip() for c in line.strip("|").split("|")] for line in lines if line.startswith(f"| {row} |")
    )


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    points = [{"participants.partition.alpha": alpha} for alpha in (0.1, 10)]
    return save_sweep(tmp_path_factory.mktemp("sweeps"), points, seeds=3, worse=worse)


def worse(point):
    return 12.0 if point["participants.partition.alpha"] < 1 else 0.0


def test_every_setting_has_its_tables(study):
    text = markdown.document([study])
    assert text.index("### alpha=0.1") < text.index("### alpha=10") and "## study" not in text
    head = cells(text, "contender", "### alpha=10")
    row = dict(zip(head, cells(text, "Federated distillation", "### alpha=10"), strict=True))
    # 48, 49, 50 with centralised 42, 43, 44, alone 100, 101, 102.
    assert row["perplexity ↓"] == "49.0 ± 1.00" and row["of centralised"] == "88%"
    assert row["gap closed"] == "90%" and row["bytes up"] == "800 kB" and row["virtual time"] == "100 s"
    assert row["rounds to 95%"] == "–" and "bytes to 95%" not in row  # nobody who sends anything gets there
    assert dict(zip(head, cells(text, "Centralised", "### alpha=10"), strict=True))["rounds to 95%"] == "4"
    gains = cells(text, "Federated distillation", "mean gain, nats")
    assert gains == [
        "Federated distillation",
        "+0.134",
        "-0.223",
        "-0.223",
        "20%",
        "+0",
        "0%",
    ]  # no Jain's index
    assert "Jain" not in text and "energy" not in text


def test_scores_are_crossed_over_settings(study):
    text = markdown.document([study])
    head = "perplexity ↓ (of centralised)"
    assert cells(text, head) == [head, "alpha=0.1", "alpha=10"]
    ours = cells(text, "Federated distillation", head)
    # Centralised is better, but a yardstick.
    assert ours[1:] == ["**61.0 ± 1.00 (70%)**", "**49.0 ± 1.00 (88%)**"]
    assert cells(text, "FedAvg", head)[1:] == ["73.0 ± 1.00 (59%)", "61.0 ± 1.00 (70%)"]


def test_the_federation_is_compared_seed_by_seed(study):
    text = markdown.document([study])
    head = cells(text, "Federated distillation against", "### alpha=10")
    fedavg = dict(zip(head, cells(text, "FedAvg", "Federated distillation against"), strict=True))
    assert fedavg["difference, perplexity"] == "-12" and fedavg["95 % interval"] == "-12 to -12"
    assert fedavg["better in"] == "3 of 3" and fedavg["its bytes"] == "139 MB"
    # Three rounds of 275 kB against four of 34.8 MB.
    assert fedavg["bytes to an equal score"] == "825 kB" and fedavg["fewer"] == "99.4 %"
    assert cells(text, "Proxy only", "Federated distillation against")[4:] == ["–", "–", "–"]


def test_sweeps_are_sections_and_plain_runs_are_one(study, make):
    runs = [make(f"s{seed}", seed=seed) for seed in range(2)]
    text = markdown.document([runs[0], study, runs[1]])
    assert text.index("## study") < text.index("### alpha=10") < text.index("## s0")
    assert "## s1" not in text and "2 seeds" in text


def test_the_command_writes_it(study, run, tmp_path, capsys):
    target = tmp_path / "RESULTS.md"
    folders = [str(study), str(run)]
    assert cli.main(["table", *folders, "--format", "markdown", "--target", "0.5", "-o", str(target)]) == 0
    text = target.read_text()
    assert "bytes to 50%" in text and text.endswith("|\n") and capsys.readouterr().out == ""
    assert text == markdown.document([locate(folder) for folder in folders], 0.5)
    assert cli.main(["table", *folders, "--format", "markdown", "--target", "95"]) == 2
    assert "--target: 95.0 is not valid" in capsys.readouterr().err


def test_one_run_has_no_spread_and_no_interval(run):
    text = markdown.document([run])
    assert "one run each" in text and "###" not in text
    assert cells(text, "Federated distillation")[1] == "48.0"
    assert cells(text, "FedAvg", "Federated distillation against")[2] == "1 of 1"  # no interval to be had


def test_what_rounding_leaves_is_no_difference():
    assert [markdown._signed(value) for value in (-3.7e-15, 3.7e-15, -0.0, -1.25, 0.0005)] == [
        "+0", "+0", "+0", "-1.25", "+0.0005",
    ]  # fmt: skip
