"""FreeStyle Libre (Abbott): live glucose through LibreLinkUp, histories from LibreView exports.

Abbott has no public API for this. The connector speaks LibreLinkUp v4 the way open source followers
do (https://github.com/timoschlueter/nightscout-librelink-up): unofficial, and it may stop any day.
The person invites a follower account in the Libre app; we log in as that follower. There are no
date parameters, no paging and no push: `graph` is the last twelve hours, `logbook` the last two
weeks of scans and alarms. What is older comes from the CSV a person downloads from LibreView.

The same reading first appears as `current`, with a trend arrow, and later as a point of `graph`,
without. They are resources of their own, so that raw keeps both and neither looks like a correction
of the other; the table folds samples of one instant into one and keeps the arrow.
"""

import hashlib
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import NoReturn, TypeGuard
from urllib.parse import quote

import msgspec
import polars as pl

from wearable_pipeline.errors import (
    BadPayloadError,
    NotConnectedError,
    PermanentError,
    RateLimitedError,
    TransientError,
    UsageError,
)
from wearable_pipeline.model import enums
from wearable_pipeline.model.columns import LOCAL
from wearable_pipeline.model.units import glucose_in_mg, ketone_mmol_to_mg
from wearable_pipeline.providers import _libreview as libreview
from wearable_pipeline.providers._contract import (
    Answer,
    Client,
    Connected,
    Connection,
    CredentialField,
    Cut,
    Importer,
    Page,
    Provider,
    Record,
    Reject,
    Resource,
    Samples,
    Scalars,
    Window,
)
from wearable_pipeline.providers._local_time import instant_of, local_date_of, wall_clock
from wearable_pipeline.providers._split import (
    content_id,
    decode,
    decode_any,
    is_web_page,
)
from wearable_pipeline.providers._values import written
from wearable_pipeline.settings import settings

# Older versions are refused since October 2025.
APP_VERSION = "4.16.0"
GLOBAL_REGION = "global"

_HOSTS = {
    GLOBAL_REGION: "https://api.libreview.io",
    "ru": "https://api.libreview.ru",
    "cn": "https://api-cn.myfreestyle.cn",
}
_REGION = re.compile(r"[a-z]{2}[0-9]?")
_LOGIN_HOPS = 3
_LOCKOUT = timedelta(seconds=300)
_MAINTENANCE = timedelta(minutes=15)
# A token this close to its end is replaced before it fails.
_TOKEN_MARGIN = timedelta(minutes=5)

_STEPS = {
    "tou": "accept the new terms of use",
    "pp": "accept the new privacy policy",
    "verifyEmail": "confirm the e-mail address",
}


# --- talking to LibreLinkUp


class _Envelope(msgspec.Struct):
    """What every answer is wrapped in. The HTTP status is 200 even for most refusals."""

    status: int = -1
    data: msgspec.Raw = msgspec.Raw(b"null")
    error: object = None


class _Ticket(msgspec.Struct):
    token: str
    expires: int


class _Account(msgspec.Struct):
    id: str = ""


class _LoginData(msgspec.Struct, rename="camel"):
    auth_ticket: _Ticket | None = None
    user: _Account | None = None
    redirect: bool = False
    region: str = ""


class _ConnectionItem(msgspec.Struct, rename="camel"):
    patient_id: str


class _NotThere(Exception):  # noqa: N818 - a signal between two functions of this module, not an error
    """The patient was not found at this region with this account."""


def _base_url(region: str) -> str:
    template = settings().freestyle_libre_base_url
    if template:
        return template.replace("{region}", region).rstrip("/")
    return _HOSTS.get(region, f"https://api-{region}.libreview.io")


def _headers(credentials: Mapping[str, object] | None = None) -> dict[str, str]:
    headers = {"product": "llu.android", "version": APP_VERSION, "accept": "application/json"}
    if credentials is not None:
        headers["authorization"] = f"Bearer {credentials['token']}"
        headers["account-id"] = str(credentials["account_hash"])
    return headers


def _envelope(answer: Answer, doing: str) -> _Envelope:
    _refuse_web_front(answer.body, doing)
    return decode(answer.body, _Envelope, f"freestyle_libre: {doing}")


def _refuse_web_front(body: bytes, doing: str) -> None:
    if b"1015" in body[:4096] and is_web_page(body):
        raise RateLimitedError(f"freestyle_libre: {doing}: throttled by the web front", _LOCKOUT)


def _refuse(envelope: _Envelope, doing: str) -> NoReturn:
    """Raise what a body status other than 0 means."""
    what = f"freestyle_libre: {doing}"
    if envelope.status == 2:
        raise NotConnectedError(
            f"{what}: e-mail or password is wrong; check them in the LibreLinkUp app"
            " and connect again"
        )
    if envelope.status == 429:
        raise TransientError(
            f"{what}: locked after failed logins; check e-mail and password before the next try",
            _lockout(envelope.data),
        )
    if envelope.status == 911:
        raise TransientError(f"{what}: LibreLinkUp is under maintenance", _MAINTENANCE)
    if envelope.status == 920:
        raise PermanentError(
            f"{what}: LibreLinkUp refuses app version {APP_VERSION};"
            " wearable_pipeline needs an update"
        )
    if envelope.status == 4:
        if _message(envelope) == "couldNotLoadPatient":
            raise _NotThere
        raise _step_error(envelope, what)
    raise BadPayloadError(f"{what}: unknown status {envelope.status}")


