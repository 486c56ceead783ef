"""Sweeps: one question asked of many runs, from one file to one report.

    sweep = sweeps.load("experiments/sweeps/quick.yaml")
    outcome = sweeps.run(sweep)
    outcome.table  # a DataFrame: one row per trial

`config` is what a sweep is, `trials` what it expands to, `states` how far they are, `run` its folder and its
end, `table` what a terminal shows of it; where trials run is `fedsim.runtime.tune`.
"""

from fedsim.sweeps.config import SweepConfig, is_sweep, load
from fedsim.sweeps.run import Outcome, run
from fedsim.sweeps.table import over_seeds
from fedsim.sweeps.trials import Trial, check, expand

__all__ = ["Outcome", "SweepConfig", "Trial", "check", "expand", "is_sweep", "load", "over_seeds", "run"]
