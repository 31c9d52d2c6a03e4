"""Merging raw segments: killed between writing the merged one and deleting the small ones."""

from datetime import timedelta
from pathlib import Path

import pytest

from wearable_pipeline.lake.layout import partition_prefix, raw_root
from wearable_pipeline.lake.storage import LocalStorage, Storage
from wearable_pipeline.partitions import Partition, Scheme
from wearable_pipeline.raw.store import MERGE_ABOVE_SEGMENTS, RawStore
from wearable_pipeline.settings import Settings
from wearable_pipeline_tests.raw.test_store import DAY, NOON, USER, append, read, record

PREFIX = partition_prefix(raw_root("nightscout"), Partition(DAY, USER))


class PowerCutError(BaseException):
    """Nothing survives it."""


def test_a_crash_between_writing_the_merged_segment_and_deleting_the_small_ones_is_harmless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage.open(str(tmp_path / "lake"), Settings(_env_file=None))
    store = RawStore(storage, Scheme())
    bodies = [f'{{"n":{number}}}'.encode() for number in range(MERGE_ABOVE_SEGMENTS + 1)]

    def refuse(self: LocalStorage, paths: object) -> None:
        raise PowerCutError

    def append_number(number: int) -> None:
        at = NOON + timedelta(minutes=number)
        append(store, record(bodies[number], f"r{number}"), at=at, batch=f"b{number}")

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "delete_many", refuse)
        for number in range(MERGE_ABOVE_SEGMENTS):
            append_number(number)
        with pytest.raises(PowerCutError):
            append_number(MERGE_ABOVE_SEGMENTS)
    segments = [entry.path for entry in storage.list(PREFIX)]
    assert sum("merged" in path for path in segments) == 1
    assert len(segments) == MERGE_ABOVE_SEGMENTS + 2

    again = RawStore(storage, Scheme())
    assert sorted(read(again)["body"]) == sorted(bodies)
    # What is fetched again is known, and the next merge takes the leftovers away.
    same = append(again, record(bodies[0], "r0"), at=NOON + timedelta(hours=2), batch="again")
    assert (same.new, same.changed, same.unchanged) == (0, 0, 1)
    append(again, record(b'{"n":99}', "r99"), at=NOON + timedelta(hours=3), batch="later")
    assert len(list(storage.list(PREFIX))) < MERGE_ABOVE_SEGMENTS
    assert sorted(read(again)["body"]) == sorted([*bodies, b'{"n":99}'])
