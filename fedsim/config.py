"""What a run is: one frozen, typed tree, checked before anything starts.

`load("experiments/quickstart.yaml", seed=3, **{"participants.count": 8})` reads YAML, applies
overrides, follows `base:` to the file it varies, and raises `ConfigError` (field, value, what would
be right). Every field carries its unit and a suggested value, so the JSON schema documents itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

from fedsim import plugins, storage
from fedsim.catalog import HUB
from fedsim.errors import ConfigError
from fedsim.findings import explain, one_of, types_in
from fedsim.storage import AnyPath
from fedsim.trees import override, read_yaml

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


class Settings(BaseModel):
    """Base of all parts: frozen, and an unknown field is an error rather than ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML reads `yes` as true, which pydantic would take for 1."""
        kind = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and kind is not bool and bool not in types_in(kind):
            raise ValueError("something else than true or false")
        return value


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


class Training(Settings):
    """One optimiser phase: linear warm-up, then cosine decay or constant."""

    steps: Annotated[int, Field(ge=0)] = 50
    """Optimiser steps per round."""
    batch_size: Annotated[int, Field(ge=1, le=2**20)] = 16
    """Examples per step (text: windows), over all ranks together."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """`sgd` is without momentum, as FedAvg's paper has it."""
    learning_rate: Positive = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    warmup: Annotated[int, Field(ge=0)] = 10
    """Steps of linear warm-up, once per run."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Over all rounds of the run; `cosine` ends at a tenth of the learning rate."""
    augment: bool = True
    """Images: whether supervised training varies them a little at random."""
    gradient_clip: Positive | None = 1.0
    """Largest global gradient norm; null does not clip."""


class Device(Settings):
    """The machine a participant has, as the virtual clock sees it."""

    flops_per_s: Positive = 1e12
    """Sustained speed: 1e11 a laptop core, 1e12 a small server, 5e13 a data-centre GPU in practice."""
    flops_per_joule: Positive | None = None
    """Operations for a joule, sustained, all of the machine counted: 5e9 a laptop, 1e11 a data-centre GPU in
    practice. Where every device and the student's has one, energy is measured (`fedsim.energy`)."""


class Link(Settings):
    """One participant's connection to the coordinator."""

    up_mbps: Positive = 100.0
    """Mbit/s from participant to coordinator (1e6 bits a second, of packets with their headers)."""
    down_mbps: Positive = 100.0
    """Mbit/s from coordinator to participant."""
    latency_ms: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 20.0
    """One-way delay of every packet, in both directions."""
    loss: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of packets lost and sent again: transfer times grow by 1/(1 − loss)."""


class Adapter(Settings):
    """Low-rank adapters (Hu et al., arXiv 2106.09685) on frozen weights, through the `peft` library."""

    kind: Literal["lora"] = "lora"
    rank: Annotated[int, Field(ge=1)] = 8
    alpha: Positive = 16.0
    """What an adapter adds is multiplied by alpha / rank."""
    targets: Annotated[tuple[str, ...], Field(min_length=1)] | Literal["all-linear"] = "all-linear"
    """Names of the layers that get one, e.g. `[q_proj, v_proj]`; `all-linear` is all but the output."""


class Adversary(Settings):
    """Participants that work against the others, all in the same way; see `fedsim.adversaries`."""

    kind: Literal[
        "label_flip", "backdoor", "free_rider",
        "least_likely", "least_similar", "poison", "sign_flip", "noise", "false_confidence",
        "false_prototypes", "false_features",
        "malformed", "oversized", "replay",
    ] = "least_likely"  # fmt: skip
    share: Fraction = 0.2
    """Part of the participants that are adversaries, which ones by the seed; 0 for a clean run."""
    strength: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Part of an answer that is the attack; the rest is honest."""


class Privacy(Settings):
    """Differential privacy of every training example, by DP-SGD (needs the extra `privacy`); see
    `fedsim.privacy` for what it covers. `training.batch_size` is then the mean of batches drawn example by
    example; `gradient_clip` acts after the noise, on the whole step, and schedule, optimiser and
    augmentation (of each image by itself) cost no privacy."""

    epsilon: Positive | None = None
    """Largest ε of each participant over the whole run: the noise is solved for it."""
    noise: Positive | None = None
    """In place of `epsilon`: standard deviation of the noise ÷ `clip`."""
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    """δ of (ε, δ); well below 1 ÷ the examples of a shard."""
    clip: Positive = 1.0
    """Largest norm of one example's gradient."""
    accountant: Literal["rdp", "prv"] = "rdp"
    """What ε is computed by; `prv` is tighter, and takes seconds for each participant and round."""

    @model_validator(mode="after")
    def _one_of_both(self) -> Privacy:
        if (self.epsilon is None) == (self.noise is None):
            raise ValueError("either epsilon or noise")
        return self