def _message(envelope: _Envelope) -> str:
    error = envelope.error
    return str(error.get("message", "")) if isinstance(error, dict) else ""


def _lockout(data: msgspec.Raw) -> timedelta:
    try:
        return timedelta(seconds=float(msgspec.json.decode(data)["data"]["lockout"]))
    except (LookupError, TypeError, ValueError, OverflowError):
        return _LOCKOUT


def _step_error(envelope: _Envelope, what: str) -> NotConnectedError:
    # Whatever else stands beside the step (half a ticket, no account) does not change what it
    # means.
    data = decode_any(bytes(envelope.data))
    step = data.get("step") if isinstance(data, dict) else None
    kind = step.get("type") if isinstance(step, dict) else None
    wanted = _STEPS.get(str(kind), "finish the step the app shows")
    return NotConnectedError(
        f"{what}: the person must {wanted} in the LibreLinkUp app, then connect again"
    )


def _login_data(envelope: _Envelope, what: str) -> _LoginData:
    if bytes(envelope.data) == b"null":
        return _LoginData()
    return decode(envelope.data, _LoginData, what)


async def _login(
    client: Client, email: str, password: str, region: str, now: datetime
) -> dict[str, object]:
    """Credentials with a fresh token. Follows the redirect to the account's region."""
    doing = "login"
    visited: list[str] = []
    while len(visited) < _LOGIN_HOPS:
        visited.append(region)
        # 429 is accepted so that the client does not knock again: three failures lock the account.
        answer = await client.request(
            "POST",
            f"{_base_url(region)}/llu/auth/login",
            headers=_headers(),
            json={"email": email, "password": password},
            accept=(200, 401, 403, 429),
        )
        if answer.status == 429 and not answer.body.lstrip().startswith(b"{"):
            raise RateLimitedError(f"freestyle_libre: {doing}: asked to slow down", _LOCKOUT)
        envelope = _envelope(answer, doing)
        if answer.status == 429:
            envelope.status = 429
        if envelope.status != 0:
            _refuse_login(envelope, answer.status, doing)
        data = _login_data(envelope, f"freestyle_libre: {doing}")
        if data.redirect:
            region = _checked_region(data.region)
            if region in visited:
                break
            continue
        if data.auth_ticket is None or data.user is None or not data.user.id:
            raise BadPayloadError(f"freestyle_libre: {doing}: no token in the answer")
        return {
            "email": email,
            "password": password,
            "region": region,
            "token": data.auth_ticket.token,
            "expires_at": data.auth_ticket.expires,
            "account_hash": hashlib.sha256(data.user.id.encode()).hexdigest(),
        }
    raise BadPayloadError(f"freestyle_libre: {doing}: sent from region to region without end")


def _refuse_login(envelope: _Envelope, http_status: int, doing: str) -> NoReturn:
    if http_status == 401 and envelope.status not in (429, 911, 920, 4):
        envelope.status = 2
    if http_status == 403 and envelope.status not in (2, 4, 429, 911, 920):
        raise NotConnectedError(
            f"freestyle_libre: {doing}: access refused (HTTP 403);"
            " log in to the LibreLinkUp app once and connect again"
        )
    try:
        _refuse(envelope, doing)
    except _NotThere:
        raise BadPayloadError(f"freestyle_libre: {doing}: unknown status 4") from None


def _checked_region(region: str) -> str:
    """`region` if it is one: an answer must not send the password to any other host."""
    if region == GLOBAL_REGION or _REGION.fullmatch(region):
        return region
    raise BadPayloadError("freestyle_libre: login: redirected to something that is not a region")


