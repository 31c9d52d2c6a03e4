"""Whatever the order, however often, and whoever else is in the batch: the same rows.

Histories are generated: a few users, records of every kind of resource, revisions, deletions, fetches at
the same instant.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from wearable_pipeline.lake.storage import Storage
from wearable_pipeline.model import TABLES
from wearable_pipeline.partitions import Partition, Scheme
from wearable_pipeline.providers._contract import Record
from wearable_pipeline.raw.store import Arrival, RawStore
from wearable_pipeline.settings import Settings
from wearable_pipeline.tables import normalize as engine
from wearable_pipeline.tables.refresh import encode_parquet
from wearable_pipeline_tests.tables.band import BAND, DAY, NOON, told

FED = ("activity", "body", "daily", "sleep")
_NUMBERS = st.sampled_from([None, 48.0, 61.0, 84.0])
_OFFSETS = st.sampled_from([None, "+01:00", "-05:00"])


def _bodies(resource: str, number: int) -> st.SearchStrategy[dict[str, Any]]:
    start = f"2026-11-20T0{number}:00:00Z"
    common = {"id": st.just(f"r{number}"), "start": st.just(start), "timezone_offset": _OFFSETS}
    ends = st.sampled_from([f"2026-11-20T0{number}:30:00Z", f"2026-11-20T0{number}:45:00Z"])
    match resource:
        case "night":
            return st.fixed_dictionaries({**common, "end": ends, "score": _NUMBERS})
        case "workout":
            return st.fixed_dictionaries({**common, "end": ends, "kcal": _NUMBERS})
        case "summary":
            steps = st.sampled_from([None, 0, 7_000])
            return st.fixed_dictionaries({**common, "steps": steps, "resting_bpm": _NUMBERS})
        case "cgm":
            return st.fixed_dictionaries({**common, "mg_dl": _NUMBERS})
        case _:
            return st.fixed_dictionaries({**common, "bpm": _NUMBERS})


@st.composite
def fetches(draw: st.DrawFn) -> pl.DataFrame:
    """One record as one fetch brought it."""
    resource = draw(st.sampled_from(["night", "workout", "heart", "cgm", "summary"]))
    number = draw(st.integers(1, 3))
    body = draw(_bodies(resource, number))
    # A beat belongs to the night whose id it names.
    record_id = f"{body['id']}-{draw(st.integers(1, 2))}" if resource == "heart" else None
    return told(
        resource,
        draw(st.integers(0, 3)),
        record_id=record_id,
        day=DAY - timedelta(days=draw(st.integers(0, 1))),
        user_id=draw(st.sampled_from(["u1", "u2"])),
        is_deleted=draw(st.sampled_from([False, False, False, True])),
        **body,
    )


HISTORIES = st.lists(fetches(), min_size=1, max_size=12)
# A call costs a fifth of a second however small its input is, tables being as wide as they are: looking for a
# smaller counterexample would take minutes.
generated = settings(
    max_examples=6,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
on_every_table = pytest.mark.parametrize("table", FED)


@pytest.fixture(autouse=True)
def only_the_band(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "providers", lambda: {"band": BAND})


def content(table: str, history: Sequence[pl.DataFrame]) -> bytes:
    """The bytes a partition file of the history would have."""
    made = engine.normalize(pl.concat(history), table).rows
    return encode_parquet(made.to_arrow(), TABLES[table].arrow_schema())


@on_every_table
@given(history=HISTORIES, data=st.data())
@generated
def test_any_order_of_arrival_gives_the_same_bytes(
    table: str, history: list[pl.DataFrame], data: st.DataObject
) -> None:
    assert content(table, data.draw(st.permutations(history))) == content(table, history)


@on_every_table
@given(history=HISTORIES, data=st.data())
@generated
def test_what_is_read_twice_counts_once(
    table: str, history: list[pl.DataFrame], data: st.DataObject
) -> None:
    repeated = data.draw(st.lists(st.sampled_from(history), max_size=4))
    assert content(table, history + repeated) == content(table, history)


@on_every_table
@given(history=HISTORIES)
@generated
def test_nobody_elses_records_change_a_row(table: str, history: list[pl.DataFrame]) -> None:
    whole = pl.concat(history)
    together = engine.normalize(whole, table).rows
    apart = [
        engine.normalize(cell, table).rows for cell in whole.partition_by("user_id", "local_date")
    ]
    key = list(dict.fromkeys((*TABLES[table].row_key, "local_date")))
    assert_frame_equal(pl.concat(apart).sort(key), together.sort(key), check_exact=True)


@given(history=HISTORIES)
@generated
def test_the_last_word_of_a_record_is_its_row(history: list[pl.DataFrame]) -> None:
    """A second opinion on merging: plain Python over the same history."""
    last: dict[tuple[Any, ...], dict[str, Any]] = {}
    for line in pl.concat(history).to_dicts():
        cell = (line["user_id"], line["resource"], line["record_id"], line["local_date"])
        kept = last.get(cell)
        if kept is None or _age(line) > _age(kept):
            last[cell] = line
    expected = {
        (user, day, record_id): line
        for (user, resource, record_id, day), line in last.items()
        if resource == "workout" and not line["is_deleted"]
    }
    rows = engine.normalize(pl.concat(history), "activity").rows.to_dicts()
    found = {(r["user_id"], r["local_date"], r["metadata_summary_id"]): r for r in rows}
    assert found.keys() == expected.keys()
    for key, line in expected.items():
        body = pl.Series([line["body"].decode()]).str.json_decode(
            pl.Struct({"kcal": pl.Float64, "end": pl.String})
        )[0]
        assert found[key]["calories_total_burned_calories"] == body["kcal"]
        assert found[key]["end_at"].strftime("%Y-%m-%dT%H:%M:%SZ") == body["end"]


def _age(line: dict[str, Any]) -> tuple[Any, ...]:
    return (line["fetched_at"], line["content_hash"], line["batch_id"])


@given(batches=st.lists(st.lists(fetches(), min_size=1, max_size=5), min_size=1, max_size=4))
@settings(generated, max_examples=4)
def test_a_batch_appended_again_changes_nothing(
    batches: list[list[pl.DataFrame]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    once = _stored(tmp_path_factory.mktemp("once"), batches)
    twice = _stored(tmp_path_factory.mktemp("twice"), [b for b in batches for _ in range(2)])
    for table in FED:
        assert content(table, [twice]) == content(table, [once])


def _stored(folder: Path, batches: Sequence[Sequence[pl.DataFrame]]) -> pl.DataFrame:
    """What the raw store holds after the batches, a minute apart, went in one after another."""
    lake = Settings(home=folder, lake_url=str(folder / "lake"))
    store = RawStore(Storage.open(lake.lake, lake), Scheme())
    # The same batch appended again is the same batch: its time comes with it.
    times: dict[int, datetime] = {}
    for batch in batches:
        at = times.setdefault(id(batch), NOON + timedelta(minutes=len(times)))
        arrivals = [
            Arrival(
                line["user_id"],
                [
                    Record(
                        line["resource"],
                        line["record_id"],
                        line["body"],
                        line["local_date"],
                        is_deleted=line["is_deleted"],
                    )
                ],
                at,
            )
            for line in pl.concat(batch).to_dicts()
        ]
        store.append(
            "band",
            arrivals,
            batch_id=f"b{at:%M}",
            door="poll",
            before_write=lambda touched: None,
        )
    cells = [Partition(DAY - timedelta(days=n), u) for n in (-1, 0, 1, 2) for u in ("u1", "u2")]
    return store.read(["band"], cells)
