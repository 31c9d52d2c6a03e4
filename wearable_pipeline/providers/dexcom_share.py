"""Dexcom Share: what a Dexcom sensor measured seconds ago, as followers see it.

There is no public API: this is what the follower app asks, the way open source clients do
(https://github.com/gagebenne/pydexcom). It may stop any day. It wants the login of the person who wears
the sensor, with Share switched on and at least one follower invited. It shows the last 24 hours and
nothing older: for history there is the provider `dexcom`.

Refusals come as HTTP 500 with a code in JSON. Of the three times of a reading `WT` is the instant, `ST`
the clock of the device, which may be wrong, and `DT` what its display showed, with the offset. A value
of 39 means below 40 and 401 above 400 mg/dL; smaller ones are faults of the sensor.
"""

import re
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NoReturn

import msgspec
import polars as pl

from wearable_pipeline.errors import (
    BadPayloadError,
    NotConnectedError,
    PermanentError,
    TransientError,
    UsageError,
)
from wearable_pipeline.model.columns import LOCAL
from wearable_pipeline.providers._contract import (
    Answer,
    Client,
    Connected,
    Connection,
    CredentialField,
    Cut,
    Page,
    Provider,
    Record,
    Reject,
    Resource,
    Samples,
    Scalars,
    Window,
)
from wearable_pipeline.providers._local_time import local_date_of, wall_clock, zone_of
from wearable_pipeline.providers._sessions import begin_anew
from wearable_pipeline.providers._split import (
    content_id,
    decode,
    decode_any,
    is_web_page,
    item_fields,
)
from wearable_pipeline.settings import settings

_SERVICES = "/ShareWebServices/Services"
# The most that is given at once.
MINUTES = 1440
COUNT = 288

_HOSTS: Mapping[str, str] = {
    "us": "https://share2.dexcom.com",
    "ous": "https://shareous1.dexcom.com",
    "jp": "https://share.dexcom.jp",
}
# What the follower app calls itself.
_APPLICATION = "d89443d2-327c-4a6f-89e5-496bbb0317db"
_APPLICATIONS: Mapping[str, str] = {"jp": "d8665ade-9673-4e27-9ff6-92db4ce13d13"}
# Given instead of an id where a login has failed.
NOBODY = "00000000-0000-0000-0000-000000000000"

# --- talking to Share


class _Refusal(msgspec.Struct, rename="pascal"):
    code: str | None = None
    message: str | None = None


class _EndedError(Exception):
    """The session is over: a signal inside this module."""


_ENDED = frozenset({"SessionIdNotFound", "SessionNotValid"})
_WRONG_LOGIN = frozenset(
    {
        "AccountPasswordInvalid",
        "AccountNotFound",
        "SSO_AuthenticateAccountNotFound",
        "SSO_AuthenticatePasswordInvalid",
    }
)
_CHECK = (
    "check name, password and region (us, ous, jp): it is the account of who wears the sensor,"
    " no follower's"
)


def _refuse(body: bytes, what: str) -> NoReturn:
    """Raise what a refusal means."""
    try:
        found = msgspec.json.decode(body, type=_Refusal)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise TransientError(f"{what}: the server failed (HTTP 500)") from None
    code, message = found.code or "", found.message or ""
    if code in _ENDED:
        raise _EndedError
    is_login = code == "SSO_InternalError" and "Cannot Authenticate" in message
    is_argument = code == "InvalidArgument" and re.search("accountName|password|UUID", message)
    if code in _WRONG_LOGIN or is_login or is_argument:
        raise NotConnectedError(f"{what}: the login is wrong: {_CHECK}")
    if code == "SSO_AuthenticateMaxAttemptsExceeded":
        raise NotConnectedError(
            f"{what}: the account is locked after failed logins: log in to the Dexcom app,"
            " then connect again"
        )
    if code == "InvalidArgument":
        raise PermanentError(f"{what}: an argument is refused")
    raise TransientError(f"{what}: the server failed (HTTP 500)")


def _region(given: object) -> str:
    region = str(given or "us").strip().lower()
    if region not in _HOSTS:
        raise UsageError(f"dexcom_share: region is one of {', '.join(_HOSTS)}")
    return region


def _address(region: str, service: str) -> str:
    base = settings().provider("dexcom_share").base_url or _HOSTS[region]
    return f"{base.rstrip('/')}{_SERVICES}/{service}"


