"""Storage: the bytes of the lake on local disk, S3, GCS or Azure Blob, behind one interface.

What belongs here: reading, listing and atomic writing of whole objects by path, and what a reader
(polars, DuckDB) needs to open the same place. What the paths mean belongs to the layout.

Every write is whole or absent, on every store. A version is an opaque word that changes whenever
the content does; `replace` compares it, so two processes never overwrite each other unseen.
"""

import errno
import fcntl
import hashlib
import json
import os
import re
import stat
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from typing_extensions import override

from wearable_pipeline.errors import StorageError, UsageError
from wearable_pipeline.settings import Settings

if TYPE_CHECKING:
    import duckdb

# Temporary files, locks and probes. No name in here ends in .parquet, so no data glob sees it.
RESERVED = ".storage"

_LOCK_FILES = 256
_LOCK_WAIT_SECONDS = 30.0
_LEFTOVER_SECONDS = 3600.0
_SEGMENT_BYTES = 255
_PATH_BYTES = 900

# An endpoint that is not there fails within these: one connect beyond the last allowed retry.
_CONNECT_TIMEOUT = timedelta(seconds=3)
_RETRY_TIMEOUT = timedelta(seconds=9)
_READ_TIMEOUT = timedelta(seconds=10)
_REQUEST_TIMEOUT = timedelta(seconds=180)
_RETRIES = 5
# Longer bodies go up in parts; a multipart upload becomes visible at once, when it is completed.
_MULTIPART_BYTES = 64 * 1024 * 1024
# Object metadata naming the write. Azure allows no dash in it, some proxies no underscore.
_WRITE_ID = "writeid"

_Scheme = Literal["s3", "gs", "az"]
_Strings = list[str]  # inside the classes `list` is the method


class MissingError(StorageError):
    """There is nothing at this path."""


class ConflictError(StorageError):
    """Somebody else created, replaced or deleted it meanwhile; read again, then decide."""


class AnswerError(StorageError):
    """An object store refused or did not answer; `cause` says so without advice.

    `status` and `code` are those of its answer, both None when there was none.
    """

    def __init__(self, message: str, cause: str, status: int | None, code: str | None) -> None:
        super().__init__(message)
        self.cause = cause
        self.status = status
        self.code = code


@dataclass(frozen=True)
class Entry:
    """One finished object."""

    path: str
    size: int
    version: str
    modified_at: datetime


@dataclass(frozen=True)
class DuckDBSetup:
    """What DuckDB needs before it can open `Storage.uri`; the statements carry secrets."""

    extensions: tuple[str, ...]
    statements: tuple[str, ...]

    def __repr__(self) -> str:
        return f"DuckDBSetup(extensions={self.extensions!r}, {len(self.statements)} statements)"


