"""Tidepool: what synthetic people uploaded, by hand once a week or from an app all the time.

Records are pure functions of (seed, person, instant) and of what has been uploaded at the sandbox's
clock. `POST /tidepool/control/sessions` with `{"person", "action"}` does what happens there: `expire`
ends sessions, `change_password` makes logins with the old one fail, `reset` undoes that.
"""

import base64
import uuid
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from wearable_pipeline.sandbox import dexcom
from wearable_pipeline.sandbox._sessions import EmailAccount, Sessions
from wearable_pipeline.sandbox.chance import instant_at
from wearable_pipeline.sandbox.control import Endpoint, Sandbox, json_answer

HISTORY_DAYS = 120
SESSION_SECONDS = 12 * 3600
TOKEN = "x-tidepool-session-token"  # noqa: S105 - the name of a header
_DAY = timedelta(days=1)
_FACTOR = 18.01559

Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Uploader(EmailAccount):
    """One synthetic person; without an app, devices are uploaded on Sundays."""

    zone: str
    has_app: bool

    @property
    def user_id(self) -> str:
        """Id of the account."""
        return str(uuid.uuid5(uuid.NAMESPACE_DNS, f"tidepool/{self.name}"))

    @property
    def wearer(self) -> dexcom.Wearer:
        """The sensor, as it measures."""
        return dexcom.Wearer(self.name, self.zone, "g6", timedelta())


PEOPLE = {
    one.name: one
    for one in (Uploader("jun", "America/Denver", True), Uploader("kaya", "Europe/Berlin", False))
}


def mount(sandbox: Sandbox) -> Mount:
    """The service under `/tidepool`."""
    return _Tidepool(sandbox, Sessions(sandbox.clock, SESSION_SECONDS)).mount()


def uploaded_at(who: Uploader, at: datetime) -> datetime:
    """When what happened at `at` was uploaded."""
    if who.has_app:
        return at + timedelta(minutes=5)
    sunday = datetime(at.year, at.month, at.day, 18, tzinfo=UTC) + (6 - at.weekday()) * _DAY
    return sunday if sunday >= at else sunday + 7 * _DAY


def _stamp(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%S}.000Z"