async def _ask(
    client: Client,
    region: str,
    service: str,
    what: str,
    *,
    params: Mapping[str, str | int] | None = None,
    json: object,
) -> Answer:
    answer = await client.request(
        "POST",
        _address(region, service),
        params=params,
        headers={"accept": "application/json"},
        json=json,
        accept=(200, 500),
    )
    if answer.status == 500:
        _refuse(answer.body, what)
    return answer


async def _login(
    client: Client, name: str, password: str, region: str, account_id: str | None
) -> dict[str, object]:
    """Credentials with a fresh session."""
    what = "dexcom_share: login"
    secret = {
        "password": password,
        "applicationId": _APPLICATIONS.get(region, _APPLICATION),
    }
    try:
        if account_id is None:
            known = await _ask(
                client,
                region,
                "General/AuthenticatePublisherAccount",
                what,
                json={"accountName": name, **secret},
            )
            account_id = _id(known, what)
        session = await _ask(
            client,
            region,
            "General/LoginPublisherAccountById",
            what,
            json={"accountId": account_id, **secret},
        )
    except _EndedError:
        raise TransientError(f"{what}: the session is refused before it began") from None
    return {
        "username": name,
        "password": password,
        "region": region,
        "account_id": account_id,
        "session_id": _id(session, what),
    }


def _id(answer: Answer, what: str) -> str:
    found = decode(answer.body, str, what)
    if not found or found == NOBODY:
        raise NotConnectedError(f"{what}: the login is wrong: {_CHECK}")
    return found


async def connect(client: Client, values: Mapping[str, str]) -> Connected:
    """Log in, and see that the readings are shared."""
    name, password = values.get("username", "").strip(), values.get("password", "")
    if not name or not password:
        raise UsageError("dexcom_share: name and password of the Dexcom account are needed")
    credentials = await _login(client, name, password, _region(values.get("region")), None)
    connection = Connection("", {}, credentials, {}, None, lambda: None)
    await _Session(client, connection).readings()
    return Connected(account_id=str(credentials["account_id"]), credentials=credentials)


@dataclass(slots=True)
class _Session:
    """A logged-in person; a session that is over is begun anew once."""

    client: Client
    connection: Connection

    async def readings(self) -> Answer:
        """The answer with the last 24 hours."""
        try:
            return await self._readings()
        except _EndedError:
            await self._renew()
        try:
            return await self._readings()
        except _EndedError:
            raise TransientError("dexcom_share: a session just begun is refused") from None

    async def _readings(self) -> Answer:
        session = self.connection.credentials.get("session_id")
        # Asked for nobody, the server answers with nothing that could be read.
        if not session or session == NOBODY:
            raise _EndedError
        return await _ask(
            self.client,
            _region(self.connection.credentials.get("region")),
            "Publisher/ReadPublisherLatestGlucoseValues",
            "dexcom_share: reading",
            params={"sessionId": str(session), "minutes": MINUTES, "maxCount": COUNT},
            json={},
        )

    async def _renew(self) -> None:
        async def login(name: str, password: str) -> dict[str, object]:
            known = self.connection.credentials
            account = str(known["account_id"]) if known.get("account_id") else None
            region = _region(known.get("region"))
            return await _login(self.client, name, password, region, account)

        await begin_anew(
            self.connection, "dexcom_share", login, session="session_id", name="username"
        )


async def fetch(client: Client, connection: Connection, window: Window) -> AsyncIterator[Page]:
    """Yield the readings of the last 24 hours, whatever the window: there are no dates to ask for."""
    del window
    answer = await _Session(client, connection).readings()
    yield Page("readings", answer.body, answer.fetched_at, {"timezone": connection.timezone})


# --- answers → records

# `/Date(…)/` in old answers.
_DATE = re.compile(r"/?Date\((\d{1,14})([+-]\d{4})?\)/?")
_OLDEST_MS, _NEWEST_MS = 946_684_800_000, 4_102_444_800_000
_LARGEST_OFFSET_MINUTES = 14 * 60


def cut(page: Page) -> Cut:
    """Readings of an answer, or the one the body is."""
    body = page.body.strip()
    answer = decode_any(body)
    if isinstance(answer, dict) and _is_reading(answer):
        return Cut([body])
    found = decode(body, list[msgspec.Raw], "dexcom_share: reading")
    return Cut([bytes(item) for item in found])


