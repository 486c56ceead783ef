"""The settings of federated distillation, and what they need of each other and of a run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from fedsim import events
from fedsim.aggregation.gnmax import GNMaxSettings
from fedsim.aggregation.robust import Defence
from fedsim.config import RunConfig, Settings
from fedsim.methods.insight import FeatureSettings, PrototypeSettings
from fedsim.methods.readout import ReadoutSettings
from fedsim.wire.quantise import TAILED

Levels = Annotated[int, Field(ge=1, le=65535)]


class DAdaQuant(Settings):
    """Levels that double where the student's validation loss stalls, see `schedules.dadaquant`."""

    first: Levels = 15
    cap: Levels = 255
    psi: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """ψ: how much of the smoothed loss is that of the round before."""
    phi: Annotated[int, Field(ge=2)] = 2
    """φ: rounds that levels are kept, and over which the loss is to fall."""


class DistillationSettings(Settings):
    proxy_per_round: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Part of the proxy set that is asked about in a round: slices of one shuffle, round and round."""
    curriculum: Literal["none", "disagreement"] = "none"
    """`disagreement` asks about what institutions see alike first and about what they differ on last."""
    levels: Levels | tuple[Levels, Levels] | Literal["dadaquant"] = 255
    """Quanta a probability row is divided into: 255 for a few classes, 15–63 for vocabularies. A pair:
    those of the first and the last round, growing by equal factors; or by `dadaquant`."""
    dadaquant: DAdaQuant = DAdaQuant()
    frequency: Literal["every", "adaptive"] = "every"
    """`adaptive` leaves rounds out as the student converges: nothing is sent either way, and the student
    goes on learning from what it remembers."""
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Adaptive: part by which the validation loss has to fall in a round for the interval not to grow."""
    longest_interval: Annotated[int, Field(ge=1)] = 4
    """Adaptive: most rounds from one in which something is sent to the next."""
    views: Annotated[int, Field(ge=1, le=64)] = 1
    """Images: how often a model looks at each before it answers, all but the first time at a random variation
    of it (turned, scaled, sheared, shifted a little); it says the mean. Costs computation and no bytes."""
    quantiser: Literal["largest_remainder", "sample", "systematic", "top_k"] = "largest_remainder"
    """`largest_remainder` is closest; `systematic` and `sample` are unbiased, for vocabularies; `top_k` names
    the `top` largest classes and spreads the rest evenly."""
    top: Annotated[int, Field(ge=1)] = 16
    """Classes that `top_k` names."""
    feedback: bool = False
    """Whether what quantising took from an answer is added to the next one about the same sample, which makes
    up for the bias of `largest_remainder`; not for text."""
    delta: Literal["none", "up", "both"] = "up"
    """What is coded against what both ends hold: answers against the student's of the same round, and
    with `both` the student's against its last ones that everybody has, see `wire.cache`."""
    coder: Literal["ans", "huffman", "raw"] = "ans"
    """Of all that is sent; `raw` packs bits without entropy coding."""
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """T, of teacher and student; the loss is multiplied by T²."""
    response: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the pooled responses in the student's loss."""
    divergence: Literal["forward", "reverse", "skew", "skew_reverse", "jsd"] = "forward"
    """By what the student differs from them; `forward` is KL(p̄ ‖ q), see
    `fedsim.learning.losses.divergence`."""
    skew: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """λ of the skew divergences, β of `jsd`."""
    task: Annotated[float, Field(ge=0)] = 0.3
    """Weight of cross-entropy on the proxy set, where it is labelled (text: the next token)."""
    sharpen: Annotated[float, Field(gt=0)] = 1.0
    """β of Enhanced ERA: 1 leaves the pooled probabilities as they are, 2 sharpens."""
    mean: Literal["probabilities", "logits"] = "probabilities"
    """Of what the pool is the mean; that of logits is taken over the grid, see `aggregation.geometric`."""
    teachers: Literal["all", "best"] = "all"
    """`best`: of each sample only the answer of who weighs most there."""
    weights: Literal["uniform", "loss", "entropy", "validation", "experience", "density"] = "loss"
    """What a participant's weight on a sample is made of, see `confidence`."""
    confidence: Annotated[float, Field(ge=0)] = 0.0
    """How much a lower claim raises a weight: e^confidence for each nat, with `density` for each standard
    deviation of the public one; 0 is uniform."""
    personal: Annotated[float, Field(ge=0)] = 0.0
    """How much more those weigh who know what the student lacks at the time, see `aggregation.weights`."""
    max_share: Annotated[float, Field(gt=0, le=1)] | None = None
    """The largest share of a sample's answer that one of those who are asked can get. Absent: a weight
    lies between e^−8 and e^8."""
    defence: Defence = "none"
    """What takes the place of the mean where some may lie, see `aggregation.robust`; of features and
    prototypes as well, see `knowledge.robust`."""
    suspected: Annotated[float, Field(gt=0, lt=0.5)] = 0.4
    """Largest part of the participants that a defence is to withstand."""
    guard: Annotated[float, Field(gt=0)] = 2.0
    """η of `expguard` and `agreement`."""
    pate: GNMaxSettings | None = None
    """Hide whole participants by noisy votes in place of the mean, see `aggregation.gnmax`."""
    remember: bool = True
    """Whether the student goes on learning from earlier answers to samples not asked again."""
    digest: Annotated[float, Field(ge=0)] = 0.5
    """λ, weight of what participants learn from the proxy set beside their shard; 0 is one-way."""
    digest_batch: Annotated[int, Field(ge=1)] = 8
    """Proxy samples in each of a participant's steps."""
    features: FeatureSettings = FeatureSettings()
    """What hidden layers hold of proxy samples, see `insight`."""
    prototypes: PrototypeSettings = PrototypeSettings()
    """Centroids of classes or concepts in private data, see `insight`."""
    adaptation: bool = False
    """Whether the student has a layer that reads whose answers it is taught, see `models.heads`."""
    readout: ReadoutSettings | None = None
    """The last round fits the student's last layer to everybody's private examples, see `readout`."""


