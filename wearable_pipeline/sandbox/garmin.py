"""Garmin's Health API: it tells who somebody is and what they permit, and posts everything else.

Every summary is a pure function of (seed, person, day) and of how far that day has come at the sandbox's
clock: days are posted four times while they grow, nights first tentative and final at noon. What an app's
owner enters on the developer site is set by `POST /garmin/control/endpoint` (`url`, and `mode` `push` or
`ping`); `POST /garmin/control/deliver` posts what is due: ordered history, and what happened since the last
time. `POST /garmin/control/permissions` changes what a person permits.
"""

import hashlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import httpx
import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from wearable_pipeline.sandbox._oauth_server import CLIENT_ID, OAuthServer
from wearable_pipeline.sandbox.chance import random_of
from wearable_pipeline.sandbox.control import Endpoint, Sandbox, json_answer

# A fetch brings nothing: whoever wants data lets them be delivered.
POSTS_DATA = True
ACCESS_SECONDS = 86_400
HISTORY_DAYS = 120
PERMISSIONS = ("HEALTH_EXPORT", "ACTIVITY_EXPORT", "MCT_EXPORT", "HISTORICAL_DATA_EXPORT")
LONGEST_ORDER = 30 * 86_400
LINK_SECONDS = 86_400
_PER_POST = 200
_DAY = timedelta(days=1)
_REST = "/wellness-api/rest"

# What is posted under which name, and what it is called in addresses.
KINDS = {
    "dailies": "dailies",
    "epochs": "epochs",
    "sleeps": "sleeps",
    "bodyComps": "bodyComps",
    "stressDetails": "stressDetails",
    "userMetrics": "userMetrics",
    "pulseox": "pulseOx",
    "allDayRespiration": "respiration",
    "hrv": "hrv",
    "healthSnapshot": "healthSnapshot",
    "bloodPressures": "bloodPressures",
    "skinTemp": "skinTemp",
    "activities": "activities",
    "activityDetails": "activityDetails",
    "moveIQActivities": "moveiq",
    "mct": "mct",
}

Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Wearer:
    """One synthetic person with an account."""

    name: str
    zone: str

    @property
    def account_id(self) -> str:
        """Name of the account at Garmin."""
        return hashlib.blake2b(f"garmin/{self.name}".encode(), digest_size=16).hexdigest()


PEOPLE = {
    one.name: one
    for one in (
        Wearer("mara", "Europe/Berlin"),
        Wearer("nilo", "America/New_York"),
        Wearer("odil", "Asia/Kolkata"),
    )
}


def mount(sandbox: Sandbox) -> Mount:
    """The service under `/garmin`."""
    return _Garmin(sandbox).mount()


@dataclass(frozen=True, slots=True)
class Posted:
    """A summary as it can be seen from `at` on; a later one of the same id replaces it."""

    kind: str
    at: datetime
    start: datetime
    body: Json


