"""What a model says about how well it knows each sample: its claims, lower is better.

    loss         its task loss, where the sample carries its answer
    entropy      H(softmax(z/τ)), τ fitted on the public validation split: outside its own classes a model
                 is sure and wrong, and an uncalibrated entropy believes it
    validation   Σ_g p(g | x) · ℓ_g, ℓ_g the loss on the validation split's group g (label, domain). p(g | x)
                 is its own prediction over labels; for text a public classifier's over domains
    experience   −log(½ + Σ_g p(g | x) · n_g), n_g how many private examples of the group it has learnt from
    density      −log of a density estimated on its own private examples, at the sample: who never saw
                 anything like it has nothing to say

Calibration is Guo et al. (arXiv 1706.04599). Counts of labels as weights are FedGen's (Zhu et al., ICML 2021,
arXiv 2105.10056), who knows the label of what it makes up; here the prediction takes its place. Density as a
weight follows UWA (arXiv 2509.15147) in its idea: what is estimated here is simpler, unigrams (text) or a
kernel density (images).

Legend: n samples, p rows per sample, R = n·p rows, K classes, G groups, V tokens, d components.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedsim.learning.judges import Entropy, ExpectedLoss, Experience, Judge, Known, TaskLoss
from fedsim.learning.learner import Learner
from fedsim.types import Examples, Interface, Public

_COMPONENTS, _KERNELS = 16, 1024
"""Images: principal components of the proxy set, and how many examples a density is made of at most."""
_SIDE = 16
_CHUNK = 256


@dataclass(frozen=True)
class Assessment:
    """What somebody can say of itself.

    judge: makes its claims; None where none are wanted.
    losses: [G] float64 nats on each group of the validation split; None where they are not wanted.
    """

    judge: Judge | None = None
    losses: np.ndarray | None = None


def assess(
    weights: str, learner: Learner, own: Examples, public: Public, interface: Interface, *, skills: bool
) -> Assessment:
    """What a model's claims are to be made of.

    weights: `uniform`, or one of the kinds above.   own: the examples that a density is made of.
    skills: whether losses per group are wanted, too.
    """
    losses = None
    if skills or weights == "validation":
        losses = losses_by_group(learner, public.validation, interface)
    if weights == "loss":
        return Assessment(TaskLoss(), losses)
    if weights == "entropy":
        return Assessment(Entropy(learner.calibrate(public.validation)), losses)
    if weights == "density":
        return Assessment(Known(rarity(own, public.proxy, interface.classes)), losses)
    if weights in ("validation", "experience"):
        number, membership = len(interface.group_names), None
        if interface.modality == "text":
            membership = domains(public.validation, public.proxy, interface.classes, number)
        if weights == "validation":
            assert losses is not None
            return Assessment(ExpectedLoss(losses, membership), losses)
        if own is public.proxy:  # the student's: what the proxy set is of isn't known
            counts = np.full(number, len(own) / number)
        else:
            counts = np.bincount(own.groups, minlength=number).astype(np.float64)
        return Assessment(Experience(counts, membership), losses)
    return Assessment(losses=losses)


def losses_by_group(learner: Learner, validation: Examples, interface: Interface) -> np.ndarray:
    """[G] float64, see `group_losses`."""
    each = learner.claims(validation, np.arange(len(validation)))
    return group_losses(each, validation.groups, len(interface.group_names))


def group_losses(losses: np.ndarray, groups: np.ndarray, number: int) -> np.ndarray:
    """[G] float64 mean loss of every group, drawn to the overall mean by one example's weight.

    A group with one example therefore counts half, an absent one is average.   losses, groups: [n].
    """
    sums = np.bincount(groups, losses, number)
    return np.asarray((sums + losses.mean()) / (np.bincount(groups, minlength=number) + 1.0))


def domains(validation: Examples, proxy: Examples, tokens: int, number: int) -> np.ndarray:
    """p(g | x) [N, G] of the proxy's windows: naive Bayes on the tokens of the validation split, with
    half a token more of everything. A domain that the split lacks has probability 0.

    tokens: size of the vocabulary, V.   number: of domains, G.
    """
    log_GV = np.zeros((number, tokens))
    present = np.unique(validation.groups)
    for group in present:
        some = validation.take(np.flatnonzero(validation.groups == group))
        log_GV[group] = _log_frequencies(some, tokens)
    prior = np.log(np.bincount(validation.groups, minlength=number)[present] / len(validation))
    membership = np.zeros((len(proxy), number))
    for start in range(0, len(proxy), _CHUNK):
        ids, content = _contents(proxy, slice(start, start + _CHUNK))
        log_p = (log_GV[present][:, ids] * content).sum(-1).T + prior
        p = np.exp(log_p - log_p.max(-1, keepdims=True))
        membership[start : start + _CHUNK, present] = p / p.sum(-1, keepdims=True)
    return membership


def rarity(own: Examples, proxy: Examples, tokens: int) -> np.ndarray:
    """−log density of every proxy sample [N] under `own` examples, nats per token or component.

    Text: unigrams of the own tokens, with half a token more of everything. Images: a Gaussian kernel
    density over the proxy set's leading principal components, its width by Scott's rule. What it is
    measured in is public; of the own examples only the result leaves. Where the own examples are the proxy
    set, as for the student, an image's density is that of the others: its own kernel would hide them.
    """
    if "pixel_values" not in proxy.arrays:
        log_V = _log_frequencies(own, tokens)
        ids, content = _contents(proxy)
        return np.asarray(-(log_V[ids] * content).sum(-1) / content.sum(-1))
    public = _flat(proxy.arrays["pixel_values"])
    mean = public.mean(0)
    variances, axes = np.linalg.eigh((public - mean).T @ (public - mean) / len(public))
    number = min(_COMPONENTS, int((variances > max(1e-9, 1e-9 * variances[-1])).sum()))
    if not number:  # a proxy set of equal images tells nothing apart
        return np.zeros(len(public))
    # One scale for all components: whitened, those of noise would count as much as those of content.
    project = axes[:, -number:] / variances[-number:].mean() ** 0.5
    every = max(1, -(-len(own) // _KERNELS))
    kernels = (_flat(own.arrays["pixel_values"][::every]) - mean) @ project
    width = len(kernels) ** (-1 / (number + 4))
    points = (public - mean) @ project
    result = np.empty(len(points))
    for start in range(0, len(points), _CHUNK):
        some = points[start : start + _CHUNK]
        squares = (some**2).sum(1)[:, None] - 2 * some @ kernels.T + (kernels**2).sum(1)
        exponents = -0.5 * squares / width**2
        if own is proxy and len(kernels) > 1:
            itself = np.arange(-start % every, len(some), every)
            exponents[itself, (start + itself) // every] = -np.inf
        top = exponents.max(1, keepdims=True)
        result[start : start + _CHUNK] = -(top[:, 0] + np.log(np.exp(exponents - top).mean(1)))
    return np.asarray(result / number + np.log(width * (2 * np.pi) ** 0.5))


def _contents(texts: Examples, some: slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
    """Of some windows the tokens, and which are no padding, both [n, S]."""
    ids = texts.arrays["input_ids"][some]
    if "length" not in texts.arrays:
        return ids, np.ones(ids.shape, bool)
    return ids, np.arange(ids.shape[1]) < texts.arrays["length"][some][:, None]


def _log_frequencies(texts: Examples, tokens: int) -> np.ndarray:
    ids, content = _contents(texts)
    counts = np.bincount(ids[content], minlength=tokens) + 0.5
    return np.asarray(np.log(counts / counts.sum()))


def _flat(pixels: np.ndarray) -> np.ndarray:
    """[n, D] float64: the pixels, averaged over squares so that at most 16 a side are left."""
    n, channels, height, width = pixels.shape
    square = max(1, -(-max(height, width) // _SIDE))
    high, wide = max(1, height // square), max(1, width // square)
    cut = pixels[:, :, : high * square, : wide * square].astype(np.float64)
    blocks = cut.reshape(n, channels, high, -1, wide, cut.shape[3] // wide)
    return np.asarray(blocks.mean((3, 5)).reshape(n, -1) / 127.5 - 1.0)
