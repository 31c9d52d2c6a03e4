"""Google Health's API v4: synthetic people with trackers, scales, food logs and periods.

Every point is a pure function of (seed, person, day) and of how much of it has happened at the sandbox's
clock: a day grows by the hour, a night is scored some minutes after it, every third night is corrected a
day later, and some exercises are deleted again.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from random import Random
from zoneinfo import ZoneInfo

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from wearable_pipeline.sandbox._oauth_server import OAuthServer
from wearable_pipeline.sandbox.chance import instant_at, number_of, random_of
from wearable_pipeline.sandbox.control import Endpoint, Sandbox, json_answer

HISTORY_DAYS = 120
# Fewer than asked for may come: who takes the first page for the whole loses most of it.
PAGE, SESSION_PAGE, ROLL_UP_PAGE = 1_000, 10, 90
_DAY, _HOUR = timedelta(days=1), timedelta(hours=1)

Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Wearer:
    """One synthetic person with an account."""

    name: str
    zone: str
    legacy_id: str | None = None

    @property
    def account_id(self) -> str:
        """Id of the account at Google Health."""
        return str(number_of(self.name, "account"))


PEOPLE = {
    one.name: one
    for one in (
        Wearer("yara", "Europe/Lisbon", "7XKP2M"),
        Wearer("zeno", "America/New_York"),
        Wearer("abel", "Asia/Tokyo"),
    )
}


def mount(sandbox: Sandbox) -> Mount:
    """The service under `/google_health`."""
    return _GoogleHealth(sandbox).mount()


def _stamp(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%S}Z"


def _offset(who: Wearer, at: datetime) -> str:
    ahead = at.astimezone(ZoneInfo(who.zone)).utcoffset() or timedelta()
    return f"{int(ahead.total_seconds())}s"


def _civil(day: date) -> Json:
    return {"date": {"year": day.year, "month": day.month, "day": day.day}}


def _interval(who: Wearer, start: datetime, end: datetime) -> Json:
    return {
        "startTime": _stamp(start),
        "startUtcOffset": _offset(who, start),
        "endTime": _stamp(end),
        "endUtcOffset": _offset(who, end),
    }


def _moment(who: Wearer, at: datetime) -> Json:
    return {"physicalTime": _stamp(at), "utcOffset": _offset(who, at)}


def _name(data_type: str, *parts: object) -> str:
    return f"users/me/dataTypes/{data_type}/dataPoints/{number_of(data_type, *parts)}"


# --- points: those of a local day at `now`, each the value of its data type


@dataclass(frozen=True, slots=True)
class Point:
    """A value with the instant it is ordered by, and a name where its type has them."""

    at: datetime
    value: Json
    name: str | None = None


Points = Callable[[int, Wearer, date, datetime], Iterator[Point]]


def steps(seed: int, who: Wearer, day: date, now: datetime) -> Iterator[Point]:
    """Steps of each hour from eight to nine in the evening, once the hour is over."""
    random = random_of(seed, who.name, day, "steps")
    for hour in range(8, 21):
        start, count = instant_at(who.zone, day, 60 * hour), random.randrange(0, 900)
        if start + _HOUR <= now:
            interval = _interval(who, start, start + _HOUR)
            yield Point(start, {"interval": interval, "count": str(count)})


def distance(seed: int, who: Wearer, day: date, now: datetime) -> Iterator[Point]:
    """Seventy centimetres a step."""
    for point in steps(seed, who, day, now):
        length = str(700 * int(str(point.value["count"])))
        yield Point(point.at, {"interval": point.value["interval"], "millimeters": length})


def heart_rate(seed: int, who: Wearer, day: date, now: datetime) -> Iterator[Point]:
    """A reading every quarter of an hour."""
    random = random_of(seed, who.name, day, "heart rate")
    for quarter in range(96):
        at, beats = instant_at(who.zone, day, 15 * quarter), random.randrange(50, 110)
        if at <= now:
            yield Point(at, {"sampleTime": _moment(who, at), "beatsPerMinute": str(beats)})


def variability(seed: int, who: Wearer, day: date, now: datetime) -> Iterator[Point]:
    """Three readings of every night."""
    random = random_of(seed, who.name, day, "variability")
    for hour in (2, 3, 4):
        at, rmssd = instant_at(who.zone, day, 60 * hour), random.randrange(200, 900) / 10
        if at <= now:
            yield Point(
                at,
                {
                    "sampleTime": _moment(who, at),
                    "rootMeanSquareOfSuccessiveDifferencesMilliseconds": rmssd,
                },
            )


def _once(minutes: int, every: int, make: Callable[[Random], Json]) -> Points:
    """A reading at the same time on every `every`th day."""

    def points(seed: int, who: Wearer, day: date, now: datetime) -> Iterator[Point]:
        at = instant_at(who.zone, day, minutes)
        if at <= now and day.toordinal() % every == 0:
            yield Point(
                at,
                {
                    "sampleTime": _moment(who, at),
                    **make(random_of(seed, who.name, day, str(minutes))),
                },
            )

    return points


def _glucose(random: Random) -> Json:
    return {
        "bloodGlucoseMilligramsPerDeciliter": float(random.randrange(70, 160)),
        "measurementSource": "SELF_MONITORING_BLOOD_GLUCOSE",
        "specimen": "CAPILLARY_BLOOD",
    }


def electrocardiogram(seed: int, who: Wearer, day: date, now: datetime) -> Iterator[Point]:
    """A second of one, every tenth day."""
    start = instant_at(who.zone, day, 1200)
    if day.toordinal() % 10 or start + timedelta(seconds=1) > now:
        return
    random = random_of(seed, who.name, day, "ecg")
    value: Json = {
        "interval": _interval(who, start, start + timedelta(seconds=1)),
        "beatsPerMinuteAvg": str(random.randrange(55, 80)),
        "resultClassification": "NORMAL_SINUS_RHYTHM",
        "samplingFrequencyHertz": 250,
        "millivoltsScalingFactor": 10_922,
        "leadNumber": 1,
        "waveformSamples": [random.randrange(-900, 4000) for _ in range(250)],
    }
    yield Point(start, value, _name("electrocardiogram", who.name, day))


_STAGES = ("LIGHT", "DEEP", "LIGHT", "REM", "AWAKE")


def sleep(seed: int, who: Wearer, day: date, now: datetime) -> Iterator[Point]:
    """The night the person wakes from on that day, twenty minutes later."""
    random = random_of(seed, who.name, day, "night")
    start = instant_at(who.zone, day, -90 + random.randrange(0, 100))
    lengths = [random.randrange(15, 40) for _ in range(15)]
    corrected_at = start + timedelta(minutes=sum(lengths)) + _DAY
    is_corrected = day.toordinal() % 3 == 0 and now >= corrected_at
    if is_corrected:
        lengths[-1] -= 5
    stages: list[Json] = []
    minutes: dict[str, list[int]] = {}
    at = start
    for number, length in enumerate(lengths):
        kind = _STAGES[number % len(_STAGES)]
        until = at + timedelta(minutes=length)
        stages.append({**_interval(who, at, until), "type": kind})
        minutes.setdefault(kind, []).append(length)
        at = until
    scored_at = at + timedelta(minutes=20)
    if now < scored_at:
        return
    asleep = sum(sum(minutes[kind]) for kind in ("LIGHT", "DEEP", "REM"))
    value: Json = {
        "interval": _interval(who, start, at),
        "type": "STAGES",
        "stages": stages,
        "summary": {
            "minutesInSleepPeriod": str(sum(lengths)),
            "minutesAsleep": str(asleep),
            "minutesAwake": str(sum(minutes["AWAKE"])),
            "minutesToFallAsleep": "0",
            "minutesAfterWakeUp": "0",
            "stagesSummary": [
                {"type": kind, "minutes": str(sum(found)), "count": str(len(found))}
                for kind, found in minutes.items()
            ],
        },
        "metadata": {"mainSleep": True, "processed": True, "stagesStatus": "SUCCEEDED"},
        "createTime": _stamp(scored_at),
        "updateTime": _stamp(corrected_at if is_corrected else scored_at),
    }
    yield Point(at, value, _name("sleep", who.name, day))


def exercise(seed: int, who: Wearer, day: date, now: datetime) -> Iterator[Point]:
    """Something on two days of three; what is of every fourth is deleted a day later."""
    random = random_of(seed, who.name, day, "exercise")
    start = instant_at(who.zone, day, 1020 + random.randrange(0, 60))
    minutes = random.randrange(20, 70)
    end = start + timedelta(minutes=minutes)
    is_deleted = day.toordinal() % 4 == 0 and now >= end + timedelta(hours=18)
    if day.toordinal() % 3 == 1 or now < end or is_deleted:
        return
    kind, title = random.choice(
        (("RUNNING", "Run"), ("WALKING", "Walk"), ("OUTDOOR_BIKE", "Bike"), ("YOGA", "Yoga"))
    )
    value: Json = {
        "interval": _interval(who, start, end),
        "exerciseType": kind,
        "displayName": title,
        "activeDuration": f"{60 * minutes - 30}s",
        "metricsSummary": {
            "caloriesKcal": random.randrange(80, 500),
            "distanceMillimeters": float(random.randrange(1_000_000, 9_000_000)),
            "steps": str(random.randrange(1000, 9000)),
            "averageHeartRateBeatsPerMinute": str(random.randrange(90, 160)),
            "heartRateZoneDurations": {"lightTime": "600s", "peakTime": "0s"},
        },
        "exerciseEvents": [],
        "updateTime": _stamp(end),
    }
    yield Point(start, value, _name("exercise", who.name, day))


def meals(seed: int, who: Wearer, day: date, now: datetime) -> Iterator[Point]:
    """Breakfast and dinner."""
    random = random_of(seed, who.name, day, "meals")
    for minutes, kind, food in ((480, "BREAKFAST", "Porridge"), (1140, "DINNER", "Stew")):
        start, energy = instant_at(who.zone, day, minutes), random.randrange(300, 900)
        value: Json = {
            "interval": _interval(who, start, start + timedelta(minutes=1)),
            "mealType": kind,
            "foodDisplayName": food,
            "serving": {"amount": 1.5, "foodMeasurementUnitDisplayName": "cup"},
            "energy": {"kcal": float(energy)},
            "totalCarbohydrate": {"grams": energy / 8},
            "totalFat": {"grams": energy / 30},
            "nutrients": [
                {"nutrient": "PROTEIN", "quantity": {"grams": energy / 20}},
                {"nutrient": "SODIUM", "quantity": {"grams": 0.5}},
            ],
        }
        if start <= now:
            yield Point(start, value, _name("nutrition-log", who.name, day, kind))


def drinks(seed: int, who: Wearer, day: date, now: datetime) -> Iterator[Point]:
    """Four glasses."""
    del seed
    for hour in (9, 12, 15, 18):
        start = instant_at(who.zone, day, 60 * hour)
        value: Json = {
            "interval": _interval(who, start, start + timedelta(minutes=1)),
            "amountConsumed": {"milliliters": 250.0},
        }
        if start <= now:
            yield Point(start, value, _name("hydration-log", who.name, day, hour))


def periods(seed: int, who: Wearer, day: date, now: datetime) -> Iterator[Point]:
    """Five days every four weeks."""
    del seed
    start, end = instant_at(who.zone, day, 0), instant_at(who.zone, day + 5 * _DAY, 0)
    if day.toordinal() % 28 == 0 and end <= now:
        value: Json = {"interval": _interval(who, start, end)}
        yield Point(start, value, _name("menstrual-period", who.name, day))


def _daily(field: str, low: int, high: int, *, is_text: bool = False) -> Points:
    """A value of the day, there from ten in the morning on."""

    def points(seed: int, who: Wearer, day: date, now: datetime) -> Iterator[Point]:
        at = instant_at(who.zone, day, 600)
        number = random_of(seed, who.name, day, field).randrange(low, high)
        if at <= now:
            yield Point(at, {**_civil(day), field: str(number) if is_text else float(number)})

    return points


def night_temperature(seed: int, who: Wearer, day: date, now: datetime) -> Iterator[Point]:
    """The skin of the night and its baseline, there from ten in the morning on."""
    for point in _daily("nightlyTemperatureCelsius", 33, 36)(seed, who, day, now):
        yield Point(point.at, {**point.value, "baselineTemperatureCelsius": 34.25})


# Data type → where its time stands, and its points.
TYPES: Mapping[str, tuple[str, Points]] = {
    "steps": ("interval.civil_start_time", steps),
    "distance": ("interval.civil_start_time", distance),
    "heart-rate": ("sample_time.civil_time", heart_rate),
    "heart-rate-variability": ("sample_time.civil_time", variability),
    "oxygen-saturation": (
        "sample_time.civil_time",
        _once(180, 1, lambda random: {"percentage": random.randrange(940, 990) / 10}),
    ),
    "vo2-max": (
        "sample_time.civil_time",
        _once(1110, 9, lambda random: {"vo2Max": random.randrange(350, 500) / 10}),
    ),
    "weight": (
        "sample_time.civil_time",
        _once(420, 1, lambda random: {"weightGrams": float(random.randrange(61_000, 64_000))}),
    ),
    "body-fat": (
        "sample_time.civil_time",
        _once(420, 2, lambda random: {"percentage": random.randrange(200, 260) / 10}),
    ),
    "height": (
        "sample_time.civil_time",
        _once(430, 30, lambda random: {"heightMillimeters": str(random.randrange(1690, 1700))}),
    ),
    "core-body-temperature": (
        "sample_time.civil_time",
        _once(440, 5, lambda random: {"temperatureCelsius": random.randrange(362, 375) / 10}),
    ),
    "blood-glucose": ("sample_time.civil_time", _once(450, 2, _glucose)),
    "electrocardiogram": ("interval.start_time", electrocardiogram),
    "sleep": ("interval.civil_end_time", sleep),
    "exercise": ("interval.civil_start_time", exercise),
    "nutrition-log": ("interval.civil_start_time", meals),
    "hydration-log": ("interval.civil_start_time", drinks),
    "menstrual-period": ("interval.civil_start_time", periods),
    "daily-resting-heart-rate": ("date", _daily("beatsPerMinute", 48, 60, is_text=True)),
    "daily-heart-rate-variability": (
        "date",
        _daily("averageHeartRateVariabilityMilliseconds", 30, 80),
    ),
    "daily-oxygen-saturation": ("date", _daily("averagePercentage", 94, 99)),
    "daily-vo2-max": ("date", _daily("vo2Max", 38, 50)),
    "daily-respiratory-rate": ("date", _daily("breathsPerMinute", 12, 18)),
    "daily-sleep-temperature-derivations": ("date", night_temperature),
}
_ONLY_LISTED = ("blood-glucose", "electrocardiogram", "menstrual-period")
_SESSIONS = ("sleep", "exercise")

# --- roll-ups: the value of a local day at `now`, or None where there is nothing


Day = Callable[[int, Wearer, date, datetime], Json | None]


def _sum(points: Points, field: str, into: str) -> Day:
    def value(seed: int, who: Wearer, day: date, now: datetime) -> Json | None:
        found = [int(str(point.value[field])) for point in points(seed, who, day, now)]
        return {into: str(sum(found))} if found else None

    return value


def _heart_rate_day(seed: int, who: Wearer, day: date, now: datetime) -> Json | None:
    found = [int(str(point.value["beatsPerMinute"])) for point in heart_rate(seed, who, day, now)]
    if not found:
        return None
    return {
        "beatsPerMinuteAvg": round(sum(found) / len(found), 4),
        "beatsPerMinuteMin": float(min(found)),
        "beatsPerMinuteMax": float(max(found)),
    }


def _by_hour(make: Callable[[int], Json]) -> Day:
    """What grows by the hour of the day."""

    def value(seed: int, who: Wearer, day: date, now: datetime) -> Json | None:
        del seed
        hours = min(int((now - instant_at(who.zone, day, 0)) / _HOUR), 24)
        return make(hours) if hours > 0 else None

    return value


def _weight_day(seed: int, who: Wearer, day: date, now: datetime) -> Json | None:
    _, points = TYPES["weight"]
    found = [point.value["weightGrams"] for point in points(seed, who, day, now)]
    return {"weightGramsAvg": found[0]} if found else None


def _hydration_day(seed: int, who: Wearer, day: date, now: datetime) -> Json | None:
    glasses = len(list(drinks(seed, who, day, now)))
    return {"amountConsumed": {"millilitersSum": 250.0 * glasses}} if glasses else None


def _nutrition_day(seed: int, who: Wearer, day: date, now: datetime) -> Json | None:
    eaten = [point.value["energy"] for point in meals(seed, who, day, now)]
    energy = sum(float(str(one["kcal"])) for one in eaten if isinstance(one, dict))
    return {"energy": {"kcalSum": energy}} if eaten else None


ROLL_UPS: Mapping[str, Day | None] = {
    "steps": _sum(steps, "count", "countSum"),
    "distance": _sum(distance, "millimeters", "millimetersSum"),
    "heart-rate": _heart_rate_day,
    "floors": _by_hour(lambda hours: {"countSum": str(hours // 3)}),
    "altitude": _by_hour(lambda hours: {"gainMillimetersSum": str(3000 * (hours // 3))}),
    "active-energy-burned": _by_hour(lambda hours: {"kcalSum": 30.5 * hours}),
    "total-calories": _by_hour(lambda hours: {"kcalSum": 95.25 * hours}),
    "active-minutes": _by_hour(
        lambda hours: {
            "activeMinutesRollupByActivityLevel": [
                {"activityLevel": "LIGHT", "activeMinutesSum": str(5 * hours)},
                {"activityLevel": "VIGOROUS", "activeMinutesSum": str(hours)},
            ]
        }
    ),
    "sedentary-period": _by_hour(lambda hours: {"durationSum": f"{1800 * hours}s"}),
    "time-in-heart-rate-zone": _by_hour(
        lambda hours: {
            "timeInHeartRateZones": [{"heartRateZone": "LIGHT", "duration": f"{60 * hours}s"}]
        }
    ),
    "weight": _weight_day,
    "hydration-log": _hydration_day,
    "nutrition-log": _nutrition_day,
    # Nobody swims, and these are measured too rarely to make a day.
    "swim-lengths-data": None,
    "body-fat": None,
    "core-body-temperature": None,
    "blood-glucose": None,
}
_SHORT = ("heart-rate", "total-calories", "active-minutes")

# --- the service


class _Range(msgspec.Struct):
    start: dict[str, dict[str, int]]
    end: dict[str, dict[str, int]]


class _RollUp(msgspec.Struct):
    range: _Range
    windowSizeDays: int = 1  # noqa: N815 - Google's word
    pageToken: str = "0"  # noqa: N815 - Google's word; the first page


class _RefusedError(Exception):
    pass


class _GoogleHealth:
    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._oauth = OAuthServer(
            provider="google_health",
            sandbox=sandbox,
            people=PEOPLE,
            authorize_path="/o/oauth2/v2/auth",
            token_path="/token",  # noqa: S106 - an address
            revoke_path="/revoke",
            access_seconds=3599,
            rotates=False,
        )

    def mount(self) -> Mount:
        points = "/v4/users/me/dataTypes/{data_type}"
        routes = [
            *self._oauth.routes(),
            Route("/v4/users/me/identity", self._guarded(self._identity)),
            Route("/v4/users/me/settings", self._guarded(self._settings)),
            Route(
                f"{points}/dataPoints:dailyRollUp", self._guarded(self._roll_up), methods=["POST"]
            ),
            Route(f"{points}/dataPoints:reconcile", self._guarded(self._reconcile)),
            Route(f"{points}/dataPoints", self._guarded(self._list)),
        ]
        return Mount("/google_health", routes=routes)

    def _guarded(self, endpoint: Endpoint) -> Endpoint:
        async def asked(request: Request) -> Response:
            if self._oauth.person_of(request) is None:
                return _error(401, "UNAUTHENTICATED")
            try:
                return await endpoint(request)
            except (_RefusedError, ValueError, KeyError, msgspec.MsgspecError):
                return _error(400, "INVALID_ARGUMENT")

        return self._sandbox.guard(asked, self._oauth.identify)

    def _who(self, request: Request) -> Wearer:
        return PEOPLE[str(self._oauth.person_of(request))]

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._sandbox.clock.exact(), UTC)

    async def _identity(self, request: Request) -> Response:
        who = self._who(request)
        legacy = {"legacyUserId": who.legacy_id} if who.legacy_id else {}
        return json_answer({"name": "users/me/identity", "healthUserId": who.account_id, **legacy})

    async def _settings(self, request: Request) -> Response:
        return json_answer({"name": "users/me/settings", "timeZone": self._who(request).zone})

    async def _list(self, request: Request) -> Response:
        return self._points(request, is_merged=False)

    async def _reconcile(self, request: Request) -> Response:
        if request.path_params["data_type"] in _ONLY_LISTED:
            raise _RefusedError
        return self._points(request, is_merged=True)

    def _points(self, request: Request, *, is_merged: bool) -> Response:
        data_type, asked = request.path_params["data_type"], request.query_params
        member, make = TYPES[data_type]
        now, who = self._now(), self._who(request)
        start, end = _span(asked["filter"], data_type, member, now)
        first = max(start, now.date() - timedelta(days=HISTORY_DAYS))
        days = range((end - first).days - 1, -1, -1)
        found = [
            point
            for number in days
            for point in sorted(
                make(self._sandbox.seed, who, first + number * _DAY, now),
                key=lambda point: point.at,
                reverse=True,
            )
        ]
        size = SESSION_PAGE if data_type in _SESSIONS else PAGE
        skip = int(asked.get("pageToken", "0"))
        key = _camel(data_type)
        shown: list[Json] = [
            {
                **({"dataPointName" if is_merged else "name": point.name} if point.name else {}),
                **({} if is_merged else {"dataSource": {"platform": "FITBIT"}}),
                key: point.value,
            }
            for point in found[skip : skip + min(size, int(asked["pageSize"]))]
        ]
        return _page("dataPoints", shown, skip + size, len(found))

    async def _roll_up(self, request: Request) -> Response:
        data_type = request.path_params["data_type"]
        asked = msgspec.json.decode(await request.body(), type=_RollUp)
        start, end = (date(**one["date"]) for one in (asked.range.start, asked.range.end))
        longest = 14 if data_type in _SHORT else 90
        make = ROLL_UPS[data_type]
        if asked.windowSizeDays != 1 or not start < end <= start + longest * _DAY:
            raise _RefusedError
        now, who = self._now(), self._who(request)
        found: list[Json] = []
        for number in range((end - start).days - 1, -1, -1):
            day = start + number * _DAY
            if make is None or day < now.date() - timedelta(days=HISTORY_DAYS):
                continue
            value = make(self._sandbox.seed, who, day, now)
            if value is not None:
                around = {
                    "civilStartTime": {**_civil(day), "time": {}},
                    "civilEndTime": {**_civil(day + _DAY), "time": {}},
                }
                found.append({**around, _camel(data_type): value})
        skip = int(asked.pageToken)
        shown = found[skip : skip + ROLL_UP_PAGE]
        return _page("rollupDataPoints", shown, skip + ROLL_UP_PAGE, len(found))


def _camel(data_type: str) -> str:
    first, *others = data_type.split("-")
    return first + "".join(part.capitalize() for part in others)


def _span(text: str, data_type: str, member: str, now: datetime) -> tuple[date, date]:
    """First day and the day after the last one a filter asks for; only the type's own member will do."""
    path = re.escape(f"{data_type.replace('-', '_')}.{member}")
    if data_type == "electrocardiogram":
        found = re.fullmatch(rf'{path} >= "(\d{{4}}-\d\d-\d\d)T[\d:]+Z"', text)
        if found is None:
            raise _RefusedError
        return date.fromisoformat(found[1]), now.date() + 2 * _DAY
    day = r'"(\d{4}-\d\d-\d\d)"'
    found = re.fullmatch(rf"{path} >= {day} AND {path} < {day}", text)
    if found is None:
        raise _RefusedError
    return date.fromisoformat(found[1]), date.fromisoformat(found[2])


def _page(key: str, shown: list[Json], following: int, whole: int) -> Response:
    # As Google writes it: what is empty is left out.
    answer: Json = {key: shown} if shown else {}
    return json_answer(
        {**answer, **({"nextPageToken": str(following)} if following < whole else {})}
    )


def _error(code: int, status: str) -> Response:
    return json_answer({"error": {"code": code, "message": "refused", "status": status}}, code)
