"""Polar AccessLink v3: watches of synthetic people; tokens that live for years and cannot be renewed.

Documents are pure functions of (seed, person, day) and of how much of the day has happened.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from wearable_pipeline.sandbox._oauth_server import OAuthServer
from wearable_pipeline.sandbox.chance import local_at, random_of
from wearable_pipeline.sandbox.control import Endpoint, Sandbox, json_answer

LISTED_DAYS = 28
MOST_DAYS = 28
HISTORY_DAYS = 365
_DAY = timedelta(days=1)

Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Athlete:
    """One synthetic person with a watch."""

    name: str
    zone: str
    user_id: int


PEOPLE = {
    one.name: one
    for one in (
        Athlete("mika", "Europe/Helsinki", 50_000_001),
        Athlete("nora", "America/Denver", 50_000_002),
    )
}


def mount(sandbox: Sandbox) -> Mount:
    """The service under `/polar`."""
    return _Polar(sandbox).mount()


def _user(who: Athlete) -> str:
    return f"https://www.polaraccesslink.com/v3/users/{who.user_id}"


def exercise(seed: int, who: Athlete, day: date, now: datetime) -> Json | None:
    """A run every second day."""
    random = random_of(seed, who.name, day, "exercise")
    start = local_at(who.zone, day, 1020)
    minutes = random.randrange(20, 70)
    if day.toordinal() % 2 or now < start + timedelta(minutes=minutes):
        return None
    offset = start.utcoffset() or timedelta()
    pulse = ["0", *(str(110 + n % 40) for n in range(minutes * 12))]
    return {
        "id": hashlib.blake2b(f"{who.name}/{day}".encode(), digest_size=4).hexdigest(),
        "upload_time": f"{start.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.000Z",
        "polar_user": _user(who),
        "device": "Polar Vantage V3",
        "device_id": "1111AAAA",
        "start_time": f"{start:%Y-%m-%dT%H:%M:%S}",
        "start_time_utc_offset": int(offset.total_seconds()) // 60,
        "duration": f"PT{minutes}M",
        "calories": random.randrange(200, 700),
        "distance": float(minutes * 170),
        "heart_rate": {"average": 131, "maximum": 149},
        "training_load": 80.5,
        "sport": "RUNNING",
        "has_route": False,
        "detailed_sport_info": "RUNNING",
        "running-index": 51,
        "heart_rate_zones": [
            {"index": 1, "lower-limit": 90, "upper-limit": 110, "in-zone": "PT4M"}
        ],
        "samples": [{"recording-rate": 5, "sample-type": "0", "data": ",".join(pulse)}],
    }


def activity(seed: int, who: Athlete, day: date, now: datetime) -> Json | None:
    """Totals of a day, by the hour until it ends."""
    begin = local_at(who.zone, day, 0)
    hours = min(24, int((now - begin).total_seconds() // 3600))
    if hours < 8:
        return None
    steps = random_of(seed, who.name, day, "activity").randrange(300, 800) * (hours - 7)
    return {
        "start_time": f"{day}T00:00:00",
        "end_time": f"{day}T23:59:59",
        "active_duration": f"PT{hours // 4}H11M",
        "inactive_duration": f"PT{hours - hours // 4 - 1}H",
        "daily_activity": 80.5,
        "calories": 95 * hours,
        "active_calories": 20 * hours,
        "steps": steps,
        "inactivity_alert_count": 1,
        "distance_from_steps": round(steps * 0.7, 2),
    }


def _night(seed: int, who: Athlete, day: date) -> tuple[datetime, datetime]:
    random = random_of(seed, who.name, day, "night")
    start = local_at(who.zone, day - _DAY, 1360 + random.randrange(0, 50))
    end = start.astimezone(UTC) + timedelta(minutes=random.randrange(380, 520))
    return start, end.astimezone(start.tzinfo)


def sleep(seed: int, who: Athlete, day: date, now: datetime) -> Json | None:
    """The night that ends on that day."""
    start, end = _night(seed, who, day)
    if now < end + timedelta(minutes=30):
        return None
    steps = [start + timedelta(minutes=20 * n) for n in range(15)]
    return {
        "polar_user": _user(who),
        "date": day.isoformat(),
        "sleep_start_time": start.isoformat(timespec="seconds"),
        "sleep_end_time": end.isoformat(timespec="seconds"),
        "device_id": "1111AAAA",
        "continuity": 2.1,
        "continuity_class": 2,
        "light_sleep": 12_000,
        "deep_sleep": 5_400,
        "rem_sleep": 4_800,
        "unrecognized_sleep_stage": 0,
        "sleep_score": random_of(seed, who.name, day, "score").randrange(50, 95),
        "total_interruption_duration": 900,
        "sleep_charge": 3,
        "sleep_goal": 28_800,
        "sleep_rating": 0,
        "short_interruption_duration": 600,
        "long_interruption_duration": 300,
        "sleep_cycles": 5,
        "hypnogram": {f"{at:%H:%M}": (3, 4, 1, 0)[n % 4] for n, at in enumerate(steps)},
        "heart_rate_samples": {f"{at:%H:%M}": 50 + n for n, at in enumerate(steps)},
    }


def recharge(seed: int, who: Athlete, day: date, now: datetime) -> Json | None:
    """The recovery of that night."""
    if sleep(seed, who, day, now) is None:
        return None
    return {
        "polar_user": _user(who),
        "date": day.isoformat(),
        "heart_rate_avg": 52,
        "beat_to_beat_avg": 1_150,
        "heart_rate_variability_avg": random_of(seed, who.name, day, "hrv").randrange(20, 80),
        "breathing_rate_avg": 14.1,
        "nightly_recharge_status": 4,
        "ans_charge": 1.5,
        "ans_charge_status": 3,
        "hrv_samples": {},
        "breathing_samples": {},
    }


def heart_rate(seed: int, who: Athlete, day: date, now: datetime) -> Json | None:
    """A value every half hour of what has passed of the day."""
    random = random_of(seed, who.name, day, "pulse")
    samples = [
        {"heart_rate": random.randrange(50, 110), "sample_time": f"{n // 2:02}:{n % 2 * 30:02}:08"}
        for n in range(48)
    ]
    begin = local_at(who.zone, day, 0)
    passed = int((now - begin).total_seconds() // 3600) * 2
    if passed <= 0:
        return None
    return {
        "polar_user": _user(who),
        "date": day.isoformat(),
        "heart_rate_samples": samples[:passed],
    }


def body_temperature(seed: int, who: Athlete, day: date, now: datetime) -> Json | None:
    """The core of an hour of the night, every five minutes."""
    start, end = _night(seed, who, day)
    if now < end + timedelta(minutes=30):
        return None
    random = random_of(seed, who.name, day, "core")
    begin = start.astimezone(UTC) + timedelta(hours=2)
    return {
        "source_device_id": "1111AAAA",
        "measurement_type": "TM_CORE_TEMPERATURE",
        "sensor_location": "SL_PROXIMAL",
        "start_time": f"{begin:%Y-%m-%dT%H:%M:%S}",
        "end_time": f"{begin + timedelta(hours=1):%Y-%m-%dT%H:%M:%S}",
        "modified_time": f"{end.astimezone(UTC):%Y-%m-%dT%H:%M:%S}",
        "samples": [
            {
                "temperature_celsius": random.randrange(362, 372) / 10,
                "recording_time_delta_milliseconds": 300_000 * n,
            }
            for n in range(12)
        ],
    }


def skin_temperature(seed: int, who: Athlete, day: date, now: datetime) -> Json | None:
    """The skin of the night that ends on that day, and how it differs from usual."""
    if sleep(seed, who, day, now) is None:
        return None
    random = random_of(seed, who.name, day, "skin")
    return {
        "sleep_time_skin_temperature_celsius": random.randrange(330, 350) / 10,
        "deviation_from_baseline_celsius": random.randrange(-8, 8) / 10,
        "sleep_date": day.isoformat(),
    }


def _test(who: Athlete, day: date, minutes: int, now: datetime) -> Json | None:
    at = local_at(who.zone, day, minutes)
    offset = at.utcoffset() or timedelta()
    if at > now:
        return None
    return {
        "source_device_id": "1111AAAA",
        "test_time": int(at.timestamp()),
        "time_zone_offset": int(offset.total_seconds()) // 60,
    }


def oxygen(seed: int, who: Athlete, day: date, now: datetime) -> Json | None:
    """A test every third day, not always conclusive."""
    test = _test(who, day, 485, now)
    if test is None or day.toordinal() % 3:
        return None
    random = random_of(seed, who.name, day, "oxygen")
    is_conclusive = day.toordinal() % 2 == 0
    return {
        **test,
        "test_status": "SPO2_TEST_PASSED"
        if is_conclusive
        else "SPO2_TEST_INCONCLUSIVE_TOO_LOW_OVERALL_QUALITY",
        "blood_oxygen_percent": random.randrange(94, 100) if is_conclusive else 0,
        "spo2_class": "SPO2_CLASS_NORMAL",
        "spo2_quality_average_percent": 90.0,
    }


def electrocardiogram(seed: int, who: Athlete, day: date, now: datetime) -> Json | None:
    """Two seconds at the wrist every fifth day."""
    test = _test(who, day, 490, now)
    if test is None or day.toordinal() % 5:
        return None
    random = random_of(seed, who.name, day, "ecg")
    return {
        **test,
        "average_heart_rate_bpm": random.randrange(50, 80),
        "heart_rate_variability_ms": 40.5,
        "heart_rate_variability_level": "ECG_HRV_LEVEL_USUAL",
        "samples": [
            {"recording_time_delta_ms": 8 * n, "amplitude_mv": random.randrange(-500, 1500) / 1000}
            for n in range(250)
        ],
        "quality_measurements": [
            {"recording_time_delta_ms": 0, "quality_level": "ECG_QUALITY_HIGH"}
        ],
    }


SENSED = {
    "bodytemperature": body_temperature,
    "skintemperature": skin_temperature,
    "spo2": oxygen,
    "ecg": electrocardiogram,
}

_Make = Callable[[int, Athlete, date, datetime], Json | None]


class _Polar:
    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._oauth = OAuthServer(
            provider="polar",
            sandbox=sandbox,
            people=PEOPLE,
            authorize_path="/oauth2/authorization",
            token_path="/v2/oauth2/token",  # noqa: S106 - an address
            access_seconds=315_359_999,
            refreshes=False,
            more=lambda name: {"x_user_id": PEOPLE[name].user_id},
        )
        self._registered: set[str] = set()

    def mount(self) -> Mount:
        return Mount(
            "/polar",
            routes=[
                *self._oauth.routes(),
                Route("/v3/users", self._guarded(self._register), methods=["POST"]),
                Route("/v3/exercises", self._guarded(self._listed(exercise, None))),
                Route("/v3/users/activities", self._guarded(self._ranged(activity))),
                Route("/v3/users/continuous-heart-rate", self._guarded(self._ranged(heart_rate))),
                Route("/v3/users/sleep", self._guarded(self._listed(sleep, "nights"))),
                Route(
                    "/v3/users/nightly-recharge", self._guarded(self._listed(recharge, "recharges"))
                ),
                Route("/v3/users/physical-info", self._guarded(self._physical_info)),
                *(
                    Route(f"/v3/users/biosensing/{name}", self._guarded(self._ranged(make)))
                    for name, make in SENSED.items()
                ),
                Route("/v3/users/{id}", self._guarded(self._remove), methods=["DELETE"]),
            ],
        )

    def _guarded(self, endpoint: Endpoint) -> Endpoint:
        return self._sandbox.guard(endpoint, self._oauth.identify)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._sandbox.clock.exact(), UTC)

    def _athlete(self, request: Request) -> Athlete | None:
        name = self._oauth.person_of(request)
        return PEOPLE[name] if name else None

    async def _register(self, request: Request) -> Response:
        who = self._athlete(request)
        if who is None:
            return _refused(401)
        if who.name in self._registered:
            return Response(status_code=409)
        self._registered.add(who.name)
        return json_answer({"polar-user-id": who.user_id, "member-id": "member"})

    async def _remove(self, request: Request) -> Response:
        who = self._athlete(request)
        if who is None or request.path_params["id"] != str(who.user_id):
            return _refused(401)
        self._registered.discard(who.name)
        self._oauth.forget(who.name)
        return Response(status_code=204)

    def _made(self, who: Athlete, make: _Make, first: date, last: date) -> list[Json]:
        days = (first + timedelta(days=n) for n in range((last - first).days + 1))
        made = (make(self._sandbox.seed, who, day, self._now()) for day in days)
        return [one for one in made if one is not None]

    def _listed(self, make: _Make, key: str | None) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            who = self._athlete(request)
            if who is None or who.name not in self._registered:
                return _refused(401 if who is None else 403)
            today = self._now().date()
            found = self._made(who, make, today - LISTED_DAYS * _DAY, today + _DAY)
            return json_answer(found if key is None else {key: found})

        return endpoint

    def _ranged(self, make: _Make) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            who = self._athlete(request)
            if who is None or who.name not in self._registered:
                return _refused(401 if who is None else 403)
            try:
                first = date.fromisoformat(request.query_params["from"])
                last = date.fromisoformat(request.query_params["to"])
            except (KeyError, ValueError):
                return _refused(400)
            oldest = self._now().date() - HISTORY_DAYS * _DAY
            if (last - first).days >= MOST_DAYS or first < oldest or last > self._now().date():
                return _refused(400)
            return json_answer(self._made(who, make, first, last))

        return endpoint

    async def _physical_info(self, request: Request) -> Response:
        who = self._athlete(request)
        if who is None or who.name not in self._registered:
            return _refused(401 if who is None else 403)
        return json_answer(
            {
                "weight": 60.0 + who.user_id % 10,
                "height": 171.0,
                "created": "2024-06-01T12:00:00Z",
                "modified": "2026-09-10T12:00:00Z",
                "birthday": "1990-01-01",
                "gender": "MALE",
                "maximum_heart_rate": 190,
                "resting_heart_rate": 50,
                "vo2_max": 48,
            }
        )


def _refused(status: int) -> Response:
    return json_answer({"errorType": "refused", "message": "no access", "status": status}, status)
