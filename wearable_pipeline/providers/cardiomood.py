"""CardioMood: days and minutes of Corsano's bracelets, and recordings of beats as text.

https://developer.corsano.com/rest/intro

A login gives a token of the users' API, and that one a token of the health API; both end, and e-mail and
password begin them anew. No answer has been seen. Summaries of days and the minutes of `activity` are
read as the vendor's data models name their fields; distance, energy and slots are left, as their units
or times are not told. Of sleep, temperature, heart rate variability and beats nobody has written down
what an answer holds: they are fetched and kept in raw.

A text file with one interval between beats per line says nothing of when it was: its name must.
"""

import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import PurePath
from typing import BinaryIO, NoReturn

import msgspec
import polars as pl

from wearable_pipeline.errors import (
    BadPayloadError,
    NotConnectedError,
    TransientError,
    UsageError,
)
from wearable_pipeline.model.columns import INSTANT, LOCAL
from wearable_pipeline.model.time import parse_pair
from wearable_pipeline.providers._contract import (
    Answer,
    Client,
    Connected,
    Connection,
    CredentialField,
    Importer,
    ImportOptions,
    Page,
    Provider,
    Record,
    Reject,
    Resource,
    Samples,
    Scalars,
    Window,
)
from wearable_pipeline.providers._local_time import (
    YEARS,
    check_zone,
    in_years,
    instant_of,
    local_date_of,
    read_time,
    wall_clock,
    zone_of,
)
from wearable_pipeline.providers._paging import follow
from wearable_pipeline.providers._sessions import begin_anew
from wearable_pipeline.providers._split import (
    content_id,
    decode,
    decode_any,
    is_web_page,
    item_fields,
)
from wearable_pipeline.providers._values import positive
from wearable_pipeline.providers._windows import instants_around
from wearable_pipeline.settings import settings

_USERS = "https://api.users.cloud.corsano.com"
_HEALTH = "https://api.health.cloud.corsano.com"
_DAY = timedelta(days=1)
# Of raw metrics no more is given at once.
LONGEST_QUERY = _DAY
_PER_PAGE = 10

# Metrics in the order they are fetched, and the resource each is.
_METRICS: Mapping[str, str] = {
    "activity": "activity",
    "rr_interval": "rr-interval",
    "sleep": "sleep",
    "temperature": "temperature",
    "heart_rate_variability": "heart-rate-variability",
}

# --- talking to Corsano


class _Token(msgspec.Struct):
    token: str | None = None


def _users_address(path: str) -> str:
    return (settings().provider("cardiomood").auth_url or _USERS).rstrip("/") + path


def _health_address(path: str) -> str:
    return (settings().provider("cardiomood").base_url or _HEALTH).rstrip("/") + path


async def _login(client: Client, email: str, password: str) -> dict[str, object]:
    """Credentials with fresh tokens: e-mail and password give the first, that one the second."""
    user = await _exchange(
        client, _users_address("/login"), {"email": email, "password": password}, "login"
    )
    health = await _exchange(
        client, _health_address("/login"), {"user_api_token": user}, "login to the health data"
    )
    return {"email": email, "password": password, "token": health}


async def _exchange(client: Client, url: str, sent: Mapping[str, str], doing: str) -> str:
    answer = await client.request(
        "POST",
        url,
        headers={"accept": "application/json"},
        json=dict(sent),
        accept=(200, 201, 400, 401, 403, 422),
    )
    if answer.status not in (200, 201):
        raise NotConnectedError(
            f"cardiomood: {doing}: e-mail or password is wrong: check them and connect again"
        )
    # A wrong login has been met with a page instead of JSON, and so is a service that is down.
    if is_web_page(answer.body):
        raise TransientError(
            f"cardiomood: {doing}: a web page came back: either the service is down,"
            " or e-mail or password is wrong"
        )
    token = decode(answer.body, _Token, f"cardiomood: {doing}").token
    if not token:
        raise NotConnectedError(
            f"cardiomood: {doing}: no token came back: check e-mail and password and connect again"
        )
    return token