@dataclass(slots=True)
class _Session:
    """A logged-in follower: one login per token, one more when a token is refused early."""

    client: Client
    connection: Connection
    now: datetime
    relogins: int = 0

    async def ensure_token(self) -> None:
        if not self._has_token():
            await self.login()

    def _has_token(self) -> bool:
        credentials = self.connection.credentials
        expires_at = credentials.get("expires_at")
        return (
            bool(credentials.get("token"))
            and isinstance(expires_at, int | float)
            and datetime.fromtimestamp(expires_at, UTC) - _TOKEN_MARGIN > self.now
        )

    async def login(self, region: str | None = None) -> None:
        refused = self.connection.credentials.get("token")
        async with self.connection.alone():
            known = self.connection.credentials
            # Somebody else has logged in while this one waited; a second login would end theirs.
            if known.get("token") != refused and self._has_token():
                return
            if not known.get("email") or not known.get("password"):
                raise NotConnectedError(
                    "freestyle_libre: no login is stored; connect this user again"
                )
            fresh = await _login(
                self.client,
                str(known["email"]),
                str(known["password"]),
                region or str(known.get("region") or GLOBAL_REGION),
                self.now,
            )
            known.update(fresh)
            self.connection.save_credentials()

    async def get(self, path: str, doing: str) -> tuple[Answer, _Envelope]:
        answer = await self._get(path)
        if answer.status == 401 and self.relogins == 0:
            self.relogins += 1
            await self.login()
            answer = await self._get(path)
        if answer.status == 401:
            raise NotConnectedError(
                f"freestyle_libre: {doing}: the token is refused; connect this user again"
            )
        envelope = _envelope(answer, doing)
        if answer.status == 403 and envelope.status not in (4, 429, 911, 920):
            raise NotConnectedError(
                f"freestyle_libre: {doing}: access refused (HTTP 403); open the LibreLinkUp app,"
                " then connect this user again"
            )
        if envelope.status != 0:
            _refuse(envelope, doing)
        return answer, envelope

    async def _get(self, path: str) -> Answer:
        credentials = self.connection.credentials
        region = str(credentials.get("region") or GLOBAL_REGION)
        return await self.client.request(
            "GET", _base_url(region) + path, headers=_headers(credentials), accept=(200, 401, 403)
        )

    async def patients(self) -> list[str]:
        """Ids of the people who share with this account, in the order of the app."""
        doing = "reading who shares"
        try:
            _, envelope = await self.get("/llu/connections", doing)
        except _NotThere:
            return []
        if bytes(envelope.data) == b"null":
            return []
        found = decode(envelope.data, list[_ConnectionItem], f"freestyle_libre: {doing}")
        return [item.patient_id for item in found]

    async def graph(self, patient_id: str) -> Answer:
        """The answer with the current reading and the last twelve hours."""
        path = f"/llu/connections/{quote(patient_id, safe='')}/graph"
        try:
            return (await self.get(path, "reading the graph"))[0]
        except _NotThere:
            # Either the account moved to another region or the person stopped sharing.
            await self.login(GLOBAL_REGION)
        if patient_id not in await self.patients():
            raise NotConnectedError(
                "freestyle_libre: the person no longer shares with this account;"
                " invite it again in the Libre app, then connect this user again"
            )
        try:
            return (await self.get(path, "reading the graph"))[0]
        except _NotThere:
            raise TransientError("freestyle_libre: reading the graph: patient not loaded") from None

    async def logbook(self, patient_id: str) -> Answer | None:
        """The answer with two weeks of scans and alarms; None when the patient has none."""
        path = f"/llu/connections/{quote(patient_id, safe='')}/logbook"
        try:
            return (await self.get(path, "reading the logbook"))[0]
        except _NotThere:
            raise TransientError(
                "freestyle_libre: reading the logbook: patient not loaded"
            ) from None


async def connect(client: Client, values: Mapping[str, str]) -> Connected:
    """Log in as the follower and settle whose readings are followed."""
    email = values.get("email", "").strip()
    password = values.get("password", "")
    if not email or not password:
        raise UsageError(
            "freestyle_libre: e-mail and password of the LibreLinkUp account are needed"
        )
    region = values.get("region", "").strip().lower() or GLOBAL_REGION
    if region != GLOBAL_REGION and not _REGION.fullmatch(region):
        raise UsageError("freestyle_libre: region is two letters, for example eu, us or ru")
    now = datetime.now(UTC)
    connection = Connection(
        user_id="",
        config={},
        credentials=await _login(client, email, password, region, now),
        state={},
        timezone=None,
        save_credentials=lambda: None,
    )
    patients = await _Session(client, connection, now).patients()
    patient_id = _choose(patients, values.get("patient_id", "").strip())
    return Connected(
        account_id=patient_id,
        credentials=connection.credentials,
        config={"patient_id": patient_id},
    )


def _choose(patients: list[str], wanted: str) -> str:
    if not patients:
        raise NotConnectedError(
            "freestyle_libre: nobody shares with this account; in the Libre app invite it under"
            " Connected apps > LibreLinkUp, accept the invitation in LibreLinkUp and connect again"
        )
    if wanted:
        if wanted not in patients:
            raise UsageError(
                "freestyle_libre: the patient_id given does not share with this account;"
                f" it is one of: {', '.join(patients)}"
            )
        return wanted
    if len(patients) > 1:
        raise UsageError(
            f"freestyle_libre: {len(patients)} people share with this account; connect again with"
            f" one patient_id (in the order of the app): {', '.join(patients)}"
        )
    return patients[0]


async def fetch(client: Client, connection: Connection, window: Window) -> AsyncIterator[Page]:
    """Yield the current reading and the graph; on the first poll of a day the logbook too.

    The window is ignored: LibreLinkUp always answers with what it has.
    """
    patient_id = str(connection.config.get("patient_id") or "")
    if not patient_id:
        raise NotConnectedError("freestyle_libre: no patient is chosen; connect this user again")
    session = _Session(client, connection, window.now)
    await session.ensure_token()
    graph = await session.graph(patient_id)
    context: dict[str, object] = {"patient_id": patient_id, "timezone": connection.timezone}
    for resource in ("current", "graph"):
        yield Page(resource, graph.body, graph.fetched_at, context)

    today = window.now.astimezone(UTC).date().isoformat()
    if connection.state.get("logbook_day") == today:
        return
    logbook = await session.logbook(patient_id)
    if logbook is not None:
        sensor = _sensor_in(decode(graph.body, _GraphPage, "freestyle_libre: reading the graph"))
        yield Page("logbook", logbook.body, logbook.fetched_at, {**context, "sensor": sensor})
    connection.state["logbook_day"] = today