class Storage(ABC):
    """Whole objects by path; the same promises on every store."""

    url: str
    is_local: bool

    @classmethod
    def open(cls, url: str, settings: Settings) -> "Storage":
        """The storage at `url`. Touches neither disk nor network; `probe` does.

        Raises:
            UsageError: the URL or a setting cannot be understood.
        """
        scheme, separator, _ = url.partition("://")
        if not separator:
            return LocalStorage(Path(url))
        if scheme == "file":
            parts = urlsplit(url)
            if parts.netloc not in ("", "localhost"):
                raise UsageError("a file:// lake needs three slashes: file:///folder")
            return LocalStorage(Path(unquote(parts.path)))
        if scheme not in ("s3", "gs", "az"):
            raise UsageError(
                f"unknown lake URL {scheme}://…: use a path, file://, s3://bucket/prefix,"
                " gs://bucket/prefix or az://container/prefix"
            )
        return open_object_storage(url, settings)

    def __repr__(self) -> str:
        return f"Storage({self.url!r})"

    @abstractmethod
    def read(self, path: str) -> bytes:
        """The bytes at `path`. Raises MissingError when nothing is there."""

    @abstractmethod
    def read_versioned(self, path: str) -> tuple[bytes, str] | None:
        """The bytes and the version they had, or None when nothing is there."""

    @abstractmethod
    def read_range(self, path: str, start: int, length: int) -> bytes:
        """So many bytes from `start` on; fewer where the object ends sooner.

        Raises:
            MissingError: nothing is at `path`.
        """

    @abstractmethod
    def version(self, path: str) -> str | None:
        """The version of what is at `path`, or None when nothing is there."""

    @abstractmethod
    def create(self, path: str, data: bytes) -> str:
        """The version of the new object, which exactly one creator makes.

        Equal bytes already there are success, so that a creator may safely try again.

        Raises:
            ConflictError: other bytes are there.
        """

    @abstractmethod
    def replace(self, path: str, data: bytes, expected: str | None) -> str:
        """The new version, after replacing exactly version `expected` (None: nothing there).

        Raises:
            ConflictError: another version is there; nothing was written.
        """

    @abstractmethod
    def put(self, path: str, data: bytes) -> str:
        """The new version, whatever was there before."""

    def delete(self, path: str) -> None:
        """Nothing is at `path` afterwards."""
        self.delete_many([path])

    @abstractmethod
    def delete_many(self, paths: Sequence[str]) -> None:
        """Nothing is at any of `paths` afterwards."""

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Finished objects in the folder `prefix` and below, sorted by path.

        A listing that fails raises before it yields half an answer.
        """

    @abstractmethod
    def list_prefixes(self, prefix: str = "") -> _Strings:
        """Paths of the folders directly in the folder `prefix`, sorted."""

    @abstractmethod
    def uri(self, path: str = "") -> str:
        """Where polars and DuckDB find `path`."""

    @abstractmethod
    def polars_options(self) -> dict[str, str]:
        """`storage_options` for polars; they carry secrets."""

    @abstractmethod
    def duckdb_setup(self) -> DuckDBSetup:
        """Extensions and statements DuckDB needs to open `uri`."""

    def duckdb_statements(self) -> _Strings:
        """Statements that let DuckDB open `uri` once extensions are loaded; they carry secrets."""
        return list(self.duckdb_setup().statements)

    def prepare_duckdb(self, connection: "duckdb.DuckDBPyConnection") -> None:
        """Loads the extensions and creates the secret on `connection`.

        Raises:
            StorageError: an extension is neither installed nor to be had.
        """
        setup = self.duckdb_setup()
        for extension in setup.extensions:
            _load_extension(connection, extension)
        for statement in setup.statements:
            connection.execute(statement)

    def probe(self) -> None:
        """Returns when a marker can be written, read, guarded against overwriting and deleted.

        Raises:
            StorageError: one line with the URL, what failed and what to do.
        """
        path = f"{RESERVED}/probe-{uuid4().hex}"
        try:
            self._knock()
            first = self.create(path, b"first")
            if self.read(path) != b"first":
                raise StorageError(f"{self.url}: a marker just written reads back differently")
            self._refuses(lambda: self.create(path, b"second"), "exclusive creation")
            self.replace(path, b"third", first)
            self._refuses(lambda: self.replace(path, b"fourth", first), "conditional replacement")
        except StorageError:
            # The first failure is the one to report; the marker lies where no listing sees it.
            with suppress(StorageError):
                self.delete(path)
            raise
        self.delete(path)

    @abstractmethod
    def _knock(self) -> None:
        """Fails soon, and with the store's own reason, when the place cannot be entered."""

    def _refuses(self, write: Callable[[], object], what: str) -> None:
        try:
            write()
        except ConflictError:
            return
        raise StorageError(
            f"{self.url}: the store ignores {what}, so writers would overwrite each other;"
            " use a store that honours If-None-Match and If-Match"
        )

    def _conflict(self, path: str) -> ConflictError:
        return ConflictError(
            f"{self.url}: {path} was changed by another writer meanwhile; read it again and retry"
        )

    def _missing(self, path: str) -> MissingError:
        return MissingError(f"{self.url}: there is no {path}")


