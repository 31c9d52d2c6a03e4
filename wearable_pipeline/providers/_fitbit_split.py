"""Bodies of the Fitbit Web API → records, and which resource a body of unknown origin is of.

A record is one item of a list, or one day. Many bodies do not say which day they are of; then the
name of the file they were kept in may.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta

import msgspec

from wearable_pipeline.errors import BadPayloadError
from wearable_pipeline.providers._contract import Page, Record
from wearable_pipeline.providers._local_time import find_zone, read_instant
from wearable_pipeline.providers._split import content_id, decode, decode_any, item_fields

Split = Callable[[Page], Iterator[Record]]
Recognise = Callable[[object], bool]
Fields = Mapping[str, object]
Test = Callable[[Fields], bool]

# Where records go whose day nobody knows. It never moves: the same file read again is the same.
UNDATED = date(1970, 1, 1)
# No session is longer than this; what claims to be would not fit on a clock.
LONGEST_MS = 30 * 86_400_000
_DAY = timedelta(days=1)

_DATE = re.compile(r"(\d{4})-(\d{2})-(\d{2})(?:[T ].*)?")
_DATE_IN_NAME = re.compile(r"(?<!\d)(\d{4})[-_](\d{2})[-_](\d{2})(?!\d)")


def day_of(text: object) -> date | None:
    """The date a text begins with; None if it is no date (`today` is none)."""
    match = _DATE.fullmatch(text) if isinstance(text, str) else None
    return _civil_date(match.groups()) if match else None


def day_in_name(name: object) -> date | None:
    """The one date in the name of a file; None when there is none or more than one."""
    if not isinstance(name, str):
        return None
    found = {day for parts in _DATE_IN_NAME.findall(name) if (day := _civil_date(parts))}
    return found.pop() if len(found) == 1 else None


def _civil_date(parts: Sequence[str]) -> date | None:
    try:
        day = date(int(parts[0]), int(parts[1]), int(parts[2]))
    except ValueError:
        return None
    return day if 2000 <= day.year < 2100 else None


def _local(text: object) -> datetime | None:
    """What the clock showed, whatever offset is written behind it."""
    try:
        at = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return at.replace(tzinfo=None) if at else None


# --- parts of a body


def _what(page: Page) -> str:
    return f"fitbit: reading {page.resource}"


def _parts(page: Page) -> dict[str, msgspec.Raw]:
    return decode(page.body, dict[str, msgspec.Raw], _what(page))


def _part(page: Page, key: str) -> msgspec.Raw:
    parts = _parts(page)
    if key not in parts:
        raise BadPayloadError(f"{_what(page)}: the answer has no {key}")
    return parts[key]


def _listed(page: Page, raw: msgspec.Raw) -> list[msgspec.Raw]:
    return decode(raw, list[msgspec.Raw], _what(page))


def _items(page: Page, key: str) -> list[msgspec.Raw]:
    return _listed(page, _part(page, key))


def _loose_items(page: Page, key: str | None) -> list[msgspec.Raw]:
    """Items under `key`, or as people cut them out: a bare list of them, or one alone."""
    body = msgspec.Raw(page.body.strip())
    if bytes(body).startswith(b"["):
        return _listed(page, body)
    if key is None or key not in (parts := _parts(page)):
        return [body]
    part = parts[key]
    return _listed(page, part) if bytes(part).lstrip().startswith(b"[") else [part]


def _record(
    page: Page,
    item: msgspec.Raw,
    record_id: str | None,
    day: date | None,
    modified: datetime | None = None,
    **context: object,
) -> Record:
    zone = page.context.get("timezone")
    known = {"timezone": zone} if isinstance(zone, str) and find_zone(zone) else {}
    dated = {"date": day.isoformat()} if day else {}
    units = {"units": "us"} if page.context.get("units") == "us" else {}
    return Record(
        page.resource,
        record_id or content_id(bytes(item)),
        bytes(item),
        day or UNDATED,
        {**known, **dated, **units, **context},
        provider_updated_at=modified,
        # The body alone says neither where its clock was nor its units nor, often, which day it is of.
        is_context_content=True,
    )


def _named_day(page: Page) -> date | None:
    return day_in_name(page.context.get("file"))


# --- days


def split_days(key: str, test: Test = lambda fields: True) -> Split:
    """One record per item of `key` that passes the test; an item names its day in `dateTime`."""

    def split(page: Page) -> Iterator[Record]:
        yield from _days(page, _items(page, key), test)

    return split


def split_loose_days(test: Test) -> Split:
    """Like `split_days`, for answers that are a bare list or one lone day."""

    def split(page: Page) -> Iterator[Record]:
        yield from _days(page, _loose_items(page, "spo2"), test)

    return split


def _days(page: Page, items: list[msgspec.Raw], test: Test) -> Iterator[Record]:
    for item in items:
        fields = item_fields(item)
        if not test(fields):
            continue
        day = day_of(fields.get("dateTime")) or (_named_day(page) if len(items) == 1 else None)
        yield _record(page, item, day.isoformat() if day else None, day)


def split_series(key: str) -> Split:
    """Totals of days. Beside points that do not begin at midnight, they are totals of a part of it."""

    def split(page: Page) -> Iterator[Record]:
        parts = _parts(page)
        items = _items(page, key)
        points = parts.get(f"{key}-intraday")
        times = _times(page, points) if points is not None else []
        is_part = bool(times) and times[0] != "00:00:00"
        for item in items:
            day = day_of(item_fields(item).get("dateTime")) or (
                _named_day(page) if len(items) == 1 else None
            )
            name = f"{day}/{times[0]}" if is_part else f"{day}"
            yield _record(page, item, name if day else None, day, is_part=is_part)

    return split


def split_heart_window(page: Page) -> Iterator[Record]:
    """Zones and mean of the stretch of time asked for, which is the day when the points span it."""
    points = _parts(page).get("activities-heart-intraday", msgspec.Raw(b"{}"))
    times = [text for text in _times(page, points) if text]
    is_part = not times or times[0] > "00:15:00" or times[-1] < "23:44:00"
    items = _items(page, "activities-heart")
    for item in items:
        fields = item_fields(item)
        if not is_heart_window(fields):
            continue
        day = day_of(fields.get("dateTime")) or (_named_day(page) if len(items) == 1 else None)
        span = f"{day}/{times[0]}-{times[-1]}" if times else f"{day}"
        whole = len(items) == 1 and not is_part
        yield _record(page, item, span if day else None, day, is_part=not whole)


def is_heart_day(fields: Fields) -> bool:
    """Whether an item of `activities-heart` speaks of a day, not of a stretch of it."""
    return isinstance(fields.get("value"), dict)


def is_heart_window(fields: Fields) -> bool:
    """The other shape: zones beside a mean."""
    return not is_heart_day(fields)


def split_unmapped(page: Page) -> Iterator[Record]:
    """Items of every known series that no table has a place for."""
    for key, part in _parts(page).items():
        if not is_unmapped(key):
            continue
        items = _listed(page, part) if bytes(part).lstrip().startswith(b"[") else [part]
        for item in items:
            day = day_of(item_fields(item).get("dateTime")) or _named_day(page)
            yield _record(page, item, f"{key}/{day}" if day else None, day)


_UNMAPPED = re.compile(
    r"activities-tracker-\w+|activities-(elevation|swimming-strokes|active-zone-minutes)-intraday"
    r"|sleep-(startTime|timeInBed|minutesAsleep|awakeningsCount|minutesAwake|minutesToFallAsleep"
    r"|minutesAfterWakeup|efficiency)"
)


def is_unmapped(key: str) -> bool:
    """Whether a key names a series that is kept raw only."""
    return _UNMAPPED.fullmatch(key) is not None


# --- points of a day


class _Point(msgspec.Struct):
    time: object = None


class _Dataset(msgspec.Struct, rename="camel"):
    dataset: list[_Point] = []
    dataset_interval: object = None
    dataset_type: object = None


def _times(page: Page, raw: msgspec.Raw) -> list[str]:
    points = decode(raw, _Dataset, _what(page))
    return [point.time if isinstance(point.time, str) else "" for point in points.dataset]


def split_points(key: str) -> Split:
    """One record per day of `<key>-intraday`, all with the same bytes: points only say the time.

    A stretch that passes midnight goes on with the next day where the clock starts again. Records are
    named after the stretch they cover, so that a part of a day never takes the place of the whole.
    """

    def split(page: Page) -> Iterator[Record]:
        parts = _parts(page)
        raw = _part(page, f"{key}-intraday")
        points = decode(raw, _Dataset, _what(page))
        given = (
            [day_of(item_fields(i).get("dateTime")) for i in _listed(page, parts[key])]
            if (key in parts)
            else []
        )
        days = sorted({day for day in given if day}) or [d for d in (_named_day(page),) if d]
        runs = _runs(_times(page, raw))
        # Two days asked for and points of one: nobody knows of which.
        first = days[0] if days and len(days) <= len(runs) else None
        for number, (start, end) in enumerate(runs):
            day = first + number * _DAY if first else None
            step = f"{points.dataset_interval}{points.dataset_type}"
            name = f"{day}/{step}/{start}-{end}" if day else None
            yield _record(page, raw, name, day, run=number)
            if day is None:
                return

    return split


def _runs(times: list[str]) -> list[tuple[str, str]]:
    """First and last time of every run in which the clock goes on."""
    runs: list[tuple[str, str]] = []
    for text in times:
        if not text:
            continue
        if runs and text >= runs[-1][1]:
            runs[-1] = (runs[-1][0], text)
        else:
            runs.append((text, text))
    return runs or [("", "")]


# --- single things


def split_logs(key: str) -> Split:
    """One record per measurement with `date`, `time` and `logId`.

    Two sources may share a log id.
    """

    def split(page: Page) -> Iterator[Record]:
        for item in _items(page, key):
            fields = item_fields(item)
            log_id = fields.get("logId")
            name = f"{log_id}/{fields.get('source') or ''}" if log_id is not None else None
            yield _record(page, item, name, day_of(fields.get("date")))

    return split


def split_undated_logs(key: str) -> Split:
    """One record per measurement of a list that leaves the day to the address it came from."""

    def split(page: Page) -> Iterator[Record]:
        day = _named_day(page)
        for item in _items(page, key):
            log_id = item_fields(item).get("logId")
            yield _record(page, item, None if log_id is None else str(log_id), day)

    return split


def split_timed(key: str, field: str) -> Split:
    """One record per item of `key`; it names its moment in `field`."""

    def split(page: Page) -> Iterator[Record]:
        for item in _items(page, key):
            at = item_fields(item).get(field)
            yield _record(page, item, at if isinstance(at, str) else None, day_of(at))

    return split


def split_activities(page: Page) -> Iterator[Record]:
    """Sessions of the activity log."""
    for item in _loose_items(page, "activities"):
        fields = item_fields(item)
        yield _session(page, item, fields, day_of(fields.get("startTime")))


def split_day_activities(page: Page) -> Iterator[Record]:
    """Sessions as the summary of a day lists them, in fewer words."""
    for item in _items(page, "activities"):
        fields = item_fields(item)
        yield _session(page, item, fields, day_of(fields.get("startDate")))


def _session(page: Page, item: msgspec.Raw, fields: Fields, day: date | None) -> Record:
    log_id = fields.get("logId")
    modified = read_instant(fields.get("lastModified"))
    return _record(page, item, None if log_id is None else str(log_id), day, modified)


def split_sleep(page: Page) -> Iterator[Record]:
    """Nights and naps. A sleep belongs to the day it ended on."""
    for item in _loose_items(page, "sleep"):
        fields = item_fields(item)
        log_id = fields.get("logId")
        yield _record(page, item, None if log_id is None else str(log_id), _wake_day(fields))


def _wake_day(fields: Fields) -> date | None:
    stated = day_of(fields.get("dateOfSleep")) or day_of(fields.get("endTime"))
    start, length = _local(fields.get("startTime")), fields.get("duration")
    if stated or start is None or not 2000 <= start.year < 2100:
        return stated
    known = isinstance(length, int | float) and 0 <= length <= LONGEST_MS
    end: datetime = start + timedelta(milliseconds=length if known else 0)  # type: ignore[arg-type]
    return end.date()


def split_foods(page: Page) -> Iterator[Record]:
    """Foods of a day's log."""
    for item in _items(page, "foods"):
        fields = item_fields(item)
        log_id = fields.get("logId")
        day = day_of(fields.get("logDate")) or _named_day(page)
        yield _record(page, item, None if log_id is None else str(log_id), day)


