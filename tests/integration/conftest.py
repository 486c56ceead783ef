"""Whole runs of tiny configs, each in a process of its own as a user starts it.

A command gets a private TMPDIR and a session of its own, so that everything it starts can be found
again: after each one, no process of its session and none of its Ray folders may be left. Runs that
several tests compare with are made once.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml

from fedsim import simulation
from fedsim.disk.storage import AnyPath

OURS = """
  - name: federated_distillation
    digest_batch: 4
    features: {weight: 0.5, depths: [0.5, 1.0], rank: 4}
    prototypes: {weight: 0.5, per_group: 2}
    adaptation: true
    weights: density
    confidence: 1
"""
DIGITS = (
    """
name: tiny-digits
rounds: 3
data: {source: digits, max_examples: 400, split: {test: 0.2, validation: 0.1, proxy: 0.2}}
participants:
  count: 5
  models: [vit-micro, vit-tiny]
  partition: {alpha: 1.0}
  training: {steps: 3, batch_size: 8}
student:
  model: vit-tiny
  training: {steps: 4, batch_size: 8}
runtime: {executor: in_process}
methods:"""
    + OURS
    + """\
  - {name: federated_distillation, label: readout, readout: {}}
  - {name: fedavg, specialists: student}
  - solo
  - centralized
"""
)
DISTIL = (
    """
base: digits.yaml
name: tiny-distil
methods:"""
    + OURS
)
TEXT = """
name: tiny-text
rounds: 2
data:
  source: stdlib
  max_examples: 300
  vocabulary: 300
  window: 16
  split: {test: 0.05, validation: 0.05, proxy: 0.1}
participants:
  count: 3
  models: [llama-tiny, pythia-tiny]
  partition: {alpha: 1.0}
  training: {steps: 2, batch_size: 8}
student:
  model: llama-tiny
  training: {steps: 3, batch_size: 8}
pretraining: {steps: 2}
runtime: {executor: in_process}
methods:
  - name: federated_distillation
    levels: 15
    quantiser: systematic
    confidence: 4
    proxy_per_round: 0.2
    digest_batch: 4
  - proxy_only
  - solo
"""
SEQUENCES = """
base: text.yaml
name: tiny-sequences
methods:
  - {name: fl_minillm, prompt: 4, longest: 8, sequences: 12, draws: 4, batch: 4}
"""

# Of the rounds table, what the seed decides; the rest is measured time and memory.
DECIDED = [
    "method", "algorithm", "seed", "round", "metric", "higher_is_better", "score", "loss", "learn_loss",
    "learn_response", "learn_task", "learn_feature", "learn_prototype",
    "bytes_up", "bytes_down", "virtual_s", "flops_participants", "flops_coordinator", "planned", "delivered",
]  # fmt: skip


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    status: int
    out: str
    err: str


class Command:
    """A command at work, with everything that it starts.

    temp: its TMPDIR, empty but for what it makes.   process: its own process.
    """

    def __init__(self, arguments: list[str], temp: Path) -> None:
        self.temp = temp
        # A cluster or a token of the user's must not be joined, nor a terminal's size matter.
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("RAY_") and k != "COLUMNS"}
        environment = {**inherited, "TMPDIR": str(temp), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        with self._log("out").open("w") as out, self._log("err").open("w") as err:
            self.process = subprocess.Popen(
                arguments, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                start_new_session=True, preexec_fn=_heed_sigint,
            )  # fmt: skip

    def text(self, stream: str) -> str:
        """What it has written to `out` or `err` so far."""
        return self._log(stream).read_text(encoding="utf-8", errors="replace")

    def wait_for(self, path: AnyPath, seconds: float = 200) -> None:
        """Until a file appears that the command writes."""
        until = time.monotonic() + seconds
        while not path.exists():
            assert self.process.poll() is None, f"it ended before {path.name} was there: {self.text('err')}"
            assert time.monotonic() < until, f"no {path.name} after {seconds} s: {self.text('err')}"
            time.sleep(0.05)

    def end(self, seconds: float = 280) -> Done:
        """Wait until it has ended; nothing that it started may be left."""
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill_all()
            raise
        left = self.left(patience=30)  # Ray's agents look for their parent now and then
        folders = self.folders()
        self.kill_all()
        assert not left, f"still running: {left}"
        assert not folders, f"left behind: {folders}"
        return Done(status, self.text("out"), self.text("err"))

    def left(self, patience: float = 0) -> dict[int, str]:
        """Processes of its session that are still there after `patience` seconds: pid → command line."""
        until = time.monotonic() + patience
        while True:
            found = self._session()
            if not found or time.monotonic() > until:
                return found
            time.sleep(0.1)

    def folders(self) -> list[str]:
        """Folders of private Ray instances in its TMPDIR."""
        return sorted(path.name for path in self.temp.glob("fedsim-*"))

    def kill_all(self) -> None:
        """End what is left of its own session, process by process."""
        for pid in self._session():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(10)

    def _session(self) -> dict[int, str]:
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                # After the name in brackets: state, parent, group, session.
                state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            except OSError:
                continue  # it has just ended
            if state != "Z" and (int(session) == self.process.pid or str(self.temp) in line):
                found[int(entry.name)] = line[:200]
        return found

    def _log(self, stream: str) -> Path:
        return self.temp / f"{stream}.txt"


def _heed_sigint() -> None:
    """A shell lets what it starts in the background ignore SIGINT, these tests among them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Fedsim:
    """The command line, as a user has it."""

    def __init__(self) -> None:
        self._commands: list[Command] = []

    def start(self, *arguments: object, program: tuple[str, ...] = ()) -> Command:
        """Start `python -m fedsim ARGUMENTS` (or another program) and return at once."""
        # Short, because the path of a Unix socket may have 107 characters and Ray puts some here.
        temp = Path(tempfile.mkdtemp(prefix="f", dir="/tmp"))
        program = program or (sys.executable, "-m", "fedsim")
        command = Command([*program, *map(str, arguments)], temp)
        self._commands.append(command)
        return command

    def __call__(self, *arguments: object, status: int = 0, program: tuple[str, ...] = ()) -> Done:
        """Run a command to its end and check its exit status."""
        done = self.start(*arguments, program=program).end()
        assert done.status == status, done.err
        return done

    def clean(self) -> None:
        for command in self._commands:
            command.kill_all()
            shutil.rmtree(command.temp, ignore_errors=True)


