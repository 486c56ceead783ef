"""What models say of themselves, against computations made in another way."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import gaussian_kde, multinomial
from torch.nn import functional as F

from fedsim.learning.confidence import domains, group_losses, rarity
from fedsim.learning.judges import Entropy, ExpectedLoss, Experience, Known, TaskLoss, fit_temperature
from fedsim.types import Examples

rng = np.random.default_rng
N, K, V = 40, 5, 12


def logits(seed: int = 0, n: int = N) -> torch.Tensor:
    return torch.from_numpy(rng(seed).normal(0, 2, (n, K)))


def windows(ids: np.ndarray, groups: np.ndarray) -> Examples:
    return Examples({"input_ids": ids.astype(np.int32)}, groups, np.arange(len(ids), dtype=np.uint64))


def images(pixels: np.ndarray) -> Examples:
    n = len(pixels)
    return Examples({"pixel_values": pixels}, np.zeros(n, np.int64), np.arange(n, dtype=np.uint64))


# Calibration and entropy --------------------------------------------------------------------------


@pytest.mark.parametrize("true", [0.3, 1.0, 4.0])
def test_the_temperature_is_that_of_a_grid_search(true: float):
    z = logits(1, 400)
    answers = torch.multinomial(torch.softmax(z / true, -1), 1, generator=torch.Generator().manual_seed(0))
    grid = np.exp(np.linspace(math.log(0.02), math.log(50), 4000))
    nll = [F.cross_entropy(z / t, answers[:, 0]).item() for t in grid]
    fitted = fit_temperature(z, answers[:, 0])
    assert fitted == pytest.approx(grid[int(np.argmin(nll))], rel=3e-3)
    assert fitted == pytest.approx(true, rel=0.25)


def test_a_model_that_is_always_right_or_always_wrong_gets_a_bound():
    z = 3 * torch.eye(K).double()
    assert fit_temperature(z, torch.arange(K)) == pytest.approx(0.02)
    assert fit_temperature(z, (torch.arange(K) + 1) % K) == pytest.approx(50)
    assert 0.02 <= fit_temperature(torch.zeros(3, K).double(), torch.zeros(3).long()) <= 50


def test_entropy_is_that_of_the_tempered_prediction():
    z, index = logits(), np.arange(N)
    for temperature in (0.5, 1.0, 6.0):
        p = np.exp(z.numpy() / temperature)
        p /= p.sum(1, keepdims=True)
        expected = [-math.fsum(x * math.log(x) for x in row) for row in p]
        assert Entropy(temperature)(index, z, None).numpy() == pytest.approx(np.array(expected), rel=1e-9)


def test_entropy_ranks_alike_for_a_model_and_its_overconfident_twin():
    # What calibration is for: scaled logits are another confidence, but the same knowledge.
    z = logits(2, 600)
    answers = torch.multinomial(torch.softmax(z, -1), 1, generator=torch.Generator().manual_seed(1))[:, 0]
    calibrated = [Entropy(fit_temperature(s * z, answers))(np.arange(600), s * z, None) for s in (1.0, 5.0)]
    torch.testing.assert_close(*calibrated, rtol=1e-4, atol=1e-6)
    assert (Entropy(1.0)(np.arange(600), 5 * z, None) < 0.6 * calibrated[0]).float().mean() > 0.5


def test_a_task_loss_needs_answers():
    z, answers = logits(), torch.from_numpy(rng(1).integers(K, size=N))
    expected = [
        -math.log(np.exp(row[a]) / np.exp(row).sum()) for row, a in zip(z.numpy(), answers, strict=True)
    ]
    assert TaskLoss()(np.arange(N), z, answers).numpy() == pytest.approx(np.array(expected))
    with pytest.raises(ValueError, match="labelled"):
        TaskLoss()(np.arange(N), z, None)


# Validation ---------------------------------------------------------------------------------------


def test_losses_of_groups_are_drawn_to_the_mean_by_one_example():
    losses, groups = np.array([1.0, 3.0, 5.0, 8.0]), np.array([0, 0, 0, 2])
    mean = 17 / 4
    expected = [(9 + mean) / 4, mean, (8 + mean) / 2]  # group 1 is absent, group 2 has one
    assert group_losses(losses, groups, 3) == pytest.approx(expected)


def test_the_expected_loss_is_under_the_own_prediction():
    z, losses, samples = logits(), rng(3).exponential(size=K), np.array([0, 7, 9])
    p = torch.softmax(z, -1).numpy()
    claims = ExpectedLoss(losses)(np.arange(N), z, None).numpy()
    assert claims == pytest.approx(np.array([sum(p[i, c] * losses[c] for c in range(K)) for i in range(N)]))
    membership = rng(4).dirichlet(np.ones(K), N)
    given = ExpectedLoss(losses, membership)(samples, z[:3], None).numpy()
    assert given == pytest.approx(np.array([membership[i] @ losses for i in samples]))


def test_domains_are_told_by_bayes_rule():
    groups = np.array([0, 0, 0, 2, 2])  # domain 1 is absent
    seen = rng(5).integers(V, size=(5, 9))
    asked = rng(6).integers(V, size=(7, 9))
    found = domains(windows(seen, groups), windows(asked, np.full(7, -1)), V, 3)
    expected = np.zeros((7, 3))
    for i, window in enumerate(asked):
        counts = np.bincount(window, minlength=V)
        for g in (0, 2):
            p = np.bincount(seen[groups == g].ravel(), minlength=V) + 0.5
            expected[i, g] = (groups == g).mean() * multinomial.pmf(counts, 9, p / p.sum())
    np.testing.assert_allclose(found, expected / expected.sum(1, keepdims=True), atol=1e-12)
    assert (found[:, 1] == 0).all()


def test_experience_is_the_expected_number_of_examples_behind_an_answer():
    z, counts, samples = logits(), np.array([0.0, 1, 8, 0, 40]), np.array([0, 7, 9])
    p = torch.softmax(z, -1).numpy()
    claims = Experience(counts)(np.arange(N), z, None).numpy()
    behind = [math.fsum(p[i, c] * counts[c] for c in range(K)) for i in range(N)]
    assert np.exp(-claims) - 0.5 == pytest.approx(np.array(behind))
    membership = rng(4).dirichlet(np.ones(K), N)
    given = Experience(counts, membership)(samples, z[:3], None).numpy()
    assert np.exp(-given) - 0.5 == pytest.approx(membership[samples] @ counts)


def test_who_never_saw_a_class_has_almost_no_say_about_it():
    sure = torch.full((1, K), -30.0).double()
    sure[0, 3] = 30.0
    knows, guesses = np.array([0.0, 0, 0, 100, 0]), np.array([100.0, 100, 100, 0, 100])
    claims = [Experience(counts)(np.zeros(1, int), sure, None).item() for counts in (knows, guesses)]
    assert math.exp(claims[1] - claims[0]) == pytest.approx(100.5 / 0.5)  # the ratio of the weights


# Density ------------------------------------------------------------------------------------------


def test_the_density_of_images_is_scipys_on_principal_components():
    draw = rng(7)
    mixing = draw.normal(size=(3, 16))

    def some(n: int, shift: float) -> np.ndarray:  # three components behind 16 pixels
        values = 127 + 18 * ((draw.normal(size=(n, 3)) + shift) @ mixing)
        return np.clip(values, 0, 255).reshape(n, 1, 4, 4)

    proxy, own = some(60, 0.0), some(25, 0.5)
    flat = [p.reshape(len(p), -1) / 127.5 - 1 for p in (proxy, own)]
    values, axes = np.linalg.eigh(np.cov(flat[0].T, bias=True))
    kept = values > 1e-9 * values[-1]
    rotate = axes[:, kept] / np.sqrt(values[kept].mean())
    points, kernels = (((f - flat[0].mean(0)) @ rotate) for f in flat)
    d = kernels.shape[1]
    # scipy scales its kernels by their own covariance: ours are spheres in public units.
    kde = gaussian_kde(kernels.T)
    kde.covariance = np.eye(d) * kde.scotts_factor() ** 2
    kde.cho_cov = np.linalg.cholesky(kde.covariance)
    kde.log_det = 2 * np.log(np.diag(kde.cho_cov * np.sqrt(2 * np.pi))).sum()
    np.testing.assert_allclose(rarity(images(own), images(proxy), 0), -kde.logpdf(points.T) / d, rtol=1e-6)


def test_what_was_never_seen_is_rarer():
    draw = rng(8)
    dark, bright = (draw.integers(low, low + 60, (50, 1, 8, 8), np.uint8) for low in (0, 180))
    proxy = images(np.concatenate([dark[:20], bright[:20]]))
    claims = rarity(images(dark[20:]), proxy, 0)
    assert claims[:20].max() < claims[20:].min()
    assert rarity(images(dark[:1]), proxy, 0).shape == (40,)  # one sample is a density, too


def test_the_proxy_sets_own_density_is_that_of_the_others():
    pixels = rng(8).integers(0, 256, (40, 1, 2, 2), np.uint8)
    proxy = images(pixels)
    others = [
        rarity(images(np.delete(pixels, k, 0)), proxy, 0)[k]  # the same kernels but for one, a bit wider
        for k in range(len(pixels))
    ]
    np.testing.assert_allclose(rarity(proxy, proxy, 0), others, atol=0.02)
    assert np.ptp(rarity(images(pixels), proxy, 0)) < 0.5 * np.ptp(others)  # itself would hide them


@pytest.mark.parametrize("shape", [(3, 33, 50), (1, 8, 8), (1, 17, 2), (1, 1, 1)])
def test_any_size_of_image_has_a_density(shape: tuple[int, int, int]):
    pixels = rng(9).integers(0, 256, (12, *shape), np.uint8)
    assert np.isfinite(rarity(images(pixels[:5]), images(pixels), 0)).all()
    equal = images(np.repeat(pixels[:1], 4, 0))
    assert np.array_equal(rarity(images(pixels), equal, 0), np.zeros(4))


def test_text_is_rare_by_its_tokens():
    own, proxy = rng(10).integers(3, size=(4, 6)), rng(11).integers(V, size=(5, 6))
    claims = rarity(windows(own, np.zeros(4)), windows(proxy, np.zeros(5)), V)
    total = 24 + V / 2
    expected = [-sum(math.log((np.sum(own == t) + 0.5) / total) for t in row) / 6 for row in proxy]
    assert claims == pytest.approx(np.array(expected))
    assert Known(claims)(np.array([3, 1]), None, None).tolist() == [claims[3], claims[1]]
