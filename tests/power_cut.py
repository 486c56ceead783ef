"""A process that ends in the middle of a run, without ending the tests'."""

from fedsim.executor import InProcess


class Dies(InProcess):
    """The power is cut in round 2: every state is written, the round is not committed."""

    def close(self, lane, round, *rest):
        closing = super().close(lane, round, *rest)
        if round == 2:
            raise OSError("power cut")
        return closing