@pytest.fixture(scope="session")
def fedsim_command() -> Iterator[Fedsim]:
    """Starts commands: `fedsim_command("run", path, "output=…")`."""
    commands = Fedsim()
    yield commands
    commands.clean()


@dataclass(frozen=True)
class Head:
    """A head of a Ray cluster, started by hand on ports of its own, that asks for a token."""

    command: Command
    address: str
    dashboard: str
    token: Path

    @property
    def access(self) -> dict[str, str]:
        """What a client's environment must hold."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token)}


@pytest.fixture(scope="session")
def ray_program() -> Callable[..., tuple[str, ...]]:
    """`ray_program(environment, "job", "list")`: the command line of Ray's own commands."""

    def program(environment: dict[str, str], *arguments: object) -> tuple[str, ...]:
        variables = [f"{name}={value}" for name, value in environment.items()]
        return ("env", *variables, sys.executable, "-m", "ray.scripts.scripts", *map(str, arguments))

    return program


@pytest.fixture(scope="module")
def start_head(
    fedsim_command: Fedsim, ray_program: Callable, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Head]]:
    """`start_head("--num-cpus=2", environment={…})`; its temporary files lie in its TMPDIR.

    autoscaling: a cluster file's content, whose provider is told the head's address.
    """
    heads = []

    def start(
        *options: str, environment: dict[str, str] | None = None, autoscaling: dict | None = None
    ) -> Head:
        with contextlib.ExitStack() as held:  # all at once, so that they differ
            sockets = [held.enter_context(socket.socket()) for _ in range(4)]
            for each in sockets:
                each.bind(("127.0.0.1", 0))
            port, dashboard, agent, client = (each.getsockname()[1] for each in sockets)
        folder = tmp_path_factory.mktemp("head")
        if autoscaling:
            autoscaling["provider"]["gcs_address"] = f"127.0.0.1:{port}"
            (folder / "cluster.yaml").write_text(yaml.safe_dump(autoscaling))
            options = (*options, f"--autoscaling-config={folder / 'cluster.yaml'}")
        token = folder / "auth_token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # of a job's `python`
        access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "PATH": path}
        command = fedsim_command.start(
            "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}",
            f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}",
            f"--ray-client-server-port={client}", "--disable-usage-stats", *options,
            program=ray_program({**access, **(environment or {})}),
        )  # fmt: skip
        heads.append(command)
        until = time.monotonic() + 60
        while "Ray runtime started" not in command.text("out"):
            assert command.process.poll() is None, command.text("err")
            assert time.monotonic() < until, command.text("out")
            time.sleep(0.1)
        return Head(command, f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}", token)

    yield start
    for head in heads:
        head.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            head.process.wait(20)
        head.kill_all()