async def connect(client: Client, values: Mapping[str, str]) -> Connected:
    """Log in, both times."""
    email, password = values.get("email", "").strip(), values.get("password", "")
    if not email or not password:
        raise UsageError("cardiomood: e-mail and password of the account are needed")
    return Connected(email.lower(), await _login(client, email, password))


@dataclass(slots=True)
class _Session:
    """A logged-in person; a token that is refused is replaced once."""

    client: Client
    connection: Connection
    renewals: int = 0

    async def get(self, path: str, params: Mapping[str, str | int]) -> Answer:
        """The answer, with a token that is taken."""
        answer = await self._get(path, params)
        if _is_refused(answer) and self.renewals == 0:
            self.renewals += 1
            await self._renew()
            answer = await self._get(path, params)
        if _is_refused(answer):
            raise TransientError("cardiomood: a token just given is refused")
        return answer

    async def _get(self, path: str, params: Mapping[str, str | int]) -> Answer:
        token = self.connection.credentials.get("token")
        return await self.client.request(
            "GET",
            _health_address(path),
            params=params,
            headers={"authorization": f"Bearer {token}", "accept": "application/json"},
            accept=(200, 401),
        )

    async def _renew(self) -> None:
        login = partial(_login, self.client)
        await begin_anew(self.connection, "cardiomood", login, session="token")


def _is_refused(answer: Answer) -> bool:
    return answer.status == 401 or _is_unauthenticated(answer.body)


def _is_unauthenticated(body: bytes) -> bool:
    # Seen as an answer of its own, with whatever status.
    if len(body) > 1_000:
        return False
    answer = decode_any(body)
    return isinstance(answer, dict) and "Unauthenticated" in str(
        answer.get("error") or answer.get("message")
    )


async def fetch(client: Client, connection: Connection, window: Window) -> AsyncIterator[Page]:
    """Yield the days of the window, then its metrics a day at a time, newest first."""
    session = _Session(client, connection)
    context = {"timezone": connection.timezone}
    async for answer in _summaries(session, window):
        yield Page("summaries", answer.body, answer.fetched_at, context)
    for begin, end in _spans(window):
        dates = {"from_date": _written(begin), "to_date": _written(end)}
        for name, metric in _METRICS.items():
            answer = await session.get(f"/v2/raw-metrics/{metric}", dates)
            yield Page(name, answer.body, answer.fetched_at, context)


async def _summaries(session: _Session, window: Window) -> AsyncIterator[Answer]:
    what = "cardiomood: reading summaries"
    page = 1

    async def ask(number: int | None) -> Answer:
        nonlocal page
        page = number or 1
        return await session.get(
            "/user-summaries",
            {
                "date_from": window.start.isoformat(),
                # Somebody's today may be the day after ours.
                "date_to": (window.end + _DAY).isoformat(),
                "include_slots": 1,
                "per_page": _PER_PAGE,
                "page": page,
            },
        )

    def find_next(answer: Answer) -> int | None:
        # A page that is not full is the last one.
        return page + 1 if len(_items(answer.body, what)) >= _PER_PAGE else None

    async for answer in follow(ask, find_next, what):
        yield answer


def _spans(window: Window) -> Iterator[tuple[datetime, datetime]]:
    """Instants around the local days of the window, in parts the provider takes, newest first."""
    begin, end = instants_around(window)
    end = min(end, window.now)
    while begin < end:
        first = max(begin, end - LONGEST_QUERY)
        yield first, end
        end = first


