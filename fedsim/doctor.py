"""`fedsim doctor`: is everything here, does it work, and how is what is missing mended?

Every check tries the real thing (starts Ray, steps a DeepSpeed engine), because an import that
succeeds says little.
"""

from __future__ import annotations

import multiprocessing
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fedsim.extras import install


@dataclass(frozen=True)
class Finding:
    """What a check found: `ok`, or not; `needed` is False where the project works without it."""

    ok: bool
    text: str
    mend: str = ""
    needed: bool = True


def examine() -> int:
    """Run all checks, print a line for each; 1 if something needed is missing, else 0."""
    failed = False
    for name, check in CHECKS.items():
        try:
            finding = check()
        except ImportError as error:
            finding = Finding(False, str(error), install("run"))
        except Exception as error:
            finding = Finding(False, f"{type(error).__name__}: {error}", "reinstall: `make setup`")
        mark = "ok  " if finding.ok else ("FAIL" if finding.needed else "note")
        print(f"{mark}  {name:<10} {finding.text}", flush=True)
        if not finding.ok and finding.mend:
            print(f"      {'':<10} → {finding.mend}")
        failed |= finding.needed and not finding.ok
    return 1 if failed else 0


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    return Finding(sys.version_info >= (3, 11), f"Python {found}", "install Python 3.11 or newer")


def _libraries() -> Finding:
    names = ("torch", "transformers", "deepspeed", "ray", "datasets", "pyarrow", "plotly")
    found = ", ".join(f"{n} {version(n)}" for n in names)
    return Finding(True, found)


def _ray() -> Finding:
    return _in_process(_start_ray, "a Ray instance starts and runs a task", "see the log in the temp folder")


def _deepspeed() -> Finding:
    return _in_process(_step_engine, "a DeepSpeed engine trains", "pip install -c constraints.txt deepspeed")


def _compiler() -> Finding:
    missing = [tool for tool in ("c++", "ninja") if shutil.which(tool) is None]
    text = f"{' and '.join(missing)} not on PATH" if missing else "c++ and ninja on PATH"
    mend = "needed only for `student.engine.optimizer: fused`; install g++ and ninja"
    return Finding(not missing, text, mend, needed=False)


def _gpu() -> Finding:
    import torch

    count = torch.cuda.device_count()
    names = ", ".join(torch.cuda.get_device_name(k) for k in range(count))
    mend = "runs on the CPU; for GPUs install the CUDA build of torch and a driver"
    return Finding(count > 0, names or "none visible", mend, needed=False)


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    return Finding(free > 2, f"{free:.0f} GiB free here", "make room: checkpoints and Ray need about 2 GiB")


def _in_process(job: Callable[[Any], None], text: str, mend: str) -> Finding:
    """Try it in a process of its own, so that nothing is left behind in this one."""
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    process = context.Process(target=_guarded, args=(job, answers))
    process.start()
    process.join(120)
    if process.is_alive():
        process.kill()
        return Finding(False, "no answer within 120 s", mend)
    answer = answers.get() if not answers.empty() else f"the process died ({process.exitcode})"
    return Finding(answer is None, text if answer is None else answer, mend)


def _guarded(job: Callable[[Any], None], answers: Any) -> None:
    try:
        job(answers)
        answers.put(None)
    except Exception as error:
        answers.put(f"{type(error).__name__}: {error}"[:300])


def _start_ray(_: Any) -> None:
    from fedsim import runtime
    from fedsim.config import RunConfig

    runtime.guard(None)
    from fedsim.runtime.cluster import connect, probe

    cluster = connect(RunConfig())
    try:
        probe()
    finally:
        cluster.close()


def _step_engine(_: Any) -> None:
    import torch

    from fedsim.config import Engine, Training
    from fedsim.student.deepspeed import DeepSpeedEngine, free_port, join, leave

    join(0, 1, "127.0.0.1", free_port())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    engine = DeepSpeedEngine(torch.nn.Linear(2, 1), Training(), Engine(), device)
    engine.step(engine.forward(input=torch.ones(1, 2, device=device)).sum(), 1e-3)
    leave()


CHECKS: dict[str, Callable[[], Finding]] = {
    "python": _python,
    "libraries": _libraries,
    "ray": _ray,
    "deepspeed": _deepspeed,
    "compiler": _compiler,
    "gpu": _gpu,
    "disk": _disk,
}
