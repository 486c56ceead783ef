"""Loading result folders: 1,000 runs of 50 rounds in less than 10 s and less than 1 GiB; the report of half
of them, and one of 500 trials with a setting each, which opens in less than 2 s.

The folders are copies of one real run (five contenders, five institutions), its first round repeated until
the last is the 50th, with a hundred seeds and ten settings; or with 500 settings.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks import browser
from fedsim import loading, results, simulation
from fedsim.executor import InProcess

RUNS, ROUNDS, TRIALS = 1000, 50, 500
SECONDS, MEBIBYTES, OPEN = 10.0, 1024.0, 2.0
_MEASURE = """
import re, sys, time
from pathlib import Path
import analysis

def peak():  # not getrusage: it begins at what the parent held
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

idle = peak()
wall, cpu = time.perf_counter(), time.process_time()
tables = analysis.load(sorted(Path(sys.argv[1]).iterdir()), columns=eval(sys.argv[2]))
names = ("rounds", "participants", "messages", "sections", "measures", "partition")
rows = sum(len(getattr(tables, name)) for name in names)
print(time.perf_counter() - wall, time.process_time() - cpu, peak(), idle, rows)
"""

_FLOOR = """
import sys, time
from pathlib import Path
import pyarrow.parquet as pq

wall = time.perf_counter()
for path in Path(sys.argv[1]).glob("*/*.parquet"):
    pq.ParquetFile(path).read(use_threads=False)
print(time.perf_counter() - wall)
"""

_REPORT = """
import sys, time
from pathlib import Path
import analysis

wall, cpu = time.perf_counter(), time.process_time()
path = analysis.write(sorted(Path(sys.argv[1]).iterdir())[::int(sys.argv[3])], sys.argv[2])
print(time.perf_counter() - wall, time.process_time() - cpu, path.stat().st_size / 1e6)
"""


def main() -> None:
    """Print what it takes to load all tables, a curve's columns and the files alone, and to write reports."""
    with tempfile.TemporaryDirectory(prefix="fedsim-bench-") as name:
        folder = Path(name)
        original, runs = _real(folder / "original"), folder / "runs"
        for number in range(RUNS):
            _copy(original, runs / f"run-{number:04d}", number // 10, 0.1 * (1 + number % 10))
        print(f"\nloading {RUNS:,} runs of {ROUNDS} rounds (limits: {SECONDS:.0f} s, {MEBIBYTES:.0f} MiB)")
        print(f"{'':<24}{'rows':>12}{'s':>9}{'CPU s':>9}{'MiB':>9}{'idle MiB':>10}")
        curve = {"rounds": ["method", "algorithm", "round", "metric", "higher_is_better", "score"]}
        for what, columns in (("all tables", None), ("one curve's columns", curve)):
            code = [sys.executable, "-c", _MEASURE, str(runs), repr(columns)]
            done = subprocess.run(code, check=True, capture_output=True, text=True)
            wall, cpu, peak, idle, rows = map(float, done.stdout.split())
            print(f"{what:<24}{rows:>12,.0f}{wall:>9.2f}{cpu:>9.2f}{peak:>9.0f}{idle:>10.0f}")
        code = [sys.executable, "-c", _FLOOR, str(runs)]
        floor = float(subprocess.run(code, check=True, capture_output=True, text=True).stdout)
        print(f"{'PyArrow alone, one by one':<36}{floor:>9.2f}")
        _report(runs, folder / "report.html", 2, f"{RUNS // 2} runs of ten settings")
        trials = folder / "trials"
        for number in range(TRIALS):
            _copy(original, trials / f"run-{number:04d}", 0, 0.01 * (1 + number))
        _report(trials, folder / "trials.html", 1, f"{TRIALS} trials with a setting each")
        _open(folder / "trials.html")


def _report(runs: Path, page: Path, step: int, what: str) -> None:
    code = [sys.executable, "-c", _REPORT, str(runs), str(page), str(step)]
    done = subprocess.run(code, check=True, capture_output=True, text=True)
    wall, cpu, size = map(float, done.stdout.split())
    print(f"report of {what}: {wall:.1f} s, {cpu:.1f} CPU s, {size:.1f} MB")


def _open(page: Path) -> None:
    """Print what opening takes until all figures in sight are drawn, the median of five."""
    program = browser.find()
    if program is None:
        print("opening it: not measured, no chromium was found")
        return
    with browser.Browser(program) as chromium:
        seconds = [chromium.open(page) for _ in range(5)]
    usual = statistics.median(seconds)
    print(f"opening it: {usual:.2f} s, the first time {seconds[0]:.2f} s (limit: {OPEN:.0f} s)")


def _real(folder: Path) -> Path:
    """A run of two rounds, small enough to be made here."""
    training = {"steps": 2, "batch_size": 8}
    names = ("federated_distillation", "fedavg", "centralized", "proxy_only", "solo")
    tree = {
        "name": "original", "rounds": 2, "output": str(folder),
        "data": {"source": "synthetic", "max_examples": 600, "image_size": 8, "proxy_labelled": True},
        "participants": {"count": 5, "models": ["mlp"], "training": training},
        "student": {"model": "mlp", "training": training},
        "methods": [{"name": name, "specialists": "student"} for name in names],
    }  # fmt: skip
    return Path(str(simulation.run(loading.load(tree), executor=InProcess()).folder))


def _copy(original: Path, target: Path, seed: int, alpha: float) -> None:
    """The run with its first round repeated, under another seed and setting.

    The last stays the last: more is measured of it than of the others.
    """
    target.mkdir(parents=True)
    for name in results.TABLES:
        table = pq.read_table(original / f"{name}.parquet")
        if "round" in table.column_names:
            first = table.filter(pc.equal(table["round"], 1))
            last = _with(table.filter(pc.equal(table["round"], 2)), "round", ROUNDS)
            more = [_with(first, "round", r) for r in range(2, ROUNDS)]
            table = pa.concat_tables([table.filter(pc.less(table["round"], 2)), *more, last])
        if "seed" in table.column_names:
            table = _with(table, "seed", seed)
        pq.write_table(table.cast(results.schema(name)), target / f"{name}.parquet")
    config = (original / "config.yaml").read_text(encoding="utf-8")
    config = config.replace("\nseed: 0\n", f"\nseed: {seed}\n").replace("alpha: 0.5\n", f"alpha: {alpha:g}\n")
    (target / "config.yaml").write_text(config, encoding="utf-8")
    for name in ("summary.json", "manifest.json"):
        (target / name).write_bytes((original / name).read_bytes())


def _with(table: pa.Table, column: str, value: int) -> pa.Table:
    place = table.column_names.index(column)
    return table.set_column(place, column, pa.array([value] * len(table), pa.int64()))


if __name__ == "__main__":
    main()