# --- answers → records


class _PageConnection(
    msgspec.Struct,
    rename={"glucose_measurement": "glucoseMeasurement", "patient_id": "patientId"},
):
    glucose_measurement: msgspec.Raw = msgspec.Raw(b"null")
    sensor: dict[str, object] | None = None
    patient_id: str = ""


class _PageData(msgspec.Struct, rename={"graph_data": "graphData"}):
    connection: _PageConnection | None = None
    graph_data: list[msgspec.Raw] | None = None


class _MaybeLone(msgspec.Struct, rename={"factory_timestamp": "FactoryTimestamp"}):
    """An answer, or a measurement cut out of one: that has no `data`."""

    factory_timestamp: msgspec.Raw = msgspec.Raw()

    @property
    def is_lone(self) -> bool:
        return bool(bytes(self.factory_timestamp))


class _GraphPage(_MaybeLone):
    data: _PageData | msgspec.UnsetType | None = msgspec.UNSET


class _CurrentPage(_MaybeLone):
    """The graph's answer, or the list of people who share: both carry a newest reading."""

    data: _PageData | list[_PageConnection] | msgspec.UnsetType | None = msgspec.UNSET


class _LogbookPage(_MaybeLone):
    data: list[msgspec.Raw] | msgspec.UnsetType | None = msgspec.UNSET


def _sensor_in(page: _GraphPage) -> dict[str, object] | None:
    data = page.data if isinstance(page.data, _PageData) else None
    return data.connection.sensor if data and data.connection else None


def _cut_current(page: Page) -> Cut:
    bare = _bare_list(page)
    if bare is not None:
        return bare
    what = "freestyle_libre: current"
    answer = decode(page.body, _CurrentPage, what)
    data = answer.data
    if data is msgspec.UNSET and answer.is_lone:
        return Cut([page.body.strip()])
    shared = data if isinstance(data, list) else []
    if len(shared) > 1:
        raise BadPayloadError(
            f"{what}: the answer has the readings of {len(shared)} people; use the graph of one"
        )
    connection = data.connection if isinstance(data, _PageData) else next(iter(shared), None)
    reading = b"null" if connection is None else bytes(connection.glucose_measurement)
    return Cut([] if reading == b"null" else [reading], connection)


def _cut_graph(page: Page) -> Cut:
    bare = _bare_list(page)
    if bare is not None:
        return bare
    answer = decode(page.body, _GraphPage, "freestyle_libre: graph")
    if answer.data is msgspec.UNSET and answer.is_lone:
        return Cut([page.body.strip()])
    if not isinstance(answer.data, _PageData):
        raise BadPayloadError("freestyle_libre: graph: no data in the answer")
    return Cut(list(map(bytes, answer.data.graph_data or [])), answer.data.connection)


def _cut_logbook(page: Page) -> Cut:
    bare = _bare_list(page)
    if bare is not None:
        return bare
    answer = decode(page.body, _LogbookPage, "freestyle_libre: logbook")
    if answer.data is msgspec.UNSET and answer.is_lone:
        return Cut([page.body.strip()])
    return Cut(list(map(bytes, answer.data or [])))


def _bare_list(page: Page) -> Cut | None:
    """The items of a list of measurements cut out of an answer; None for anything else."""
    if page.body.lstrip()[:1] != b"[":
        return None
    found = decode(page.body, list[msgspec.Raw], f"freestyle_libre: {page.resource}")
    return Cut(list(map(bytes, found)))


class _Times(
    msgspec.Struct, rename={"factory_timestamp": "FactoryTimestamp", "timestamp": "Timestamp"}
):
    factory_timestamp: object = None
    timestamp: object = None


_NO_TIMES = _Times()
_read_times = msgspec.json.Decoder(_Times).decode


def _times_of(item: bytes) -> _Times:
    try:
        return _read_times(item)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _NO_TIMES


# Sensors tick every minute or five, so people share instants: reading one twice would be most of the
# work of a first answer.
@lru_cache(maxsize=1 << 16)
def _instant_and_date(factory: str, local: object) -> tuple[datetime, str, date | None] | None:
    """The instant, its text in a reading's identity, and the local date if the clocks agree."""
    taken_at = parse_time(factory)
    if taken_at is None:
        return None
    shown = parse_time(local)
    is_plausible = shown is not None and is_plausible_offset(shown - taken_at)
    return (
        taken_at,
        f"{taken_at:%Y-%m-%dT%H:%M:%SZ}",
        shown.date() if shown is not None and is_plausible else None,
    )


