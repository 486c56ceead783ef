"""A method, a source and a partitioner that live outside the package, in a real run."""

import re
from pathlib import Path

import pytest

import fedsim
from fedsim import plugins
from fedsim.errors import ConfigError

README = Path(__file__).parents[1] / "README.md"
DATA = '''
import numpy as np
from fedsim.data import PARTITIONERS, SOURCES
from fedsim.data.sources.raw import from_pixels

def stripes(data, rng):
    """Bright on the left or on the right."""
    labels = rng.integers(0, 2, 200)
    pixels = rng.integers(0, 40, (200, 1, 8, 8))
    pixels[labels == 0, :, :, :4] += 150
    pixels[labels == 1, :, :, 4:] += 150
    about = {"description": "stripes", "origin": "here"}
    return from_pixels(pixels.astype(np.uint8), labels, ["left", "right"], **about)

SOURCES["stripes"] = stripes
def in_turn(groups, count, settings, rng):
    return [np.arange(len(groups))[k::count] for k in range(count)]

PARTITIONERS["in_turn"] = in_turn
'''


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """The method that the README shows, as its reader would save it."""
    (code,) = re.findall(r"```python\n(# my_method\.py.*?)```", README.read_text(), re.S)
    file = tmp_path / "my_method.py"
    file.write_text(code)
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 40
    return file


@pytest.mark.parametrize("executor", ["in_process", pytest.param("ray", marks=pytest.mark.slow)])
def test_the_method_of_the_readme_runs(example: Path, tmp_path: Path, executor: str):
    (tmp_path / "data.py").write_text(DATA)
    training = {"steps": 30, "batch_size": 16, "learning_rate": 0.01}
    config = fedsim.load(
        {
            "plugins": [str(example), str(tmp_path / "data.py")],
            "rounds": 2,
            "output": str(tmp_path / "run"),
            "data": {"source": "stripes", "modality": "image"},
            "participants": {
                "count": 3,
                "models": ["mlp"],
                "training": training,
                "partition": {"kind": "in_turn"},
            },
            "student": {"model": "mlp", "training": training},
            "runtime": {"executor": executor},
            "methods": ["majority_vote"],
        }
    )
    result = fedsim.run(config)
    assert list(result.rounds.method.unique()) == ["majority_vote"]
    assert (result.rounds[result.rounds["round"] > 0].delivered == 3).all()
    assert result.summary.score.iloc[0] > 0.9, "the two halves are easily told apart"


def test_what_is_wrong_with_a_plugin_is_one_line(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"plugins\.0.*nothing\.py.*can be read"):
        fedsim.load({"plugins": [str(tmp_path / "nothing.py")]})
    broken = tmp_path / "broken.py"
    broken.write_text("from fedsim.methods import METHOD")
    with pytest.raises(ConfigError, match=r"plugins\.0.*ImportError: cannot import name 'METHOD'"):
        fedsim.load({"plugins": [str(broken)]})
    with pytest.raises(ConfigError, match=r"methods\.0\.name"):
        fedsim.load({"methods": ["majority_vote_2"]})


def test_what_was_executed_stands_for_a_file_that_is_not_here(tmp_path: Path):
    """As in a trial on a machine that lacks it."""
    path = str(tmp_path / "elsewhere.py")
    plugins.load({path: "LETTERS = 'ab'"})
    assert plugins.read([path]) == {path: "LETTERS = 'ab'"}
    with pytest.raises(ConfigError, match=r"plugins\.1.*can be read"):
        plugins.read([path, str(tmp_path / "sub" / "elsewhere.py")])


def test_a_changed_plugin_is_executed_again_and_an_unchanged_one_is_not(tmp_path: Path):
    count: list[int] = []
    plugins.__dict__["_count_for_test"] = count
    text = "from fedsim import plugins\nplugins._count_for_test.append({})"
    for number in (1, 1, 2):
        plugins.load({"counting.py": text.format(number)})
    assert count == [1, 2]
    del plugins.__dict__["_count_for_test"]