class _Day:
    """A local day of a person, and what it looks like from outside."""

    def __init__(self, seed: int, who: Wearer, day: date) -> None:
        self.who, self.day = who, day
        self.random = random_of(seed, who.name, day, "day")
        self.midnight = self.clock(0)
        self.offset = int((self.midnight.utcoffset() or timedelta()).total_seconds())
        self.steps = self.random.randrange(200, 900)
        self.pulse = self.random.randrange(55, 65)

    def clock(self, hour: float) -> datetime:
        """The instant at which clocks there show so many hours."""
        wall = datetime(self.day.year, self.day.month, self.day.day)  # noqa: DTZ001 - a wall clock
        wall += timedelta(hours=hour)
        return wall.replace(tzinfo=ZoneInfo(self.who.zone))

    def summary(self, kind: str, hour: float, seconds: float, **fields: object) -> Json:
        start = self.clock(hour)
        return {
            "summaryId": f"x{self.who.account_id[:8]}-{int(start.timestamp()):x}-{kind}",
            "startTimeInSeconds": int(start.timestamp()),
            "startTimeOffsetInSeconds": int((start.utcoffset() or timedelta()).total_seconds()),
            "durationInSeconds": int(seconds),
            **fields,
        }

    def posted(self, kind: str, at: float, hour: float, body: Json) -> Posted:
        return Posted(kind, self.clock(at) + timedelta(minutes=5), self.clock(hour), body)

    def all(self) -> Iterator[Posted]:
        yield from self._days()
        yield from self._quarters()
        yield from self._night()
        yield from self._body()
        yield from self._movement()

    def _dated(self, kind: str, hour: float, seconds: float, **fields: object) -> Json:
        return self.summary(kind, hour, seconds, calendarDate=self.day.isoformat(), **fields)

    def _days(self) -> Iterator[Posted]:
        for until in (6, 12, 18, 24):
            seconds = until * 3600
            grown: Json = {
                "steps": self.steps * until,
                "distanceInMeters": round(self.steps * until * 0.75, 2),
                "activeTimeInSeconds": until * 300,
                "activeKilocalories": until * 20,
                "bmrKilocalories": until * 70,
                "moderateIntensityDurationInSeconds": until * 60,
                "vigorousIntensityDurationInSeconds": until * 30,
                "floorsClimbed": until // 3,
                "minHeartRateInBeatsPerMinute": self.pulse,
                "averageHeartRateInBeatsPerMinute": self.pulse + 9,
                "maxHeartRateInBeatsPerMinute": self.pulse + 60,
                "restingHeartRateInBeatsPerMinute": self.pulse + 2,
                "timeOffsetHeartRateSamples": {
                    str(second): self.pulse + second // 900 % 17
                    for second in range(15, seconds, 900)
                },
                "averageStressLevel": 30 + until,
                "maxStressLevel": 60 + until,
                "stressDurationInSeconds": until * 500,
                "restStressDurationInSeconds": until * 900,
                "stressQualifier": "balanced",
                "stepsGoal": 8000,
            }
            body = self._dated("d", 0, seconds, activityType="WALKING", **grown)
            yield self.posted("dailies", until, 0, body)
            levels = {
                str(second): -1 if second % 1800 == 0 else 20 + second // 180 % 50
                for second in range(0, seconds, 900)
            }
            energy = {str(second): 90 - second // 3600 for second in range(0, seconds, 900)}
            stress: Json = {
                "timeOffsetStressLevelValues": levels,
                "timeOffsetBodyBatteryValues": energy,
            }
            yield self.posted("stressDetails", until, 0, self._dated("s", 0, seconds, **stress))
            breaths = {str(second): 14.5 for second in range(0, seconds, 3600)}
            body = self.summary("r", 0, seconds, timeOffsetEpochToBreaths=breaths)
            yield self.posted("allDayRespiration", until, 0, body)

    def _quarters(self) -> Iterator[Posted]:
        for hour in (8.0, 12.25, 19.5):
            for kind in ("WALKING", "RUNNING"):
                fields: Json = {
                    "activityType": kind,
                    "steps": 40 if kind == "WALKING" else 90,
                    "distanceInMeters": 30.5,
                    "activeTimeInSeconds": 600 if kind == "WALKING" else 300,
                    "activeKilocalories": 12,
                    "met": 3.5 if kind == "WALKING" else 8.25,
                    "intensity": "ACTIVE" if kind == "WALKING" else "HIGHLY_ACTIVE",
                    "meanMotionIntensity": 4,
                    "maxMotionIntensity": 7,
                }
                body = self.summary(f"e{kind[0]}", hour, 900, **fields)
                yield self.posted("epochs", hour + 1, hour, body)

    def _night(self) -> Iterator[Posted]:
        start, begin = -0.5, int(self.clock(-0.5).timestamp())
        deep, light, rem, awake = 5400, 12600, 5400, 1200
        edges = [begin, begin + light, begin + light + deep, begin + light + deep + rem]
        night: Json = {
            "unmeasurableSleepDurationInSeconds": 0,
            "deepSleepDurationInSeconds": deep,
            "lightSleepDurationInSeconds": light,
            "remSleepInSeconds": rem,
            "awakeDurationInSeconds": awake,
            "sleepLevelsMap": {
                "light": [{"startTimeInSeconds": edges[0], "endTimeInSeconds": edges[1]}],
                "deep": [{"startTimeInSeconds": edges[1], "endTimeInSeconds": edges[2]}],
                "rem": [{"startTimeInSeconds": edges[2], "endTimeInSeconds": edges[3]}],
                "awake": [{"startTimeInSeconds": edges[3], "endTimeInSeconds": edges[3] + awake}],
            },
            "timeOffsetSleepRespiration": {str(second): 13.5 for second in range(60, 20000, 3600)},
            "timeOffsetSleepSpo2": {str(second): 96 for second in range(0, 20000, 3600)},
            "overallSleepScore": {"value": self.random.randrange(60, 95), "qualifierKey": "GOOD"},
        }
        if self.day.day % 3 == 0:
            nap = self.clock(13)
            night["naps"] = [
                {
                    "napDurationInSeconds": 1200,
                    "napStartTimeInSeconds": int(nap.timestamp()),
                    "napOffsetInSeconds": int((nap.utcoffset() or timedelta()).total_seconds()),
                    "napValidation": "DEVICE",
                }
            ]
        seconds = deep + light + rem + awake
        early = {name: told for name, told in night.items() if name != "naps"}
        body = self._dated("n", start, seconds, validation="ENHANCED_TENTATIVE", **early)
        yield self.posted("sleeps", 7, start, body)
        body = self._dated("n", start, seconds, validation="ENHANCED_FINAL", **night)
        yield self.posted("sleeps", 14, start, body)
        values = {str(second): 40 + second // 300 % 30 for second in range(300, 7200, 300)}
        hrv: Json = {"lastNightAvg": 52, "lastNight5MinHigh": 72, "hrvValues": values}
        yield self.posted("hrv", 7, start, self._dated("h", start, 7200, **hrv))
        spo2: Json = {"timeOffsetSpo2Values": {"0": 97, "3600": 95}, "onDemand": False}
        yield self.posted("pulseox", 7, start, self._dated("p", start, 7200, **spo2))
        yield self.posted(
            "skinTemp", 7, start, self._dated("t", start, 7200, avgDeviationCelsius=0.3)
        )

    def _body(self) -> Iterator[Posted]:
        for kind, hour, fields in (
            (
                "bodyComps",
                7.25,
                {
                    "weightInGrams": 70_000 + self.random.randrange(2_000),
                    "bodyFatInPercent": 21.5,
                    "bodyWaterInPercent": 56.5,
                    "bodyMassIndex": 23.4,
                    "muscleMassInGrams": 30_500,
                    "boneMassInGrams": 2_500,
                },
            ),
            (
                "bloodPressures",
                20,
                {"systolic": 118, "diastolic": 76, "pulse": 61, "sourceType": "DEVICE"},
            ),
        ):
            if kind == "bodyComps" and self.day.day % 4 == 0:
                continue
            at = self.clock(hour)
            body: Json = {
                "summaryId": f"x{self.who.account_id[:8]}-{int(at.timestamp()):x}-{kind[:2]}",
                "measurementTimeInSeconds": int(at.timestamp()),
                "measurementTimeOffsetInSeconds": int(
                    (at.utcoffset() or timedelta()).total_seconds()
                ),
                **fields,
            }
            yield self.posted(kind, hour, hour, body)
        metrics: Json = {
            "summaryId": f"x{self.who.account_id[:8]}-{self.day:%Y%m%d}-m",
            "calendarDate": self.day.isoformat(),
            "vo2Max": 46.0,
            "fitnessAge": 33,
            "enhanced": True,
        }
        yield self.posted("userMetrics", 7, 0, metrics)
        if self.day.day % 5 == 0:
            snapshot = self._dated("g", 9, 120)
            snapshot["offsetStartTimeInSeconds"] = snapshot.pop("startTimeOffsetInSeconds")
            snapshot["summaries"] = [
                {
                    "summaryType": kind,
                    "minValue": value,
                    "maxValue": value + 1,
                    "avgValue": value,
                    "epochSummaries": {"0": value, "5": value + 1},
                }
                for kind, value in (
                    ("heart_rate", 62),
                    ("stress", 21),
                    ("spo2", 97),
                    ("rmssd_hrv", 41),
                    ("sdrr_hrv", 55),
                )
            ]
            yield self.posted("healthSnapshot", 10, 9, snapshot)
        number = self.day.toordinal() % 28
        begun = self.day - timedelta(days=number)
        cycle: Json = {
            "summaryId": f"x{self.who.account_id[:8]}-{begun:%Y%m%d}-c",
            "periodStartDate": begun.isoformat(),
            "dayInCycle": number + 1,
            "periodLength": 5,
            "currentPhase": 1 if number < 5 else 2,
            "currentPhaseType": "MENSTRUAL" if number < 5 else "FOLLICULAR",
            "lengthOfCurrentPhase": 5,
            "daysUntilNextPhase": 3,
            "predictedCycleLength": 28,
            "isPredictedCycle": True,
            "cycleLength": 28,
            "lastUpdatedTimeInSeconds": int(self.clock(6).timestamp()),
            "hasSpecifiedCycleLength": False,
            "hasSpecifiedPeriodLength": False,
            "pregnancySnapshot": {},
        }
        yield self.posted("mct", 6, 6, cycle)

    def _movement(self) -> Iterator[Posted]:
        number = int(self.clock(17).timestamp())
        fields: Json = {
            "activityType": self.random.choice(("RUNNING", "CYCLING", "LAP_SWIMMING", "PICKLING")),
            "activityName": "After work",
            "deviceName": "Example Watch",
            "distanceInMeters": 3000.5,
            "activeKilocalories": 260,
            "averageHeartRateInBeatsPerMinute": self.pulse + 60,
            "maxHeartRateInBeatsPerMinute": self.pulse + 90,
            "averageSpeedInMetersPerSecond": 2.5,
            "startingLatitudeInDegree": 52.5,
            "startingLongitudeInDegree": 13.5,
            "steps": 3100,
        }
        body = {**self.summary("a", 17, 1200, **fields), "activityId": number}
        body["summaryId"] = str(number)
        yield self.posted("activities", 17.5, 17, body)
        start = int(self.clock(17).timestamp())
        samples = [
            {
                "startTimeInSeconds": start + second,
                "heartRate": self.pulse + 50 + second // 60,
                "latitudeInDegree": 52.5,
                "longitudeInDegree": 13.5 + second / 1e5,
                "elevationInMeters": 34.5,
                "speedMetersPerSecond": 2.5,
                "totalDistanceInMeters": second * 2.5,
                "timerDurationInSeconds": second,
                "clockDurationInSeconds": second,
                "movingDurationInSeconds": second,
            }
            for second in range(0, 1200, 60)
        ]
        detail: Json = {
            "summaryId": f"{number}-detail",
            "activityId": number,
            "summary": {name: told for name, told in body.items() if name != "summaryId"},
            "samples": samples,
            "laps": [{"startTimeInSeconds": start}, {"startTimeInSeconds": start + 600}],
        }
        yield self.posted("activityDetails", 17.5, 17, detail)
        move = self._dated("q", 12, 720, activityType="Walking", activitySubType="Stroll")
        move["offsetInSeconds"] = move.pop("startTimeOffsetInSeconds")
        yield self.posted("moveIQActivities", 13, 12, move)


# --- the service


@dataclass(slots=True)
class _Registration:
    """What Garmin knows of a person's connection to the app."""

    at: datetime
    told_until: datetime
    permissions: list[str] = field(default_factory=lambda: list(PERMISSIONS))
    ordered: set[tuple[str, int, int]] = field(default_factory=set)
    waiting: list[tuple[str, int, int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Parcel:
    """What a link leads to."""

    person: str
    kind: str
    items: list[Json]
    until: datetime


class _Garmin:
    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._oauth = OAuthServer(
            provider="garmin",
            sandbox=sandbox,
            people=PEOPLE,
            authorize_path="/oauth2Confirm",
            token_path="/di-oauth2-service/oauth/token",  # noqa: S106 - an address
            access_seconds=ACCESS_SECONDS,
            needs_pkce=True,
        )
        self._registered: dict[str, _Registration] = {}
        self._notes: list[tuple[str, Json]] = []
        self._parcels: dict[str, _Parcel] = {}
        self._url: str | None = None
        self._mode = "push"

    def mount(self) -> Mount:
        guard = self._guarded
        routes = [
            *self._oauth.routes(),
            Route("/control/endpoint", self._set_endpoint, methods=["POST"]),
            Route("/control/permissions", self._set_permissions, methods=["POST"]),
            Route("/control/deliver", self._deliver, methods=["POST"]),
            Route(f"{_REST}/user/id", guard(self._user_id)),
            Route(f"{_REST}/user/permissions", guard(self._permissions)),
            Route(f"{_REST}/user/registration", guard(self._leave), methods=["DELETE"]),
            Route(f"{_REST}/backfill/{{name}}", guard(self._order)),
            Route(f"{_REST}/{{name}}", guard(self._fetch)),
        ]
        return Mount("/garmin", routes=routes)

    def _guarded(self, endpoint: Endpoint) -> Endpoint:
        return self._sandbox.guard(endpoint, self._oauth.identify)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._sandbox.clock.exact(), UTC)

    # --- what is asked

    async def _user_id(self, request: Request) -> Response:
        name = self._oauth.person_of(request)
        if name is None:
            return _refused()
        self._registered[name] = _Registration(self._now(), self._now())
        return json_answer({"userId": PEOPLE[name].account_id})

    async def _permissions(self, request: Request) -> Response:
        name = self._oauth.person_of(request)
        if name is None or name not in self._registered:
            return _refused()
        return json_answer(self._registered[name].permissions)

    async def _leave(self, request: Request) -> Response:
        name = self._oauth.person_of(request)
        if name is None:
            return _refused()
        self._oauth.forget(name)
        self._registered.pop(name, None)
        self._notes.append(("deregistrations", {"userId": PEOPLE[name].account_id}))
        return Response(status_code=204)

    async def _order(self, request: Request) -> Response:
        name = self._oauth.person_of(request)
        known = self._registered.get(name or "")
        if name is None or known is None:
            return _refused()
        kind = _kind_of(request.path_params["name"])
        if kind is None:
            return _fault(404, "not found")
        if "HISTORICAL_DATA_EXPORT" not in known.permissions:
            return _fault(412, "user does not have HISTORICAL_DATA_EXPORT")
        asked = request.query_params
        try:
            begin = int(asked["summaryStartTimeInSeconds"])
            end = int(asked["summaryEndTimeInSeconds"])
        except (KeyError, ValueError):
            return _fault(400, "missing or invalid time")
        if not 0 < end - begin <= LONGEST_ORDER:
            return _fault(400, "time range exceeds maximum of 30 days")
        order = (kind, begin, end)
        if order in known.ordered:
            return _fault(409, "duplicate backfill")
        known.ordered.add(order)
        known.waiting.append(order)
        return Response(status_code=202)

    async def _fetch(self, request: Request) -> Response:
        """What a link of a ping leads to; without its token there is nothing to ask for."""
        name = self._oauth.person_of(request)
        if name is None:
            return _refused()
        parcel = self._parcels.get(request.query_params.get("token", ""))
        is_theirs = parcel is not None and parcel.person == name
        if parcel is None or not is_theirs or parcel.until < self._now():
            return _fault(400, "invalid pull token")
        if _kind_of(request.path_params["name"]) != parcel.kind:
            return _fault(404, "not found")
        return json_answer(parcel.items)

    # --- what is posted

    async def _set_endpoint(self, request: Request) -> Response:
        asked = msgspec.json.decode(await request.body(), type=dict[str, str])
        self._url, self._mode = asked.get("url"), asked.get("mode", "push")
        return json_answer({})

    async def _set_permissions(self, request: Request) -> Response:
        asked = msgspec.json.decode(await request.body(), type=dict[str, object])
        name, permitted = str(asked.get("person")), asked.get("permissions")
        known = self._registered.get(name)
        if known is None or not isinstance(permitted, list):
            return json_answer({"error": "nobody registered, or no list of permissions"}, 400)
        known.permissions = [str(one) for one in permitted]
        note: Json = {"userId": PEOPLE[name].account_id, "permissions": known.permissions}
        self._notes.append(("userPermissionsChange", note))
        return json_answer({})

    async def _deliver(self, request: Request) -> Response:
        if self._url is None:
            return json_answer({"error": "no endpoint is set"}, 409)
        base = f"{request.url.scheme}://{request.url.netloc}/garmin"
        posted = 0
        async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
            for body in self._posts(base):
                answer = await client.post(
                    self._url, json=body, headers={"garmin-client-id": CLIENT_ID}
                )
                if answer.status_code != 200:
                    return json_answer({"error": f"HTTP {answer.status_code}"}, 502)
                posted += 1
        return json_answer({"posts": posted})

    def _posts(self, base: str) -> Iterator[Json]:
        now = self._now()
        # Of several people together, as it is at Garmin.
        due: dict[str, list[tuple[str, Json]]] = {}
        for name, known in self._registered.items():
            if not self._has_grant(name):
                continue
            for kind, items in self._due_for(PEOPLE[name], known, now).items():
                due.setdefault(kind, []).extend((name, item) for item in items)
            known.told_until, known.waiting = now, []
        for kind, owned in due.items():
            for first in range(0, len(owned), _PER_POST):
                yield {kind: self._written(kind, owned[first : first + _PER_POST], base, now)}
        notes, self._notes = self._notes, []
        for kind, note in notes:
            yield {kind: [note]}

    def _has_grant(self, name: str) -> bool:
        return any(token.person == name for token in self._oauth.refresh.values())

    def _written(
        self, kind: str, owned: list[tuple[str, Json]], base: str, now: datetime
    ) -> list[Json]:
        if self._mode == "push":
            return [{"userId": PEOPLE[name].account_id, **item} for name, item in owned]
        links: list[Json] = []
        for name in dict.fromkeys(name for name, _ in owned):
            token = secrets.token_urlsafe(12)
            items = [item for owner, item in owned if owner == name]
            until = now + timedelta(seconds=LINK_SECONDS)
            self._parcels[token] = _Parcel(name, kind, items, until)
            url = f"{base}{_REST}/{KINDS[kind]}?uploadStartTimeInSeconds=0&token={token}"
            links.append({"userId": PEOPLE[name].account_id, "callbackURL": url})
        return links

    def _due_for(self, who: Wearer, known: _Registration, now: datetime) -> dict[str, list[Json]]:
        """Latest versions of the ordered, and all versions of what happened since the last time."""
        today = now.astimezone(ZoneInfo(who.zone)).date()
        first = today - timedelta(days=HISTORY_DAYS)
        due: dict[str, list[Json]] = {}
        latest: dict[tuple[str, str], Json] = {}
        for number in range(HISTORY_DAYS + 2):
            for one in _Day(self._sandbox.seed, who, first + timedelta(days=number)).all():
                if one.at > now:
                    continue
                start = one.start.timestamp()
                if any(k == one.kind and a <= start < b for k, a, b in known.waiting):
                    key = str(one.body["summaryId"])
                    if one.kind == "mct":
                        key += str(one.body["dayInCycle"])
                    latest[one.kind, key] = one.body
                elif one.at > known.told_until:
                    due.setdefault(one.kind, []).append(one.body)
        for (kind, _), body in latest.items():
            due.setdefault(kind, []).append(body)
        return due


def _kind_of(name: str) -> str | None:
    return next((kind for kind, called in KINDS.items() if called == name), None)


def _refused() -> Response:
    return _fault(401, "invalid or expired token")


def _fault(status: int, message: str) -> Response:
    return json_answer({"errorMessage": message}, status)
