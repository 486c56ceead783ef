"""The rules that keep algorithms apart from where they run, read from the code itself."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from fedsim import extras

ROOT = Path(__file__).parents[1]
CODE = sorted([*(ROOT / "fedsim").rglob("*.py"), *(ROOT / "analysis").rglob("*.py")])
SEAMS = ("fedsim.runtime", "fedsim.student.deepspeed")
"""The folder that may know Ray, and the file that may know DeepSpeed."""


def module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    """Everything that a file imports, at whatever depth, by full name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def who_imports(library: str) -> set[str]:
    return {module(p) for p in CODE if any(name.split(".")[0] == library for name in imports(p))}


def below(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def python(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_there_is_code_to_look_at():
    names = {module(path) for path in CODE}
    assert {"fedsim", "fedsim.round", "fedsim.runtime.actors", "analysis.report", *SEAMS} <= names


def test_only_the_runtime_knows_ray():
    assert who_imports("ray")
    assert all(below(name, "fedsim.runtime") for name in who_imports("ray"))


def test_only_one_file_knows_deepspeed():
    assert who_imports("deepspeed") == {"fedsim.student.deepspeed"}


def test_no_files_import_each_other_in_a_circle():
    """Nor for the sake of types, nor within functions: the arrows of the house all point down."""
    names = {module(path) for path in CODE}
    arrows = {
        module(path): {
            name if name in names else name.rpartition(".")[0]
            for name in imports(path)
            if name in names or name.rpartition(".")[0] in names
        }
        for path in CODE
    }
    assert arrows["fedsim.simulation"] > {"fedsim.contender", "fedsim.config"}
    TopologicalSorter(arrows).prepare()  # raises CycleError


def test_methods_say_what_is_done_and_leave_the_tensors_to_the_learner():
    for path in (ROOT / "fedsim" / "methods").glob("*.py"):
        known = {name.split(".")[0] for name in imports(path)}
        assert not known & {"torch", "ray", "deepspeed", "transformers"}, path.name
        assert not any(below(n, seam) for n in imports(path) for seam in SEAMS), path.name


def test_the_analysis_reads_tables_and_nothing_else():
    for path in (ROOT / "analysis").rglob("*.py"):
        known = {name.split(".")[0] for name in imports(path)}
        assert not known & {"torch", "ray", "deepspeed", "transformers"}, path.name
    code = """
import sys
import analysis.load, analysis.figures, analysis.report
print(sorted({"torch", "ray", "deepspeed", "transformers"} & set(sys.modules)))
"""
    assert python(code).strip() == "[]"


def declared(*groups: str) -> set[str]:
    """The libraries that pyproject.toml names: the base's, or those of some extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = project["dependencies"] if not groups else []
    lines = lines + [line for group in groups for line in project["optional-dependencies"][group]]
    return {re.match(r"[a-z0-9-]+", line).group() for line in lines}


def library(name: str) -> str:
    """What is installed to import `name`."""
    found = packages_distributions().get(name, [{"mlflow": "mlflow-skinny"}.get(name, name)])
    return found[0].lower().replace("_", "-")


def test_every_library_is_declared():
    names = {name.split(".")[0] for path in CODE for name in imports(path)}
    used = {library(name) for name in names - sys.stdlib_module_names - {"fedsim", "analysis"}}
    known = declared() | declared("run", "adapters", "generation", "privacy", "trackers")
    assert len(used) > 20 and used <= known
    assert {library(name) for name in extras.RUN} == declared("run")
    assert not declared() & declared("run")


BLOCKED = """
import importlib, sys
for name in ("ray", "deepspeed"):
    sys.modules[name] = None  # importing it is now an ImportError
"""


def test_everything_else_can_be_imported_without_ray_and_deepspeed():
    code = (
        BLOCKED
        + """
for name in sys.argv[1:]:
    importlib.import_module(name)
try:
    import ray
except ImportError:
    print("blocked")
"""
    )
    names = [module(p) for p in CODE if not any(below(module(p), seam) for seam in SEAMS)]
    names = [name for name in names if not name.endswith("__main__")]
    assert len(names) > 40
    assert python(code, *names).strip() == "blocked"


STEP = (
    BLOCKED
    + """
import numpy as np
from fedsim import data, load
from fedsim.coordinator import Coordinator
from fedsim.host import Host
from fedsim.methods import method_of
from fedsim.methods.base import Site
from fedsim.simulation import world as make_world

training = {"steps": 2, "batch_size": 4}
config = load({
    "data": {"source": "digits", "max_examples": 120},
    "participants": {"count": 2, "models": ["vit-micro"], "training": training},
    "student": {"model": "vit-micro", "training": training},
    "methods": [{"name": "federated_distillation"}],
})
federation = data.build(data.plan(config))
world = make_world(config, federation)
learner = world.specialist("vit-micro", None, config.participants.training)
site = Site(0, federation.shards[0], federation.public, learner)
method = method_of(world, "federated_distillation")
knowledge, fit = method.participant_step(site, 1, None)
assert knowledge.rows == len(federation.public.proxy) and np.isfinite(fit.loss)

# A whole round, with the student in plain torch as well.
def student(world, start, heads):
    return world.specialist(world.config.student.model, start, world.config.student.training)

coordinator = Coordinator(world, federation.public, {}, student)
coordinator.begin("federated_distillation", 0, None)
coordinator.open(1)
shards = dict(enumerate(federation.shards))
host = Host(world, federation.public, shards)
reports, sent = host.step("federated_distillation", 1, [0, 1], None, None, None)
coordinator.receive([0, 1], sent)
coordinator.learn(1)
print(coordinator.close(1, None).statuses)
"""
)


def test_a_round_runs_without_ray_and_deepspeed():
    assert python(STEP).strip() == "{0: 'ok', 1: 'ok'}"


@pytest.mark.parametrize("path", CODE, ids=module)
def test_a_module_says_what_it_is_for(path: Path):
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert doc, "no docstring"
    assert len(doc.splitlines()[0]) > 15


def tracked() -> list[Path]:
    """The project's text files; those of git where there is a repository, else what lies in its folders."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    names = listed.stdout.split("\0")[:-1] if listed.returncode == 0 else []
    files = [ROOT / name for name in names] or CODE
    return [
        p for p in files if p.is_file() and p.suffix in {".py", ".md", ".yaml", ".yml", ".toml", ".txt", ""}
    ]


# Put together here, so that this file does not contain what it looks for.
PRIVATE = re.compile(
    "|".join(("/wo" + "rk/", "/ro" + "ot/", "/ho" + "me/(?!ubuntu)", "index-" + "url", "extra-" + "index"))
)


def test_nothing_points_at_one_machine():
    found = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}: {m.group()}" for m in PRIVATE.finditer(text)]
    assert not found