class Participants(Settings):
    """The institutions. Lists are dealt out in turn: with two models, 0, 2, 4 … get the first."""

    count: Annotated[int, Field(ge=1)] = 5
    models: Annotated[tuple[str, ...], Field(min_length=1)] = ("pythia-tiny", "llama-tiny")
    """Presets, folders with a `config.json`, or pretrained folders."""
    training: Training = Training()
    adapter: Adapter | None = None
    """Train only adapters, on the frozen weights of a pretrained folder or of the public start. Where a
    method averages parameters, only theirs travel, and its student has adapters too."""
    partition: Partition = Partition()
    links: Annotated[tuple[Link, ...], Field(min_length=1)] = (Link(),)
    devices: Annotated[tuple[Device, ...], Field(min_length=1)] = (Device(),)
    participation: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Part of the participants that is asked in a round, drawn anew each time."""
    dropout: Fraction = 0.0
    """Chance that one that is asked fails before it begins."""
    message_loss: Fraction = 0.0
    """Chance that a message to the coordinator is sent and never arrives."""
    privacy: Privacy | None = None
    """Hide single examples of the shards; absent: specialists are trained without noise. Methods that
    bring the private data together (`centralized`) don't."""
    adversary: Adversary | None = None
    """Who lies, and how; absent: everybody is honest."""
    deadline_s: Positive | None = None
    """Virtual seconds after which the coordinator goes on without those who have not delivered."""


class Engine(Settings):
    """DeepSpeed, as the student is trained with it."""

    zero_stage: Literal[0, 1, 2, 3] = 0
    """0 compiles and shards nothing; 2 or 3 when the student outgrows one GPU."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    optimizer: Literal["torch", "fused"] = "torch"
    """`fused` is DeepSpeed's own AdamW, compiled at its first use (needs a compiler and ninja)."""
    offload: Literal["none", "cpu"] = "none"
    """Optimiser state on the host's memory; needs the fused optimiser and ZeRO 1–3."""
    ranks: Annotated[int, Field(ge=1)] = 1
    """Processes that train the student together: one per GPU of the coordinator."""

    @model_validator(mode="after")
    def _offload_needs(self) -> Engine:
        if self.offload == "cpu" and (self.optimizer != "fused" or self.zero_stage == 0):
            raise ValueError("optimizer: fused and zero_stage 1, 2 or 3 for offload: cpu")
        return self


class Student(Settings):
    """The model that is the product, and how the coordinator trains it."""

    model: str = "pythia-tiny"
    training: Training = Training()
    """One round of the student's training; `centralized` and `proxy_only` get the same budget."""
    engine: Engine = Engine()
    device: Device = Device()

    @model_validator(mode="after")
    def _equal_shares(self) -> Student:
        if self.training.batch_size % self.engine.ranks:
            raise ValueError("a training.batch_size that is a multiple of engine.ranks, which share it")
        return self


class Pretraining(Settings):
    """The public start that everyone shares: each architecture trained on the proxy set."""

    objective: Literal["task", "masked_image"] = "task"
    """What is learnt there: the task itself, or to fill in hidden patches of the images (SimMIM), which
    needs no labels but models that cut images into patches."""
    steps: Annotated[int, Field(ge=0)] = 0
    """0 starts from random weights."""
    batch_size: Annotated[int, Field(ge=1, le=2**20)] = 16
    learning_rate: Positive = 2e-3