def _record(who: Uploader, at: datetime, kind: str, **fields: object) -> Json:
    local = at.astimezone(ZoneInfo(who.zone))
    ahead = local.utcoffset() or timedelta()
    upload = "app" if who.has_app else f"{uploaded_at(who, at):%Y%m%d}"
    return {
        "id": uuid.uuid5(uuid.NAMESPACE_DNS, f"{who.name}/{upload}/{kind}/{at}").hex,
        "type": kind,
        "time": _stamp(at),
        "deviceTime": f"{local:%Y-%m-%dT%H:%M:%S}",
        "timezoneOffset": int(ahead.total_seconds() // 60),
        "conversionOffset": 0,
        "deviceId": f"device-of-{who.name}",
        "uploadId": f"upid_{who.name}_{upload}",
        **fields,
    }


# Minute of the day, type, fields, how many days apart.
_DAILY: tuple[tuple[int, str, Json, int], ...] = (
    (440, "smbg", {"value": 110 / _FACTOR, "units": "mmol/L", "subType": "linked"}, 1),
    (470, "bolus", {"subType": "normal", "normal": 4.5}, 1),
    (470, "wizard", {"carbInput": 45, "carbUnits": "grams", "units": "mmol/L"}, 1),
    (
        780,
        "bolus",
        {"subType": "dual/square", "normal": 2, "extended": 1.5, "duration": 7_200_000},
        1,
    ),
    (1000, "bloodKetone", {"value": 0.4, "units": "mmol/L"}, 3),
    (
        1140,
        "food",
        {"meal": "dinner", "nutrition": {"carbohydrate": {"net": 60, "units": "grams"}}},
        1,
    ),
    (
        1050,
        "physicalActivity",
        {
            "activityType": "walking",
            "name": "Walk",
            "reportedIntensity": "low",
            "duration": {"units": "minutes", "value": 40},
        },
        2,
    ),
    (1200, "insulin", {"dose": {"total": 18, "units": "Units"}}, 1),
)


def records(
    seed: int, who: Uploader, types: Collection[str], start: datetime, end: datetime
) -> Iterator[tuple[datetime, Json]]:
    """What happened in [start, end) of these types."""
    sensed = dexcom.egvs(seed, who.wearer, start, end) if "cbg" in types else ()
    for at, one in sensed:
        level = int(str(one["value"]))
        beyond = "low" if level < 40 else "high" if level > 400 else None
        more: Json = {}
        if beyond:
            more["annotations"] = [{"code": "bg/out-of-range", "value": beyond, "threshold": level}]
        value = round(level / _FACTOR, 5)
        yield at, _record(who, at, "cbg", value=value, units="mmol/L", **more)
    day = (start - _DAY).date()
    while day <= (end + _DAY).date():
        for minutes, kind, fields, apart in _DAILY:
            at = instant_at(who.zone, day, minutes)
            if kind in types and day.toordinal() % apart == 0 and start <= at < end:
                yield at, _record(who, at, kind, **fields)
        day += _DAY


@dataclass(slots=True)
class _Tidepool:
    sandbox: Sandbox
    sessions: Sessions

    def mount(self) -> Mount:
        def guarded(endpoint: Endpoint) -> Endpoint:
            return self.sandbox.guard(endpoint, self._identify)

        return Mount(
            "/tidepool",
            routes=[
                self.sessions.route(),
                Route("/auth/login", guarded(self._login), methods=["POST"]),
                Route("/data/{user_id}", guarded(self._data)),
            ],
        )

    async def _identify(self, request: Request) -> str | None:
        return self.sessions.owner_of(request.headers.get(TOKEN, ""))

    async def _login(self, request: Request) -> Response:
        kind, _, value = request.headers.get("authorization", "").partition(" ")
        try:
            email, _, password = base64.b64decode(value, validate=True).decode().partition(":")
        except ValueError:
            email, password = "", ""
        who = next((one for one in PEOPLE.values() if one.email == email), None)
        if kind.lower() != "basic" or who is None or not self.sessions.opens(who.name, password):
            return json_answer({"code": 401, "reason": "No user matched the given details"}, 401)
        session = self.sessions.begin(who.name)
        found = {"userid": who.user_id, "emailVerified": True, "username": who.email}
        return json_answer(found, headers={TOKEN: session})

    async def _data(self, request: Request) -> Response:
        name = self.sessions.person_of(request.headers.get(TOKEN, ""))
        if name is None:
            return json_answer({"code": 401, "reason": "No x-tidepool-session-token"}, 401)
        who = PEOPLE[name]
        if request.path_params["user_id"] != who.user_id:
            return json_answer({"code": 403, "reason": "Unauthorized"}, 403)
        asked = request.query_params
        now = datetime.fromtimestamp(self.sandbox.clock.exact(), UTC)
        try:
            start = max(_date(asked.get("startDate")) or now, now - HISTORY_DAYS * _DAY)
            end = min(_date(asked.get("endDate")) or now, now)
        except ValueError:
            return json_answer({"code": 400, "reason": "not a date"}, 400)
        types = asked.get("type", "").split(",")
        upload = asked.get("uploadId")
        if "startDate" not in asked:
            start = now - HISTORY_DAYS * _DAY
        if upload and upload[-8:].isdigit():
            # A week ends on the day it is uploaded.
            start = datetime.strptime(upload[-8:], "%Y%m%d").replace(tzinfo=UTC) - 8 * _DAY
        found = records(self.sandbox.seed, who, types, start, end)
        there = [
            one
            for at, one in found
            if uploaded_at(who, at) <= now and upload in (None, one["uploadId"])
        ]
        if "upload" in types:
            there += [one for at, one in self._uploads(who, now) if start <= at <= end]
        return json_answer(there)

    def _uploads(self, who: Uploader, now: datetime) -> Iterator[tuple[datetime, Json]]:
        if who.has_app:
            at = now - HISTORY_DAYS * _DAY
            yield at, _record(who, at, "upload", dataSetType="continuous")
            return
        at = uploaded_at(who, now - HISTORY_DAYS * _DAY)
        while at <= now:
            yield at, _record(who, at, "upload", dataSetType="normal")
            at += 7 * _DAY


def _date(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
