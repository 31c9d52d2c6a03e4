"""Dexcom's API v3: sensors of synthetic people, their readings late, as they are at Dexcom.

Every record is a pure function of (seed, person, instant) and of how much of it has reached the
provider at the sandbox's clock: phones deliver after one or three hours and, after a time out of reach,
a day later; a receiver delivers when it is plugged in, on Mondays. Entries are corrected or deleted a
day after they were made. Times of receivers carry no offset, and their clocks drift.
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from wearable_pipeline.sandbox._oauth_server import OAuthServer
from wearable_pipeline.sandbox.chance import instant_at, number_of, uuid_of
from wearable_pipeline.sandbox.control import Endpoint, Sandbox, json_answer

HISTORY_DAYS = 120
LONGEST_QUERY = timedelta(days=30)
_DAY = timedelta(days=1)
_STEP = timedelta(minutes=5)
_STEP_SECONDS = 300
_WEAR_STEPS = 10 * 288
_WARM_UP_STEPS = 6
_CORRECTED_AFTER = timedelta(days=1)

Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Wearer:
    """One synthetic person with a sensor; without a phone it is read by a receiver."""

    name: str
    zone: str
    generation: str
    delay: timedelta
    has_phone: bool = True

    @property
    def account_id(self) -> str:
        """The person as Dexcom names them to the app."""
        return hashlib.sha256(f"dexcom/{self.name}".encode()).hexdigest()

    @property
    def phase(self) -> int:
        """Second of the step at which the sensor measures."""
        return _hash(self.name, "phase") % _STEP_SECONDS


PEOPLE = {
    one.name: one
    for one in (
        Wearer("gil", "America/New_York", "g7", timedelta(hours=1)),
        Wearer("hedda", "Europe/Berlin", "g6", timedelta(hours=3)),
        Wearer("ivo", "Asia/Kathmandu", "g6", timedelta(), has_phone=False),
    )
}


def mount(sandbox: Sandbox) -> Mount:
    """The service under `/dexcom`."""
    return _Dexcom(sandbox).mount()


def _hash(*parts: object) -> int:
    return number_of(*parts, size=6)


def arrives_at(who: Wearer, at: datetime) -> datetime:
    """When what was measured at `at` has reached Dexcom."""
    if not who.has_phone:
        monday = datetime(at.year, at.month, at.day, 9, tzinfo=UTC) - at.weekday() * _DAY
        return monday if monday >= at else monday + 7 * _DAY
    # On one day of four the phone is out of reach from 10 to 12 o'clock UTC.
    is_out = at.toordinal() % 4 == 1 and at.hour in (10, 11)
    return at + who.delay + (timedelta(hours=20) if is_out else timedelta())


def _times(who: Wearer, at: datetime) -> Json:
    local = at.astimezone(ZoneInfo(who.zone))
    if who.has_phone:
        shown = local.isoformat(timespec="seconds")
        return {"systemTime": f"{at:%Y-%m-%dT%H:%M:%SZ}", "displayTime": shown}
    # A receiver gains half a second a day.
    drift = timedelta(seconds=at.toordinal() % 400 // 2)
    return {
        "systemTime": f"{at:%Y-%m-%dT%H:%M:%S}",
        "displayTime": f"{local + drift:%Y-%m-%dT%H:%M:%S}",
    }


def _device(who: Wearer, at: datetime) -> Json:
    session = int(at.timestamp()) // (_WEAR_STEPS * _STEP_SECONDS)
    return {
        "transmitterId": hashlib.sha256(f"{who.name}/{session}".encode()).hexdigest(),
        "transmitterTicks": int(at.timestamp()) % (_WEAR_STEPS * _STEP_SECONDS),
        "transmitterGeneration": who.generation,
        "displayDevice": "iOS" if who.has_phone else "receiver",
        "displayApp": who.generation.upper() if who.has_phone else None,
    }


def _level(seed: int, who: Wearer, number: int) -> int:
    """Glucose of a step, 39 for what is below the range and 401 for what is above it."""
    angle = number * math.tau / 288
    key = (_hash(seed, who.name) + number) % 9_973
    swing = 70 * math.sin(3 * angle) + 50 * math.sin(angle + key % 7 / 7)
    level = round(140 + swing + (number * 7_919 + key) % 11)
    spike = number // 288 % 6
    if spike == 2:
        level += 160
    elif spike == 4:
        level -= 40
    return 39 if level < 40 else 401 if level > 400 else level


_TRENDS = (
    (-3.0, "doubleDown"),
    (-2.0, "singleDown"),
    (-1.0, "fortyFiveDown"),
    (1.0, "flat"),
    (2.0, "fortyFiveUp"),
    (3.0, "singleUp"),
    (8.0, "doubleUp"),
)


def egvs(seed: int, who: Wearer, start: datetime, end: datetime) -> Iterator[tuple[datetime, Json]]:
    """A reading every five minutes in [start, end), none while a sensor warms up."""
    first = -(-(int(start.timestamp()) - who.phase) // _STEP_SECONDS)
    last = -(-(int(end.timestamp()) - who.phase) // _STEP_SECONDS)
    for number in range(first, last):
        if number % _WEAR_STEPS < _WARM_UP_STEPS:
            continue
        at = datetime.fromtimestamp(number * _STEP_SECONDS + who.phase, UTC)
        level = _level(seed, who, number)
        rate = round((level - _level(seed, who, number - 1)) / 5, 1)
        yield (
            at,
            {
                "recordId": uuid_of(who.name, "egv", number),
                **_times(who, at),
                **_device(who, at),
                "value": level,
                "status": "low" if level < 40 else "high" if level > 400 else None,
                "trend": next((name for top, name in _TRENDS if rate <= top), "rateOutOfRange"),
                "trendRate": rate,
                "unit": "mg/dL",
                "rateUnit": "mg/dL/min",
            },
        )


def calibrations(
    seed: int, who: Wearer, start: datetime, end: datetime
) -> Iterator[tuple[datetime, Json]]:
    """A finger stick on every third morning."""
    for day in _days(who, start, end):
        at = instant_at(who.zone, day, 430)
        if day.toordinal() % 3 == 0 and start <= at < end:
            yield (
                at,
                {
                    "recordId": uuid_of(who.name, "calibration", day),
                    **_times(who, at),
                    **_device(who, at),
                    "value": 90 + _hash(seed, who.name, day) % 80,
                    "unit": "mg/dL",
                },
            )


def _days(who: Wearer, start: datetime, end: datetime) -> Iterator[date]:
    day = (start - _DAY).date()
    while day <= (end + _DAY).date():
        yield day
        day += _DAY


# Minute of the day, kind, kind in more detail, value, unit, how many days apart.
_ENTRIES: tuple[tuple[int, str, str | None, str, str | None, int], ...] = (
    (470, "insulin", "fastActing", "4.5", "units", 1),
    (480, "carbs", None, "45", "grams", 1),
    (780, "carbs", None, "60", "grams", 1),
    (1050, "exercise", "medium", "30", "minutes", 2),
    (1140, "carbs", None, "72", "grams", 1),
    (1200, "bloodGlucose", None, "118", "mg/dL", 3),
    (1260, "notes", None, "changed the sensor", None, 5),
    (1320, "insulin", "longActing", "18", "units", 1),
    (1380, "health", "illness", "1", None, 7),
)


def events(
    seed: int, who: Wearer, start: datetime, end: datetime, now: datetime
) -> Iterator[tuple[datetime, Json]]:
    """What the person typed in; some of it corrected or taken back a day later."""
    del seed
    for day in _days(who, start, end):
        for minutes, kind, more, value, unit, apart in _ENTRIES:
            at = instant_at(who.zone, day, minutes)
            if day.toordinal() % apart or not start <= at < end:
                continue
            status = "created"
            if now >= at + _CORRECTED_AFTER:
                if kind == "carbs" and minutes == 780 and day.toordinal() % 6 == 0:
                    status = "deleted"
                elif kind == "exercise" and day.toordinal() % 4 == 0:
                    status, value = "updated", "45"
            device = _device(who, at)
            del device["transmitterTicks"]
            yield (
                at,
                {
                    "recordId": uuid_of(who.name, "event", day, minutes),
                    **_times(who, at),
                    **device,
                    "eventStatus": status,
                    "eventType": kind,
                    "eventSubType": more,
                    "value": value,
                    "unit": unit,
                },
            )


# --- the service

_Found = Iterator[tuple[datetime, Json]]
_TYPES = {"egvs": "egv", "events": "event", "calibrations": "calibration"}


class _Dexcom:
    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._oauth = OAuthServer(
            provider="dexcom",
            sandbox=sandbox,
            people=PEOPLE,
            authorize_path="/v3/oauth2/login",
            token_path="/v3/oauth2/token",  # noqa: S106 - an address
            access_seconds=7_200,
        )

    def mount(self) -> Mount:
        routes = [
            *self._oauth.routes(),
            Route("/v3/users/self/dataRange", self._guarded(self._data_range)),
            Route("/v3/users/self/{collection}", self._guarded(self._collection)),
        ]
        return Mount("/dexcom", routes=routes)

    def _guarded(self, endpoint: Endpoint) -> Endpoint:
        return self._sandbox.guard(endpoint, self._oauth.identify)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._sandbox.clock.exact(), UTC)

    def _wearer(self, request: Request) -> Wearer | None:
        name = self._oauth.person_of(request)
        return PEOPLE[name] if name else None

    def _read(self, name: str, who: Wearer, start: datetime, end: datetime) -> _Found:
        """Records of a collection that have reached the provider."""
        now = self._now()
        seed = self._sandbox.seed
        start = max(start, now - HISTORY_DAYS * _DAY)
        end = min(end, now)
        make: dict[str, Callable[[], _Found]] = {
            "egvs": lambda: egvs(seed, who, start, end),
            "events": lambda: events(seed, who, start, end, now),
            "calibrations": lambda: calibrations(seed, who, start, end),
        }
        for at, record in make[name]():
            if arrives_at(who, at) <= now:
                yield at, record

    async def _data_range(self, request: Request) -> Response:
        who = self._wearer(request)
        if who is None:
            return _refused()
        now = self._now()
        start = now - HISTORY_DAYS * _DAY
        since = None
        if "lastSyncTime" in request.query_params:
            try:
                since = datetime.fromisoformat(request.query_params["lastSyncTime"])
            except ValueError:
                since = None
            if since is None or since.tzinfo is None:
                return json_answer({"errors": ["lastSyncTime"]}, 400)
            # Nothing takes longer to arrive than a receiver's week.
            start = max(start, since - 8 * _DAY)
        found: Json = {}
        for name in _TYPES:
            there = [
                record
                for at, record in self._read(name, who, start, now)
                if since is None or arrives_at(who, at) > since
            ]
            found[name] = {"start": _ends(there[0]), "end": _ends(there[-1])} if there else None
        return json_answer(
            {
                "recordType": "dataRange",
                "recordVersion": "3.0",
                "userId": who.account_id,
                **found,
            }
        )

    async def _collection(self, request: Request) -> Response:
        who = self._wearer(request)
        if who is None:
            return _refused()
        name = request.path_params["collection"]
        if name not in _TYPES:
            return json_answer({"errors": ["Not Found"]}, 404)
        try:
            start, end = (
                datetime.strptime(request.query_params[one], "%Y-%m-%dT%H:%M:%S").replace(
                    tzinfo=UTC
                )
                for one in ("startDate", "endDate")
            )
        except (KeyError, ValueError):
            return json_answer({"errors": ["startDate and endDate are times of UTC"]}, 400)
        if not timedelta() < end - start <= LONGEST_QUERY:
            return json_answer({"errors": ["the window is longer than 30 days"]}, 400)
        # Newest first.
        records = [record for _, record in self._read(name, who, start, end)][::-1]
        return json_answer(
            {
                "recordType": _TYPES[name],
                "recordVersion": "3.0",
                "userId": who.account_id,
                "records": records,
            }
        )


def _ends(record: Json) -> Json:
    return {"systemTime": record["systemTime"], "displayTime": record["displayTime"]}


def _refused() -> Response:
    detail = {"errorcode": "keymanagement.service.invalid_access_token"}
    return json_answer({"fault": {"faultstring": "Invalid Access Token", "detail": detail}}, 401)
