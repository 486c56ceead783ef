"""Where results lie: a folder of this machine (or of a network mount), or an object store behind a URI.

A local folder is a plain `pathlib.Path`. Behind a URI lies a `RemotePath`, which has the part of Path's
interface that this project uses; the functions below are what differs between the two. pyarrow knows
s3://, gs://, abfs:// and hdfs://, and fsspec with its plug-ins the others. Credentials and endpoints
come from the environment, as each store's own tools read them (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID,
GOOGLE_APPLICATION_CREDENTIALS, …).

An object store has no rename. There a folder is written under its final name, and a file beside it,
written last, says that it is whole; so whoever reads looks for that file first.
"""

from __future__ import annotations

import functools
import os
import posixpath
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from fedsim import shortage
from fedsim.disk.scratch import Folder
from fedsim.errors import ConfigError, FedsimError, RunError

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_OPTIONS = {
    "s3": "allow_delayed_open=true",  # one request for a small file rather than three
    "gs": "retry_limit_seconds=60",  # it would try for a quarter of an hour
    "gcs": "retry_limit_seconds=60",
}
"""Options of pyarrow's filesystems, unless the URI brings its own."""
_CHUNK = 2**23


class StorageError(RunError):
    """A store did not do what it was asked to: no access, no such bucket, no connection …"""


@dataclass(frozen=True)
class RemotePath:
    """A file or folder behind a URI; methods are those of pathlib.Path.

    Only its text travels between processes: each reaches the store by its own environment.
    Raises StorageError for what the store refuses, FileNotFoundError for what is not there.
    """

    scheme: str
    netloc: str
    path: str
    """Without a slash at either end."""
    query: str = ""
    """Options of the connection, e.g. `endpoint_override=…`."""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.netloc}/{self.path}" + (f"?{self.query}" if self.query else "")

    def __truediv__(self, name: str) -> RemotePath:
        return replace(self, path=posixpath.normpath(posixpath.join(self.path, name)))

    @property
    def name(self) -> str:
        return posixpath.basename(self.path)

    @property
    def stem(self) -> str:
        return posixpath.splitext(self.name)[0]

    @property
    def parent(self) -> RemotePath:
        return replace(self, path=posixpath.dirname(self.path))

    def with_name(self, name: str) -> RemotePath:
        return self.parent / name

    def resolve(self) -> RemotePath:
        return self

    def absolute(self) -> RemotePath:
        return self

    def is_absolute(self) -> bool:
        return True

    def exists(self) -> bool:
        return self._kind() != "NotFound"

    def is_dir(self) -> bool:
        return self._kind() == "Directory"

    def iterdir(self) -> Iterator[RemotePath]:
        return self.glob("*")

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """Files and folders right below this one."""
        from pyarrow.fs import FileSelector

        filesystem, root = self.connection()
        with _asking(self):
            found = filesystem.get_file_info(FileSelector(self._at(root), allow_not_found=True))
        names = sorted(info.base_name for info in found)
        return (self / name for name in names if fnmatchcase(name, pattern))

    def mkdir(self, parents: bool = True, exist_ok: bool = True) -> None:
        filesystem, root = self.connection()
        with _asking(self):
            filesystem.create_dir(self._at(root), recursive=True)

    def unlink(self) -> None:
        filesystem, root = self.connection()
        with _asking(self):
            filesystem.delete_file(self._at(root))

    def read_bytes(self) -> bytes:
        with _asking(self), self.open() as file:
            return bytes(file.read())

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def write_text(self, text: str, encoding: str = "utf-8") -> None:
        filesystem, root = self.connection()
        with _asking(self), filesystem.open_output_stream(self._at(root)) as file:
            file.write(text.encode(encoding))

    @contextmanager
    def open(self) -> Iterator[Any]:
        """A binary file to read, as pyarrow and pandas take it."""
        filesystem, root = self.connection()
        with _asking(self):
            file = filesystem.open_input_file(self._at(root))
        with file:
            yield file

    def upload(self, source: Path) -> None:
        """Make this a copy of a local file, or add a local folder's files to it."""
        if source.is_file():
            self._put(source)
            return
        self.mkdir()
        for file in sorted(source.rglob("*")):
            target = self / file.relative_to(source).as_posix()
            if file.is_dir():
                target.mkdir()
            else:
                target._put(file)

    def download(self, target: Path) -> None:
        """Copy this file or folder to a local one."""
        from pyarrow.fs import LocalFileSystem, copy_files

        filesystem, root = self.connection()
        with _asking(self):
            if self.is_dir():
                target.mkdir(parents=True, exist_ok=True)
            copy_files(self._at(root), str(target.absolute()), filesystem, LocalFileSystem())

    def copy_to(self, target: RemotePath) -> None:
        """Copy within the store; nothing passes through this machine."""
        from pyarrow.fs import copy_files

        filesystem, root = self.connection()
        with _asking(self):
            copy_files(self._at(root), target._at(root), filesystem, filesystem)

    def remove(self) -> None:
        """Delete a folder with all that is in it, if it is there."""
        filesystem, root = self.connection()
        try:
            with _asking(self):
                filesystem.delete_dir(self._at(root))
        except FileNotFoundError:
            pass

    def connection(self) -> tuple[Any, str]:
        """pyarrow's filesystem, and what stands in front of a path in it."""
        return _connect(self.scheme, self.netloc, self.query)

    def _put(self, source: Path) -> None:
        # By pyarrow's copy_files an upload that fails at its end would pass for one that succeeded.
        filesystem, root = self.connection()
        with source.open("rb") as file, _asking(self), filesystem.open_output_stream(self._at(root)) as out:
            shutil.copyfileobj(file, out, _CHUNK)

    def _kind(self) -> str:
        filesystem, root = self.connection()
        with _asking(self):
            kind: str = filesystem.get_file_info(self._at(root)).type.name
        return kind

    def _at(self, root: str) -> str:
        return f"{root}/{self.path}" if self.path else root


