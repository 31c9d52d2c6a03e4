"""The import door with LibreView exports: what enters raw, what changes it, what is refused."""

import os
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from wearable_pipeline.connect import connect
from wearable_pipeline.errors import BadPayloadError, PipelineError, UsageError
from wearable_pipeline.partitions import Partition
from wearable_pipeline.providers import get_provider
from wearable_pipeline.providers._contract import ImportOptions
from wearable_pipeline.raw.files import ImportReport, import_file
from wearable_pipeline.raw.store import latest_revisions
from wearable_pipeline.registry import User
from wearable_pipeline.tables.normalize import normalize
from wearable_pipeline.workspace import Workspace

LIBRE = get_provider("freestyle_libre")
HEADER = (
    "Device,Serial Number,Device Timestamp,Record Type,Historic Glucose mg/dL,Scan Glucose mg/dL,"
    "Rapid-Acting Insulin (units),Carbohydrates (grams),Notes"
)


def line(at: str, kind: int = 0, value: object = 100) -> str:
    cells = ["", "", "", "", ""]
    cells[kind if kind < 2 else 2] = str(value)
    return ",".join(["Libre", "AB12", at, str(kind), *cells])


def write(folder: Path, *lines: str, name: str = "export.csv") -> Path:
    path = folder / name
    path.write_bytes("".join(f"{one}\r\n" for one in (HEADER, *lines)).encode())
    return path


@pytest.fixture
def user(workspace: Workspace) -> User:
    return connect(workspace, LIBRE, {}, reference_id=None, timezone=None, import_only=True)


Import = Callable[..., ImportReport]


@pytest.fixture
def bring(workspace: Workspace, user: User, clock: Any) -> Import:
    """One import, a minute after the one before."""

    def run(path: Path, **options: Any) -> ImportReport:
        clock.advance(minutes=1)
        return import_file(workspace, LIBRE, user, path, ImportOptions(**options))

    return run


def living(workspace: Workspace, user: User) -> pl.DataFrame:
    """The records of all partitions as tables would see them."""
    raw = workspace.lake.raw.read(
        ["freestyle_libre"],
        [Partition(p.date, p.cohort) for p in workspace.lake.raw.partitions("freestyle_libre")],
    )
    return latest_revisions(raw).filter(~pl.col("is_deleted"))


def counts(report: ImportReport) -> tuple[int, int, int]:
    return (report.appended.new, report.appended.changed, report.appended.unchanged)


def test_the_same_file_again_adds_nothing(tmp_path: Path, bring: Import) -> None:
    path = write(tmp_path, line("13-09-2026 08:00"), line("13-09-2026 08:00"))
    assert counts(bring(path, timezone="Europe/Berlin")) == (2, 0, 0)
    again = bring(path, timezone="Europe/Berlin")
    assert counts(again) == (0, 0, 2)
    assert again.appended.touched == {}


def test_another_time_zone_is_a_new_revision(
    workspace: Workspace, user: User, tmp_path: Path, bring: Import
) -> None:
    path = write(tmp_path, line("13-09-2026 08:00"))
    bring(path)
    assert counts(bring(path, timezone="Europe/Berlin")) == (0, 1, 0)
    (row,) = normalize(living(workspace, user), "body").rows.to_dicts()
    (sample,) = row["glucose_blood_glucose_samples"]
    assert sample["timestamp"].isoformat() == "2026-09-13T06:00:00+00:00"
    # And back: nobody knows the instant again.
    assert counts(bring(path)) == (0, 1, 0)
    (row,) = normalize(living(workspace, user), "body").rows.to_dicts()
    assert row["glucose_blood_glucose_samples"][0]["timestamp"] is None


def test_another_date_order_moves_every_line(
    workspace: Workspace, user: User, tmp_path: Path, bring: Import
) -> None:
    # Each day with each month: more dates than are compared at a time, and each swap hits another.
    days = [f"{first:02}-{second:02}-2025" for first in range(1, 13) for second in range(1, 13)]
    path = write(tmp_path, *(line(f"{day} 08:00", value=n + 50) for n, day in enumerate(days)))
    assert counts(bring(path, date_order="dmy")) == (144, 0, 0)
    first = living(workspace, user)
    assert first.height == 144
    moved = bring(path, date_order="mdy")
    assert moved.appended.new + moved.appended.changed == 144
    second = living(workspace, user)
    assert second.height == 144
    assert second["record_id"].n_unique() == 144
    where = dict(second.select("record_id", "local_date").rows())
    assert where["AB12|03-09-2025 08:00|0|1"] == date(2025, 3, 9)
    assert where["AB12|09-03-2025 08:00|0|1"] == date(2025, 9, 3)
    assert counts(bring(path, date_order="mdy")) == (0, 0, 144)
    bring(path, date_order="dmy")
    back = living(workspace, user)
    assert back.select("record_id", "local_date").equals(first.select("record_id", "local_date"))