class LocalStorage(Storage):
    """A folder. Safe between processes of one machine, and of several where flock works."""

    def __init__(self, root: Path) -> None:
        self._root = root.expanduser().absolute()
        self.url = str(self._root)
        self.is_local = True
        self._swept = False

    @override
    def read(self, path: str) -> bytes:
        found = self.read_versioned(path)
        if found is None:
            raise self._missing(path)
        return found[0]

    @override
    def read_versioned(self, path: str) -> tuple[bytes, str] | None:
        file = self._file(path)
        with self._explained("reading", path):
            try:
                # One descriptor: the file it names never changes, only the name moves on.
                with file.open("rb") as handle:
                    return handle.read(), _stat_version(os.fstat(handle.fileno()))
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return None

    @override
    def read_range(self, path: str, start: int, length: int) -> bytes:
        with self._explained("reading", path):
            try:
                with self._file(path).open("rb") as handle:
                    handle.seek(start)
                    return handle.read(length)
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                raise self._missing(path) from None

    @override
    def version(self, path: str) -> str | None:
        with self._explained("looking at", path):
            found = _stat_file(self._file(path))
        return None if found is None else _stat_version(found)

    @override
    def create(self, path: str, data: bytes) -> str:
        def admit(current: os.stat_result | None) -> bool:
            if current is None:
                return True
            if current.st_size == len(data) and self._file(path).read_bytes() == data:
                return False
            raise self._conflict(path)

        return self._publish(path, data, admit)

    @override
    def replace(self, path: str, data: bytes, expected: str | None) -> str:
        def admit(current: os.stat_result | None) -> bool:
            if (None if current is None else _stat_version(current)) != expected:
                raise self._conflict(path)
            return True

        return self._publish(path, data, admit)

    @override
    def put(self, path: str, data: bytes) -> str:
        return self._publish(path, data, lambda _: True)

    @override
    def delete_many(self, paths: Sequence[str]) -> None:
        files = [(path, self._file(path)) for path in paths]
        emptied: set[Path] = set()
        for path, file in files:
            with self._explained("deleting", path):
                if _stat_file(file) is None:
                    continue
                with self._locked(path):
                    file.unlink(missing_ok=True)
                emptied.add(file.parent)
        for folder in sorted(emptied):
            with self._explained("deleting in", folder.name):
                self._prune(folder)

    @override
    def list(self, prefix: str = "") -> Iterator[Entry]:
        folder = _check_prefix(prefix)
        with self._explained("listing", folder or "/"):
            # Collected, so that a folder that cannot be read spoils the whole answer.
            found = list(self._walk(folder))
        return iter(found)

    @override
    def list_prefixes(self, prefix: str = "") -> _Strings:
        folder = _check_prefix(prefix)
        with self._explained("listing", folder or "/"):
            return sorted(
                path
                for path, entry in self._scan(folder)
                if entry.is_dir(follow_symlinks=False) and next(self._walk(path), None) is not None
            )

    @override
    def uri(self, path: str = "") -> str:
        return str(self._root / path) if path else self.url

    @override
    def polars_options(self) -> dict[str, str]:
        return {}

    @override
    def duckdb_setup(self) -> DuckDBSetup:
        return DuckDBSetup((), ())

    @override
    def _knock(self) -> None:
        with self._explained("opening", "the folder"):
            _make_folder(self._root / RESERVED)

    def _file(self, path: str) -> Path:
        return self._root / _check_path(path)

    def _scan(self, folder: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
        try:
            with os.scandir(self._root / folder) as entries:
                for entry in entries:
                    if folder or entry.name != RESERVED:
                        yield (f"{folder}/{entry.name}" if folder else entry.name), entry
        except (FileNotFoundError, NotADirectoryError):
            return  # deleted between two looks: as good as never there

    def _walk(self, folder: str) -> Iterator[Entry]:
        def order(item: tuple[str, os.DirEntry[str]]) -> str:
            # As object stores sort: a folder's name counts with its slash ("a.b" before "a/b").
            path, entry = item
            return f"{path}/" if entry.is_dir(follow_symlinks=False) else path

        for path, entry in sorted(self._scan(folder), key=order):
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(path)
                continue
            found = _stat_file(Path(entry.path))
            if found is not None:
                yield Entry(path, found.st_size, _stat_version(found), _instant(found.st_mtime_ns))

    def _publish(
        self, path: str, data: bytes, admit: Callable[[os.stat_result | None], bool]
    ) -> str:
        """The version at `path` after writing; `admit` decides under the lock and may refuse."""
        file = self._file(path)
        with self._explained("writing", path):
            temporary = self._choose_temporary()
            try:
                _write_synced(temporary, data)
                with self._locked(path):
                    current = _stat_file(file)
                    if admit(current):
                        _stamp(temporary, after=current.st_mtime_ns if current else 0)
                        self._rename(temporary, file)
                    return _stat_version(file.stat())
            finally:
                temporary.unlink(missing_ok=True)

    def _choose_temporary(self) -> Path:
        folder = self._root / RESERVED / "tmp"
        _make_folder(folder)
        if not self._swept:
            self._sweep(folder)
            self._swept = True
        return folder / uuid4().hex

    def _rename(self, temporary: Path, file: Path) -> None:
        # Another process may remove the folder as empty between making it and using it.
        for _ in range(20):
            try:
                _make_folder(file.parent)
                temporary.replace(file)
            except FileNotFoundError:
                continue
            with suppress(FileNotFoundError):
                _sync_folder(file.parent)
            return
        raise FileNotFoundError(errno.ENOENT, "the folder keeps disappearing")

    def _prune(self, folder: Path) -> None:
        """Makes deletions in `folder` last, and removes it and its parents where empty."""
        with suppress(FileNotFoundError):
            _sync_folder(folder)
        while folder != self._root:
            try:
                folder.rmdir()
            except FileNotFoundError:
                pass
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                    return
                raise
            folder = folder.parent
            with suppress(FileNotFoundError):
                _sync_folder(folder)

    def _sweep(self, folder: Path) -> None:
        """Removes what killed writers left; the age spares the files of writers at work."""
        limit = time.time() - _LEFTOVER_SECONDS
        for leftover in folder.iterdir():
            with suppress(FileNotFoundError):
                if leftover.stat().st_mtime < limit:
                    leftover.unlink()

    @contextmanager
    def _locked(self, path: str) -> Iterator[None]:
        """Alone with `path` among all writers; the kernel frees the lock of a killed process."""
        folder = self._root / RESERVED / "locks"
        _make_folder(folder)
        # A fixed set of files, never removed: unlinking a lock file lets two writers in.
        number = hashlib.blake2b(path.encode(), digest_size=2).digest()[0] % _LOCK_FILES
        descriptor = os.open(folder / f"{number:02x}", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            deadline = time.monotonic() + _LOCK_WAIT_SECONDS
            pause = 0.0005
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise StorageError(
                            f"{self.url}: another process has been writing {path} for"
                            f" {_LOCK_WAIT_SECONDS:.0f} s; see whether it hangs, then retry"
                        ) from None
                    time.sleep(pause)
                    pause = min(pause * 2, 0.02)
            try:
                yield
            finally:
                # A forked child may still hold the descriptor; closing alone would not free it.
                fcntl.flock(descriptor, fcntl.LOCK_UN)
        finally:
            os.close(descriptor)

    @contextmanager
    def _explained(self, doing: str, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            cause = errno.errorcode.get(error.errno or 0, "error")
            raise StorageError(
                f"{self.url}: {doing} {path} failed: {os.strerror(error.errno or 0)} ({cause});"
                f" {_LOCAL_ADVICE.get(error.errno or 0, 'check the disk and the folder')}"
            ) from error


_LOCAL_ADVICE = {
    errno.EACCES: "give this user the right to read and write the folder",
    errno.EPERM: "give this user the right to read and write the folder",
    errno.EROFS: "mount the file system writable or set WEARABLE_LAKE_URL to another folder",
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EXDEV: "keep the whole lake on one file system",
    errno.ENOLCK: "use a file system with locks",
    errno.ENOTSUP: "use a file system with locks",
    errno.ENOTDIR: "a file stands where a folder is needed; move it away",
    errno.EISDIR: "a folder stands where a file is needed; move it away",
    errno.EEXIST: "a file stands where a folder is needed; move it away",
    errno.ENAMETOOLONG: "use a shorter path",
}


def _stat_file(file: Path) -> os.stat_result | None:
    """The stat of a regular file, or None where there is none."""
    try:
        found = file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found if stat.S_ISREG(found.st_mode) else None


def _stat_version(found: os.stat_result) -> str:
    return f"{found.st_mtime_ns:x}-{found.st_size:x}-{found.st_ino:x}"


def _instant(nanoseconds: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=nanoseconds // 1000)


def _stamp(file: Path, after: int) -> None:
    """Gives `file` the present time to the nanosecond, later than `after` in any case.

    The kernel stamps by its tick (some milliseconds) and uses inode numbers again, so two rewrites
    of equal size within a tick would share a version. The coarser steps are for file systems that
    round times down.
    """
    for step in (1, 1_000, 1_000_000, 2_000_000_000):
        moment = max(time.time_ns(), after + step)
        os.utime(file, ns=(moment, moment))
        if file.stat().st_mtime_ns > after:
            return


def _write_synced(file: Path, data: bytes) -> None:
    with file.open("xb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())


def _make_folder(folder: Path) -> None:
    """Makes `folder` with its parents, and their names last through a power cut."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for made in reversed(missing):
        made.mkdir(exist_ok=True)
        _sync_folder(made.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_path(path: str) -> str:
    """`path`, once it is one that every store keeps as it is."""
    segments = path.split("/")
    if (
        any(segment in ("", ".", "..") for segment in segments)
        or "\\" in path  # Azure turns it into a slash
        or any(ord(letter) < 32 or ord(letter) == 127 for letter in path)
        or (segments[0] == RESERVED and not path.startswith(f"{RESERVED}/probe-"))
    ):
        raise StorageError(
            f"{path!r} cannot be a path in the lake: relative, without empty, '.' or '..' segments,"
            f" backslashes, control characters, and not in {RESERVED}"
        )
    try:
        lengths = [len(segment.encode()) for segment in segments]
    except UnicodeEncodeError:
        raise StorageError(f"{path!r} cannot be a path in the lake: not valid Unicode") from None
    if max(lengths) > _SEGMENT_BYTES or sum(lengths) + len(lengths) > _PATH_BYTES:
        raise StorageError(
            f"a path of {sum(lengths)} bytes is too long for the lake: at most {_SEGMENT_BYTES} a"
            f" segment and {_PATH_BYTES} in all"
        )
    return path


def _check_prefix(prefix: str) -> str:
    return _check_path(prefix.removesuffix("/")) if prefix else ""


class ObjectStorage(Storage):
    """A bucket or container, through obstore."""

    def __init__(
        self,
        url: str,
        scheme: _Scheme,
        endpoint: str | None,
        make_store: Callable[[timedelta | None], Any],
        polars_options: Mapping[str, str],
        duckdb_setup: Callable[[], DuckDBSetup],
        patience: timedelta = _RETRY_TIMEOUT,
    ) -> None:
        self.url = url
        self.is_local = False
        self._patience = patience.total_seconds()
        self._scheme = scheme
        self._endpoint = endpoint
        # Reads give up on a silent server soon. A write has to wait: the clock of the shorter
        # time-out runs while the body is still going up.
        self._reader = make_store(_READ_TIMEOUT)
        self._writer = make_store(None)
        self._polars_options = dict(polars_options)
        self._duckdb_setup = duckdb_setup
        # Ceph answers 412 to every quoted If-Match (seen on 16.2); found out at the first one.
        self._quotes_etags = True

    @override
    def read(self, path: str) -> bytes:
        found = self.read_versioned(path)
        if found is None:
            raise self._missing(path)
        return found[0]

    @override
    def read_versioned(self, path: str) -> tuple[bytes, str] | None:
        import obstore

        _check_path(path)
        with self._explained("reading", path):
            try:
                result = obstore.get(self._reader, path)
                return bytes(result.bytes()), self._version_of(result.meta)
            except FileNotFoundError as error:
                if _names_missing_bucket(error):
                    raise
                return None

    @override
    def read_range(self, path: str, start: int, length: int) -> bytes:
        import obstore

        _check_path(path)
        with self._explained("reading", path):
            try:
                return bytes(obstore.get_range(self._reader, path, start=start, length=length))
            except FileNotFoundError as error:
                if _names_missing_bucket(error):
                    raise
                raise self._missing(path) from None

    @override
    def version(self, path: str) -> str | None:
        found = self.look(path)
        return None if found is None else found.version

    @override
    def create(self, path: str, data: bytes) -> str:
        try:
            return self.put_if(path, data, None)
        except ConflictError:
            found = self.read_versioned(path)
            if found is not None and found[0] == data:
                return found[1]
            raise

    @override
    def replace(self, path: str, data: bytes, expected: str | None) -> str:
        return self.put_if(path, data, expected)

    @override
    def put(self, path: str, data: bytes) -> str:
        import obstore

        _check_path(path)
        with self._explained("writing", path):
            result = obstore.put(
                self._writer,
                path,
                data,
                mode="overwrite",
                use_multipart=len(data) > _MULTIPART_BYTES,
            )
        return self._version_after(path, result)

    @override
    def delete_many(self, paths: Sequence[str]) -> None:
        import obstore

        for path in paths:
            _check_path(path)
        if not paths:
            return
        with self._explained("deleting", paths[0] if len(paths) == 1 else f"{len(paths)} objects"):
            try:
                obstore.delete(self._writer, list(paths))
            except FileNotFoundError as error:
                if _names_missing_bucket(error):
                    raise
                # GCS and Azure stop at the first one missing, which may leave some of the others.
                for path in paths:
                    with suppress(FileNotFoundError):
                        obstore.delete(self._writer, path)

    @override
    def list(self, prefix: str = "") -> Iterator[Entry]:
        import obstore

        folder = _check_prefix(prefix)
        with self._explained("listing", folder or "/"):
            # Collected: half a listing must not look like a whole one, and not every store sorts.
            objects = obstore.list(self._reader, folder or None, chunk_size=1000).collect()
        entries = [
            Entry(
                found["path"],
                found["size"],
                self._version_of(found),
                found["last_modified"].astimezone(UTC),
            )
            for found in objects
            if found["path"] and not found["path"].startswith(f"{RESERVED}/")
        ]
        entries.sort(key=lambda entry: entry.path)
        # Consoles keep "folders" as empty objects named with a slash, which obstore strips: the
        # name then leads nowhere.
        return iter([e for e in entries if e.size or self.look(e.path) is not None])

    @override
    def list_prefixes(self, prefix: str = "") -> _Strings:
        import obstore

        folder = _check_prefix(prefix)
        with self._explained("listing", folder or "/"):
            result = obstore.list_with_delimiter(self._reader, folder or None)
        return sorted(found for found in result["common_prefixes"] if found != RESERVED)

    @override
    def uri(self, path: str = "") -> str:
        return f"{self.url}/{path}" if path else self.url

    @override
    def polars_options(self) -> dict[str, str]:
        return dict(self._polars_options)

    @override
    def duckdb_setup(self) -> DuckDBSetup:
        return self._duckdb_setup()

    @override
    def _knock(self) -> None:
        import obstore

        # A listing, because reads give up sooner than writes and a HEAD tells no reason.
        with self._explained("opening", "the lake"):
            obstore.list_with_delimiter(self._reader, RESERVED)

    def put_if(
        self,
        path: str,
        data: bytes,
        expected: str | None,
        attributes: Mapping[str, str] | None = None,
    ) -> str:
        """The new version after a conditional PUT, also when its answer was lost on the way.

        `attributes` stay with the object, for `look`; names of lower-case letters, values in ASCII.

        Raises:
            ConflictError: another version than `expected` is there; nothing was written.
        """
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        _check_path(path)
        write_id = uuid4().hex
        started = time.monotonic()
        for attempt in range(4):
            last = attempt == 3
            try:
                mode = self._mode(path, expected)
                result = obstore.put(
                    self._writer,
                    path,
                    data,
                    mode=mode,
                    attributes={**(attributes or {}), _WRITE_ID: write_id},
                    use_multipart=False,
                )
            except (AlreadyExistsError, PreconditionError, ConflictError) as error:
                found = self.look(path)
                if found is not None and found.write_id == write_id:
                    return found.version  # our own write, acknowledged to nobody
                if (None if found is None else found.version) != expected:
                    raise self._conflict(path) from None
                # Refused although nothing changed: a rival who gave up, or a store's quirk.
                if found is not None and self._scheme == "s3" and self._quotes_etags:
                    self._quotes_etags = False
                    continue
                if last:
                    raise self._fault("replacing", path, error, _REFUSES_CONDITION) from None
            except _obstore_errors() as error:
                # obstore repeats only what is safe to repeat blindly; with the write's name in the
                # object, repeating this is safe too.
                status, _ = _answer(error)
                waited = time.monotonic() - started
                if status is not None or last or waited > self._patience / 2:
                    raise self._fault("writing", path, error) from None
            else:
                return self._version_after(path, result)
            time.sleep(0.1 * 2**attempt)
        raise self._conflict(path)

    def _mode(self, path: str, expected: str | None) -> Any:
        if expected is None:
            return "create"
        if self._scheme == "gs":
            # GCS compares generations, which its listings do not tell: the ETag is the version,
            # and the generation that bears it is what gets replaced.
            found = self.look(path)
            if found is None or found.version != expected:
                raise self._conflict(path)
            return {"e_tag": expected, "version": found.generation}
        return {"e_tag": f'"{expected}"' if self._quotes_etags else expected}

    def look(self, path: str) -> "Found | None":
        """What is at `path` without its bytes, or None when nothing is there."""
        import obstore

        _check_path(path)
        with self._explained("looking at", path):
            try:
                result = obstore.get(self._reader, path, options={"head": True})
            except FileNotFoundError as error:
                if _names_missing_bucket(error):
                    raise
                return None
            meta = result.meta
            return Found(self._version_of(meta), meta.get("version"), result.attributes)

    def _version_of(self, meta: Any) -> str:
        tag = meta.get("e_tag")
        if not tag:
            raise StorageError(
                f"{self.url}: the store sends no ETags, so changes cannot be told apart;"
                " use a store that does"
            )
        # Azure quotes the tag in one answer and not in the other.
        return str(tag).removeprefix("W/").strip('"')

    def _version_after(self, path: str, result: Any) -> str:
        if result.get("e_tag"):
            return self._version_of(result)
        found = self.look(path)
        if found is None:
            raise self._conflict(path)
        return found.version

    def sign(self, path: str, lifetime: timedelta) -> str:
        """An address at which anybody may read `path` for so long; it is a secret."""
        import obstore

        _check_path(path)
        with self._explained("signing", path):
            return str(obstore.sign(self._reader, "GET", path, lifetime))

    @contextmanager
    def _explained(self, doing: str, what: str) -> Iterator[None]:
        try:
            yield
        except _obstore_errors() as error:
            # Not chained: the store's words may repeat signatures, tokens and signed addresses.
            raise self._fault(doing, what, error) from None

    def _fault(
        self, doing: str, what: str, error: BaseException, advice: str | None = None
    ) -> AnswerError:
        status, code = _answer(error)
        answer = " ".join(str(part) for part in (status, code) if part)
        if answer:
            cause = f"the store answered {answer}"
        elif "HTTP error" in str(error):
            cause = f"no answer from {self._endpoint or 'the store'}"
        else:
            cause = "the store's answer or its settings make no sense"
        return AnswerError(
            f"{self.url}: {doing} {what} failed: {cause}; {advice or _advise(error, status, code)}",
            cause,
            status,
            code,
        )


@dataclass(frozen=True)
class Found:
    """An object without its bytes."""

    version: str
    generation: str | None
    attributes: Mapping[str, str]

    @property
    def write_id(self) -> str | None:
        """The write that made it."""
        return self.attributes.get(_WRITE_ID)


_REFUSES_CONDITION = (
    "it refuses a conditional PUT whose condition holds, so the lake cannot be written safely"
    " there; use another store"
)
_NO_BUCKET = frozenset({"NoSuchBucket", "ContainerNotFound"})
_BAD_KEY = frozenset(
    {
        "SignatureDoesNotMatch",
        "InvalidAccessKeyId",
        "AuthenticationFailed",
        "AuthorizationFailure",
        "InvalidToken",
        "ExpiredToken",
        "InvalidAuthenticationInfo",
    }
)
_WRONG_REGION = frozenset(
    {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
)


def _obstore_errors() -> tuple[type[Exception], ...]:
    from obstore.exceptions import BaseError

    # obstore reports 404 as FileNotFoundError, broken credential files as ValueError or OSError.
    return (BaseError, OSError, ValueError)


def _answer(error: BaseException) -> tuple[int | None, str | None]:
    """HTTP status and error code in obstore's text: the only parts that are safe to repeat."""
    text = str(error)
    status = re.search(r"status code: (\d{3})\b", text)
    code = re.search(r"<Code>([A-Za-z]{1,60})</Code>", text)
    return (int(status[1]) if status else None), (code[1] if code else None)


def _names_missing_bucket(error: BaseException) -> bool:
    return _answer(error)[1] in _NO_BUCKET


def _advise(error: BaseException, status: int | None, code: str | None) -> str:
    text = str(error)
    if code in _NO_BUCKET:
        return "create the bucket or correct WEARABLE_LAKE_URL"
    if "169.254.169.254" in text or "metadata.google.internal" in text:
        return (
            "no credentials were found: set WEARABLE_LAKE_ACCESS_KEY_ID and"
            " WEARABLE_LAKE_SECRET_ACCESS_KEY or the cloud's variables, or give the machine a role"
        )
    if code in _WRONG_REGION or status in (301, 307):
        return "the bucket lies in another region: set WEARABLE_LAKE_REGION"
    if code in _BAD_KEY or status == 401:
        return (
            "the credentials are wrong or expired: correct WEARABLE_LAKE_ACCESS_KEY_ID,"
            " WEARABLE_LAKE_SECRET_ACCESS_KEY or WEARABLE_LAKE_SESSION_TOKEN"
        )
    if status == 403:
        return "check the credentials, and that they may list, read, write and delete there"
    if status == 501:
        return "the store lacks this operation; use another one"
    if status in (408, 429) or (status is not None and status >= 500):
        return "try again later"
    if status is not None:
        return "check WEARABLE_LAKE_URL and WEARABLE_LAKE_ENDPOINT"
    return "check WEARABLE_LAKE_ENDPOINT and the network, then try again"


def open_object_storage(
    url: str,
    settings: Settings,
    *,
    timeout: timedelta = _REQUEST_TIMEOUT,
    patience: timedelta = _RETRY_TIMEOUT,
) -> ObjectStorage:
    """The bucket or container at `url`. Touches no network.

    A request may take `timeout` and is repeated for up to `patience` where that can help.

    Raises:
        UsageError: the URL or a setting cannot be understood.
    """
    parts = urlsplit(url)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise UsageError(
            "the lake URL holds more than bucket and prefix: put credentials into"
            " WEARABLE_LAKE_ACCESS_KEY_ID and WEARABLE_LAKE_SECRET_ACCESS_KEY"
        )
    bucket = parts.netloc
    if not bucket:
        raise UsageError(f"the lake URL names no bucket: use {parts.scheme}://bucket/prefix")
    prefix = parts.path.strip("/")
    if prefix:
        _check_path(prefix)
    endpoint = _check_endpoint(settings.lake_endpoint)
    build = {"s3": _s3, "gs": _gcs, "az": _azure}[parts.scheme]
    scheme: _Scheme = parts.scheme  # type: ignore[assignment]  # one of the three keys above
    store_class, config, polars_options, duckdb_setup = build(bucket, endpoint, settings)

    def make_store(read_timeout: timedelta | None) -> Any:
        client: dict[str, object] = {
            "connect_timeout": _CONNECT_TIMEOUT,
            "timeout": timeout,
        }
        if read_timeout is not None:
            client["read_timeout"] = read_timeout
        if endpoint is not None:
            client["allow_http"] = endpoint.startswith("http://")
        try:
            return store_class(
                bucket,
                prefix=prefix or None,
                config=config,
                client_options=client,
                retry_config={
                    "max_retries": _RETRIES,
                    "retry_timeout": patience,
                    "backoff": {
                        "init_backoff": timedelta(milliseconds=100),
                        "max_backoff": timedelta(seconds=2),
                        "base": 2,
                    },
                },
            )
        except _obstore_errors():
            # Not chained: the text may repeat the key it could not parse.
            raise UsageError(
                f"the settings for {parts.scheme}://{bucket} do not fit together: {_NEEDS[scheme]}"
            ) from None

    return ObjectStorage(
        f"{scheme}://{bucket}" + (f"/{prefix}" if prefix else ""),
        scheme,
        endpoint,
        make_store,
        polars_options,
        duckdb_setup,
        patience,
    )


_NEEDS: dict[_Scheme, str] = {
    "s3": "check WEARABLE_LAKE_ENDPOINT, WEARABLE_LAKE_REGION and the keys",
    "gs": "check the service account (WEARABLE_LAKE_SECRET_ACCESS_KEY or"
    " GOOGLE_APPLICATION_CREDENTIALS)",
    "az": "the storage account's name belongs into WEARABLE_LAKE_ACCESS_KEY_ID (or"
    " AZURE_STORAGE_ACCOUNT_NAME), its base64 key into WEARABLE_LAKE_SECRET_ACCESS_KEY",
}

_Built = tuple[Any, dict[str, object], dict[str, str], Callable[[], DuckDBSetup]]


def _check_endpoint(endpoint: str | None) -> str | None:
    if endpoint is None:
        return None
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise UsageError("WEARABLE_LAKE_ENDPOINT must look like https://host:port, without a login")
    return endpoint.rstrip("/")


def _s3(bucket: str, endpoint: str | None, settings: Settings) -> _Built:
    from obstore.store import S3Store

    key, secret, token = _credentials(settings)
    virtual_host = endpoint is not None and not settings.lake_path_style
    # Other makers' servers mostly ignore the region, but a signature has to name one.
    region = settings.lake_region or ("us-east-1" if endpoint else None)
    options: dict[str, str] = {}
    if endpoint is not None:
        parts = urlsplit(endpoint)
        options["aws_endpoint_url"] = (
            f"{parts.scheme}://{bucket}.{parts.netloc}" if virtual_host else endpoint
        )
        options["aws_virtual_hosted_style_request"] = str(virtual_host).lower()
        options["aws_allow_http"] = str(parts.scheme == "http").lower()
    if region is not None:
        options["aws_region"] = region
    if key is not None and secret is not None:
        options["aws_access_key_id"] = key
        options["aws_secret_access_key"] = secret
        if token is not None:
            options["aws_session_token"] = token
    config: dict[str, object] = {
        name.removeprefix("aws_").replace("endpoint_url", "endpoint"): value
        for name, value in options.items()
        if name != "aws_allow_http"
    }

    def duckdb_setup() -> DuckDBSetup:
        fields = {"TYPE": "s3", "SCOPE": f"s3://{bucket}"}
        extensions: tuple[str, ...] = ("httpfs",)
        if key is not None and secret is not None:
            fields |= {"KEY_ID": key, "SECRET": secret}
            if token is not None:
                fields["SESSION_TOKEN"] = token
        else:
            fields["PROVIDER"] = "credential_chain"
            extensions = ("httpfs", "aws")
        if region is not None:
            fields["REGION"] = region
        if endpoint is not None:
            parts = urlsplit(endpoint)
            fields |= {
                "ENDPOINT": parts.netloc + parts.path,
                "URL_STYLE": "vhost" if virtual_host else "path",
                "USE_SSL": str(parts.scheme == "https").lower(),
            }
        return DuckDBSetup(extensions, (_secret_statement(fields),))

    return S3Store, config, options, duckdb_setup


def _gcs(bucket: str, endpoint: str | None, settings: Settings) -> _Built:
    from obstore.store import GCSStore

    key, secret, token = _credentials(settings)
    options: dict[str, str] = {}
    if secret is not None and secret.lstrip().startswith("{"):
        options["google_service_account_key"] = secret
    elif token is not None:
        options["google_bearer_token"] = token
    elif endpoint is not None and endpoint.startswith("http://"):
        # Nobody's Google token goes over plain HTTP: such an endpoint is a test server. Told to
        # skip the signature obstore asks for a token all the same, but not for such an account.
        account = {"gcs_base_url": endpoint, "disable_oauth": True, "client_email": ""}
        options["google_service_account_key"] = json.dumps(
            {**account, "private_key": "", "private_key_id": ""}
        )
    if endpoint is not None:
        options["google_base_url"] = endpoint
    config: dict[str, object] = {
        name.removeprefix("google_"): value for name, value in options.items()
    }

    def duckdb_setup() -> DuckDBSetup:
        if key is None or secret is None or secret.lstrip().startswith("{"):
            raise StorageError(
                f"gs://{bucket}: DuckDB opens Google buckets with an HMAC key only: put its id and"
                " secret into WEARABLE_LAKE_ACCESS_KEY_ID and WEARABLE_LAKE_SECRET_ACCESS_KEY, or"
                " read with polars"
            )
        fields = {"TYPE": "gcs", "KEY_ID": key, "SECRET": secret, "SCOPE": f"gs://{bucket}"}
        if endpoint is not None:
            parts = urlsplit(endpoint)
            fields |= {
                "ENDPOINT": parts.netloc + parts.path,
                "URL_STYLE": "path",
                "USE_SSL": str(parts.scheme == "https").lower(),
            }
        return DuckDBSetup(("httpfs",), (_secret_statement(fields),))

    allow_http = {"allow_http": "true"} if (endpoint or "").startswith("http://") else {}
    return GCSStore, config, options | allow_http, duckdb_setup


def _azure(bucket: str, endpoint: str | None, settings: Settings) -> _Built:
    from obstore.store import AzureStore

    account, key, token = _credentials(settings)
    options: dict[str, str] = {}
    if account is not None:
        options["azure_storage_account_name"] = account
    if key is not None:
        options["azure_storage_account_key"] = key
    elif token is not None:
        options["azure_storage_sas_key"] = token
    if endpoint is not None:
        options["azure_storage_endpoint"] = endpoint
        options["azure_allow_http"] = str(endpoint.startswith("http://")).lower()
    config: dict[str, object] = {
        name.removeprefix("azure_storage_"): value
        for name, value in options.items()
        if name != "azure_allow_http"
    }

    def duckdb_setup() -> DuckDBSetup:
        fields = {"TYPE": "azure", "SCOPE": f"az://{bucket}"}
        if account is not None and (key is not None or token is not None):
            blob = endpoint or f"https://{account}.blob.core.windows.net"
            fields["CONNECTION_STRING"] = f"BlobEndpoint={blob};AccountName={account};" + (
                f"AccountKey={key}" if key is not None else f"SharedAccessSignature={token}"
            )
        else:
            fields["PROVIDER"] = "credential_chain"
            if account is not None:
                fields["ACCOUNT_NAME"] = account
        return DuckDBSetup(("azure",), (_secret_statement(fields),))

    return AzureStore, config, options, duckdb_setup


def _credentials(settings: Settings) -> tuple[str | None, str | None, str | None]:
    secret = settings.lake_secret_access_key
    token = settings.lake_session_token
    return (
        settings.lake_access_key_id,
        secret.get_secret_value() if secret else None,
        token.get_secret_value() if token else None,
    )


def _secret_statement(fields: Mapping[str, str]) -> str:
    bare = {"TYPE", "PROVIDER", "USE_SSL"}
    inner = ", ".join(
        f"{name} {value}" if name in bare else f"{name} '{value.replace(chr(39), chr(39) * 2)}'"
        for name, value in fields.items()
    )
    return f"CREATE OR REPLACE SECRET wearable_lake ({inner})"


def _load_extension(connection: "duckdb.DuckDBPyConnection", name: str) -> None:
    import duckdb

    try:
        connection.execute(f"LOAD {name}")
        return
    except duckdb.Error:
        pass  # not installed yet
    try:
        # The package brings the extension along, so that nothing is fetched at run time.
        import duckdb_extensions

        duckdb_extensions.import_extension(name, con=connection)
        connection.execute(f"LOAD {name}")
    except (ImportError, FileNotFoundError, ValueError, duckdb.Error):
        raise StorageError(
            f"DuckDB {duckdb.__version__} has no extension {name}: install"
            f" wearable-pipeline[cloud] (duckdb-extension-{name}), or read with polars"
        ) from None
