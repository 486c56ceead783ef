"""Energy, from counted operations and how many of them a device gets out of a joule.

    energy/participants_j   joules of the round's participants: Σ operations ÷ `flops_per_joule` of the device
    energy/coordinator_j    joules of the coordinator
    energy/co2e_g           both in kWh × `evaluation.co2e_g_per_kwh`

It is the energy of the institutions' own machines, like virtual time, not that of the machine that
simulates them. Links, idle machines and cooling are not in it; `flops_per_joule` can be set lower for the
last (divide by the PUE). Devices without `flops_per_joule` make it unknown, and nothing is said.
"""

from __future__ import annotations

from collections.abc import Mapping

from fedsim.config import RunConfig
from fedsim.errors import ConfigError

JOULES_PER_KWH = 3.6e6


def check(config: RunConfig) -> None:
    """Raise ConfigError where CO₂e is asked for and energy isn't known."""
    grams, devices = config.evaluation.co2e_g_per_kwh, (*config.participants.devices, config.student.device)
    if grams is not None and any(device.flops_per_joule is None for device in devices):
        expected = "null, or flops_per_joule for each of participants.devices and for student.device"
        raise ConfigError("evaluation.co2e_g_per_kwh", grams, expected)


def counted(config: RunConfig, operations: Mapping[int, float], coordinator: float) -> dict[str, float]:
    """One round's measures.   operations: participant → what it computed."""
    devices, central = config.participants.devices, config.student.device.flops_per_joule
    efficiency = {who: devices[who % len(devices)].flops_per_joule for who in operations}
    known = {who: each for who, each in efficiency.items() if each is not None}
    if central is None or len(known) < len(efficiency):
        return {}
    joules = {
        "energy/participants_j": sum(operations[who] / known[who] for who in sorted(known)),
        "energy/coordinator_j": coordinator / central,
    }
    grams = config.evaluation.co2e_g_per_kwh
    if grams is None:
        return joules
    return {**joules, "energy/co2e_g": sum(joules.values()) / JOULES_PER_KWH * grams}
