"""Losses against torch's own distributions, and the properties that the papers claim for them."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from fedsim.learning import losses
from fedsim.learning.losses import DIVERGENCES, contrastive, divergence, proximal, response_kl, temper

R, K = 16, 7


def rows(seed: int, scale: float = 1.0) -> Tensor:
    """Logits [R, K], centred: each row's mean is 0."""
    logits = scale * torch.randn(R, K, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return logits - logits.mean(-1, keepdim=True)


def gradient(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Of the loss with respect to each row's logits; the mean over rows is undone."""
    logits = logits.clone().requires_grad_()
    response_kl(logits, teacher, temperature).backward()
    return R * logits.grad


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 10.0])
def test_response_kl_is_the_divergence_of_the_tempered_distributions(temperature: float):
    z, v = rows(0), rows(1)
    expected = kl_divergence(Categorical(logits=v / temperature), Categorical(logits=z / temperature))
    value = response_kl(z, v.softmax(-1), temperature)
    assert value.item() == pytest.approx(temperature**2 * expected.mean().item(), rel=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_response_kl_is_zero_at_equality_only(temperature: float):
    z = rows(0)
    assert response_kl(z, z.softmax(-1), temperature).item() == pytest.approx(0, abs=1e-14)
    assert response_kl(z, rows(1).softmax(-1), temperature).item() > 0.1
    # Logits are only defined up to a constant per row.
    assert response_kl(z + 5, z.softmax(-1), temperature).item() == pytest.approx(0, abs=1e-12)


def test_t_squared_keeps_the_gradient_at_one_size():
    z, v = rows(0), rows(1)
    norms = {t: gradient(z, v.softmax(-1), t).norm().item() for t in (2.0, 4.0, 8.0, 100.0)}
    assert max(norms.values()) < 1.3 * min(norms.values())
    # Without the factor it would fall by 2,500 between the first and the last.
    assert norms[2.0] / 2.0**2 > 1_500 * norms[100.0] / 100.0**2


def test_at_a_high_temperature_logits_are_matched():
    # Hinton et al. 2015, equation 4: the gradient tends to (z − v)/K for centred logits.
    z, v = rows(0), rows(1)
    errors = [(gradient(z, v.softmax(-1), t) - (z - v) / K).abs().max().item() for t in (10.0, 100.0, 1e3)]
    assert errors[2] < 2e-3 * (z - v).abs().max().item() / K
    assert errors[0] > 5 * errors[1] > 25 * errors[2]  # first order in 1/T


def test_a_sparse_teacher_has_no_infinite_loss():
    # Quantised rows are mostly zeros, where 0 · log 0 is 0.
    teacher = torch.tensor([[0.75, 0.25, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    logits = torch.zeros(2, 3, dtype=torch.float64)
    log3 = torch.log(torch.tensor(3.0, dtype=torch.float64))
    entropy = -(0.75 * torch.log(torch.tensor(0.75)) + 0.25 * torch.log(torch.tensor(0.25)))
    assert response_kl(logits, teacher).item() == pytest.approx((2 * log3 - entropy).item() / 2, rel=1e-6)
    assert torch.equal(temper(teacher, 4.0) == 0, teacher == 0)


def test_temper_is_the_softmax_of_divided_logits():
    v = rows(1)
    p = v.softmax(-1)
    assert temper(p, 1.0) is p
    for temperature in (0.5, 2.0, 7.0):
        torch.testing.assert_close(temper(p, temperature), (v / temperature).softmax(-1))


def test_proximal_is_half_the_squared_distance():
    w = [torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True), torch.tensor([5.0], requires_grad=True)]
    anchors = [torch.tensor([[0.0, 2.0], [3.0, 1.0]]), torch.tensor([7.0])]
    value = proximal(w, anchors)
    assert value.item() == 0.5 * (1 + 9 + 4)
    value.backward()
    assert torch.equal(w[0].grad, torch.tensor([[1.0, 0.0], [0.0, 3.0]]))  # w − w_t
    assert torch.equal(w[1].grad, torch.tensor([-2.0]))
    with pytest.raises(ValueError, match="zip"):
        proximal(w, anchors[:1])


def by_hand(logits: list[list[float]], alike: list[list[bool]]) -> float:
    """CLIP's loss with several right texts, pair by pair: −log softmax, averaged over what is right."""
    n, total = len(logits), 0.0
    for i in range(n):
        rows = logits[i], [logits[j][i] for j in range(n)]
        right = [alike[i][j] for j in range(n)], [alike[j][i] for j in range(n)]
        for row, wanted in zip(rows, right, strict=True):
            norm = math.log(math.fsum(math.exp(x) for x in row))
            of_right = [norm - x for x, is_right in zip(row, wanted, strict=True) if is_right]
            total += math.fsum(of_right) / len(of_right)
    return total / (2 * n)


@pytest.mark.parametrize("concepts", [[0, 1, 2, 3, 4], [0, 1, 0, 2, 0], [7, 7, 7, 7, 7]])
def test_the_contrastive_loss_pair_by_pair(concepts: list[int]):
    n = len(concepts)
    logits = 5 * torch.randn(n, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    alike = torch.tensor([[a == b for b in concepts] for a in concepts])
    assert contrastive(logits, alike).item() == pytest.approx(
        by_hand(logits.tolist(), alike.tolist()), rel=1e-12
    )


def test_with_distinct_pairs_the_contrastive_loss_is_that_of_transformers():
    from transformers.models.clip.modeling_clip import image_text_contrastive_loss

    logits = rows(3)[:K, :K]
    torch.testing.assert_close(
        contrastive(logits, torch.eye(K).bool()), image_text_contrastive_loss(logits.t())
    )


def test_equal_captions_do_not_push_each_other_away():
    # Two images of one class: as long as both texts are equally near, nothing pulls them apart.
    logits = torch.tensor([[4.0, 4.0, -9.0], [4.0, 4.0, -9.0], [-9.0, -9.0, 4.0]]).requires_grad_()
    alike = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]]).bool()
    contrastive(logits, alike).backward()
    assert logits.grad.abs().max() < 1e-5
    logits.grad = None
    contrastive(logits, torch.eye(3).bool()).backward()
    assert logits.grad[0, 1] > 0.1


# The other divergences ----------------------------------------------------------------------------

LAMBDA = 0.3
OTHERS = [kind for kind in DIVERGENCES if kind != "forward"]


def kl(a: np.ndarray, b: np.ndarray) -> float:
    """KL(a ‖ b) of one row, term by term."""
    return math.fsum(x * math.log(x / y) for x, y in zip(a, b, strict=True) if x > 0)


def row_by_row(logits: Tensor, teacher: Tensor, kind: str, temperature: float) -> float:
    """What `divergence` is to give, in float64 without torch: mean over rows of the paper's formula."""
    total = []
    for z, p in zip(logits.numpy(), teacher.numpy(), strict=True):
        p = p ** (1 / temperature) / (p ** (1 / temperature)).sum()
        q = np.exp(z / temperature - z.max() / temperature)
        q /= q.sum()
        m = LAMBDA * p + (1 - LAMBDA) * q
        total.append(
            {
                "forward": lambda p=p, q=q: kl(p, q),
                "reverse": lambda p=p, q=q: kl(q, p),
                "skew": lambda p=p, m=m: kl(p, m),
                "skew_reverse": lambda p=p, q=q: kl(q, (1 - LAMBDA) * p + LAMBDA * q),
                "jsd": lambda p=p, q=q, m=m: LAMBDA * kl(p, m) + (1 - LAMBDA) * kl(q, m),
            }[kind]()
        )
    return temperature**2 * math.fsum(total) / len(total)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 3.0])
