"""Oura's API v2: rings of synthetic people, its pages, its subscriptions.

Every document is a pure function of (seed, person, day) and of how much of it has happened at the
sandbox's clock: a night appears when the person opens the app, a day's totals grow until 04:00 of the
next, and every third night is corrected a day later.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from random import Random
from zoneinfo import ZoneInfo

import httpx
import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from wearable_pipeline.sandbox._oauth_server import CLIENT_ID, CLIENT_SECRET, OAuthServer
from wearable_pipeline.sandbox.chance import local_at, random_of, uuid_of
from wearable_pipeline.sandbox.control import Sandbox, json_answer

PAGE = 10
HEART_RATE_PAGE = 500
HISTORY_DAYS = 120
_DAY = timedelta(days=1)
_OPENS_APP = timedelta(minutes=25)
_HEART_RATE_STEP = timedelta(minutes=15)
_SUBSCRIPTION_LIFE = timedelta(days=90)

Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Wearer:
    """One synthetic person with a ring."""

    name: str
    zone: str

    @property
    def account_id(self) -> str:
        """Id of the account at Oura."""
        return uuid_of(self.name, "account")


PEOPLE = {
    one.name: one
    for one in (
        Wearer("gus", "Europe/Berlin"),
        Wearer("hana", "Asia/Tokyo"),
        Wearer("ines", "America/New_York"),
    )
}


def mount(sandbox: Sandbox) -> Mount:
    """The service under `/oura`."""
    return _Oura(sandbox).mount()


def _stamp(at: datetime) -> str:
    return at.isoformat(timespec="seconds")


def _meta(at: datetime, version: int) -> Json:
    return {"updated_at": f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S}Z", "version": version}


# --- documents: the document of a day at `now`, or None while there is none


@dataclass(frozen=True, slots=True)
class _Night:
    start: datetime
    end: datetime
    phases: str
    seen_at: datetime


def _night(seed: int, who: Wearer, day: date) -> _Night:
    """The night the person wakes from on that day."""
    random = random_of(seed, who.name, day, "night")
    start = local_at(who.zone, day, -80 + random.randrange(0, 90))
    steps = random.randrange(76, 104)
    phases = "4" + "".join(
        "4" if step % 31 == 30 else "2112233222"[(step // 3) % 10] for step in range(1, steps)
    )
    end = (start.astimezone(UTC) + timedelta(minutes=5 * steps)).astimezone(start.tzinfo)
    seen_at = end.astimezone(UTC) + _OPENS_APP
    return _Night(start, end, phases, seen_at)


def _readiness_parts(random: Random) -> Json:
    names = (
        "activity_balance body_temperature hrv_balance previous_day_activity previous_night"
        " recovery_index resting_heart_rate sleep_balance sleep_regularity"
    )
    return {name: random.randrange(50, 101) for name in names.split()}


def sleep(seed: int, who: Wearer, day: date, now: datetime) -> Json | None:
    """The long sleep of a night."""
    night = _night(seed, who, day)
    if now < night.seen_at:
        return None
    corrected_at = night.seen_at + _DAY
    is_corrected = day.toordinal() % 3 == 0 and now >= corrected_at
    phases = night.phases.replace("4", "2", 1) if is_corrected else night.phases
    seconds = {digit: 300 * phases.count(digit) for digit in "1234"}
    random = random_of(seed, who.name, day, "vitals")
    resting = 48 + random.randrange(0, 10)
    pulse = [None if step % 40 == 17 else resting + (step * 7) % 9 for step in range(len(phases))]
    hrv = [None if step % 40 == 17 else 40 + (step * 5) % 23 for step in range(len(phases))]
    measured = [value for value in pulse if value is not None]
    asleep = seconds["1"] + seconds["2"] + seconds["3"]
    series = {"interval": 300.0, "timestamp": _stamp(night.start)}
    return {
        "id": uuid_of(who.name, day, "sleep"),
        "meta": _meta(corrected_at if is_corrected else night.seen_at, 2 if is_corrected else 1),
        "average_breath": 12.0 + random.randrange(0, 30) / 8,
        "average_heart_rate": round(sum(measured) / len(measured), 2),
        "average_hrv": 51,
        "awake_time": seconds["4"],
        "bedtime_end": _stamp(night.end),
        "bedtime_start": _stamp(night.start),
        "day": day.isoformat(),
        "deep_sleep_duration": seconds["1"],
        "efficiency": round(100 * asleep / (300 * len(phases))),
        "heart_rate": {**series, "items": pulse},
        "hrv": {**series, "items": hrv},
        "latency": 300,
        "light_sleep_duration": seconds["2"],
        "low_battery_alert": False,
        "lowest_heart_rate": min(measured),
        "movement_30_sec": None,
        "period": 0,
        "readiness": {
            "contributors": _readiness_parts(random),
            "score": random.randrange(60, 96),
            "temperature_deviation": random.randrange(-60, 61) / 100,
            "temperature_trend_deviation": 0.05,
        },
        "readiness_score_delta": None,
        "rem_sleep_duration": seconds["3"],
        "restless_periods": random.randrange(50, 300),
        "sleep_phase_5_min": phases,
        "sleep_phase_30_sec": None,
        "sleep_score_delta": None,
        "time_in_bed": 300 * len(phases),
        "total_sleep_duration": asleep,
        "type": "long_sleep",
        "ring_id": None,
    }


def daily_activity(seed: int, who: Wearer, day: date, now: datetime) -> Json | None:
    """Totals of a day that runs from 04:00 to 04:00."""
    start = local_at(who.zone, day, 240)
    minutes = int(min((now - start).total_seconds() // 300 * 5, 1440))
    if minutes < 60:
        return None
    random = random_of(seed, who.name, day, "activity")
    classes = "".join(random.choice("1222233345") for _ in range(288))[: minutes // 5]
    seconds = {digit: 300 * classes.count(digit) for digit in "012345"}
    met = [round(0.9 + int(digit) * 0.8, 1) for digit in classes for _ in range(5)]
    active = round(sum(value for value in met if value > 2) * 1.1)
    return {
        "id": uuid_of(who.name, day, "daily_activity"),
        "meta": _meta(start + timedelta(minutes=minutes), 1),
        "class_5_min": classes,
        "score": random.randrange(55, 98) if minutes >= 1200 else None,
        "active_calories": active,
        "average_met_minutes": round(sum(met) / len(met), 3),
        "contributors": {"meet_daily_targets": 80, "stay_active": None},
        "equivalent_walking_distance": minutes * 6,
        "high_activity_met_minutes": 0,
        "high_activity_time": seconds["5"],
        "inactivity_alerts": random.randrange(0, 4),
        "low_activity_met_minutes": 0,
        "low_activity_time": seconds["3"],
        "medium_activity_met_minutes": 0,
        "medium_activity_time": seconds["4"],
        "met": {"interval": 60.0, "items": met, "timestamp": _stamp(start)},
        "meters_to_target": 500,
        "non_wear_time": seconds["0"],
        "resting_time": seconds["1"],
        "sedentary_met_minutes": 0,
        "sedentary_time": seconds["2"],
        "steps": minutes * 7,
        "target_calories": 500,
        "target_meters": 9000,
        "total_calories": active + minutes,
        "day": day.isoformat(),
        "timestamp": _stamp(start),
    }


def _of_a_night(what: str, make: Callable[[Random, Json], Json]) -> "_Document":
    """A daily document that is there once the night is."""

    def document(seed: int, who: Wearer, day: date, now: datetime) -> Json | None:
        night = _night(seed, who, day)
        if now < night.seen_at:
            return None
        start: Json = {
            "id": uuid_of(who.name, day, what),
            "meta": _meta(night.seen_at, 1),
            "day": day.isoformat(),
        }
        return make(random_of(seed, who.name, day, what), start)

    return document


def _midnight(document: Json) -> str:
    return f"{document['day']}T00:00:00+00:00"


def _score(random: Random, start: Json) -> Json:
    names = "deep_sleep efficiency latency rem_sleep restfulness timing total_sleep"
    parts = {name: random.randrange(50, 101) for name in names.split()}
    return {
        **start,
        "contributors": parts,
        "score": random.randrange(55, 98),
        "timestamp": _midnight(start),
    }


def _readiness(random: Random, start: Json) -> Json:
    return {
        **start,
        "contributors": _readiness_parts(random),
        "score": random.randrange(55, 98),
        "temperature_deviation": 0.1,
        "temperature_trend_deviation": None,
        "timestamp": _midnight(start),
    }


def _spo2(random: Random, start: Json) -> Json:
    average = random.randrange(940, 990) / 10
    return {**start, "spo2_percentage": {"average": average}, "breathing_disturbance_index": 3}


def _stress(random: Random, start: Json) -> Json:
    return {
        **start,
        "stress_high": 900 * random.randrange(0, 12),
        "recovery_high": 900 * random.randrange(0, 12),
        "day_summary": random.choice(("restored", "normal", "stressful", None)),
    }


def _resilience(random: Random, start: Json) -> Json:
    parts = {name: random.randrange(0, 101) for name in ("sleep_recovery", "stress")}
    return {
        "id": start["id"],
        "day": start["day"],
        "contributors": {**parts, "daytime_recovery": 55.5},
        "level": random.choice(("limited", "adequate", "solid", "strong", "exceptional")),
    }


def _vascular_age(random: Random, start: Json) -> Json:
    return {**start, "vascular_age": random.randrange(30, 50)}


def _vo2_max(random: Random, start: Json) -> Json:
    return {
        **start,
        "timestamp": f"{start['day']}T12:00:00+00:00",
        "vo2_max": random.randrange(35, 55),
    }


def workout(seed: int, who: Wearer, day: date, now: datetime) -> Json | None:
    """A walk, run or ride, on two days of three."""
    random = random_of(seed, who.name, day, "workout")
    start = local_at(who.zone, day, 1020 + random.randrange(0, 60))
    end = start.astimezone(UTC) + timedelta(minutes=random.randrange(20, 70))
    if day.toordinal() % 3 == 1 or now < end:
        return None
    return {
        "id": uuid_of(who.name, day, "workout"),
        "meta": _meta(end, 1),
        "activity": random.choice(("running", "walking", "cycling", "yoga")),
        "calories": random.randrange(80, 500) + 0.5,
        "day": day.isoformat(),
        "distance": random.choice((None, 5012.5)),
        "end_datetime": _stamp(end.astimezone(start.tzinfo)),
        "intensity": "moderate",
        "label": None,
        "source": random.choice(("manual", "autodetected", "confirmed", "workout_heart_rate")),
        "start_datetime": _stamp(start),
    }


def session(seed: int, who: Wearer, day: date, now: datetime) -> Json | None:
    """Ten minutes of breathing, every fourth day."""
    start = local_at(who.zone, day, 1200)
    end = start + timedelta(minutes=10)
    if day.toordinal() % 4 or now < end:
        return None
    series = {"interval": 5.0, "timestamp": _stamp(start)}
    return {
        "id": uuid_of(who.name, day, "session"),
        "meta": _meta(end, 1),
        "day": day.isoformat(),
        "end_datetime": _stamp(end),
        "heart_rate": {**series, "items": [60 - step % 5 for step in range(120)]},
        "heart_rate_variability": None,
        "mood": "good",
        "motion_count": None,
        "start_datetime": _stamp(start),
        "type": "breathing",
    }


def enhanced_tag(seed: int, who: Wearer, day: date, now: datetime) -> Json | None:
    """A coffee at nine, every second day."""
    del seed
    at = local_at(who.zone, day, 540)
    if day.toordinal() % 2 or now < at:
        return None
    return {
        "id": uuid_of(who.name, day, "tag"),
        "tag_type_code": "tag_generic_coffee",
        "start_time": f"{at:%Y-%m-%dT%H:%M:%S}",
        "end_time": None,
        "start_day": day.isoformat(),
        "end_day": None,
        "comment": "one cup",
        "custom_name": None,
    }


_Document = Callable[[int, Wearer, date, datetime], Json | None]

COLLECTIONS: dict[str, _Document] = {
    "daily_activity": daily_activity,
    "daily_readiness": _of_a_night("daily_readiness", _readiness),
    "daily_sleep": _of_a_night("daily_sleep", _score),
    "daily_stress": _of_a_night("daily_stress", _stress),
    "daily_spo2": _of_a_night("daily_spo2", _spo2),
    "daily_resilience": _of_a_night("daily_resilience", _resilience),
    "daily_cardiovascular_age": _of_a_night("daily_cardiovascular_age", _vascular_age),
    "vO2_max": _of_a_night("vO2_max", _vo2_max),
    "sleep": sleep,
    "workout": workout,
    "session": session,
    "enhanced_tag": enhanced_tag,
}


def heart_rate(seed: int, who: Wearer, start: datetime, end: datetime) -> Iterator[Json]:
    """A reading every quarter of an hour in [start, end)."""
    step = int(_HEART_RATE_STEP.total_seconds())
    first = -(-int(start.timestamp()) // step)
    for number in range(first, -(-int(end.timestamp()) // step)):
        at = datetime.fromtimestamp(number * step, UTC)
        hour = at.astimezone(ZoneInfo(who.zone)).hour
        random = random_of(seed, who.name, at.date(), str(number))
        yield {
            "bpm": random.randrange(48, 60) if hour < 7 else random.randrange(62, 110),
            "source": "sleep" if hour < 7 else "awake",
            "timestamp": f"{at:%Y-%m-%dT%H:%M:%S}.000Z",
            "timestamp_unix": number * step * 1000,
        }


# --- the service


class _Subscribing(msgspec.Struct):
    callback_url: str
    verification_token: str
    event_type: str
    data_type: str


class _Oura:
    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._oauth = OAuthServer(
            provider="oura",
            sandbox=sandbox,
            people=PEOPLE,
            authorize_path="/oauth/authorize",
            token_path="/oauth/token",  # noqa: S106 - an address
            revoke_path="/oauth/revoke",
            access_seconds=86_400,
            refuse=_refused,
        )
        self._subscriptions: dict[str, Json] = {}

    def mount(self) -> Mount:
        guard, let_in = self._oauth.guard, self._oauth.let_in
        routes = [
            *self._oauth.routes(),
            Route("/v2/webhook/subscription", guard(self._list_subscriptions)),
            Route("/v2/webhook/subscription", guard(self._subscribe), methods=["POST"]),
            Route(
                "/v2/webhook/subscription/renew/{id}",
                guard(self._renew),
                methods=["PUT"],
            ),
            Route(
                "/v2/webhook/subscription/{id}",
                guard(self._unsubscribe),
                methods=["DELETE"],
            ),
            Route("/v2/usercollection/personal_info", let_in(self._personal_info)),
            Route("/v2/usercollection/heartrate", let_in(self._heart_rate)),
            Route("/v2/usercollection/{collection}", let_in(self._collection)),
        ]
        return Mount("/oura", routes=routes)

    async def _personal_info(self, _: Request, who: Wearer) -> Response:
        random = random_of(self._sandbox.seed, who.name, date(2026, 1, 1), "person")
        return json_answer(
            {
                "id": who.account_id,
                "age": random.randrange(20, 60),
                "weight": random.randrange(550, 950) / 10,
                "height": random.randrange(155, 195) / 100,
                "biological_sex": "female",
                "email": None,
            }
        )

    async def _collection(self, request: Request, who: Wearer) -> Response:
        make = COLLECTIONS.get(request.path_params["collection"])
        if make is None:
            return json_answer({"detail": "Not Found"}, 404)
        now = self._sandbox.clock.instant()
        try:
            start = date.fromisoformat(request.query_params["start_date"])
            end = date.fromisoformat(request.query_params["end_date"])
            skip = int(request.query_params.get("next_token", "0"))
        except (KeyError, ValueError):
            return json_answer({"detail": [{"msg": "invalid date"}]}, 422)
        start = max(start, now.date() - timedelta(days=HISTORY_DAYS))
        days = range((min(end, now.date() + _DAY) - start).days + 1)
        found = (make(self._sandbox.seed, who, start + timedelta(days=n), now) for n in days)
        return _page([one for one in found if one is not None], skip, PAGE)

    async def _heart_rate(self, request: Request, who: Wearer) -> Response:
        now = self._sandbox.clock.instant()
        try:
            start = datetime.fromisoformat(request.query_params["start_datetime"])
            end = datetime.fromisoformat(request.query_params["end_datetime"])
            skip = int(request.query_params.get("next_token", "0"))
        except (KeyError, ValueError):
            return json_answer({"detail": [{"msg": "invalid datetime"}]}, 422)
        if start.tzinfo is None or end.tzinfo is None or end - start > timedelta(days=32):
            return json_answer({"detail": [{"msg": "invalid range"}]}, 422)
        start = max(start, now - timedelta(days=HISTORY_DAYS))
        return _page(
            list(heart_rate(self._sandbox.seed, who, start, min(end, now))), skip, HEART_RATE_PAGE
        )

    def _is_app(self, request: Request) -> bool:
        given = request.headers.get("x-client-id"), request.headers.get("x-client-secret")
        return given == (CLIENT_ID, CLIENT_SECRET)

    async def _list_subscriptions(self, request: Request) -> Response:
        if not self._is_app(request):
            return _refused()
        return json_answer(list(self._subscriptions.values()))

    async def _subscribe(self, request: Request) -> Response:
        if not self._is_app(request):
            return _refused()
        try:
            asked = msgspec.json.decode(await request.body(), type=_Subscribing)
        except msgspec.MsgspecError:
            return json_answer({"detail": "invalid"}, 422)
        challenge = uuid_of(asked.event_type, asked.data_type)
        async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
            answer = await client.get(
                asked.callback_url,
                params={"verification_token": asked.verification_token, "challenge": challenge},
            )
        if answer.status_code != 200 or answer.json() != {"challenge": challenge}:
            return json_answer({"detail": "the callback did not verify"}, 422)
        made: Json = {
            "id": uuid_of(asked.callback_url, asked.event_type, asked.data_type),
            "callback_url": asked.callback_url,
            "event_type": asked.event_type,
            "data_type": asked.data_type,
            "expiration_time": self._end(),
        }
        self._subscriptions[str(made["id"])] = made
        return json_answer(made, 201)

    def _end(self) -> str:
        return f"{self._sandbox.clock.instant() + _SUBSCRIPTION_LIFE:%Y-%m-%dT%H:%M:%S}"

    async def _renew(self, request: Request) -> Response:
        found = self._subscriptions.get(request.path_params["id"])
        if found is None or not self._is_app(request):
            return _refused(403)
        found["expiration_time"] = self._end()
        return json_answer(found)

    async def _unsubscribe(self, request: Request) -> Response:
        if not self._is_app(request):
            return _refused()
        self._subscriptions.pop(request.path_params["id"], None)
        return Response(status_code=204)


def _refused(status: int = 401) -> Response:
    return json_answer({"status": status, "title": "Unauthorized", "detail": "no access"}, status)


def _page(documents: list[Json], skip: int, size: int) -> Response:
    following = str(skip + size) if len(documents) > skip + size else None
    return json_answer({"data": documents[skip : skip + size], "next_token": following})
