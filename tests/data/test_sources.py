"""The small steps that all sources share, and the standard library."""

import sysconfig
from pathlib import Path

import numpy as np
import pytest

from fedsim.config import DataConfig
from fedsim.data.sources import manual, photos, stdlib
from fedsim.data.sources.raw import chunks, draw_evenly, from_documents, from_pixels
from fedsim.errors import ConfigError


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize(
    "text", ["", "one line", "a\n\nb\n" * 900, "x" * 10_000, "\n" * 5000, ("word " * 700 + "\n\n") * 3]
)
def test_chunks_lose_nothing_and_stay_in_bounds(text: str):
    pieces = list(chunks(text))
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= 2048 for piece in pieces)


def test_chunks_end_at_blank_lines():
    pieces = list(chunks(("sentence " * 10 + "\n\n") * 50))
    assert all(piece.endswith("\n\n") and len(piece) >= 1024 for piece in pieces[:-1])


def test_an_even_draw_takes_as_many_of_each_while_they_last():
    groups = np.repeat([0, 1, 2], [100, 3, 100])
    index = draw_evenly(groups, 43, rng())
    assert np.bincount(groups[index]).tolist() in ([20, 3, 20],)
    assert np.all(np.diff(index) > 0)
    assert np.array_equal(draw_evenly(groups, None, rng()), np.arange(203))
    assert np.array_equal(draw_evenly(groups, 500, rng()), np.arange(203))


def test_blank_and_repeated_documents_are_dropped_and_groups_renumbered():
    raw = from_documents(
        ["b", "a", " \n", "b", "c"],
        np.array([2, 0, 1, 0, 2]),
        ["x", "y", "z"],
        description="",
        origin="",
        limit=None,
        rng=rng(),
    )
    assert raw.documents == ["b", "a", "c"]
    assert raw.group_names == ("x", "z")
    assert raw.groups.tolist() == [1, 0, 1]
    assert len(set(raw.keys.tolist())) == 3


def test_repeated_images_are_dropped_and_labels_kept():
    pixels = np.zeros((3, 1, 2, 2), dtype=np.uint8)
    pixels[1] = 9
    raw = from_pixels(pixels, np.array([3, 1, 0]), list("abcd"), description="", origin="")
    assert raw.groups.tolist() == [3, 1]
    assert raw.group_names == ("a", "b", "c", "d")


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A standard library of our own: 14 packages, the later the larger."""
    for i in range(14):
        package = tmp_path / f"p{i:02}"
        package.mkdir()
        (package / "__init__.py").write_text(f"value_{i} = 1\n" * (i + 1))
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    return tmp_path


def test_domains_are_the_largest_packages_by_name(library: Path):
    for name in ("site-packages", "test", "encodings", "p05/tests", "nopackage"):
        (library / name).mkdir(exist_ok=True)
        (library / name / "big.py").write_text("never_read = 1\n" * 10_000)
    for name in ("test", "encodings"):
        (library / name / "__init__.py").touch()
    (library / "p06" / "latin.py").write_bytes("é = 1\n".encode("latin-1"))
    raw = stdlib.load(DataConfig(), rng())
    assert raw.group_names == tuple(f"p{i:02}" for i in range(2, 14))
    assert not any("never_read" in text for text in raw.documents)


def test_a_python_without_its_source_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path / "python311.zip")})
    with pytest.raises(ConfigError, match="holds no source text"):
        stdlib.load(DataConfig(), rng())


def test_this_library_gives_a_dozen_domains_of_some_size():
    raw = stdlib.load(DataConfig(), rng())
    assert len(raw.group_names) == stdlib.DOMAINS
    sizes = np.bincount(raw.groups, weights=[len(text) for text in raw.documents])
    assert sizes.min() > 20_000
    assert max(map(len, raw.documents)) <= 2048


def test_photographs_are_cut_into_patches_row_by_row():
    raw = photos.load(DataConfig(source="photos"), rng())
    assert raw.pixels is not None and raw.pixels.shape == (len(raw), 3, 8, 8)
    # 427 × 640 pixels halved are 213 × 320: 26 rows of 40 patches each, most of them unlike any other.
    assert 2000 < len(raw) <= 2 * 26 * 40
    assert set(raw.groups.tolist()) == {0, 1} and raw.group_names == ("china", "flower")
    above = [raw.pixels[i, :, -1].astype(int) for i in range(40)]
    below = [raw.pixels[40 + i, :, 0].astype(int) for i in range(40)]
    near = np.mean([np.abs(a - b).mean() for a, b in zip(above, below, strict=True)])
    far = np.mean([np.abs(a - b).mean() for a, b in zip(above, below[20:] + below[:20], strict=True)])
    assert near < far / 2  # neighbours in the photograph are neighbours here
    larger = photos.load(DataConfig(source="photos", image_size=32, max_examples=20), rng())
    assert larger.pixels is not None and larger.pixels.shape == (20, 3, 32, 32)


def test_the_manual_is_prose_that_the_library_does_not_hold():
    raw = manual.load(DataConfig(source="manual"), rng())
    assert len(raw) > 200 and all(len(text) <= 2048 for text in raw.documents)
    assert sum("statement" in text for text in raw.documents) > 50
    code = stdlib.load(DataConfig(), rng())
    assert not set(raw.keys.tolist()) & set(code.keys.tolist())
