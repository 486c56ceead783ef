"""What is installed: looking at results needs the base alone, runs need the extra `run`."""

from __future__ import annotations

from importlib.util import find_spec

from fedsim.errors import NotInstalledError

RUN = (
    "PIL", "datasets", "deepspeed", "psutil", "ray", "rich", "safetensors", "sklearn", "threadpoolctl",
    "tokenizers", "torch", "transformers",
)  # fmt: skip
"""What the extra brings, as it is imported."""


def require_run(what: str) -> None:
    """Raise NotInstalledError, in which `what` asks for it, where the extra `run` is not all there."""
    missing = [name for name in RUN if find_spec(name) is None]
    if missing:
        raise NotInstalledError(f"{what} needs {', '.join(missing)}: {install('run')}")


def install(extra: str) -> str:
    """How to add an extra. From where the code is: the index knows another project by our name."""
    return f"pip install -c constraints.txt -e '.[{extra}]' in fedsim's repository"