AnyPath = Path | RemotePath


def locate(text: str | AnyPath, field: str = "output") -> AnyPath:
    """The path that a text names, a URI or not.

    field: what it is called in the ConfigError for a URI that nothing here can reach.
    """
    if not isinstance(text, str):
        return text
    if not _URI.match(text):
        return Path(text)
    parts = urlsplit(text, allow_fragments=False)
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise ConfigError(field, text, "file:///… for a folder of this machine")
        return Path(unquote(parts.path))
    path = RemotePath(parts.scheme, parts.netloc, parts.path.strip("/"), parts.query)
    if not parts.netloc:
        raise ConfigError(field, text, f"{parts.scheme}://BUCKET/…")
    try:
        path.connection()
    except Exception as error:  # each store's client has its own
        raise ConfigError(field, text, f"a URI that can be reached ({shortage.first_line(error)})") from None
    return path


def local_part(folder: AnyPath) -> Path:
    """Where on this machine files lie on their way to `folder`."""
    return folder if isinstance(folder, Path) else Path(tempfile.gettempdir())


@contextmanager
def reading(path: AnyPath) -> Iterator[Any]:
    """What pyarrow and pandas read a file from."""
    if isinstance(path, RemotePath):
        with path.open() as file:
            yield file
    else:
        yield path


def write(path: AnyPath, make: Callable[[Path], object]) -> None:
    """Replace a file in one step, by what `make` writes to a local file: readers see the old or the new.

    Raises RunError where there is no room for it.
    """
    with writing([path]) as (part,):
        make(part)


@contextmanager
def writing(paths: Sequence[AnyPath]) -> Iterator[list[Path]]:
    """Local files to write, which replace those at `paths`, each in one step, in the end.

    paths: of one folder.   Raises RunError where there is no room for them.
    """
    if isinstance(paths[0], RemotePath):
        with _scratch() as folder:
            parts = [folder / path.name for path in paths]
            yield parts
            for path, part in zip(paths, parts, strict=True):
                assert isinstance(path, RemotePath)
                path.upload(part)
        return
    parts = [Path(str(path.with_name(f".{path.name}.{os.getpid()}.part"))) for path in paths]
    try:
        with shortage.told(paths[0].parent):
            yield parts
            for path, part in zip(paths, parts, strict=True):
                part.replace(str(path))
    finally:
        for part in parts:
            part.unlink(missing_ok=True)