def split_foods_summary(page: Page) -> Iterator[Record]:
    """Totals of a day's food log."""
    foods = [item_fields(item) for item in _items(page, "foods")]
    yield _of_a_day(page, _part(page, "summary"), [food.get("logDate") for food in foods])


def split_activity_summary(page: Page) -> Iterator[Record]:
    """Totals of a day. Only the sessions beside them, if any, tell which."""
    listed = _listed(page, _parts(page).get("activities", msgspec.Raw(b"[]")))
    given = [item_fields(item).get("startDate") for item in listed]
    yield _of_a_day(page, _part(page, "summary"), given)


def _of_a_day(page: Page, part: msgspec.Raw, given: list[object]) -> Record:
    days = {day for text in given if (day := day_of(text))}
    day = days.pop() if len(days) == 1 else _named_day(page)
    return _record(page, part, day.isoformat() if day else None, day)


def split_body(page: Page) -> Iterator[Record]:
    """Body measurements of a day."""
    yield _of_a_day(page, _part(page, "body"), [])


def split_water(page: Page) -> Iterator[Record]:
    """What was drunk in a day, total and portions as one: portions have no time."""
    _items(page, "water")
    yield _of_a_day(page, msgspec.Raw(page.body.strip()), [])


def split_devices(page: Page) -> Iterator[Record]:
    """Devices on the day they last handed over data."""
    for item in _loose_items(page, None):
        fields = item_fields(item)
        day = day_of(fields.get("lastSyncTime"))
        yield _record(page, item, f"{fields.get('id')}/{day}" if day else None, day)