class Questions(Settings):
    """A task that nobody trained for: multiple-choice questions in JSON lines, see `evaluation.questions`."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
    """What it is called in `measures.parquet`."""
    path: str
    """`question`, `choices` and `answer` in every line; relative paths start at the working directory."""
    shots: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0, 5)
    """Numbers of examples before a question; 0 is zero-shot. The largest number of items is set aside."""


class FewShot(Source):
    """Images: a labelled set of other classes, which the student's features are to tell apart by a few
    examples (`fedsim.evaluation.few_shot`)."""

    shots: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (1, 5)
    """Numbers of examples of a class."""
    ways: Annotated[int, Field(ge=2)] = 5
    """Classes in an episode."""
    queries: Annotated[int, Field(ge=1)] = 15
    """Images of each class in an episode that are to be told apart."""
    episodes: Annotated[int, Field(ge=1)] = 200


class Evaluation(Settings):
    every: Annotated[int, Field(ge=1)] = 1
    """Evaluate the student every that many rounds, and in the last."""
    participants: Literal["last", "always", "never"] = "last"
    """When specialists are scored on the global test set, and they and the student on what the institutions
    keep to test themselves (`fedsim.evaluation.breakdown`)."""
    co2e_g_per_kwh: Positive | None = None
    """Grams of CO₂e for a kWh, of the grid, to have it counted where energy is; e.g. 250."""
    generate: Annotated[int, Field(ge=0)] = 0
    """Text: let the student continue that many prompts of the test set whenever it is evaluated, and measure
    ROUGE-L, BLEU and distinct-n (`pip install 'fedsim[generation]'`); 0 measures nothing."""
    prompt: Annotated[int, Field(ge=1)] = 16
    """Tokens of a window that are its prompt there, where the data has no prompts of its own."""
    longest: Annotated[int, Field(ge=1)] = 48
    """Most tokens that are generated there, and for `instructions`."""
    tasks: tuple[Questions, ...] = ()
    """Text: what the student is asked after the last round."""
    few_shot: FewShot | None = None
    """Images, image–text: what the student's features are tried on after the last round."""
    instructions: str | None = None
    """Text: a file of JSON lines in the format of IFEval, whose instructions rules check after the last round
    (`fedsim.evaluation.instructions`)."""
    retrieval: Annotated[int, Field(ge=0)] = 0
    """Image–text: among that many pairs of the test set the student finds each image's text and each text's
    image after the last round (recall@k, `fedsim.evaluation.retrieval`); 0 measures nothing."""


class Demand(Settings):
    """What one actor reserves in Ray; fractions are allowed."""

    cpus: Annotated[float, Field(ge=0)] = 0.2
    gpus: Annotated[float, Field(ge=0)] = 0.0
    """Fraction of a GPU; above 1 a whole number. Multiples of 0.0001."""
    memory_mib: Annotated[int, Field(ge=0)] = 0
    """Main memory in MiB that Ray sets aside (it doesn't enforce it); 0 sets none aside."""

    @model_validator(mode="after")
    def _whole_gpus(self) -> Demand:
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError("a whole number of gpus above 1")
        if 0 < self.gpus < 0.0001:
            raise ValueError("0 gpus or at least 0.0001")
        return self


class Runtime(Settings):
    """Where and how the run executes. Nothing here but `threads` changes a result."""

    executor: Literal["ray", "in_process"] = "ray"
    """`in_process` runs the same round in this process, one after the other, for debugging."""
    address: str | None = None
    """Ray cluster to join; absent: the one in RAY_ADDRESS, else a private one on this machine."""
    participants_per_actor: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """How many participants one actor hosts; `auto` is one each while the cluster can hold them."""
    participant: Annotated[tuple[Demand, ...], Field(min_length=1)] = (Demand(),)
    """What an actor that hosts a participant reserves: one mapping for all, or a list that is dealt out
    in turn. Only participants with equal demands share an actor."""
    coordinator: Demand = Demand(cpus=0.5)
    """What each rank of a coordinator reserves; its GPUs are shared with no participant."""
    wait_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Seconds to wait for an autoscaling cluster to grow until everything is placed, e.g. 900; at 0 it
    has to fit what the cluster has now."""
    parallel_methods: Annotated[int, Field(ge=1)] = 1
    """Contenders that run side by side, each with a coordinator of its own."""
    resident_mib: Positive | None = None
    """Memory in which an actor keeps its participants' specialists from round to round, in MiB; the
    others wait on disk. Absent: the actor's part of half of its machine's memory."""
    threads: Annotated[int, Field(ge=1)] = 1
    """CPU threads per actor. Part of the arithmetic: results are bit-identical at equal threads."""
    message_limit_mib: Annotated[float, Field(ge=0.001, allow_inf_nan=False)] = 256.0
    """Largest message that is accepted, in MiB; larger ones are rejected unread."""

    @field_validator("participant", mode="before", json_schema_input_type=Demand | tuple[Demand, ...])
    @classmethod
    def _one_for_all(cls, value: Any) -> Any:
        return (value,) if isinstance(value, Mapping | Demand) else value

    @field_serializer("participant")
    def _as_written(self, value: tuple[Demand, ...]) -> Any:
        """One mapping stays one, so that `runtime.participant.gpus=…` can vary a resolved config."""
        dumped = [demand.model_dump() for demand in value]
        return dumped[0] if len(dumped) == 1 else dumped


class MethodConfig(BaseModel):
    """A contender: a method's name and its settings (see the method's own file)."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str
    label: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")] | None = None
    """How it is called in tables; the name if absent. Needed when one method runs twice."""
    specialists: Literal["participants", "student"] = "participants"
    """Whose architectures the participants train: their own, or the student's everywhere."""

    @property
    def contender(self) -> str:
        return self.label or self.name

    @property
    def options(self) -> dict[str, Any]:
        """What the method's own settings model validates."""
        return dict(self.model_extra or {})


