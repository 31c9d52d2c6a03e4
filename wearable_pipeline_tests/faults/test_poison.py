"""One poisoned person among many: everybody else is committed, and every record is accounted for."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import msgspec
import polars as pl

from wearable_pipeline.partitions import Partition
from wearable_pipeline.registry import User
from wearable_pipeline.tables.update import update_table
from wearable_pipeline.workspace import Workspace
from wearable_pipeline_tests.faults.cast import rectangle
from wearable_pipeline_tests.faults.entries import (
    DAY,
    NOON,
    add_user,
    entry,
    read_quarantine,
    read_table,
    samples_of,
    series,
    take_in,
)

MIDNIGHT = datetime(2026, 11, 20, tzinfo=UTC)

POISON: list[tuple[dict[str, object], str | None]] = [
    (entry(NOON, "LOW"), "sgv: not a number"),
    (entry(NOON, "NaN"), "sgv: not a number"),
    (entry(NOON, {"v": 100}), "body: not the JSON object this resource sends"),
    (entry(NOON, None), "no glucose value"),
    (
        {**entry(NOON), "date": None},
        "date: missing or before 2000; time: missing or not a date",
    ),
    ({**entry(NOON), "date": "soon"}, "date: not a whole number"),
    (entry(datetime(2099, 1, 1, tzinfo=UTC)), "time: more than a day after it was fetched"),
    ({**entry(NOON), "type": "cal"}, None),
    ({**entry(NOON), "type": "🚀"}, None),
]


def documents() -> list[dict[str, object]]:
    return [{**document, "identifier": f"poison-{n}"} for n, (document, _) in enumerate(POISON)]


def test_one_poisoned_person_among_many_stops_nobody_and_no_record_is_unaccounted_for(
    workspace: Workspace,
) -> None:
    users = [add_user(workspace) for _ in range(12)]
    poisoned = users[5]
    good = series(MIDNIGHT, 20)
    twin = {**entry(MIDNIGHT, 99), "identifier": "twin"}
    for user in users:
        take_in(workspace, user, good)
    page = msgspec.json.encode([*documents(), twin])
    # Keys given twice, as a broken uploader writes them.
    page = page[:-1] + b',{"type":"sgv","type":"sgv","sgv":"x","sgv":"x","identifier":"double"}]'
    appended = take_in(workspace, poisoned, page)
    assert appended.new == len(POISON) + 2

    cells = rectangle([DAY], [user.user_id for user in users])
    report = update_table(workspace, "body", cells)
    for user in users:
        rows = read_table(workspace.lake, "body", Partition(DAY, user.user_id))
        assert len(samples_of(rows)) == 20

    reasons = ["sgv: not a number", *(reason for _, reason in POISON if reason is not None)]
    assert report.reasons == Counter(reasons)
    without_table = sum(reason is None for _, reason in POISON)
    assert report.rejected == len(reasons)
    assert report.merged == 1
    assert report.records == report.samples + report.rejected + report.merged + without_table
    assert report.records == 12 * 20 + len(POISON) + 2

    left = pl.concat(
        read_quarantine(workspace.lake, "body", Partition(day, poisoned.user_id))
        for day in sorted(appended.touched[poisoned.user_id])
        if _has_quarantine(workspace, poisoned, day)
    )
    assert left["user_id"].unique().to_list() == [poisoned.user_id]
    assert left.height == report.rejected
    for reason in reasons:
        assert reason in left["reason"].to_list()


def _has_quarantine(workspace: Workspace, user: User, day: object) -> bool:
    prefix = f"quarantine/body/date={day}/user={user.user_id}/"
    return any(True for _ in workspace.lake.storage.list(prefix))


def test_a_value_beyond_all_bounds_is_left_out_and_said_so(workspace: Workspace) -> None:
    user = add_user(workspace)
    take_in(workspace, user, [entry(NOON - timedelta(minutes=5)), entry(NOON, 1e9)])
    report = update_table(workspace, "body", [Partition(DAY, user.user_id)])
    rows = read_table(workspace.lake, "body", Partition(DAY, user.user_id))
    assert [value for _, value in samples_of(rows) if value is not None] == [100.0]
    assert report.rejected == 1
    (reason,) = report.reasons
    assert "blood_glucose_mg_per_dl" in reason
    assert "1000000000" not in reason
