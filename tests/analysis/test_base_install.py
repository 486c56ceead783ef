"""Without the extra `run`: results can be looked at, and what can't be done says what is missing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fedsim

ROOT = Path(fedsim.__file__).parents[1]
WITHOUT = """
import sys
from fedsim import extras
for name in (*extras.RUN, "opacus", "peft", "rouge_score"):
    sys.modules[name] = None  # importing it is now an ImportError
"""
LOOK = """
import analysis
from analysis import figures
from fedsim.cli import main
folder = sys.argv[1]
assert len(analysis.load(folder).summary) == 6
assert main(["table", folder]) == 0
assert main(["report", folder]) == 0
import fedsim
print(fedsim.load("experiments/quickstart.yaml").name)
"""
COMMAND = "from fedsim.cli import main\nraise SystemExit(main(sys.argv[1:]))"


def python(code, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WITHOUT + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)


def test_results_are_loaded_tabulated_and_reported(run):
    done = python(LOOK, run)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].startswith("Federated distillation")
    assert done.stdout.splitlines()[-2:] == [str(run / "report.html"), "quickstart"]
    assert "plotly.js" in (run / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", ["run", "validate", "sweep"])
def test_what_needs_more_says_so_in_one_line(command):
    done = python(COMMAND, command, "experiments/quickstart.yaml")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"fedsim: {command} needs PIL, datasets, ")
    assert done.stderr.endswith(
        "torch, transformers: pip install -c constraints.txt -e '.[run]' in fedsim's repository\n"
    )