# --- bodies of unknown origin


def _is_any(items: list[object], test: Test) -> bool:
    return any(isinstance(item, dict) and test(item) for item in items)


def has_list(*keys: str, test: Test = lambda fields: True) -> Recognise:
    """Recognises objects with all `keys`, the first a list, empty or with an item that passes.

    One strange item does not make the others unknown: `split` takes them all.
    """

    def recognise(answer: object) -> bool:
        if not isinstance(answer, dict) or any(key not in answer for key in keys):
            return False
        items = answer[keys[0]]
        return isinstance(items, list) and (not items or _is_any(items, test))

    return recognise


def has_some(key: str, test: Test) -> Recognise:
    """Recognises objects whose list `key` has an item that passes the test."""

    def recognise(answer: object) -> bool:
        items = answer.get(key) if isinstance(answer, dict) else None
        return isinstance(items, list) and _is_any(items, test)

    return recognise


def has_any_or_none(key: str, test: Test) -> Recognise:
    """Like `has_some`, and an empty list."""
    some = has_some(key, test)

    def recognise(answer: object) -> bool:
        return some(answer) or (isinstance(answer, dict) and answer.get(key) == [])

    return recognise


def has_object(key: str, *fields: str) -> Recognise:
    """Recognises objects with an object `key` that has one of `fields`."""

    def recognise(answer: object) -> bool:
        part = answer.get(key) if isinstance(answer, dict) else None
        return isinstance(part, dict) and any(field in part for field in fields)

    return recognise