def read(page: Page, found: Cut) -> Iterator[Record]:
    """Records of a page's readings."""
    zone = zone_of(page)
    context: Mapping[str, object] = {"timezone": zone} if zone else {}
    for item in found.items:
        fields = item_fields(msgspec.Raw(item))
        milliseconds = _milliseconds(fields)
        if milliseconds is None:
            day = local_date_of(page.fetched_at, zone)
            yield Record(page.resource, content_id(item), item, day, context)
            continue
        at = datetime.fromtimestamp(milliseconds / 1000, UTC)
        offset = _minutes(fields.get("DT"))
        day = local_date_of(at, zone) if offset is None else (at + offset).date()
        yield Record(page.resource, str(milliseconds), item, day, context, taken_at=at)


def _milliseconds(fields: Mapping[str, object]) -> int | None:
    """When it was measured; the same rule as `_prepare`."""
    times = ("WT",) if fields.get("WT") is not None else ("DT", "ST")
    for name in times:
        match = _DATE.fullmatch(str(fields.get(name)))
        if match and _OLDEST_MS <= int(match[1]) < _NEWEST_MS:
            return int(match[1])
    return None


def _minutes(display: object) -> timedelta | None:
    match = _DATE.fullmatch(str(display))
    if match is None or match[2] is None:
        return None
    sign, hours, minutes = match[2][0], int(match[2][1:3]), int(match[2][3:])
    ahead = hours * 60 + minutes
    if ahead > _LARGEST_OFFSET_MINUTES:
        return None
    return timedelta(minutes=-ahead if sign == "-" else ahead)


# --- bodies of unknown origin


def _is_reading(one: object) -> bool:
    return isinstance(one, dict) and "Value" in one and any(name in one for name in ("WT", "DT"))


def _recognise(answer: object) -> bool:
    # An empty day is an answer, too.
    return (isinstance(answer, list) and all(map(_is_reading, answer))) or _is_reading(answer)


def explain(body: bytes) -> None:
    """Raise what `body` means when it is an answer of Share without readings."""
    what = "dexcom_share: reading the answer"
    answer = decode_any(body)
    if isinstance(answer, dict) and "Code" in answer:
        try:
            _refuse(body, what)
        except _EndedError:
            raise TransientError(f"{what}: the session has ended, a new one is begun") from None
    if answer == NOBODY:
        raise NotConnectedError(f"{what}: the login is wrong: {_CHECK}")
    if isinstance(answer, str) and re.fullmatch(r"[0-9a-fA-F-]{36}", answer):
        raise BadPayloadError(f"{what}: it is the id of a login: it carries no readings")
    if is_web_page(body):
        raise BadPayloadError(f"{what}: it is a web page instead of JSON")


# --- records → samples

_PATTERN = r"^/?Date\((\d{1,14})([+-]\d{4})?\)/?$"
_OFFSET_PATTERN = r"^/?Date\(\d{1,14}([+-])(\d{2})(\d{2})\)/?$"


def _instant(column: str) -> pl.Expr:
    milliseconds = pl.col(column).str.extract(_PATTERN, 1).cast(pl.Int64, strict=False)
    valid = milliseconds.is_between(_OLDEST_MS, _NEWEST_MS, closed="left")
    moment = pl.from_epoch(pl.when(valid).then(milliseconds), "ms")
    return moment.cast(LOCAL).dt.replace_time_zone("UTC")


def _offset_minutes() -> pl.Expr:
    parts = pl.col("DT").str.extract_groups(_OFFSET_PATTERN).struct
    ahead = parts.field("2").cast(pl.Int64, strict=False) * 60 + parts.field("3").cast(
        pl.Int64, strict=False
    )
    within = pl.when(ahead <= _LARGEST_OFFSET_MINUTES).then(ahead)
    return within * pl.when(parts.field("1") == "-").then(-1).otherwise(1)