def _written(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.000+00:00"


# --- answers → records


class _Envelope(msgspec.Struct):
    data: list[msgspec.Raw]


def _items(body: bytes, what: str) -> list[msgspec.Raw]:
    """Items of a list, or of the list an answer wraps as `data`."""
    text = body.strip()
    if text[:1] == b"[":
        return decode(text, list[msgspec.Raw], what)
    return decode(text, _Envelope, what).data


def _split_summaries(page: Page) -> Iterator[Record]:
    zone = zone_of(page)
    for item in _items(page.body, "cardiomood: reading summaries"):
        told = item_fields(item).get("date")
        day = _date(told)
        yield Record(
            page.resource,
            day.isoformat() if day else content_id(bytes(item)),
            bytes(item),
            day or local_date_of(page.fetched_at, zone),
            {"timezone": zone} if zone else {},
        )


def _split_metric(page: Page) -> Iterator[Record]:
    zone = zone_of(page)
    for item in _items(page.body, f"cardiomood: reading {page.resource}"):
        fields = item_fields(item)
        shown = read_time(fields.get("date"))
        at = _instant(fields.get("timestamp")) or (
            shown.astimezone(UTC) if shown and shown.tzinfo else None
        )
        has_offset = shown is not None and not str(fields.get("date")).endswith("Z")
        day = shown.date() if shown and (has_offset or at is None) else None
        yield Record(
            page.resource,
            # Of a minute there is one; what else there may be two of nobody says.
            at.isoformat() if at and page.resource == "activity" else content_id(bytes(item)),
            bytes(item),
            day or local_date_of(at or page.fetched_at, zone),
            {"timezone": zone} if zone else {},
        )


def _date(text: object) -> date | None:
    try:
        day = date.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return day if day is not None and day.year in YEARS else None


# Milliseconds of the years anybody has lived in with a bracelet; what is smaller counts seconds.
_FEWEST_MILLISECONDS = 100_000_000_000


def _instant(value: object) -> datetime | None:
    try:
        number = float(str(value)) if value is not None else None
        if number is None:
            return None
        at = datetime.fromtimestamp(
            number / 1000 if number >= _FEWEST_MILLISECONDS else number, UTC
        )
    except (ValueError, OverflowError, OSError):
        return None
    return at if at.year in YEARS else None


# --- files → records

# The start in a name: 2026-01-31 07-30-00, 20260131_0730, 2026-01-31T07.30 …
_NAMED = re.compile(
    r"(?<!\d)(20\d\d)[-_.]?(\d\d)[-_.]?(\d\d)[ T_-]+(\d\d)[-_.:hH]?(\d\d)(?:[-_.:mM]?(\d\d))?(?!\d)"
)
_INTERVAL = re.compile(rb"\s*\d{1,5}(?:\.\d+)?\s*")
# Two days of beats.
_LARGEST_FILE = 4 << 20
_LOOKED_AT = 20
# Between a racing heart and a pause: outside, the middle of a recording is in another unit.
_USUAL_MS = (200.0, 3_000.0)


def recognise_intervals(head: bytes) -> bool:
    """Whether a file that starts like this has one number per line."""
    lines = [line for line in head.splitlines()[: _LOOKED_AT + 1] if line.strip()]
    whole = lines[:_LOOKED_AT]
    return len(whole) > 1 and all(_INTERVAL.fullmatch(line) for line in whole)


def read_intervals(stream: BinaryIO, options: ImportOptions) -> Iterator[list[Record]]:
    """The recording of a file. Raises BadPayloadError when it is none, or not said when it was."""
    check_zone(options.timezone, "cardiomood")
    stream.seek(0)
    body = stream.read(_LARGEST_FILE + 1)
    if len(body) > _LARGEST_FILE:
        _refuse(f"it is larger than {_LARGEST_FILE >> 20} MiB; no recording is")
    lines = [line for line in body.splitlines() if line.strip()]
    odd = next((n for n, line in enumerate(lines, 1) if not _INTERVAL.fullmatch(line)), None)
    if odd is not None:
        _refuse(f"the interval number {odd} is no number of milliseconds")
    intervals = sorted(float(line) for line in lines)
    if not intervals:
        _refuse("it is empty")
    if not _USUAL_MS[0] <= intervals[len(intervals) // 2] <= _USUAL_MS[1]:
        _refuse("its numbers are no milliseconds between beats")
    start = _start_of(stream)
    context: dict[str, object] = {"start": f"{start:%Y-%m-%dT%H:%M:%S}"}
    if options.timezone:
        context["timezone"] = options.timezone
    yield [
        Record(
            "intervals", str(context["start"]), body, start.date(), context, is_context_content=True
        )
    ]


def _start_of(stream: BinaryIO) -> datetime:
    name = getattr(stream, "name", None)
    match = _NAMED.search(PurePath(name).name) if isinstance(name, str | PurePath) else None
    with suppress(ValueError):
        if match is not None:
            parts = [int(part or 0) for part in match.groups()]
            return datetime(*parts)  # type: ignore[arg-type]  # noqa: DTZ001 - a wall clock
    raise BadPayloadError(
        "cardiomood: not imported: it does not say when it was recorded:"
        " put the start into its name, for example rr_2026-01-31_07-30-00.txt"
    )


def _refuse(reason: str) -> NoReturn:
    raise BadPayloadError(f"cardiomood: not imported: {reason}")


# --- bodies of unknown origin


def _listed(answer: object) -> list[object]:
    found = answer.get("data") if isinstance(answer, dict) else answer
    return found if isinstance(found, list) else []


def _recognise_summaries(answer: object) -> bool:
    found = _listed(answer)
    return bool(found) and all(
        isinstance(one, dict)
        and _date(one.get("date")) is not None
        and any(isinstance(one.get(part), dict) for part in _PARTS)
        for one in found
    )


_PARTS = ("activity", "heart_rate", "sleep", "temperature", "respiration_rate", "spo2", "stress")


def _recognise_activity(answer: object) -> bool:
    found = _listed(answer)
    return bool(found) and all(
        isinstance(one, dict) and "timestamp" in one and one.keys() & {"bpm_q", "last_steps"}
        for one in found
    )


def _recognise_by_name(_answer: object) -> bool:
    # Nobody knows what they look like: only who asked for them does.
    return False


def explain(body: bytes) -> None:
    """Raise what `body` means when it is an answer without data."""
    what = "cardiomood: reading the answer"
    if is_web_page(body):
        raise BadPayloadError(f"{what}: it is a web page instead of JSON")
    if _is_unauthenticated(body):
        raise NotConnectedError(f"{what}: the token is refused: connect this user again")
    answer = decode_any(body)
    if not isinstance(answer, dict) or "data" in answer:
        return
    if "token" in answer:
        raise BadPayloadError(f"{what}: it is a login: it carries no data")
    if answer.get("error") or answer.get("errors"):
        raise BadPayloadError(f"{what}: it is a refusal: it carries no data")


# --- records → columns

_CONTEXT: Mapping[str, pl.DataType] = {"timezone": pl.String()}
_RR = "rr_interval_ms"
_FOLD, _SINCE = "fold\x00", "since\x00"
_SHOWN, _SHOWN_AT = "shown\x00", "shown_at\x00"


def _prepare_summaries(frame: pl.DataFrame) -> pl.DataFrame:
    day = pl.col("date").str.to_date("%Y-%m-%d", strict=False).cast(LOCAL)
    has_zone = pl.col("context.timezone").is_not_null()
    return frame.with_columns(
        pl.lit(None, INSTANT).alias("timestamp"),
        in_years(day).alias("local_timestamp"),
        pl.col("context.timezone").alias("timezone"),
        pl.when(has_zone).then(pl.lit("profile")).otherwise(pl.lit("unknown")).alias("tz_source"),
    )


def _prepare_metric(frame: pl.DataFrame) -> pl.DataFrame:
    stamp, shown = pl.col("timestamp"), parse_pair(pl.col("date"))
    milliseconds = pl.when(stamp >= _FEWEST_MILLISECONDS).then(stamp).otherwise(stamp * 1000)
    # What no time can hold would stop the batch.
    bounded = pl.when(milliseconds.is_between(0, 10_000_000_000_000)).then(milliseconds)
    told = bounded.round().cast(pl.Int64).cast(pl.Datetime("ms", "UTC")).cast(INSTANT)
    frame = frame.with_columns(
        pl.coalesce(in_years(told), in_years(shown.timestamp)).alias("timestamp"),
        in_years(shown.local_timestamp).alias(_SHOWN),
        in_years(shown.timestamp).alias(_SHOWN_AT),
    )
    offset = pl.col(_SHOWN) - pl.col(_SHOWN_AT).dt.replace_time_zone(None)
    zoned = wall_clock(frame, pl.col("timestamp"), "context.timezone")
    frame = frame.with_columns(
        pl.coalesce(
            pl.col("timestamp").dt.replace_time_zone(None) + offset,
            zoned,
            pl.when(pl.col("timestamp").is_null()).then(_SHOWN),
        ).alias("local_timestamp")
    )
    from_zone = offset.is_null() & pl.col("timestamp").is_not_null() & zoned.is_not_null()
    return frame.with_columns(
        pl.when(from_zone).then("context.timezone").alias("timezone"),
        pl.when(offset.is_not_null() & pl.col("timestamp").is_not_null())
        .then(pl.lit("provider"))
        .when(from_zone)
        .then(pl.lit("profile"))
        .otherwise(pl.lit("unknown"))
        .alias("tz_source"),
    ).drop(_SHOWN, _SHOWN_AT)


def _prepare_intervals(frame: pl.DataFrame) -> pl.DataFrame:
    """A line for each beat, its time the start with all intervals up to it."""
    start = pl.col("context.start").str.to_datetime("%Y-%m-%dT%H:%M:%S", strict=False)
    frame = frame.with_columns(
        start.cast(LOCAL).alias("local_timestamp"), pl.lit(None, pl.Int64).alias(_FOLD)
    )
    frame = frame.with_columns(
        instant_of(frame, "local_timestamp", "context.timezone", _FOLD).alias("timestamp"),
        pl.col("intervals")
        .str.extract_all(r"[0-9]+(?:\.[0-9]+)?")
        .cast(pl.List(pl.Float64))
        .alias(_RR),
    ).with_columns(pl.col(_RR).list.eval(pl.element().cum_sum()).alias(_SINCE))
    microseconds = (pl.col(_SINCE) * 1000).round().cast(pl.Int64)
    since = pl.duration(microseconds=microseconds, time_unit="us")
    frame = frame.explode(_RR, _SINCE).with_columns(
        pl.col("timestamp") + since, pl.col("local_timestamp") + since
    )
    # Clocks may have changed in the night.
    zoned = wall_clock(frame, pl.col("timestamp"), "context.timezone")
    has_zone = pl.col("timestamp").is_not_null()
    return frame.with_columns(
        pl.coalesce(zoned, "local_timestamp").alias("local_timestamp"),
        pl.when(has_zone).then("context.timezone").alias("timezone"),
        pl.when(has_zone).then(pl.lit("profile")).otherwise(pl.lit("unknown")).alias("tz_source"),
    ).drop(_FOLD, _SINCE)


def _parse_intervals(raw: pl.DataFrame) -> pl.DataFrame:
    return raw.select(pl.col("body").cast(pl.String, strict=False).alias("intervals"))


def _no_fields(_record: Record) -> Iterator[str]:
    return iter(())


def _no_split(page: Page) -> Iterator[Record]:
    raise BadPayloadError(f"cardiomood: {page.resource} come from files, not from the API")


def _heart_rate(kind: str) -> pl.Expr:
    # Both spellings are the vendor's. No heart beats zero times: nothing was measured.
    return pl.coalesce(
        positive(f"heart_rate.{kind}_daily_heart_rate"),
        positive(f"heart_rate.{kind}_daily_heat_rate"),
    )


_DEVICE: Mapping[str, pl.Expr] = {"device_manufacturer": pl.lit("Corsano")}
_SUMMARIES = Resource(
    name="summaries",
    recognise=_recognise_summaries,
    wire={
        "date": pl.String(),
        "activity.total_steps": pl.Int64(),
        "activity.active_minutes": pl.Float64(),
        **{
            f"heart_rate.{kind}_daily_{word}_rate": pl.Float64()
            for kind in ("avg", "max", "rest")
            for word in ("heart", "heat")
        },
    },
    split=_split_summaries,
    prepare=_prepare_summaries,
    tables=(
        Scalars(
            "daily",
            {
                **_DEVICE,
                "distance_steps": pl.col("activity.total_steps"),
                "active_durations_activity_seconds": pl.col("activity.active_minutes") * 60,
                "heart_rate_summary_avg_hr_bpm": _heart_rate("avg"),
                "heart_rate_summary_max_hr_bpm": _heart_rate("max"),
                "heart_rate_summary_resting_hr_bpm": _heart_rate("rest"),
            },
        ),
    ),
    rejects=(Reject("date: missing or no date", pl.col("local_timestamp").is_null()),),
    context_wire=_CONTEXT,
    ignored=frozenset(
        {
            *("activity.date", "activity.daily_percent", "activity.workouts"),
            # Of which unit is not told.
            *("activity.distance", "activity.calories", "activity.total_glasses"),
            *("activity.move_every_hour", "activity.avg_gait_asymmetry"),
            *("activity.avg_gait_speed", "activity.avg_gait_var", "heart_rate.date"),
            *("activity.slots", "activity.slots_five_minutes", "heart_rate.slots"),
        }
    ),
    evidence="contract only",
)
_ACTIVITY = Resource(
    name="activity",
    recognise=_recognise_activity,
    wire={
        "timestamp": pl.Float64(),
        "date": pl.String(),
        "bpm": pl.Float64(),
        "last_steps": pl.Float64(),
        "spo2": pl.Float64(),
    },
    split=_split_metric,
    prepare=_prepare_metric,
    tables=(
        Samples(
            "daily",
            "heart_rate_detailed_hr_samples",
            {"bpm": pl.col("bpm")},
            where=pl.col("bpm") > 0,
        ),
        Samples(
            "daily",
            "distance_detailed_step_samples",
            {"steps": pl.col("last_steps")},
            where=pl.col("last_steps").is_not_null(),
        ),
        Samples(
            "daily",
            "oxygen_saturation_samples",
            {"percentage": pl.col("spo2")},
            where=pl.col("spo2") > 0,
        ),
    ),
    rejects=(
        Reject(
            "timestamp: missing or no time",
            pl.col("timestamp").is_null() & pl.col("local_timestamp").is_null(),
        ),
    ),
    context_wire=_CONTEXT,
    ignored=frozenset(
        {
            *("bpm_q", "q", "spo2Q", "resp_q", "wearing", "battery", "activity_type", "speed"),
            # Calories, as it is told, of which kind is not.
            *("energy_exp", "respiration_rate"),
            *("pha", "pha_q", "move_alert", "cw", "cwt", "step_calories", "rest_calories"),
            *("distance", "step_duration", "active_calories"),
        }
    ),
    evidence="contract only",
)


def _kept(name: str) -> Resource:
    """A metric of which nobody has written down what it holds: it stays in raw."""
    return Resource(
        name=name,
        recognise=_recognise_by_name,
        wire={"timestamp": pl.Float64(), "date": pl.String()},
        split=_split_metric,
        prepare=_prepare_metric,
        tables=(),
        context_wire=_CONTEXT,
        evidence="contract only",
    )


_INTERVALS = Resource(
    name="intervals",
    wire={"intervals": pl.String()},
    split=_no_split,
    prepare=_prepare_intervals,
    tables=(
        Samples(
            "body",
            "heart_rr_interval_samples",
            {_RR: pl.col(_RR)},
        ),
    ),
    context_wire={**_CONTEXT, "start": pl.String()},
    media_type="text/csv",
    parse=_parse_intervals,
    list_fields=_no_fields,
    evidence="contract only",
)

PROVIDER = Provider(
    name="cardiomood",
    title="CardioMood",
    client_name="CARDIOMOOD",
    summary="Steps, heart rate and oxygen of Corsano's bracelets, and recordings of beats.",
    docs_url="https://developer.corsano.com/rest/intro",
    resources=(
        _SUMMARIES,
        _ACTIVITY,
        *(_kept(name) for name in _METRICS if name != "activity"),
        _INTERVALS,
    ),
    credentials=(
        CredentialField("email", "E-mail of the Corsano account."),
        CredentialField("password", "Password of the Corsano account."),
    ),
    connect=connect,
    fetch=fetch,
    explain=explain,
    importers=(
        Importer(
            "intervals",
            "intervals",
            "text of one interval between beats per line",
            recognise_intervals,
            read_intervals,
        ),
    ),
    freshness="After each sync of the bracelet with its phone; how soon, nobody says.",
    poll_interval=timedelta(hours=1),
    open_days=3,
    # A bracelet keeps what it measures until the phone comes near.
    refetch=timedelta(days=2),
    max_window=timedelta(days=30),
    # Nobody says what is allowed.
    requests_per_second=5.0,
)
