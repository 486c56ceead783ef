"""Ray: the cluster, placement, and the actors. The only folder that imports ray."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path


def guard(address: str | None) -> None:
    """Ask for a token on the private Ray instance that this process is about to start.

    Ray's ports listen on every interface, so the token is what keeps others out. Ray reads the
    mode when it is imported, so this comes before; it does nothing where a cluster is joined (its
    token comes from RAY_AUTH_TOKEN_PATH), where the mode is already set, or where ray is imported.
    """
    joins = address or os.environ.get("RAY_ADDRESS")
    if not joins and "RAY_AUTH_MODE" not in os.environ and "ray" not in sys.modules:
        os.environ["RAY_AUTH_MODE"] = "token"
        # In the environment rather than in a file: only this user's processes can read it.
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


_DIRECTORY = "FEDSIM_DIRECTORY"


def directory() -> dict[str, str]:
    """What the workers of a cluster that is joined are told of this process's working directory; of a job's
    nothing, as each of them has a copy of that."""
    here = Path.cwd()
    return {} if in_job_copy(here) else {_DIRECTORY: str(here)}


def enter_directory() -> None:
    """Work in the driver's directory, where this machine has it: a relative path means there what it says.

    The path itself stays as it is in the config: it is what tables and memories call a model.
    """
    told = os.environ.get(_DIRECTORY)
    if told and Path(told).is_dir():
        os.chdir(told)


def in_job_copy(folder: Path) -> bool:
    """Whether a folder lies in what `ray job submit --working-dir` has uploaded."""
    return ("runtime_resources", "working_dir_files") in zip(folder.parts, folder.parts[1:], strict=False)
