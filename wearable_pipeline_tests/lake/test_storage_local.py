"""What only a folder has to worry about: crashes, locks between processes, clocks, full disks."""

import errno
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from io import BytesIO
from multiprocessing.connection import Connection
from pathlib import Path

import polars as pl
import pytest

from wearable_pipeline.errors import StorageError
from wearable_pipeline.lake import storage as module
from wearable_pipeline.lake.storage import ConflictError, LocalStorage, Storage
from wearable_pipeline_tests.servers.fixtures import make_settings

# Children only write bytes, so forking beside polars' threads is safe, and much faster.
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "lake"


@pytest.fixture
def storage(root: Path) -> LocalStorage:
    return LocalStorage(root)


def _start(target: Callable[..., None], *arguments: object) -> multiprocessing.process.BaseProcess:
    process = FORK.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def _kill(process: multiprocessing.process.BaseProcess) -> None:
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()


def _parquet(letter: str) -> bytes:
    buffer = BytesIO()
    pl.DataFrame({"letter": [letter] * 5000, "number": range(5000)}).write_parquet(buffer)
    return buffer.getvalue()


def _write_forever(root: Path, bodies: list[bytes]) -> None:
    storage = LocalStorage(root)
    number = 0
    while True:
        number += 1
        body = bodies[number % 2]
        storage.put("body/date=1/user=a/part.parquet", body)
        found = storage.read_versioned("body/date=2/user=a/part.parquet")
        storage.replace("body/date=2/user=a/part.parquet", body, found[1] if found else None)
        storage.put("body/date=3/user=a/part.parquet", body)
        storage.delete("body/date=3/user=a/part.parquet")


def test_a_writer_killed_at_any_moment_leaves_whole_files_and_no_lock(root: Path) -> None:
    bodies = [_parquet("a"), _parquet("b")]
    storage = LocalStorage(root)
    moments = random.Random(20260101)
    seen_two = 0
    for _ in range(25):
        writer = _start(_write_forever, root, bodies)
        time.sleep(moments.uniform(0.003, 0.03))
        _kill(writer)

        files = sorted(root.glob("**/*.parquet"))
        assert all(file.read_bytes() in bodies for file in files)
        assert [str(file.relative_to(root)) for file in files] == [
            entry.path for entry in storage.list()
        ]
        seen_two += len(files) > 1
        if files:
            frame = pl.read_parquet(root / "**/*.parquet")
            assert frame.height == 5000 * len(files)
        started = time.monotonic()
        storage.put("body/date=1/user=a/part.parquet", bodies[0])
        assert time.monotonic() - started < 5
    assert seen_two > 5  # else the kills came before the work and proved nothing


def test_a_lock_dies_with_the_process_that_held_it(root: Path) -> None:
    def hold(ready: Connection) -> None:
        with LocalStorage(root)._locked("x"):
            ready.send(True)
            time.sleep(60)

    receiver, sender = FORK.Pipe(duplex=False)
    holder = _start(hold, sender)
    assert receiver.recv()
    _kill(holder)

    LocalStorage(root).put("x", b"1")
    assert LocalStorage(root).read("x") == b"1"