def has_points(key: str) -> Recognise:
    """Recognises objects with the points of a day."""
    return has_object(f"{key}-intraday", "dataset")


def is_loose(key: str | None, test: Test) -> Recognise:
    """Recognises a list under `key`, a bare list, or a lone item, where some item passes the test."""

    def recognise(answer: object) -> bool:
        items = answer
        if isinstance(answer, dict):
            items = answer[key] if key is not None and key in answer else [answer]
            # What is there and empty is an answer too.
            if items == [] and key is not None:
                return True
            items = [items] if isinstance(items, dict) else items
        return isinstance(items, list) and _is_any(items, test)

    return recognise


def has_unmapped(answer: object) -> bool:
    """Recognises answers with a series that is kept raw only."""
    return isinstance(answer, dict) and any(is_unmapped(key) for key in answer)


# What else people keep beside readings, by keys it alone has; the first match counts.
_OTHERS: tuple[tuple[frozenset[str], str], ...] = tuple(
    (frozenset(keys.split()), what)
    for keys, what in (
        ("access_token", "an answer with tokens"),
        ("apiSubscriptions", "a list of subscriptions"),
        ("collectionType subscriptionId", "a notification"),
        ("lifetime", "totals of a lifetime"),
        ("user", "a profile"),
        ("badges", "a list of badges"),
        ("trackerAlarms", "a list of alarms"),
        ("categories", "a list of kinds of activity"),
        ("meals", "a list of meals somebody put together"),
        ("encodedId", "a profile"),
        ("consideration goal", "a goal"),
        ("goals", "goals"),
        ("goal", "a goal"),
        ("foodId", "a list of foods"),
        ("activityId", "a list of kinds of activity"),
        ("onboarded", "a profile of heart rhythm alerts"),
    )
)
_ERROR_TYPE = re.compile(r"[a-z_]{1,40}")


def name_other(answer: object) -> str | None:
    """What an answer without readings is, in words; None when it may hold some."""
    if answer in ([], {}):
        return "an empty answer"
    if isinstance(answer, list):
        return _named_keys(answer[0]) if answer and isinstance(answer[0], dict) else None
    if not isinstance(answer, dict):
        return None
    errors = answer.get("errors")
    if isinstance(errors, list):
        kinds = [e.get("errorType") for e in errors if isinstance(e, dict)]
        told = [k for k in kinds if isinstance(k, str) and _ERROR_TYPE.fullmatch(k)]
        return f"an error of the Web API ({told[0]})" if told else "an error of the Web API"
    return _named_keys(answer)


def _named_keys(found: Iterable[str]) -> str | None:
    keys = set(found)
    return next((what for wanted, what in _OTHERS if wanted <= keys), None)


def profile_zone(answer: object) -> str | None:
    """The time zone in a profile; None when the answer is none or the zone is unknown."""
    user = answer.get("user") if isinstance(answer, dict) else None
    zone = user.get("timezone") if isinstance(user, dict) else None
    return zone if isinstance(zone, str) and find_zone(zone) else None


def refuse_other(body: bytes, is_recognised: Recognise) -> None:
    """Raise BadPayloadError saying what `body` is when it is an answer without readings."""
    answer = decode_any(body)
    if is_recognised(answer):
        return
    what = name_other(answer)
    if what is not None:
        raise BadPayloadError(
            f"fitbit: reading the answer: it looks like {what}: it carries no readings"
        )
