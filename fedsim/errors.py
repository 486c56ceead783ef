"""The errors a user can meet. Each says in one line what is wrong and what would be right."""

from __future__ import annotations


class FedsimError(Exception):
    """Base of every error that is shown without a traceback."""


class ConfigError(FedsimError):
    """A field of the configuration is wrong; found before any actor starts (exit status 2)."""

    def __init__(self, field: str, value: object, expected: str) -> None:
        self.field, self.value, self.expected = field, value, expected
        super().__init__(f"{field}: {_short(value)} is not valid; expected {expected}")

    def __reduce__(self) -> tuple[object, ...]:
        """Survive a trip between processes with all arguments."""
        return type(self), (self.field, self.value, self.expected)


class NotInstalledError(FedsimError):
    """A library is missing that an extra would have brought (exit status 2)."""


class MessageError(FedsimError):
    """A message is truncated, corrupted, oversized or carries values that can't be.

    `reason` is one of `REASONS`, so that events can be counted by it.
    """

    REASONS = ("truncated", "corrupted", "oversized", "non-finite", "off-simplex", "unexpected")

    def __init__(self, reason: str, detail: str) -> None:
        if reason not in self.REASONS:
            raise ValueError(f"unknown reason {reason!r}")
        self.reason = reason
        super().__init__(f"{reason}: {detail}")

    def __reduce__(self) -> tuple[object, ...]:
        """Survive a trip between processes with both arguments."""
        return type(self), (self.reason, str(self).split(": ", 1)[1])


class RunError(FedsimError):
    """The run can't go on; the folder is left so that `--resume` continues it (exit status 1)."""


class CoordinatorLostError(RunError):
    """A coordinator's process died, or a message was lost with its machine or removed from its shared memory;
    another coordinator can take its place and begin at the last round."""


class DivergedError(RunError):
    """Training has left the finite numbers."""


def _short(value: object, limit: int = 80) -> str:
    text = repr(value)
    half = (limit - 1) // 2  # both ends: that of a path says more than its beginning
    return text if len(text) <= limit else f"{text[:half]}…{text[-half:]}"