def _read(page: Page, cut: Cut) -> Iterator[Record]:
    connection = cut.around if isinstance(cut.around, _PageConnection) else None
    patient_id = str(page.context.get("patient_id") or "")
    sensor = page.context.get("sensor")
    if connection is not None:
        patient_id = patient_id or connection.patient_id
        sensor = connection.sensor
    timezone = page.context.get("timezone")
    zone = timezone if isinstance(timezone, str) else None
    surroundings: dict[str, object] = {"patient_id": patient_id}
    if zone:
        surroundings["timezone"] = zone
    worn = {**surroundings, **_sensor_facts(sensor)}
    activation = worn.get("sensor_activation")
    for body in cut.items:
        times = _times_of(body)
        factory, local = times.factory_timestamp, times.timestamp
        found = (
            _instant_and_date(factory, local if isinstance(local, str) else None)
            if isinstance(factory, str)
            else None
        )
        if found is None:
            # Kept, and explained in quarantine: without its time it cannot be a sample.
            yield Record(
                page.resource,
                content_id(body),
                body,
                local_date_of(page.fetched_at, zone),
                surroundings,
            )
            continue
        taken_at, text, local_date = found
        on_sensor = isinstance(activation, int) and taken_at.timestamp() >= activation
        yield Record(
            page.resource,
            _reading_id(patient_id, text),
            body,
            local_date if local_date is not None else local_date_of(taken_at, zone),
            worn if on_sensor else surroundings,
            taken_at=taken_at,
        )


def _reading_id(patient_id: str, taken_at: str) -> str:
    # Record ids stand in tables and go to destinations, where an account of Abbott's has no
    # business.
    named = f"{patient_id}|{taken_at}"
    return hashlib.blake2b(named.encode(), digest_size=12).hexdigest()


def _sensor_facts(sensor: object) -> dict[str, object]:
    """Serial number, type and activation of the worn sensor, when it says all we need."""
    if not isinstance(sensor, dict) or not sensor.get("sn") or not isinstance(sensor.get("a"), int):
        return {}
    facts: dict[str, object] = {"sensor_sn": str(sensor["sn"]), "sensor_activation": sensor["a"]}
    if isinstance(sensor.get("pt"), int):
        facts["sensor_pt"] = sensor["pt"]
    return facts


# --- bodies of unknown origin


def explain(body: bytes) -> None:
    """Raise what `body` means when it is an answer without readings, as `fetch` would."""
    doing = "reading the answer"
    _refuse_web_front(body, doing)
    answer = decode_any(body)
    if not isinstance(answer, dict) or _is_measurement(answer):
        return
    status = answer.get("status")
    if status in (401, 403) or "jwt" in str(answer.get("message")):
        raise NotConnectedError(
            f"freestyle_libre: {doing}: access is refused; connect this user again"
        )
    if isinstance(status, int) and status != 0:
        _explain_refusal(body, doing)
    data = answer.get("data")
    if not isinstance(data, dict) or "connection" in data or "graphData" in data:
        return
    kind = "settings or account data"
    if data.get("redirect"):
        kind = "a login answer that names another region"
    elif "authTicket" in data:
        kind = "a login answer"
    raise BadPayloadError(f"freestyle_libre: {doing}: {kind}: it carries no readings")


def _explain_refusal(body: bytes, doing: str) -> NoReturn:
    try:
        _refuse(decode(body, _Envelope, f"freestyle_libre: {doing}"), doing)
    except _NotThere:
        raise TransientError(
            f"freestyle_libre: {doing}: patient not loaded: the account moved to another region"
            " or the person no longer shares; the next sync finds out"
        ) from None


def _is_measurement(fields: object) -> bool:
    return isinstance(fields, dict) and "FactoryTimestamp" in fields and "data" not in fields


def _is_connections(answer: object) -> bool:
    """Whether an answer lists the people who share, each with the latest reading."""
    data = answer.get("data") if isinstance(answer, dict) else None
    return (
        isinstance(data, list)
        and bool(data)
        and all(isinstance(item, dict) and "patientId" in item for item in data)
    )


def _data_of(answer: object) -> object:
    return answer.get("data") if isinstance(answer, dict) else None


def _recognise_current(answer: object) -> bool:
    if _is_measurement(answer):
        return isinstance(answer, dict) and answer.get("type") == 1
    data = _data_of(answer)
    connection = data.get("connection") if isinstance(data, dict) else None
    has_reading = isinstance(connection, dict) and "glucoseMeasurement" in connection
    return has_reading or _is_connections(answer)


def _recognise_graph(answer: object) -> bool:
    if _is_measurement(answer):
        return isinstance(answer, dict) and answer.get("type") == 0
    if isinstance(answer, list):
        return _are_measurements(answer) and all(item.get("type") == 0 for item in answer)
    data = _data_of(answer)
    return isinstance(data, dict) and "graphData" in data


def _recognise_logbook(answer: object) -> bool:
    # The graph has readings of the sensor only; scans and alarms are the logbook's.
    if isinstance(answer, list):
        return _are_measurements(answer) and any(item.get("type") != 0 for item in answer)
    data = _data_of(answer)
    return isinstance(data, list) and (not data or _are_measurements(data))


def _are_measurements(items: list[object]) -> TypeGuard[list[dict[str, object]]]:
    return bool(items) and all(_is_measurement(item) for item in items)


# --- times