class RunConfig(Settings):
    """One run: several methods on the same data, student and seed."""

    name: str = "run"
    """Of the folder below `runs/`, unless `output` says where."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    rounds: Annotated[int, Field(ge=1)] = 4
    output: str | None = None
    """Folder of the results, also as a URI (`s3://bucket/runs/one`); `runs/<name>` if absent."""
    plugins: tuple[str, ...] = ()
    """Python files with your own methods, sources or partitioners; see `fedsim.plugins`. Relative paths
    start at the working directory."""
    methods: Annotated[tuple[MethodConfig, ...], Field(min_length=1)] = (
        MethodConfig(name="federated_distillation"),
    )
    data: DataConfig = DataConfig()
    participants: Participants = Participants()
    student: Student = Student()
    pretraining: Pretraining = Pretraining()
    evaluation: Evaluation = Evaluation()
    runtime: Runtime = Runtime()

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, value: str) -> str:
        if not value.strip() or value.startswith(".") or {"/", "\\", "\0"} & set(value):
            raise ValueError("the name of a folder: no slash, no dot in front")
        return value

    @property
    def folder(self) -> AnyPath:
        """Raises ConfigError for a URI that can't be reached."""
        return storage.locate(self.output or f"runs/{self.name}")

    @model_validator(mode="before")
    @classmethod
    def _bare_method_names(cls, value: Any) -> Any:
        """Let `methods: [fedavg]` stand for `methods: [{name: fedavg}]`."""
        if isinstance(value, Mapping) and isinstance(value.get("methods"), list | tuple):
            named = [{"name": m} if isinstance(m, str) else m for m in value["methods"]]
            value = {**value, "methods": named}
        return value


def load(path: str | AnyPath | Mapping[str, Any] | None = None, **overrides: Any) -> RunConfig:
    """Read a config file (or a mapping), apply overrides, validate.

    Overrides are dotted paths, `{"data.split.proxy": 0.1}` or `data__split__proxy=0.1`.
    Raises ConfigError.
    """
    if path is not None and not isinstance(path, Mapping):
        path = read_yaml(storage.locate(path, "config"))
    tree: Mapping[str, Any] = path or {}
    for dotted, value in overrides.items():
        tree = override(tree, dotted.replace("__", "."), value)
    return validate(tree)


def validate(tree: Mapping[str, Any]) -> RunConfig:
    """The typed config of a raw tree; raises ConfigError for the first thing that is wrong."""
    try:
        config = RunConfig.model_validate(tree)
    except ValidationError as error:
        raise explain(error, tree, RunConfig) from None
    plugins.load(plugins.read(config.plugins))
    _check_methods(config)
    return config


def to_yaml(config: RunConfig) -> str:
    """The resolved config, every default written out; `load` of it gives the same config."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def json_schema() -> dict[str, Any]:
    """What a config file may hold, for editors: the typed fields, `base`, and bare method names."""
    schema = RunConfig.model_json_schema()
    schema["properties"]["base"] = {"type": "string", "description": "YAML file that this one varies."}
    methods = schema["properties"]["methods"]
    methods["items"] = {"anyOf": [methods["items"], {"type": "string"}]}
    return schema


def _check_methods(config: RunConfig) -> None:
    from fedsim.methods import METHODS

    seen: set[str] = set()
    for place, method in enumerate(config.methods):
        where = f"methods.{place}"
        if method.name not in METHODS:
            raise ConfigError(f"{where}.name", method.name, one_of(method.name, METHODS))
        if method.contender in seen:
            raise ConfigError(f"{where}.label", method.contender, "a label that no other contender has")
        seen.add(method.contender)
        try:
            METHODS[method.name].Settings.model_validate(method.options)
        except ValidationError as error:
            settings, beside = METHODS[method.name].Settings, MethodConfig.model_fields
            raise explain(error, method.options, settings, where, beside) from None