def test_a_lock_that_is_never_freed_ends_in_one_clear_line(
    storage: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOCK_WAIT_SECONDS", 0.01)

    with LocalStorage(root)._locked("x"), pytest.raises(StorageError, match="another process"):
        storage.put("x", b"1")
    assert list(storage.list()) == []
    assert list((root / ".storage" / "tmp").iterdir()) == []


def _count_up(root: Path, times: int) -> None:
    storage = LocalStorage(root)
    for _ in range(times):
        while True:
            found = storage.read_versioned("counter")
            number, version = (0, None) if found is None else (int(found[0]), found[1])
            try:
                storage.replace("counter", b"%03d" % (number + 1), version)
                break
            except ConflictError:
                continue


def test_processes_that_replace_one_file_lose_no_update(root: Path) -> None:
    # Always three bytes: only the version can tell one rewrite from the next.
    processes = [_start(_count_up, root, 25) for _ in range(4)]
    for process in processes:
        process.join(60)

    assert LocalStorage(root).read("counter") == b"100"


def test_versions_differ_even_while_the_clock_stands_still(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_000_000_000_000)

    versions = [storage.put("x", b"%02d" % number) for number in range(20)]

    assert len(set(versions)) == 20


def test_versions_differ_where_the_file_system_keeps_whole_seconds_only(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = os.utime

    def keep_seconds(file: Path, ns: tuple[int, int]) -> None:
        keep(file, ns=(ns[0] // 10**9 * 10**9, ns[1] // 10**9 * 10**9))

    monkeypatch.setattr(os, "utime", keep_seconds)

    versions = [storage.put("x", b"%02d" % number) for number in range(5)]

    assert len({version.partition("-")[0] for version in versions}) == 5


def test_leftovers_of_a_crash_are_invisible_and_removed_when_old(
    storage: LocalStorage, root: Path
) -> None:
    storage.put("a", b"1")
    folder = root / ".storage" / "tmp"
    old, young = folder / "old", folder / "young"
    for file in (old, young):
        file.write_bytes(b"half")
    two_hours_ago = time.time() - 7200
    os.utime(old, (two_hours_ago, two_hours_ago))

    again = LocalStorage(root)
    again.put("b", b"2")

    assert [entry.path for entry in again.list()] == ["a", "b"]
    assert again.list_prefixes() == []
    assert list(folder.iterdir()) == [young]


def test_no_name_of_ours_matches_a_data_glob(
    storage: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    rename = Path.replace

    def look_then_rename(self: Path, target: Path) -> Path:
        seen.append([str(file.relative_to(root)) for file in root.glob("**/*.parquet")])
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", look_then_rename)
    storage.put("body/part.parquet", b"1")
    storage.put("body/part.parquet", b"2")

    assert seen == [[], ["body/part.parquet"]]


def test_a_write_reaches_the_disk_before_its_name_and_the_name_before_the_return(
    storage: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "body").mkdir(parents=True)
    events: list[str] = []
    sync, rename = os.fsync, Path.replace

    def record_sync(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").readlink()
        events.append("data" if name.parent.name == "tmp" else f"folder {name.name}")
        sync(descriptor)

    def record_rename(self: Path, target: Path) -> Path:
        events.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(Path, "replace", record_rename)
    storage.put("body/x", b"1")

    start = events.index("data")
    assert [e for e in events[start:] if e in ("data", "rename", "folder body")] == [
        *("data", "rename", "folder body")
    ]


def test_new_folders_are_made_to_last_too(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    sync = os.fsync

    def record_sync(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", record_sync)
    storage.put("a/b/x", b"1")

    assert synced[-3:] == ["lake", "a", "b"]


def test_a_disk_that_fills_up_leaves_the_old_content_and_says_so(
    storage: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.put("x", b"old")

    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(StorageError, match=r"writing x failed.*ENOSPC.*free some space"):
            storage.put("x", b"new")

    assert storage.read("x") == b"old"
    assert list((root / ".storage" / "tmp").iterdir()) == []


def test_a_folder_that_cannot_be_written_fails_the_probe_in_one_line(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)

    with pytest.raises(StorageError) as caught:
        LocalStorage(root).probe()
    assert str(root) in str(caught.value)
    assert "give this user the right" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_read_is_an_error_and_not_an_empty_listing(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.put("a/x", b"1")
    storage.put("b/x", b"1")
    scan = os.scandir

    def refuse(folder: Path) -> object:
        if Path(folder).name == "b":
            raise PermissionError(errno.EACCES, "Permission denied")
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)

    with pytest.raises(StorageError, match="EACCES"):
        storage.list()


def test_a_file_where_the_lake_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "lake").write_text("not a folder")

    with pytest.raises(StorageError, match="a file stands where a folder is needed"):
        LocalStorage(tmp_path / "lake").put("x", b"1")


def test_deleting_removes_the_folders_that_became_empty(storage: LocalStorage, root: Path) -> None:
    storage.put("body/date=1/user=a/part.parquet", b"1")
    storage.put("body/date=2/user=a/part.parquet", b"1")

    storage.delete("body/date=1/user=a/part.parquet")

    assert sorted(path.name for path in (root / "body").iterdir()) == ["date=2"]


def test_writers_survive_deleters_of_the_same_folder(root: Path) -> None:
    def delete_forever() -> None:
        storage = LocalStorage(root)
        while True:
            storage.delete("a/b/c/other")
            storage.put("a/b/c/other", b"1")

    deleter = _start(delete_forever)
    storage = LocalStorage(root)
    try:
        for number in range(100):
            storage.put("a/b/c/mine", b"%d" % number)
            storage.delete("a/b/c/mine")
        storage.put("a/b/c/mine", b"last")
    finally:
        _kill(deleter)
    assert storage.read("a/b/c/mine") == b"last"


def test_files_are_as_readable_as_the_umask_allows(storage: LocalStorage, root: Path) -> None:
    before = os.umask(0o022)
    try:
        storage.put("x", b"1")
    finally:
        os.umask(before)

    assert (root / "x").stat().st_mode & 0o777 == 0o644


def test_a_lake_is_opened_by_path_or_file_url(tmp_path: Path) -> None:
    by_path = Storage.open(str(tmp_path / "my lake"), make_settings())
    by_url = Storage.open(f"file://{tmp_path}/my%20lake", make_settings())

    by_path.put("x", b"1")

    assert by_url.read("x") == b"1"
    assert by_path.is_local
    assert by_path.url == by_url.url == str(tmp_path / "my lake")
    assert by_path.uri("a/b") == str(tmp_path / "my lake" / "a" / "b")
    assert by_path.polars_options() == {}
    assert by_path.duckdb_statements() == []


def test_opening_and_reading_write_nothing(storage: LocalStorage, root: Path) -> None:
    assert storage.version("x") is None
    assert list(storage.list()) == []
    storage.delete("x")

    assert not root.exists()