def demands(want: DistillationSettings, config: RunConfig) -> Iterator[tuple[str, bool, str]]:
    """What settings need of each other and of the run: field, whether it is so, what else would be."""
    data, people = config.data, len(events.asked(config, 1))
    weighs = want.weights if want.confidence else "uniform"
    yield (
        "response",
        bool(want.response or (want.task and data.proxy_answered)),
        "above 0: nothing else is learnt from",
    )
    rows_known = data.reads == "text" or data.proxy_labelled
    yield (
        "confidence",
        weighs != "loss" or rows_known,
        ("0, or other weights: the proxy set lacks the answers that a loss is measured by"),
    )
    judged = data.split.validation > 0 and (
        data.reads != "image_text" or data.caption_column is None or data.label_column is not None
    )
    lacking = "{}: there is no labelled validation split"
    yield (
        "weights",
        judged or weighs not in ("entropy", "validation", "experience"),
        lacking.format("loss or density"),
    )
    noisy = config.participants.privacy is not None
    yield (
        "weights",
        not noisy or weighs not in ("density", "experience"),
        f"another kind: {weighs} is made of private examples without noise (participants.privacy)",
    )
    yield "personal", judged or not want.personal, lacking.format("0")
    yield "levels", judged or want.levels != "dadaquant", lacking.format("a number or a pair")
    yield "frequency", judged or want.frequency == "every", lacking.format("every")
    yield "views", want.views == 1 or data.reads != "text", "1: only images are varied"
    best = want.teachers == "best"
    yield (
        "teachers",
        not best or weighs != "uniform",
        "all: without claims (weights, confidence) none is best",
    )
    whole = want.quantiser not in TAILED
    yield (
        "mean",
        whole or want.mean == "probabilities",
        "probabilities: top_k leaves a tail, which has no logit",
    )
    yield (
        "curriculum",
        whole or want.curriculum == "none",
        "none: with top_k it isn't known how far tails are apart",
    )
    biased = want.quantiser == "largest_remainder" and data.reads != "text"
    yield "feedback", biased or not want.feedback, "false: for largest_remainder only, and not for text"
    yield "mean", not best or want.mean == "probabilities", "probabilities: of one teacher there is no mean"
    trusting = {"confidence": 0, "personal": 0, "teachers": "all", "mean": "probabilities"}
    for field, plain in trusting.items():
        fits = want.defence == "none" or getattr(want, field) == plain
        yield field, fits, f"{plain}: the defence {want.defence} trusts no claims"
    yield "adaptation", not (best and want.adaptation), "false: of the best teacher alone no domain is known"
    yield "pate", want.pate is None or data.reads != "text", "absent: every token would be a query"
    for field, plain in {**trusting, "defence": "none", "curriculum": "none", "adaptation": False}.items():
        fits = want.pate is None or getattr(want, field) == plain
        yield (
            field,
            fits,
            f"{str(plain).lower()}: with pate votes count, and nothing else",
        )
    for inner in ("features", "prototypes"):
        fits = want.pate is None or not getattr(want, inner).weight
        yield inner, fits, "weight 0: only votes get noise (pate)"
    trusting_sums = want.defence == "none" and want.pate is None and not want.adaptation
    yield (
        "readout",
        want.readout is None or trusting_sums,
        "absent: it goes with no defence, no pate and no adaptation",
    )
    yield (
        "max_share",
        want.max_share is None or people == 1 or want.max_share * people >= 1,
        (f"at least {1 / people:.4g}, what each of {people} participants has that a round asks"),
    )
    yield (
        "curriculum",
        want.curriculum == "none" or want.proxy_per_round < 1,
        ("none: with proxy_per_round 1 there is nothing to choose"),
    )
    planned = {"curriculum": "none", "frequency": "every"}
    for field, plain in planned.items():
        told = getattr(want, field) == plain or want.digest > 0
        yield field, told, f"{plain}, or digest above 0: the plan travels with the student's answers"
    yield (
        "levels",
        want.levels != "dadaquant" or want.digest > 0,
        ("a number or a pair, or digest above 0: the plan travels with the student's answers"),
    )
    yield (
        "frequency",
        want.frequency == "every" or want.remember,
        ("every, or remember: in a round left out the student learns from what it remembers"),
    )