def test_a_longer_export_that_tells_the_order_corrects_the_shorter_one(
    workspace: Workspace, user: User, tmp_path: Path, bring: Import
) -> None:
    bring(write(tmp_path, line("03-09-2026 08:00")), date_order="mdy")
    assert living(workspace, user)["local_date"].to_list() == [date(2026, 3, 9)]
    report = bring(write(tmp_path, line("03-09-2026 08:00"), line("13-09-2026 08:00")))
    found = living(workspace, user).sort("local_date")
    assert found["local_date"].to_list() == [date(2026, 9, 3), date(2026, 9, 13)]
    assert report.appended.touched == {
        user.user_id: {date(2026, 3, 9), date(2026, 9, 3), date(2026, 9, 13)}
    }


def test_a_broken_time_quarantines_its_line_alone(
    workspace: Workspace, user: User, tmp_path: Path, bring: Import
) -> None:
    path = write(
        tmp_path, line("13-09-2026 08:00"), line("13-09-2026 8 o'clock"), line("13-09-2026 08:30")
    )
    assert bring(path).records == 3
    result = normalize(living(workspace, user), "body")
    assert result.rows["glucose_blood_glucose_samples"].list.len().sum() == 2
    (reason,) = result.rejected["reason"].to_list()
    assert reason.startswith("time: missing")


GOOD = f"{HEADER}\r\n{line('13-09-2026 08:00')}\r\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"\r\n \r\n", "empty"),
        (GOOD.encode() + line("13-09-2026 08:15").encode()[:-6], "cut off in line 3"),
        (GOOD.encode() + b"\x00\x01\x02\xff\n", "binary"),
        (GOOD.encode("utf-16"), "binary"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "binary"),
        (b"\xff\xd8\xff\xe0 no zero byte in sight", "not a file this provider exports"),
        (b'[{"type": "sgv", "sgv": 100}]', "not a file this provider exports"),
        (
            b"Index,Timestamp (YYYY-MM-DDThh:mm:ss),Event Type,Glucose Value (mg/dL)\r\n1,,,\r\n",
            "not a file this provider exports",
        ),
        (b"name,age\r\nAda,36\r\n", "not a file this provider exports"),
        (HEADER.encode() + b"\r\n", "no lines"),
        (GOOD.replace("13-09-2026 08:00", "soon").encode(), "no line has a time"),
        (GOOD.replace("13-09", "03-09").encode(), "--date-order"),
    ],
)
def test_what_is_no_export_is_refused_before_anything_is_written(
    workspace: Workspace, user: User, tmp_path: Path, bring: Import, content: bytes, says: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(BadPayloadError, match=says) as raised:
        bring(path)
    assert "\n" not in str(raised.value)
    assert workspace.lake.raw.partitions("freestyle_libre") == []
    assert workspace.registry.imports([user.user_id]) == []


def test_a_file_of_another_provider_s_user_is_the_callers_mistake(
    workspace: Workspace, user: User, tmp_path: Path
) -> None:
    path = write(tmp_path, line("13-09-2026 08:00"))
    with pytest.raises(UsageError, match="no file import"):
        import_file(workspace, get_provider("nightscout"), user, path, ImportOptions())


def test_what_cannot_be_opened_is_told_with_its_reason(
    tmp_path: Path, bring: Import, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="a directory"):
        bring(tmp_path)
    with pytest.raises(UsageError, match="No such file"):
        bring(tmp_path / "missing.csv")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UsageError, match="no regular file"):
        bring(pipe)
    path = write(tmp_path, line("13-09-2026 08:00"))

    def refuse(self: Path, mode: str = "r") -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UsageError, match="Permission denied"):
        bring(path)


def test_a_disk_that_fails_halfway_is_told(
    workspace: Workspace, tmp_path: Path, bring: Import, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, line("13-09-2026 08:00"))
    handle = path.open("rb")

    class Failing:
        """A file whose second half cannot be read."""

        def __enter__(self) -> "Failing":
            return self

        def __exit__(self, *reason: object) -> None:
            handle.close()

        def read(self, size: int) -> bytes:
            return handle.read(size)

        def seek(self, offset: int) -> int:
            return handle.seek(offset)

        def readline(self, size: int) -> bytes:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr("wearable_pipeline.raw.files._open", lambda path: Failing())
    with pytest.raises(UsageError, match="Input/output error"):
        bring(path)
    assert workspace.lake.raw.partitions("freestyle_libre") == []


def test_errors_of_an_import_are_one_line_each(tmp_path: Path, bring: Import) -> None:
    path = write(tmp_path, line("13-09-2026 08:00"), line("09-14-2026 08:00"))
    with pytest.raises(PipelineError) as raised:
        bring(path)
    assert "\n" not in str(raised.value)
