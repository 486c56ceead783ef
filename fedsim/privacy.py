"""What training with differential privacy spends, and how much noise an ε needs.

A participant with `participants.privacy` trains by DP-SGD (Abadi et al., arXiv 1607.00133): a step takes
every private example with probability q = batch_size ÷ n_k, clips its gradient to C, and adds normal noise
of standard deviation σC to the sum. Two data sets are neighbours if one holds one example more (add or
remove). An example is an image, a pair of image and caption, or a window of text: a document of m windows
has m times the ε.

All that a participant sends afterwards (answers, features of the proxy set, parameters) is made of its model
and of public data, and so costs nothing more. What is made of the private examples themselves, densities and
prototypes, is refused. The accountants are Opacus' (extra `privacy`): RDP (Mironov, arXiv
1702.07476) and PRV (Gopi et al., arXiv 2106.02848), which is tighter and slower. σ is solved for all steps of
all rounds; who is not asked in some rounds spends less.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

from fedsim.config import Privacy, RunConfig
from fedsim.errors import ConfigError
from fedsim.extras import install

ORDERS = (*(1 + k / 10 for k in range(1, 100)), *range(12, 64), 64, 80, 96, 128, 192, 256, 384, 512)
"""Of the Rényi divergence: what the RDP accountant takes the best of."""


def check_installed(config: RunConfig) -> None:
    """Raise ConfigError where there is no accountant."""
    if config.participants.privacy is not None and find_spec("opacus") is None:
        raise ConfigError("participants.privacy", "set", install("privacy"))


def check_shards(config: RunConfig, sizes: Sequence[int]) -> None:
    """Raise ConfigError where the smallest shard is too small for a batch, or for the ε.

    sizes: training examples of each participant.
    """
    people = config.participants
    privacy, training, smallest = people.privacy, people.training, min(sizes)
    if privacy is None:
        return
    if training.batch_size > smallest:
        raise ConfigError(
            "participants.training.batch_size",
            training.batch_size,
            f"at most {smallest}, the smallest shard: with participants.privacy it is the mean of a draw",
        )
    noise_for(privacy, training.batch_size / smallest, training.steps * config.rounds)


@lru_cache(maxsize=4096)
def noise_for(privacy: Privacy, rate: float, steps: int) -> float:
    """σ, the standard deviation of the noise ÷ clip, for `steps` steps with examples drawn at `rate`.

    Raises ConfigError where no noise is enough for the ε.
    """
    if privacy.noise is not None or not steps:
        return privacy.noise or 0.0
    from opacus.accountants.utils import get_noise_multiplier

    target = privacy.epsilon
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found: float = get_noise_multiplier(
                target_epsilon=target,
                target_delta=privacy.delta,
                sample_rate=rate,
                steps=steps,
                accountant=privacy.accountant,
                epsilon_tolerance=0.005 * target if target is not None else 0.0,
                **_orders(privacy),
            )
    except (ValueError, RuntimeError, OverflowError):
        expected = (
            f"more: no noise is enough for {steps} steps in which an example is drawn with {rate:.3g} "
            f"(δ {privacy.delta:g}, accountant {privacy.accountant})"
        )
        raise ConfigError("participants.privacy.epsilon", target, expected) from None
    return found


@lru_cache(maxsize=4096)
def spent(privacy: Privacy, noise: float, rate: float, steps: int) -> float:
    """ε at the config's δ after `steps` steps with noise σ and examples drawn at `rate`."""
    if not steps:
        return 0.0
    from opacus.accountants import create_accountant

    accountant = create_accountant(mechanism=privacy.accountant)
    accountant.history = [(noise, rate, steps)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of orders at the end of the list: the bound holds all the same
        return float(accountant.get_epsilon(delta=privacy.delta, **_orders(privacy)))


def _orders(privacy: Privacy) -> dict[str, Any]:
    return {"alphas": list(ORDERS)} if privacy.accountant == "rdp" else {}