@contextmanager
def saving(folder: AnyPath) -> Iterator[Path]:
    """A local folder to write files to, which are in `folder` in the end.

    Raises RunError where there is no room for them.
    """
    if isinstance(folder, RemotePath):
        with _scratch() as local:
            yield local
            folder.upload(local)
    else:
        with shortage.told(folder):
            folder.mkdir(parents=True, exist_ok=True)
            yield folder


@contextmanager
def loading(folder: AnyPath) -> Iterator[Path]:
    """A local folder with the files of `folder`, to read."""
    if isinstance(folder, RemotePath):
        with _scratch() as local:
            folder.download(local)
            yield local
    else:
        yield folder


def staged(folder: AnyPath) -> AnyPath:
    """Where to write a folder that `settle` makes final."""
    return folder if isinstance(folder, RemotePath) else folder.with_name(f"{folder.name}.partial")


def settle(folder: AnyPath) -> None:
    """Make a folder final, in place of an earlier one of its name."""
    if isinstance(folder, Path):
        remove(folder)
        folder.with_name(f"{folder.name}.partial").rename(folder)


def carry(source: AnyPath, target: AnyPath) -> None:
    """Have a folder's files at another place of the same store as well, copying as little as it can."""
    if isinstance(source, Path) and isinstance(target, Path):
        target.mkdir()
        for path in source.rglob("*"):  # from a folder to what is in it
            there = target / path.relative_to(source)
            there.mkdir() if path.is_dir() else _link(path, there)
    elif isinstance(source, RemotePath) and isinstance(target, RemotePath):
        source.copy_to(target)
    else:
        raise TypeError(f"{source} and {target} are not in the same store")


def remove(folder: AnyPath) -> None:
    """Delete a folder with all that is in it, if it is there."""
    if isinstance(folder, RemotePath):
        folder.remove()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _link(source: Path, target: Path) -> None:
    """Name a file a second time, or copy it on a file system whose files have one name."""
    try:
        target.hardlink_to(source)
    except OSError as error:
        if error.errno in shortage.FULL:
            raise
        shutil.copy2(source, target)


def tidy(folder: AnyPath) -> None:
    """Remove what killed processes left half written below a folder, where nobody writes now."""
    if isinstance(folder, Path):
        for part in folder.rglob(".*.part"):
            part.unlink(missing_ok=True)


@contextmanager
def _scratch() -> Iterator[Path]:
    """A local folder on the way to or from a store."""
    with Folder() as folder, shortage.told(folder):
        inner = folder / "files"  # beside what marks the folder as ours
        inner.mkdir()
        yield inner


@contextmanager
def _asking(path: RemotePath) -> Iterator[None]:
    try:
        yield
    except (FedsimError, FileNotFoundError):
        raise
    except Exception as error:  # each store's client has its own
        if shortage.disk_full(error, local_part(path)):
            raise
        raise StorageError(f"{path}: {shortage.first_line(error)}") from error


@functools.lru_cache
def _connect(scheme: str, netloc: str, query: str) -> tuple[Any, str]:
    from pyarrow import ArrowInvalid
    from pyarrow.fs import FileSystem, FSSpecHandler, PyFileSystem

    options = "&".join(part for part in (_OPTIONS.get(scheme, ""), query) if part)
    try:
        filesystem, root = FileSystem.from_uri(f"{scheme}://{netloc}/" + (f"?{options}" if options else ""))
    except ArrowInvalid as error:
        if "Unrecognized filesystem type" not in str(error):
            raise
        from fsspec.core import url_to_fs

        other, root = url_to_fs(f"{scheme}://{netloc}/")
        filesystem = PyFileSystem(FSSpecHandler(other))
    return filesystem, root.rstrip("/")
