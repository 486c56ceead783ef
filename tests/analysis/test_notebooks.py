"""The notebooks run from top to bottom on small results, without an error, and draw what they promise."""

import os
from pathlib import Path

import pytest

import analysis

nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")

FOLDER = Path(analysis.__file__).parent / "notebooks"
ROOT = FOLDER.parents[1]
PLOTLY = "application/vnd.plotly.v1+json"


def execute(name, folders, monkeypatch):
    """The texts and the pictures that a notebook gave."""
    monkeypatch.setenv("FEDSIM_FOLDERS", ";".join(map(str, folders)))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "saved with outputs"
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute(cwd=str(FOLDER))
    texts, pictures = [], []
    for output in (out for cell in notebook.cells for out in cell.get("outputs", [])):
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output.text
        data = output.get("data", {})
        if PLOTLY in data:
            pictures.append(data[PLOTLY]["layout"]["title"]["text"])
        else:
            texts.append(output.get("text") or data["text/plain"])
    return "\n".join(texts), pictures


def test_every_notebook_is_tested():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == [
        "01_first_look", "02_comparing_methods", "03_sweep", "04_privacy_and_robustness",
    ]  # fmt: skip


@pytest.mark.timeout(200)
def test_first_look(run, monkeypatch):
    texts, pictures = execute("01_first_look", [run], monkeypatch)
    assert len(pictures) == 10 and pictures[0].startswith("Who ends up best")
    assert "federated_distillation   48.0" in texts and "2.13.0" in texts


@pytest.mark.slow
def test_comparing_methods(make, monkeypatch):
    texts, pictures = execute("02_comparing_methods", [make(f"s{s}", seed=s) for s in range(3)], monkeypatch)
    assert len(pictures) == 4
    assert r"\toprule" in texts and "one run" not in texts


@pytest.mark.slow
def test_sweep(real_sweep, monkeypatch):
    texts, pictures = execute("03_sweep", [real_sweep], monkeypatch)
    assert pictures == [
        "Which settings does the score depend on?",
        "How does the score depend on participants and on uneven data?",
        "What do more participants bring, and what do they cost?",
    ]
    assert "not drawn: the bandwidth of links does not vary over the runs" in texts and "MB" in texts


@pytest.mark.slow
def test_privacy_and_robustness(make_sweep, monkeypatch):
    points = [
        {"privacy.epsilon": e, "participants.adversary.share": a} for e in (1.0, 8.0) for a in (0.0, 0.3)
    ]
    folder = make_sweep(
        points,
        worse=lambda p: 10 * p["participants.adversary.share"] - p["privacy.epsilon"],
        attacked=lambda p: 0.6,
    )
    texts, pictures = execute("04_privacy_and_robustness", [folder], monkeypatch)
    assert pictures == [
        "What does privacy cost?", "How well are members of the training data told?",
        *["How much score is lost when participants fail or attack?"] * 2
    ]  # fmt: skip
    assert "not drawn" not in texts and "late" in texts
