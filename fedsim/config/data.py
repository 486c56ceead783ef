"""Where examples come from, and how the private ones are spread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from fedsim.config.base import Fraction, Positive, Settings
from fedsim.config.catalog import HUB


class Split(Settings):
    """Fractions of all examples; the rest is private and goes to the participants. Disjoint."""

    test: Fraction = 0.1
    """Held out for the reported score; nobody trains or chooses on it."""
    validation: Fraction = 0.05
    """Public and labelled; the coordinator weighs and chooses on it."""
    proxy: Fraction = 0.2
    """Public: what knowledge is expressed on. Keep it at or below a quarter of the private part."""

    @model_validator(mode="after")
    def _leaves_something(self) -> Split:
        if self.test + self.validation + self.proxy >= 1.0:
            raise ValueError("a sum of test, validation and proxy below 1: the rest is the private data")
        return self


MODALITIES = {"stdlib": "text", "manual": "text", "digits": "image", "photos": "image", "synthetic": "image"}
"""What the sources read that always read the same."""


class Source(Settings):
    """Where examples come from."""

    source: str = "stdlib"
    """`stdlib` (source text of Python's standard library), `manual` (its reference manual), `digits`
    (scikit-learn's handwritten digits), `photos` (patches of its photographs), `synthetic` (images made
    from the seed, as many as wanted), `files` (text, JSONL, CSV, Parquet, WebDataset tar, an image folder
    or a saved `datasets` folder at `path`), `hub` (a Hugging Face dataset called `path`; needs a network),
    or one of a plugin."""
    path: str | None = None
    """File, folder, glob, or hub name; relative paths start at the working directory. Of the hub also
    `c4`, `wikipedia`, `bookcorpus`, `imagenet`, `coco`, `openimages`, `conceptual_captions`, `sbu`, which
    bring their columns along."""
    subset: str | None = None
    """Configuration of a hub dataset, e.g. `wikitext-2-raw-v1`."""
    hub_split: str = "train"
    """Which split of a saved or hub dataset to read."""
    revision: str | None = None
    """Branch, tag or commit of a hub dataset."""
    text_column: str = "text"
    """Text; where there are prompts, what follows them."""
    prompt_column: str | None = None
    """Text: instructions or questions. Each row then becomes one window, its prompt given and only what
    follows it predicted; rows that don't fit `data.window` are left out."""
    image_column: str = "image"
    """Images, or their addresses (http) in a hub dataset. WebDataset: the ending, e.g. `jpg`."""
    caption_column: str | None = None
    """Image–text: what an image's text is; absent: made from its label by `templates`."""
    label_column: str | None = None
    """Label (images) or domain (text) of an example; CSV without a header: a column number."""
    label_names: tuple[str, ...] | None = None
    """What labels 0, 1, 2, … are called, where the data only numbers them."""
    header: bool = True
    """Whether a CSV begins with column names; without, columns are called `0`, `1`, …"""
    max_examples: Annotated[int, Field(gt=0)] | None = None
    """Take at most that many documents or images, drawn evenly over domains or labels with the seed.
    Of a hub dataset no more than a few times as many are read."""

    @model_validator(mode="before")
    @classmethod
    def _from_catalog(cls, value: Any) -> Any:
        """Lay what is given over what the catalog says of a short name."""
        if isinstance(value, Mapping) and value.get("source") == "hub" and value.get("path") in HUB:
            known = HUB[value["path"]]
            value = {**known, **value, "path": known["path"]}
        return value


class DataConfig(Source):
    """Where examples come from and how they become tensors."""

    answers: ClassVar[bool] = True
    """Whether images must bring labels or captions."""

    proxy: Source | None = None
    """A source of its own for the proxy set, e.g. `{source: hub, path: c4, max_examples: 5000}`; all of
    it is the proxy set, less what is also in the other data, and `split.proxy` is not used."""
    modality: Literal["text", "image", "image_text"] | None = None
    """Told by the sources that always read the same, but one of images is also one of image–text where that
    is asked for; needed for `files` and `hub`."""
    split: Split = Split()
    window: Annotated[int, Field(ge=8, le=65536)] = 64
    """Text: tokens in one training window. Image–text: most tokens of a caption, its end included."""
    vocabulary: Annotated[int, Field(ge=260, le=65536)] = 1024
    """Size of the byte-level BPE that is trained on the proxy set (image–text: on its captions and the
    prompts)."""
    tokenizer: str | None = None
    """Folder of a ready tokenizer, used in place of training one."""
    image_size: Annotated[int, Field(ge=4, le=1024)] | None = None
    """Images: pixels a side after resizing; the source's own size if absent."""
    proxy_labelled: bool = False
    """Images: whether the proxy set keeps its labels (image–text: and the captions made of them). Text
    always carries its own next tokens, and captions of a `caption_column` are kept."""
    templates: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "a photo of a {label}",
        "an image of a {label}",
        "a picture of the {label}",
    )
    """Image–text: captions of labelled images, one drawn for each. The first makes the prompts that
    images are classified by."""
    prompts: Annotated[int, Field(ge=2, le=65536)] = 64
    """Image–text without labels: how many captions of the proxy set the responses are about."""

    @field_validator("templates")
    @classmethod
    def _hold_the_label(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any(template.count("{label}") != 1 for template in value):
            raise ValueError("texts that hold {label} once")
        return value

    @property
    def reads(self) -> str | None:
        """`text`, `image` or `image_text`, as far as the config tells."""
        told = MODALITIES.get(self.source, self.modality)
        return "image_text" if (told, self.modality) == ("image", "image_text") else told

    @property
    def of_proxy(self) -> DataConfig:
        """What the proxy set's own source is asked for."""
        assert self.proxy is not None
        return _ProxyData(**{**dict(self), **dict(self.proxy), "proxy": None, "modality": self.reads})

    @property
    def proxy_answered(self) -> bool:
        """Whether the proxy set can be learnt from by itself."""
        captions = (self.proxy or self).caption_column if self.reads == "image_text" else None
        return self.reads == "text" or self.proxy_labelled or captions is not None


class _ProxyData(DataConfig):
    answers: ClassVar[bool] = False


class Partition(Settings):
    """How the private examples are spread over participants."""

    kind: str = "dirichlet"
    """`dirichlet` (label or domain skew), `iid`, `quantity` (sizes by Dirichlet, same mixture)."""
    alpha: Positive = 0.5
    """Concentration of the Dirichlet: 0.1 very uneven, 0.5 uneven, 10 nearly even."""
    minimum: Annotated[int, Field(ge=1)] = 10
    """Fewest private examples (documents or images) a participant may get."""
    test_fraction: Fraction = 0.1
    """Part of a shard that its participant keeps to test itself."""