def _prepare(frame: pl.DataFrame) -> pl.DataFrame:
    frame = frame.with_columns(
        pl.when(pl.col("WT").is_not_null())
        .then(_instant("WT"))
        .otherwise(pl.coalesce(_instant("DT"), _instant("ST")))
        .alias("timestamp"),
        _offset_minutes().alias(_AHEAD),
    )
    zoned = wall_clock(frame, pl.col("timestamp"), "context.timezone")
    told = pl.col(_AHEAD).is_not_null()
    wall = pl.col("timestamp").dt.replace_time_zone(None)
    return frame.with_columns(
        pl.coalesce(wall + pl.duration(minutes=pl.col(_AHEAD), time_unit="us"), zoned).alias(
            "local_timestamp"
        ),
        pl.when(~told & zoned.is_not_null()).then(pl.col("context.timezone")).alias("timezone"),
        pl.when(told)
        .then(pl.lit("provider"))
        .when(zoned.is_not_null())
        .then(pl.lit("profile"))
        .otherwise(pl.lit("unknown"))
        .alias("tz_source"),
    ).drop(_AHEAD)


_AHEAD = "ahead\x00"

# By word, and by number in old answers. Seven classes into five: Dexcom splits what the canonical
# arrow calls quickly.
TRENDS: Mapping[str, str] = {
    "DoubleUp": "rising_quickly",
    "1": "rising_quickly",
    "SingleUp": "rising_quickly",
    "2": "rising_quickly",
    "FortyFiveUp": "rising",
    "3": "rising",
    "Flat": "flat",
    "4": "flat",
    "FortyFiveDown": "falling",
    "5": "falling",
    "SingleDown": "falling_quickly",
    "6": "falling_quickly",
    "DoubleDown": "falling_quickly",
    "7": "falling_quickly",
}

_VALUE = pl.col("Value")
_IS_FAULT = (_VALUE < 39).fill_null(value=False)
_GLUCOSE = pl.when(~_IS_FAULT).then(_VALUE)
_BEYOND = pl.when(_GLUCOSE < 40).then(pl.lit("low")).when(_GLUCOSE > 400).then(pl.lit("high"))
_STRIPPED = pl.col("Trend").str.strip_chars()
_TREND = pl.when(_STRIPPED != "").then(_STRIPPED)

_READINGS = Resource(
    name="readings",
    recognise=_recognise,
    wire={
        "WT": pl.String(),
        "ST": pl.String(),
        "DT": pl.String(),
        "Value": pl.Float64(),
        "Trend": pl.String(),
    },
    split=lambda page: read(page, cut(page)),
    cut=cut,
    read=read,
    prepare=_prepare,
    tables=(
        Samples(
            "body",
            "glucose_blood_glucose_samples",
            {
                "blood_glucose_mg_per_dl": _GLUCOSE,
                "glucose_level_flag": _BEYOND,
                "trend_arrow": pl.when(_TREND.is_not_null()).then(
                    _TREND.replace_strict(TRENDS, default="unknown", return_dtype=pl.String)
                ),
                "native_value": _GLUCOSE,
                "native_unit": pl.when(~_IS_FAULT).then(pl.lit("mg/dL")),
                "sample_kind": pl.lit("cgm"),
                "out_of_range": _BEYOND,
                "native_trend": _TREND,
                "sensor_status": pl.when(_IS_FAULT).then(
                    pl.lit("error:") + _VALUE.cast(pl.Int64, strict=False).cast(pl.String)
                ),
            },
        ),
        Scalars("body", {"device_manufacturer": pl.lit("Dexcom")}),
    ),
    rejects=(
        Reject("WT: missing or not a time", pl.col("timestamp").is_null()),
        Reject("no glucose value", _VALUE.is_null()),
    ),
    context_wire={"timezone": pl.String()},
    evidence="recorded",
)

PROVIDER = Provider(
    name="dexcom_share",
    title="Dexcom Share",
    client_name="DEXCOM_SHARE",
    summary="Live glucose of a Dexcom sensor that is shared with followers (unofficial).",
    freshness="Seconds behind the sensor, which measures every five minutes.",
    docs_url="https://github.com/gagebenne/pydexcom",
    resources=(_READINGS,),
    credentials=(
        CredentialField("username", "Name, e-mail or phone number of the Dexcom account."),
        CredentialField("password", "Password of the Dexcom account."),
        CredentialField(
            "region",
            "Where the account is: us, ous (elsewhere) or jp.",
            is_secret=False,
            is_required=False,
            default="us",
        ),
    ),
    connect=connect,
    fetch=fetch,
    explain=explain,
    poll_interval=timedelta(minutes=5),
    sample_step=timedelta(minutes=5),
    publishing_delay=timedelta(seconds=18),
    open_days=2,
    history_days=1,
    # Nobody says what is allowed.
    requests_per_second=10.0,
)