_TIME = re.compile(r"(\d{1,2})/(\d{1,2})/(\d{4}) (\d{1,2}):(\d{2}):(\d{2}) ([AP])M")
_POLARS_TIME = "%m/%d/%Y %I:%M:%S %p"
_LARGEST_OFFSET = timedelta(hours=14)
_OFFSET_STEP = timedelta(minutes=15)


def parse_time(value: object) -> datetime | None:
    """`12/30/2022 4:47:40 PM` as UTC, whatever the locale. None if it is no such time."""
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return None
    month, day, year, hour, minute, second = (int(match[n]) for n in range(1, 7))
    if not 1 <= hour <= 12:
        return None
    hour = hour % 12 + (12 if match[7] == "P" else 0)
    try:
        return datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        return None


def is_plausible_offset(offset: timedelta) -> bool:
    """Whether some place is that far from UTC; anything else is a phone's clock gone wrong."""
    return abs(offset) <= _LARGEST_OFFSET and offset % _OFFSET_STEP == timedelta()


# --- records → samples

_READING_WIRE: Mapping[str, pl.DataType] = {
    "FactoryTimestamp": pl.String(),
    "Timestamp": pl.String(),
    "type": pl.Int64(),
    "ValueInMgPerDl": pl.Float64(),
    "Value": pl.Float64(),
    "GlucoseUnits": pl.Int64(),
    "TrendArrow": pl.Int64(),
    "MeasurementColor": pl.Int64(),
    "isHigh": pl.Boolean(),
    "isLow": pl.Boolean(),
    "alarmType": pl.Int64(),
}
_READING_CONTEXT: Mapping[str, pl.DataType] = {
    "patient_id": pl.String(),
    "timezone": pl.String(),
    "sensor_sn": pl.String(),
    "sensor_pt": pl.Int64(),
    "sensor_activation": pl.Int64(),
}


# `:01:09 PM`, what follows the hour.
_MINUTES_LENGTH = 9
_ONE_O_CLOCK = "1/1/2000 1"


def _times_told(text: pl.Series) -> pl.Series:
    """`12/30/2022 4:47:40 PM` as a naive Datetime; null if it is no such time.

    The readings of a day share two dozen hours and an hour has 3,600 ends: each is parsed once. Hours come
    in runs.
    """
    hour, rest = text.str.head(-_MINUTES_LENGTH), text.str.tail(_MINUTES_LENGTH)
    run = hour.rle().struct.field("value")
    hours, rests = run.unique(), rest.unique()
    rests = rests.filter(rests.str.starts_with(":"))
    if rests.is_empty():
        return _clock_times(text)
    begun = run.replace_strict(hours, _clock_times(hours + ":00:00 AM"), return_dtype=LOCAL)
    since = _clock_times(_ONE_O_CLOCK + rests) - datetime(2000, 1, 1, 1)  # noqa: DTZ001
    times = begun.gather(hour.rle_id()) + rest.replace_strict(
        rests, since, default=None, return_dtype=pl.Duration("us")
    )
    if times.null_count() == text.null_count():
        return times
    is_odd = times.is_null() & text.is_not_null()
    return times.scatter(is_odd.arg_true(), _clock_times(text.filter(is_odd)))


def _clock_times(text: pl.Series) -> pl.Series:
    return text.str.to_datetime(_POLARS_TIME, strict=False, time_unit="us")


def _prepare_reading(frame: pl.DataFrame) -> pl.DataFrame:
    frame = frame.with_columns(
        _times_told(frame["FactoryTimestamp"]).dt.replace_time_zone("UTC").alias("timestamp"),
        _times_told(frame["Timestamp"]).alias("local_timestamp"),
    )
    instant, local = pl.col("timestamp"), pl.col("local_timestamp")
    offset = (local - instant.dt.replace_time_zone(None)).dt.total_seconds()
    plausible = (
        (offset.abs() <= int(_LARGEST_OFFSET.total_seconds()))
        & (offset % int(_OFFSET_STEP.total_seconds()) == 0)
    ).fill_null(value=False)
    is_told = frame.select(plausible).to_series()
    if is_told.all():
        return frame.with_columns(
            pl.lit(None, pl.String).alias("timezone"), pl.lit("provider").alias("tz_source")
        )
    from_profile = wall_clock(frame, instant, "context.timezone")
    return frame.with_columns(
        pl.when(is_told).then(local).otherwise(from_profile).alias("local_timestamp"),
        pl.when(~is_told & from_profile.is_not_null())
        .then(pl.col("context.timezone"))
        .alias("timezone"),
        pl.when(is_told)
        .then(pl.lit("provider"))
        .when(from_profile.is_not_null())
        .then(pl.lit("profile"))
        .otherwise(pl.lit("unknown"))
        .alias("tz_source"),
    )


_IS_ALARM = (pl.col("type") == 2).fill_null(value=False)
_NATIVE_UNIT = pl.col("GlucoseUnits").replace_strict(
    {0: "mmol/L", 1: "mg/dL"}, default=None, return_dtype=pl.String
)
_VALUE = pl.coalesce("ValueInMgPerDl", glucose_in_mg(pl.col("Value"), _NATIVE_UNIT))
_LIMIT = (
    pl.when(pl.col("isHigh").fill_null(value=False))
    .then(pl.lit("high"))
    .when(pl.col("isLow").fill_null(value=False))
    .then(pl.lit("low"))
)