@pytest.fixture(scope="session")
def configs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The config files: `digits` (all kinds of methods), `distil` (one of them), `text`, `sequences`."""
    folder = tmp_path_factory.mktemp("configs")
    files = {}
    contents = {"digits": DIGITS, "distil": DISTIL, "text": TEXT, "sequences": SEQUENCES}
    for name, content in contents.items():
        files[name] = folder / f"{name}.yaml"
        files[name].write_text(content)
        assert yaml.safe_load(content)
    return files


@pytest.fixture(scope="session")
def digits_command(
    fedsim_command: Fedsim, configs: dict, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Done]:
    folder = tmp_path_factory.mktemp("runs") / "digits"
    return folder, fedsim_command("run", configs["digits"], f"output={folder}")


@pytest.fixture(scope="session")
def digits_run(digits_command: tuple[Path, Done]) -> Path:
    """The undisturbed digits run, in one process: what every other digits run must equal."""
    return digits_command[0]


@pytest.fixture(scope="session")
def text_run(fedsim_command: Fedsim, configs: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The undisturbed text run, on Ray with two contenders side by side."""
    folder = tmp_path_factory.mktemp("runs") / "text"
    on_ray = ("runtime.executor=ray", "runtime.participants_per_actor=3", "runtime.parallel_methods=2")
    fedsim_command("run", configs["text"], f"output={folder}", *on_ray)
    return folder


@pytest.fixture(scope="session")
def assert_same_results() -> Callable[..., None]:
    """`assert_same_results(folder, reference)`: everything the seed decides, bit for bit.

    methods: contenders to compare; all of the reference if absent.
    """

    def check(folder: AnyPath, reference: AnyPath, methods: tuple[str, ...] = ()) -> None:
        for name, columns in (
            ("rounds", DECIDED),
            ("participants", ["method", "round", "participant", "status", "score", "bytes_up", "bytes_down"]),
            ("messages", None),
        ):
            mine, other = (getattr(simulation.Result(run), name) for run in (folder, reference))
            if methods:
                other = other[other.method.isin(methods)].reset_index(drop=True)
            assert len(mine) == len(other) > 0, name
            for column in columns or other.columns:
                one, two = mine[column].to_numpy(), other[column].to_numpy()
                if one.dtype == np.float64:  # as bits: NaN equals NaN, and 0.1 + 0.2 is not 0.3
                    one, two = one.view(np.int64), two.view(np.int64)
                different = np.flatnonzero(one != two)
                assert not len(different), (
                    f"{name}.{column}: {mine.iloc[different[:3]].to_dict('records')} "
                    f"against {other.iloc[different[:3]].to_dict('records')}"
                )

    return check


@pytest.fixture(scope="session")
def score_of_student() -> Callable[[Path], tuple[float, float]]:
    """(metric, mean loss) of a run's exported student, found with transformers alone: the config's
    test set, the tokens or pixels as the data package makes them, `AutoModel….from_pretrained`."""

    def score(folder: Path) -> tuple[float, float]:
        import torch
        from transformers import AutoModelForCausalLM, AutoModelForImageClassification

        from fedsim.data import federation
        from fedsim.loading import load

        test = federation.build(federation.plan(load(folder / "config.yaml"))).public.test
        text = "input_ids" in test.arrays
        auto = AutoModelForCausalLM if text else AutoModelForImageClassification
        model = auto.from_pretrained(folder / "student").eval()
        with torch.no_grad():
            if text:
                tokens = torch.from_numpy(test.arrays["input_ids"].astype(np.int64))
                logits, answers = model(tokens).logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()
            else:
                pixels = torch.from_numpy(test.arrays["pixel_values"]).float() / 127.5 - 1.0
                logits, answers = model(pixels).logits, torch.from_numpy(test.arrays["labels"])
            loss = torch.nn.functional.cross_entropy(logits.double(), answers).item()
            right = (logits.argmax(-1) == answers).double().mean().item()
        return (float(np.exp(loss)) if text else right), loss

    return score


@pytest.fixture
def clean_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """For runs inside this process: what they set in torch is put back."""
    import torch

    for name in ("DS_ACCELERATOR", "CUBLAS_WORKSPACE_CONFIG", "THP_MEM_ALLOC_ENABLE"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
        monkeypatch.delenv(name)
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(strict)
