"""From the tables of a run to figures and a report; imports neither torch nor ray.

tables = analysis.load(["runs/a", "runs/b"])     # or one folder
figures.final_scores(tables.summary).show()
report.write("runs/a", "runs/a/report.html")
"""

from analysis.load import AnalysisError, NoDataError, Run, Tables, load
from analysis.report import write

__all__ = ["AnalysisError", "NoDataError", "Run", "Tables", "load", "write"]
