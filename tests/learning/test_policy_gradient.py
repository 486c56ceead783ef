"""The policy gradient against the reverse KL of a model small enough to enumerate: V = 3, T = 3."""

import itertools

import numpy as np
import pytest
import torch

from fedsim.learning import policy_gradient, returns

V, T = 3, 3
SEQUENCES = list(itertools.product(range(V), repeat=T))
PREFIXES = [prefix for t in range(T) for prefix in itertools.product(range(V), repeat=t)]
OFFSETS = np.arange(len(SEQUENCES) + 1) * T
ROWS = np.array([[PREFIXES.index(y[:t]) for t in range(T)] for y in SEQUENCES])
TOKENS = np.array(SEQUENCES)


def tables(seed: int) -> np.ndarray:
    """Logits of the next token after every prefix, [13, V]."""
    return np.random.default_rng(seed).normal(0, 1, (len(PREFIXES), V))


def log_probs(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def reverse_kl(student: np.ndarray, teacher: np.ndarray) -> float:
    """Σ_y q(y) (log q(y) − log p(y)) over whole sequences, each log-probability a sum over its steps."""
    log_q, log_p = log_probs(student), log_probs(teacher)
    total = 0.0
    for y in SEQUENCES:
        path = [(PREFIXES.index(y[:t]), y[t]) for t in range(T)]
        of_q, of_p = (sum(table[step] for step in path) for table in (log_q, log_p))
        total += np.exp(of_q) * (of_q - of_p)
    return total


def by_differences(student: np.ndarray, teacher: np.ndarray, step: float = 1e-5) -> np.ndarray:
    gradient = np.zeros_like(student)
    for at in np.ndindex(student.shape):
        up, down = student.copy(), student.copy()
        up[at] += step
        down[at] -= step
        gradient[at] = (reverse_kl(up, teacher) - reverse_kl(down, teacher)) / (2 * step)
    return gradient


def by_policy(student: np.ndarray, teacher: np.ndarray, reward: str, single: str) -> np.ndarray:
    """The expected gradient: every sequence once, weighted by its probability under the student."""
    logits = torch.tensor(student, requires_grad=True)
    log_q, log_p = log_probs(student)[ROWS, TOKENS].ravel(), log_probs(teacher)[ROWS, TOKENS].ravel()
    earned = returns.rewards(log_p, log_q)
    advantages = {
        "R_t": returns.to_go(earned, OFFSETS),
        "R_t − 1": returns.to_go(earned, OFFSETS) - 1,
        "R_t+1": returns.long_term(earned, OFFSETS),
        "r_t and R_t+1": earned + returns.long_term(earned, OFFSETS),
    }[reward]
    of_sequence = np.exp(log_q.reshape(-1, T).sum(1))
    weights = torch.tensor(np.repeat(of_sequence, T))
    rows = logits[torch.tensor(ROWS.ravel())]
    tokens, old, earns = (torch.tensor(v)[:, None] for v in (TOKENS.ravel(), log_q, advantages))
    loss = policy_gradient.sampled(rows, tokens, old, earns, clip=0.2)
    of_q, of_p = (torch.tensor(log_probs(table)[ROWS.ravel()]) for table in (student, teacher))
    if single == "exact":
        loss = loss + policy_gradient.single_step(rows, of_p.exp())
    if single == "drawn":  # every token once, as often as it is drawn
        every = torch.arange(V).expand(len(rows), V)
        loss = loss + policy_gradient.sampled(rows, every, of_q, V * of_q.exp() * (of_p - of_q), clip=0.2)
    (weights * loss).sum().backward()
    return logits.grad.numpy()


DECOMPOSITIONS = [
    ("R_t", "none"),
    ("R_t − 1", "none"),
    ("r_t and R_t+1", "none"),
    ("R_t+1", "exact"),
    ("R_t+1", "drawn"),
]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("reward, single", DECOMPOSITIONS)
def test_each_decomposition_has_the_gradient_of_the_reverse_kl(reward: str, single: str, seed: int):
    student, teacher = tables(seed), tables(100 + seed)
    np.testing.assert_allclose(
        by_policy(student, teacher, reward, single), by_differences(student, teacher), atol=1e-6
    )


@pytest.mark.parametrize("single", ["exact", "drawn"])
def test_a_single_step_beside_rewards_that_hold_it_too_counts_it_twice(single: str):
    student, teacher = tables(0), tables(100)
    wrong, right = by_policy(student, teacher, "R_t", single), by_differences(student, teacher)
    assert np.abs(wrong - right).max() > 0.05


def test_draws_earn_what_they_earn_beside_the_others():
    rewards = np.random.default_rng(0).normal(0, 1, (50, 4))
    earned = returns.among(rewards)
    for j in range(4):
        others = np.delete(rewards, j, axis=1).mean(1)
        np.testing.assert_allclose(earned[:, j], rewards[:, j] - others, atol=1e-12)
    assert np.array_equal(returns.among(rewards[:, :1]), rewards[:, :1])


def test_the_exact_step_alone_leaves_out_what_comes_later():
    student, teacher = tables(0), tables(100)
    logits = torch.tensor(student, requires_grad=True)
    q = np.exp(log_probs(student)[ROWS, TOKENS].sum(1))
    rows, p = logits[torch.tensor(ROWS.ravel())], np.exp(log_probs(teacher))[ROWS.ravel()]
    (torch.tensor(np.repeat(q, T)) * policy_gradient.single_step(rows, torch.tensor(p))).sum().backward()
    assert np.abs(logits.grad.numpy() - by_differences(student, teacher)).max() > 0.05


def test_rewards_sampled_from_both_are_weighted_back_to_the_student():
    # One step, exact: E_mixture[w f] = E_q[f].
    q, p = np.array([0.7, 0.2, 0.1]), np.array([0.1, 0.3, 0.6])
    for mixing in (0.0, 0.2, 0.6):
        w = returns.mixed_weights(np.log(q), np.log(p), mixing)
        np.testing.assert_allclose((mixing * p + (1 - mixing) * q) * w, q, atol=1e-12)


def test_a_student_that_equals_its_teacher_has_weight_one_and_nothing_to_gain():
    log_q = np.log([0.5, 0.25, 0.25])
    assert np.array_equal(returns.mixed_weights(log_q, log_q, 0.2), np.ones(3))
    assert not returns.rewards(log_q, log_q).any()


def test_weights_and_rewards_of_absurd_tokens_are_bounded():
    never, surely = np.array([-300.0]), np.array([0.0])
    assert returns.mixed_weights(surely, never, 0.9) == returns.MAX_WEIGHT
    assert returns.rewards(never, surely) == -returns.MAX_REWARD


def test_what_comes_after_is_summed_within_each_sequence():
    rewards, offsets = np.array([1.0, 2, 4, 10, 20]), np.array([0, 3, 5])
    assert returns.to_go(rewards, offsets).tolist() == [7, 6, 4, 30, 20]
    assert returns.long_term(rewards, offsets).tolist() == [6, 4, 0, 20, 0]
    assert returns.long_term(rewards, offsets, per_token=True).tolist() == [3, 4, 0, 20, 0]
    # γ^{t′−t−1} r_{t′}: the next token counts in full.
    assert returns.long_term(rewards, offsets, gamma=0.5).tolist() == [4, 4, 0, 20, 0]
    assert returns.remaining(offsets).tolist() == [2, 1, 0, 1, 0]


def test_the_loss_pushes_nothing_past_the_clip():
    tokens, advantages = torch.tensor([[0], [0]]), torch.tensor([[1.0], [-1.0]])
    logits = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], requires_grad=True)  # moved as the reward wanted
    old = torch.log(torch.tensor([[0.5], [0.5]]))
    policy_gradient.sampled(logits, tokens, old, advantages, clip=0.2).sum().backward()
    assert not logits.grad.any()
    back = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], requires_grad=True)  # moved the wrong way
    policy_gradient.sampled(back, tokens, old, advantages, clip=0.2).sum().backward()
    assert (back.grad.abs().sum(1) > 0).all()


def test_whitened_values_have_mean_zero_and_variance_one():
    values = returns.whitened(np.array([3.0, 5, 10, -2]))
    assert values.mean() == pytest.approx(0) and values.std() == pytest.approx(1)