@pytest.mark.parametrize("kind", DIVERGENCES)
def test_every_divergence_is_its_formula(kind: str, temperature: float):
    z, p = rows(0), rows(1).softmax(-1)
    value = divergence(z, p, kind, temperature, LAMBDA).item()
    assert value == pytest.approx(row_by_row(z, p, kind, temperature), rel=1e-10)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("kind", DIVERGENCES)
def test_every_divergence_is_zero_at_equality_only(kind: str, temperature: float):
    z = rows(0).requires_grad_()
    at_equality = divergence(z, z.detach().softmax(-1), kind, temperature, LAMBDA)
    at_equality.backward()
    assert at_equality.item() == pytest.approx(0, abs=1e-14)
    assert z.grad.abs().max() < 1e-12  # a minimum
    for seed in range(1, 20):
        assert divergence(z.detach(), rows(seed, 3.0).softmax(-1), kind, temperature, LAMBDA).item() > 1e-3


@pytest.mark.parametrize("kind", DIVERGENCES)
def test_gradients_are_those_of_finite_differences(kind: str):
    z, p = rows(0)[:3].requires_grad_(), rows(1)[:3].softmax(-1)
    assert torch.autograd.gradcheck(lambda z: divergence(z, p, kind, 2.0, LAMBDA), z, eps=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", DIVERGENCES)
def test_a_teacher_on_the_grid_and_a_sure_student_stay_finite(kind: str):
    teacher = torch.zeros(2, 50)
    teacher[0, 3], teacher[1, :2] = 1.0, 0.5
    logits = torch.zeros(2, 50)
    logits[:, 7] = 300.0  # every other probability underflows in float32
    logits.requires_grad_()
    value = divergence(logits, teacher, kind, 1.0, 0.1)
    value.backward()
    assert math.isfinite(value.item())
    assert value.item() > 0
    assert torch.isfinite(logits.grad).all()


def test_the_limits_that_the_papers_state():
    z, p = rows(0), rows(1).softmax(-1)
    forward, reverse = (divergence(z, p, kind).item() for kind in ("forward", "reverse"))
    small = 1e-7
    assert divergence(z, p, "skew", skew=small).item() == pytest.approx(forward, rel=1e-5)
    assert divergence(z, p, "skew_reverse", skew=small).item() == pytest.approx(reverse, rel=1e-5)
    # GKD, section 3: JSD(β)/β → KL(p ‖ q) as β → 0, and KL(q ‖ p) at the other end.
    assert divergence(z, p, "jsd", skew=small).item() / small == pytest.approx(forward, rel=1e-5)
    assert divergence(z, p, "jsd", skew=1 - small).item() / small == pytest.approx(reverse, rel=1e-5)
    assert divergence(z, p, "jsd", skew=0.5).item() <= math.log(2)
    half = divergence(p.log(), z.softmax(-1), "jsd", skew=0.5).item()
    assert half == pytest.approx(divergence(z, p, "jsd", skew=0.5).item(), rel=1e-12)  # symmetric


@pytest.mark.parametrize("kind", OTHERS)
def test_t_squared_keeps_the_gradient_of_every_divergence(kind: str):
    norms = []
    for t in (4.0, 8.0, 100.0):
        z = rows(0).requires_grad_()
        divergence(z, rows(1).softmax(-1), kind, t, LAMBDA).backward()
        norms.append(z.grad.norm().item())
    assert max(norms) < 1.2 * min(norms)
    with pytest.raises(ValueError, match="sideways"):
        divergence(z, rows(1).softmax(-1), "sideways")


# Inner terms --------------------------------------------------------------------------------------


def test_feature_error_is_the_mean_over_what_is_known_whatever_the_batches():
    mapped, embedding = torch.randn(8, 3), torch.randn(8, 3)
    known = torch.tensor([True, False, True, True, False, False, True, False])
    expected = ((mapped - embedding)[known] ** 2).mean()
    parts = [
        losses.feature_mse(mapped[p], embedding[p], known[p], float(known.float().mean()))
        for p in (slice(0, 4), slice(4, 8))
    ]
    torch.testing.assert_close(torch.stack(parts).mean(), expected)


def test_prototype_distance_is_to_the_nearest_of_the_own_group():
    mapped, centroids = torch.randn(6, 3, requires_grad=True), torch.randn(5, 3)
    of_group, confidence = torch.tensor([0, 0, 1, 3, 3]), torch.tensor([0.2, 0.4, 0.6, 0.8, 1.0])
    groups = torch.tensor([0, 1, 2, 3, -1, 0])  # there is no prototype of group 2
    expected = 0.0
    for row, group in zip(mapped.detach(), groups.tolist(), strict=True):
        own = [j for j in range(5) if of_group[j] == group]
        if own:
            best = min(own, key=lambda j: float((row - centroids[j]).pow(2).mean()))
            expected += float(confidence[best] * (row - centroids[best]).pow(2).mean()) / 6
    found = losses.prototype_distance(mapped, groups, centroids, of_group, confidence)
    assert found.item() == pytest.approx(expected)
    found.backward()
    assert mapped.grad is not None and mapped.grad.isfinite().all()
    assert not mapped.grad[[2, 4]].any() and mapped.grad[[0, 1, 3, 5]].any(1).all()