_GLUCOSE = "glucose_blood_glucose_samples"

_READING_TABLES = (
    Samples(
        "body",
        _GLUCOSE,
        {
            "timestamp": pl.col("timestamp"),
            "local_timestamp": pl.col("local_timestamp"),
            "blood_glucose_mg_per_dl": _VALUE,
            # The colour is relative to the person's own target, no clinical class: it stays in raw.
            "glucose_level_flag": _LIMIT,
            "trend_arrow": enums.TREND_ARROW.decode(pl.col("TrendArrow")),
            "native_value": pl.col("Value"),
            "native_unit": _NATIVE_UNIT,
            "sample_kind": pl.lit("cgm"),
            "out_of_range": _LIMIT,
            "native_trend": pl.col("TrendArrow").cast(pl.String),
            "device_id": pl.col("context.sensor_sn"),
        },
        where=_VALUE.is_not_null(),
    ),
    Scalars(
        "body",
        {
            "device_manufacturer": pl.lit("Abbott"),
            "device_name": pl.col("context.sensor_pt").replace_strict(
                {0: "FreeStyle Libre", 3: "FreeStyle Libre 2", 4: "FreeStyle Libre 3"},
                default=None,
                return_dtype=pl.String,
            ),
            "device_serial_number": pl.col("context.sensor_sn"),
            "device_activation_timestamp": pl.from_epoch("context.sensor_activation", "s")
            .cast(LOCAL)
            .dt.replace_time_zone("UTC"),
        },
        where=pl.col("context.sensor_sn").is_not_null(),
    ),
)
_READING_REJECTS = (Reject("no glucose value", ~_IS_ALARM & _VALUE.is_null()),)


def _reading(
    name: str, cut: Callable[[Page], Cut], recognise: Callable[[object], bool]
) -> Resource:
    return Resource(
        name=name,
        recognise=recognise,
        wire=_READING_WIRE,
        split=lambda page: _read(page, cut(page)),
        cut=cut,
        read=_read,
        prepare=_prepare_reading,
        tables=_READING_TABLES,
        rejects=_READING_REJECTS,
        context_wire=_READING_CONTEXT,
        ignored=frozenset({"TrendMessage"}),
        evidence="recorded",
    )


# --- lines of an export → samples


def _prepare_line(frame: pl.DataFrame) -> pl.DataFrame:
    local = libreview.local_time(pl.col("Device Timestamp"), pl.col("context.date_order"))
    number = pl.col("record_id").str.split("|").list.last().cast(pl.Int64, strict=False)
    with_local = frame.with_columns(
        local.alias("local_timestamp"), pl.when(number > 1).then(number).alias("occurrence")
    )
    instant = instant_of(with_local, "local_timestamp", "context.timezone", "context.fold")
    return with_local.with_columns(
        instant.alias("timestamp"),
        pl.col("context.timezone").alias("timezone"),
        pl.when(pl.col("context.timezone").is_not_null())
        .then(pl.lit("profile"))
        .otherwise(pl.lit("unknown"))
        .alias("tz_source"),
    )


_TYPE = pl.col("Record Type")
_LINE_GLUCOSE = (
    pl.when(_TYPE == 0)
    .then(pl.col("Historic Glucose"))
    .when(_TYPE == 1)
    .then(pl.col("Scan Glucose"))
    .when(_TYPE == 2)
    .then(pl.col("Strip Glucose"))
)
_UNIT = pl.col("context.unit")
_SERIAL = written("Serial Number")
_NOTES = written("Notes")


def _insulin(kind: str, dose: str, marker: str) -> Samples:
    note = written(marker)
    return Samples(
        "body",
        "measurements_measurements",
        {
            "measurement_time": pl.col("timestamp"),
            "local_measurement_time": pl.col("local_timestamp"),
            "insulin_units": pl.col(dose),
            "insulin_type": pl.lit(kind),
            "user_notes": pl.concat_str(
                _NOTES,
                # The person only ticked that there was a dose: the mark says as much as was said.
                pl.when(note.is_not_null()).then(pl.lit(f"{marker}: ") + note),
                separator="; ",
                ignore_nulls=True,
            ).replace("", None),
            "device_id": _SERIAL,
            "occurrence": pl.col("occurrence"),
        },
        where=(_TYPE == 4) & (pl.col(dose).is_not_null() | note.is_not_null()),
    )


_FOOD_MARK = written("Non-numeric Food")

