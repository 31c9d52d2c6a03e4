"""What every store promises; each test runs on each of them."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier

import pytest

from wearable_pipeline.errors import StorageError
from wearable_pipeline.lake.storage import ConflictError, MissingError, Storage
from wearable_pipeline_tests.servers.fixtures import Place

ODD = [
    "u=a b+c%2F/é.json",
    "tilde~/star*/[x]{y}.json",
    "hash#/question?/amp&/equals=.json",
    "quote'/double\"/comma,;:@!$(x).json",
    "日本語/🩸.json",
    "percent%/%41/100%.json",
]


@pytest.fixture
def storage(lake_place: Place) -> Storage:
    return Storage.open(lake_place.url, lake_place.settings)


def test_what_was_put_is_read_back_whole(storage: Storage) -> None:
    data = bytes(range(256)) * 1000

    version = storage.put("body/date=2026-01-01/part.parquet", data)

    assert storage.read("body/date=2026-01-01/part.parquet") == data
    assert storage.read_versioned("body/date=2026-01-01/part.parquet") == (data, version)
    assert storage.version("body/date=2026-01-01/part.parquet") == version


def test_an_empty_object_is_an_object(storage: Storage) -> None:
    storage.put("empty", b"")

    assert storage.read("empty") == b""
    assert [entry.path for entry in storage.list()] == ["empty"]


def test_what_is_absent_is_absent(storage: Storage) -> None:
    with pytest.raises(MissingError, match="there is no a/b"):
        storage.read("a/b")
    assert storage.read_versioned("a/b") is None
    assert storage.version("a/b") is None
    assert list(storage.list()) == []
    assert storage.list_prefixes("") == []


def test_a_folder_is_not_an_object(storage: Storage) -> None:
    storage.put("a/b/c", b"1")

    assert storage.version("a/b") is None
    assert storage.read_versioned("a/b") is None
    assert storage.version("a/b/c/d") is None


def test_the_version_changes_with_the_content(storage: Storage) -> None:
    versions = [storage.put("x", b"%03d" % number) for number in range(50)]

    assert len(set(versions)) == 50
    assert storage.version("x") == versions[-1]


def test_versions_in_a_listing_are_those_that_replace_compares(storage: Storage) -> None:
    storage.put("x", b"1")
    (entry,) = storage.list()

    assert entry.version == storage.version("x")
    storage.replace("x", b"2", entry.version)


def test_creating_again_with_equal_bytes_is_success(storage: Storage) -> None:
    first = storage.create("x", b"1")

    assert storage.create("x", b"1") == first


def test_creating_over_other_bytes_is_a_conflict(storage: Storage) -> None:
    storage.create("x", b"1")

    with pytest.raises(ConflictError):
        storage.create("x", b"2")
    assert storage.read("x") == b"1"


def test_replacing_the_expected_version_succeeds(storage: Storage) -> None:
    first = storage.replace("x", b"1", None)
    second = storage.replace("x", b"2", first)
    third = storage.replace("x", b"3", second)

    assert storage.read_versioned("x") == (b"3", third)
    assert len({first, second, third}) == 3


def test_replacing_a_stale_version_is_a_conflict(storage: Storage) -> None:
    first = storage.put("x", b"1")
    storage.put("x", b"2")

    with pytest.raises(ConflictError):
        storage.replace("x", b"3", first)
    assert storage.read("x") == b"2"


def test_replacing_what_should_be_absent_is_a_conflict_even_with_equal_bytes(
    storage: Storage,
) -> None:
    storage.put("x", b"1")

    with pytest.raises(ConflictError):
        storage.replace("x", b"1", None)


def test_replacing_what_was_deleted_is_a_conflict(storage: Storage) -> None:
    version = storage.put("x", b"1")
    storage.delete("x")

    with pytest.raises(ConflictError):
        storage.replace("x", b"2", version)
    assert storage.version("x") is None


def test_deleting_what_is_missing_is_fine(storage: Storage) -> None:
    storage.put("a/1", b"1")
    storage.put("a/2", b"2")
    storage.put("b", b"3")

    storage.delete_many(["a/0", "a/1", "nowhere/at/all", "a/2"])
    storage.delete("a/1")
    storage.delete_many([])

    assert [entry.path for entry in storage.list()] == ["b"]
    assert storage.list_prefixes("") == []


def test_a_listing_is_recursive_and_sorted_by_path(storage: Storage) -> None:
    # "." sorts before "/", which sorts before "0".
    for path in ["b", "a/z", "a.txt", "a/b/c", "a0", "a/b.c", "é", "B"]:
        storage.put(path, path.encode())
    before = datetime.now(UTC) - timedelta(minutes=1)

    entries = list(storage.list())

    assert [entry.path for entry in entries] == [
        *("B", "a.txt", "a/b.c", "a/b/c", "a/z", "a0", "b", "é")
    ]
    assert [entry.size for entry in entries] == [1, 5, 5, 5, 3, 2, 1, 2]
    assert all(before < entry.modified_at < before + timedelta(minutes=2) for entry in entries)


def test_a_listing_of_a_folder_leaves_out_folders_whose_name_starts_alike(
    storage: Storage,
) -> None:
    for path in ["body/1", "body/2/3", "body_long/1", "bod/1"]:
        storage.put(path, b"1")

    assert [entry.path for entry in storage.list("body")] == ["body/1", "body/2/3"]
    assert [entry.path for entry in storage.list("body/")] == ["body/1", "body/2/3"]
    assert list(storage.list("body/1")) == []
    assert list(storage.list("nowhere")) == []


def test_prefixes_are_the_folders_one_level_down(storage: Storage) -> None:
    for path in ["body/date=1/user=a/p", "body/date=2/user=a/p", "sleep/p", "_lake.json"]:
        storage.put(path, b"1")

    assert storage.list_prefixes("") == ["body", "sleep"]
    assert storage.list_prefixes("body") == ["body/date=1", "body/date=2"]
    assert storage.list_prefixes("body/date=1/") == ["body/date=1/user=a"]
    assert storage.list_prefixes("sleep") == []
    storage.delete("sleep/p")
    assert storage.list_prefixes("") == ["body"]


@pytest.mark.parametrize("path", ODD)
def test_odd_characters_survive(storage: Storage, path: str) -> None:
    version = storage.create(path, b"1")
    version = storage.replace(path, b"2", version)

    (entry,) = storage.list()
    assert (entry.path, entry.version) == (path, version)
    folder = path.rpartition("/")[0]
    assert [found.path for found in storage.list(folder)] == [path]
    assert storage.list_prefixes("") == [path.partition("/")[0]]
    assert storage.read(path) == b"2"
    storage.delete(path)
    assert list(storage.list()) == []


@pytest.mark.parametrize(
    "path",
    [
        *("", "/a", "a/", "a//b", ".", "a/../b", "..", "a\\b", "a\nb", "a\0b", "a\x7f", "\ud800"),
        *(".storage/tmp/x", "x" * 256, "/".join(["x" * 90] * 11)),
    ],
)
def test_a_path_some_store_would_bend_is_refused_on_all(storage: Storage, path: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: storage.read(path),
        lambda: storage.version(path),
        lambda: storage.create(path, b""),
        lambda: storage.replace(path, b"", None),
        lambda: storage.put(path, b""),
        lambda: storage.delete(path),
    ]
    for call in calls:
        with pytest.raises(StorageError, match="path"):
            call()


def test_of_sixteen_creators_exactly_one_wins(lake_place: Place) -> None:
    barrier = Barrier(16)

    def create(number: int) -> bytes | None:
        storage = Storage.open(lake_place.url, lake_place.settings)
        data = b"%02d" % number
        barrier.wait()
        try:
            storage.create("race", data)
        except ConflictError:
            return None
        return data

    with ThreadPoolExecutor(16) as pool:
        winners = [data for data in pool.map(create, range(16)) if data is not None]

    storage = Storage.open(lake_place.url, lake_place.settings)
    assert winners == [storage.read("race")]


def test_of_sixteen_replacers_of_one_version_exactly_one_wins(lake_place: Place) -> None:
    version = Storage.open(lake_place.url, lake_place.settings).put("race", b"start")
    barrier = Barrier(16)

    def replace(number: int) -> bytes | None:
        storage = Storage.open(lake_place.url, lake_place.settings)
        data = b"%02d" % number
        barrier.wait()
        try:
            storage.replace("race", data, version)
        except ConflictError:
            return None
        return data

    with ThreadPoolExecutor(16) as pool:
        winners = [data for data in pool.map(replace, range(16)) if data is not None]

    storage = Storage.open(lake_place.url, lake_place.settings)
    assert winners == [storage.read("race")]


def test_concurrent_replacers_lose_no_update(lake_place: Place) -> None:
    # All write the same next number, so two who both believed to have won would go unnoticed by
    # their bytes; only the sum tells.
    def count_up(_: int) -> None:
        storage = Storage.open(lake_place.url, lake_place.settings)
        for _ in range(5):
            while True:
                found = storage.read_versioned("counter")
                number, version = (0, None) if found is None else (int(found[0]), found[1])
                try:
                    storage.replace("counter", b"%d" % (number + 1), version)
                    break
                except ConflictError:
                    continue

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(count_up, range(6)))

    assert Storage.open(lake_place.url, lake_place.settings).read("counter") == b"30"


def test_a_reader_sees_the_old_or_the_new_and_nothing_between(lake_place: Place) -> None:
    storage = Storage.open(lake_place.url, lake_place.settings)
    wholes = [letter * 200_000 for letter in (b"a", b"b")]
    storage.put("x", wholes[0])

    def write(_: int) -> None:
        for number in range(10):
            storage.put("x", wholes[number % 2])

    with ThreadPoolExecutor(3) as pool:
        writers = [pool.submit(write, number) for number in range(2)]
        while not all(writer.done() for writer in writers):
            found = storage.read_versioned("x")
            assert found is not None
            assert found[0] in wholes
            assert [entry.size for entry in storage.list()] == [200_000]
        for writer in writers:
            writer.result()


def test_listings_of_objects_and_of_folders_go_on_after_a_thousand(storage: Storage) -> None:
    folders = [f"many/date={number:04d}" for number in range(1005)]
    paths = [f"{folder}/part" for folder in folders]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda path: storage.put(path, b"1"), paths))

    assert [entry.path for entry in storage.list("many")] == paths
    assert storage.list_prefixes("many") == folders
    storage.delete_many([*paths, "many/missing"])
    assert list(storage.list()) == []


def test_a_probe_leaves_nothing_behind(storage: Storage) -> None:
    storage.probe()

    assert list(storage.list()) == []
    assert storage.list_prefixes("") == []


def test_two_prefixes_of_one_place_do_not_mix(lake_place: Place) -> None:
    one = Storage.open(f"{lake_place.url}/one", lake_place.settings)
    other = Storage.open(f"{lake_place.url}/one_more", lake_place.settings)
    one.put("x", b"1")

    assert other.version("x") is None
    assert list(other.list()) == []
