"""What tests of several parts need: an S3 server on loopback, a small disk, real data where there is some."""

import logging
import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from fedsim.disk.storage import RemotePath, locate

# A test machine may be busy: that takes time, and is no finding.
settings.register_profile("fedsim", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fedsim")


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The server's URL. This process and those it starts reach it as they would reach AWS: by their
    environment. It has a bucket called `results`."""
    from moto.server import ThreadedMotoServer
    from pyarrow.fs import FileSystem

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_ENDPOINT_URL", url)
        patch.setenv("AWS_ACCESS_KEY_ID", "tester")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        FileSystem.from_uri("s3://results/?allow_bucket_creation=true")[0].create_dir("results")
        yield url
    server.stop()


@pytest.fixture
def remote(s3: str) -> RemotePath:
    """A folder in the store that is not there yet."""
    folder = locate(f"s3://results/{uuid.uuid4().hex}/run")
    assert isinstance(folder, RemotePath)
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, with room for 4 MB; `mount -o remount,size=…` gives it more."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"a disk can't be mounted here: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def real_data() -> Path:
    """Folder of real data sets, which the project doesn't bring along."""
    beside = Path(__file__).parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("FEDSIM_TEST_DATA", beside))
    if not folder.is_dir():
        pytest.skip("no real data sets here; FEDSIM_TEST_DATA names the folder that holds them")
    return folder