_LINE_TABLES = (
    Samples(
        "body",
        _GLUCOSE,
        {
            "timestamp": pl.col("timestamp"),
            "local_timestamp": pl.col("local_timestamp"),
            "blood_glucose_mg_per_dl": glucose_in_mg(_LINE_GLUCOSE, _UNIT),
            "native_value": _LINE_GLUCOSE,
            "native_unit": _UNIT,
            "sample_kind": _TYPE.replace_strict(
                {0: "cgm", 1: "scan", 2: "fingerstick"}, default=None, return_dtype=pl.String
            ),
            # Values beyond the range are clamped and no column says which: nothing is claimed.
            "device_id": _SERIAL,
            "occurrence": pl.col("occurrence"),
        },
        where=_TYPE.is_in([0, 1, 2]),
    ),
    Samples(
        "body",
        "ketone_ketone_samples",
        {
            "timestamp": pl.col("timestamp"),
            "local_timestamp": pl.col("local_timestamp"),
            "ketone_mg_per_dl": ketone_mmol_to_mg(pl.col("Ketone")),
            "sample_type": pl.lit("blood"),
            "native_value": pl.col("Ketone"),
            "native_unit": pl.lit("mmol/L"),
            "device_id": _SERIAL,
            "occurrence": pl.col("occurrence"),
        },
        where=_TYPE == 3,
    ),
    _insulin("rapid", "Rapid-Acting Insulin", "Non-numeric Rapid-Acting Insulin"),
    _insulin("long", "Long-Acting Insulin", "Non-numeric Long-Acting Insulin"),
    Samples(
        "body",
        "measurements_measurements",
        {
            "measurement_time": pl.col("timestamp"),
            "local_measurement_time": pl.col("local_timestamp"),
            "user_notes": _NOTES,
            "device_id": _SERIAL,
            "occurrence": pl.col("occurrence"),
        },
        where=(_TYPE == 6) & _NOTES.is_not_null(),
    ),
    Samples(
        "nutrition",
        "meals",
        {
            "id": pl.col("record_id"),
            "name": pl.coalesce(_NOTES, _FOOD_MARK),
            "timestamp": pl.col("timestamp"),
            "local_timestamp": pl.col("local_timestamp"),
            "type": pl.lit("unknown"),
            # Servings of the person's own size: an amount without a unit.
            "quantity_unit": pl.lit("unknown"),
            "quantity_amount": pl.col("Carbohydrates (servings)"),
            "macros_carbohydrates_g": pl.col("Carbohydrates (grams)"),
        },
        where=(_TYPE == 5)
        & (
            pl.col("Carbohydrates (grams)").is_not_null()
            | pl.col("Carbohydrates (servings)").is_not_null()
            | _FOOD_MARK.is_not_null()
        ),
    ),
    Scalars(
        "body",
        {
            "device_manufacturer": pl.lit("Abbott"),
            "device_name": written("Device"),
            "device_serial_number": _SERIAL,
        },
        where=_TYPE.is_in([0, 1, 2, 3]),
    ),
)


def _no_split(page: Page) -> Iterator[Record]:
    raise BadPayloadError("freestyle_libre: libreview_csv comes from files, not from pages")


PROVIDER = Provider(
    name="freestyle_libre",
    title="FreeStyle Libre",
    client_name="FREESTYLELIBRE",
    summary="Sensor glucose from LibreLinkUp (unofficial, may stop any day) and LibreView exports.",
    freshness=(
        "The current reading at once, the graph some 17 minutes behind it; an export when"
        " somebody makes one."
    ),
    docs_url="https://www.libreview.com",
    resources=(
        _reading("current", _cut_current, _recognise_current),
        _reading("graph", _cut_graph, _recognise_graph),
        _reading("logbook", _cut_logbook, _recognise_logbook),
        Resource(
            name="libreview_csv",
            wire=libreview.WIRE,
            split=_no_split,
            prepare=_prepare_line,
            tables=_LINE_TABLES,
            rejects=(
                Reject(
                    "Record Type: not one of 0 to 6", ~_TYPE.is_between(0, 6).fill_null(value=False)
                ),
                Reject("no glucose value", _TYPE.is_in([0, 1, 2]) & _LINE_GLUCOSE.is_null()),
                Reject("no ketone value", (_TYPE == 3) & pl.col("Ketone").is_null()),
            ),
            context_wire=libreview.CONTEXT_WIRE,
            ignored=libreview.IGNORED,
            media_type="text/csv",
            parse=libreview.parse_lines,
            list_fields=libreview.list_fields,
            evidence="recorded",
        ),
    ),
    credentials=(
        CredentialField(
            "email", "E-mail of the LibreLinkUp account the person invited.", is_secret=False
        ),
        CredentialField("password", "Password of the LibreLinkUp account."),
        CredentialField(
            "patient_id",
            "Whose readings, when several people share with the account.",
            is_secret=False,
            is_required=False,
        ),
        CredentialField(
            "region",
            "Region of the account; only Russia (ru) and China (cn) must say it.",
            is_secret=False,
            is_required=False,
        ),
    ),
    connect=connect,
    fetch=fetch,
    explain=explain,
    importers=(
        Importer(
            name="libreview_csv",
            resource="libreview_csv",
            title="LibreView export (CSV)",
            recognise=libreview.recognise,
            read=libreview.read,
        ),
    ),
    poll_interval=timedelta(minutes=5),
    open_days=3,
    history_days=14,
    # Bans follow the account and the address: be gentle.
    max_concurrency=10,
    requests_per_second=5.0,
    sample_step=timedelta(minutes=5),
)
