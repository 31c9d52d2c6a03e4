"""WHOOP's API v2: straps of synthetic people, its collections and their pages.

Every record is a pure function of (seed, person, day) and of how much of it has happened at the sandbox's
clock: a night is pending for half an hour after the person has woken, the current cycle has no end and
grows, every third night is corrected a day later, and a nap comes now and then.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from random import Random
from zoneinfo import ZoneInfo

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from wearable_pipeline.sandbox._oauth_server import OAuthServer
from wearable_pipeline.sandbox.chance import instant_at, number_of, uuid_of
from wearable_pipeline.sandbox.control import Endpoint, Sandbox, json_answer

LARGEST_PAGE = 25
HISTORY_DAYS = 120
_DAY = timedelta(days=1)
_SCORING = timedelta(minutes=30)
_SPORTS = ("running", "cycling", "weightlifting_msk", "yoga", "hiking-rucking", "spikeball")

Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Wearer:
    """One synthetic person with a strap."""

    name: str
    zone: str

    @property
    def account_id(self) -> int:
        """Number of the account at WHOOP."""
        return number_of(self.name, "account") % 10_000_000


PEOPLE = {
    one.name: one
    for one in (
        Wearer("juno", "America/New_York"),
        Wearer("kofi", "Europe/London"),
        Wearer("lien", "Asia/Kolkata"),
    )
}


def mount(sandbox: Sandbox) -> Mount:
    """The service under `/whoop`."""
    return _Whoop(sandbox).mount()


def _random(seed: int, who: Wearer, day: date, what: str) -> Random:
    return Random(number_of(seed, who.name, day, what))  # noqa: S311 - synthetic people


def _stamp(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03}Z"


def _offset(who: Wearer, at: datetime) -> str:
    text = f"{at.astimezone(ZoneInfo(who.zone)):%z}"
    return "Z" if text == "+0000" else f"{text[:3]}:{text[3:]}"


@dataclass(frozen=True, slots=True)
class _Night:
    start: datetime
    end: datetime
    corrected_at: datetime | None

    @property
    def scored_at(self) -> datetime:
        return self.end + _SCORING


def _night(seed: int, who: Wearer, day: date) -> _Night:
    """The night the person wakes from on that day."""
    random = _random(seed, who, day, "night")
    start = instant_at(who.zone, day, -80 + random.randrange(0, 120))
    end = start + timedelta(minutes=random.randrange(380, 520), milliseconds=338)
    return _Night(start, end, end + _DAY if day.toordinal() % 3 == 0 else None)


def _state(who: Wearer, at: datetime, made: datetime, changed: datetime) -> Json:
    return {
        "user_id": who.account_id,
        "created_at": _stamp(made),
        "updated_at": _stamp(changed),
        "timezone_offset": _offset(who, at),
    }


# --- records: those of a day at `now`


def cycle(seed: int, who: Wearer, day: date, now: datetime) -> Iterator[Json]:
    """From the night of the day to the next; without an end while it lasts."""
    start, end = _night(seed, who, day).start, _night(seed, who, day + _DAY).start
    # It is known once the person has woken, and ends when the next is known.
    if now < _night(seed, who, day).end:
        return
    is_open = now < _night(seed, who, day + _DAY).end
    hours = int((min(now, end) - start).total_seconds() // 3600)
    random = _random(seed, who, day, "cycle")
    yield {
        "id": number_of(who.name, day, "cycle"),
        **_state(who, start, start, start + timedelta(hours=hours)),
        "start": _stamp(start),
        "end": None if is_open else _stamp(end),
        "score_state": "SCORED",
        "score": {
            "strain": round(0.6 * hours + random.random(), 4),
            "kilojoule": round(420.0 * hours + random.randrange(0, 300) / 7, 3),
            "average_heart_rate": random.randrange(60, 80),
            "max_heart_rate": random.randrange(130, 190),
        },
    }


def recovery(seed: int, who: Wearer, day: date, now: datetime) -> Iterator[Json]:
    """What a night was good for, once it is scored."""
    night = _night(seed, who, day)
    if now < night.scored_at:
        return
    random = _random(seed, who, day, "recovery")
    told = _state(who, night.start, night.scored_at, night.scored_at)
    del told["timezone_offset"]
    is_old_strap = who.name == "lien"
    yield {
        "cycle_id": number_of(who.name, day, "cycle"),
        "sleep_id": uuid_of(who.name, day, "sleep"),
        **told,
        "score_state": "SCORED",
        "score": {
            "user_calibrating": False,
            "recovery_score": float(random.randrange(20, 100)),
            "resting_heart_rate": float(random.randrange(45, 62)),
            "hrv_rmssd_milli": random.randrange(20_000, 110_000) / 1000,
            "spo2_percentage": None if is_old_strap else random.randrange(930, 990) / 10,
            "skin_temp_celsius": None if is_old_strap else random.randrange(320, 350) / 10,
        },
    }


def _sleep(
    who: Wearer, random: Random, span: tuple[datetime, datetime], changed: datetime, **more: object
) -> Json:
    start, end = span
    whole = int((end - start).total_seconds() * 1000)
    awake, deep, rem = whole // 12, whole // 5, whole // 4
    return {
        **_state(who, start, end, changed),
        "v1_id": None,
        "start": _stamp(start),
        "end": _stamp(end),
        "score_state": "SCORED",
        "score": {
            "stage_summary": {
                "total_in_bed_time_milli": whole,
                "total_awake_time_milli": awake,
                "total_no_data_time_milli": 0,
                "total_light_sleep_time_milli": whole - awake - deep - rem,
                "total_slow_wave_sleep_time_milli": deep,
                "total_rem_sleep_time_milli": rem,
                "sleep_cycle_count": whole // 5_400_000,
                "disturbance_count": random.randrange(2, 16),
            },
            "sleep_needed": {
                "baseline_milli": 27_395_716,
                "need_from_sleep_debt_milli": 352_230,
                "need_from_recent_strain_milli": 208_595,
                "need_from_recent_nap_milli": 0,
            },
            "respiratory_rate": 13 + random.randrange(0, 40) / 16,
            "sleep_performance_percentage": float(random.randrange(60, 101)),
            "sleep_consistency_percentage": float(random.randrange(60, 101)),
            "sleep_efficiency_percentage": random.randrange(8000, 9800) / 100,
        },
        **more,
    }


def sleep(seed: int, who: Wearer, day: date, now: datetime) -> Iterator[Json]:
    """A night, pending until it is scored; a nap on every fifth day."""
    night = _night(seed, who, day)
    cycle_id = number_of(who.name, day, "cycle")
    if now >= night.end:
        end, changed = night.end, night.scored_at
        if night.corrected_at is not None and now >= night.corrected_at:
            end, changed = night.end - timedelta(minutes=7), night.corrected_at
        whole = _sleep(
            who,
            _random(seed, who, day, "sleep"),
            (night.start, end),
            changed,
            id=uuid_of(who.name, day, "sleep"),
            cycle_id=cycle_id,
            nap=False,
        )
        if now < night.scored_at:
            whole |= {"score_state": "PENDING_SCORE", "score": None}
        yield whole
    nap = instant_at(who.zone, day, 850), instant_at(who.zone, day, 880)
    if day.toordinal() % 5 == 0 and now >= nap[1]:
        random = _random(seed, who, day, "nap")
        name = uuid_of(who.name, day, "nap")
        yield _sleep(who, random, nap, nap[1], id=name, cycle_id=cycle_id, nap=True)


def workout(seed: int, who: Wearer, day: date, now: datetime) -> Iterator[Json]:
    """Something on two days of three; one in nine could not be scored."""
    random = _random(seed, who, day, "workout")
    start = instant_at(who.zone, day, 1020 + random.randrange(0, 60))
    minutes = random.randrange(20, 70)
    end = start + timedelta(minutes=minutes)
    if day.toordinal() % 3 == 1 or now < end:
        return
    told: Json = {
        "id": uuid_of(who.name, day, "workout"),
        "v1_id": None,
        **_state(who, start, end, end),
        "start": _stamp(start),
        "end": _stamp(end),
        "sport_name": random.choice(_SPORTS),
        "sport_id": 0,
    }
    if day.toordinal() % 9 == 0:
        yield {**told, "score_state": "UNSCORABLE", "score": None}
        return
    zones = dict.fromkeys(("zero", "one", "two", "three", "four", "five"), 10_000 * minutes)
    yield {
        **told,
        "score_state": "SCORED",
        "score": {
            "strain": random.randrange(4000, 15_000) / 1000,
            "average_heart_rate": random.randrange(100, 140),
            "max_heart_rate": random.randrange(140, 190),
            "kilojoule": 31.5 * minutes,
            "percent_recorded": 1.0,
            "distance_meter": random.choice((None, 5012.5)),
            "altitude_gain_meter": random.choice((None, 46.25)),
            "altitude_change_meter": None,
            "zone_durations": {f"zone_{word}_milli": value for word, value in zones.items()},
        },
    }


_Records = Callable[[int, Wearer, date, datetime], Iterator[Json]]

COLLECTIONS: dict[str, _Records] = {
    "/v2/cycle": cycle,
    "/v2/recovery": recovery,
    "/v2/activity/sleep": sleep,
    "/v2/activity/workout": workout,
}

# --- the service


class _Whoop:
    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._oauth = OAuthServer(
            provider="whoop",
            sandbox=sandbox,
            people=PEOPLE,
            authorize_path="/oauth/oauth2/auth",
            token_path="/oauth/oauth2/token",  # noqa: S106 - an address
            access_seconds=3600,
            refuse=_refused,
        )

    def mount(self) -> Mount:
        let_in = self._oauth.let_in
        routes = [
            *self._oauth.routes(),
            Route("/v2/user/profile/basic", let_in(self._profile)),
            Route("/v2/user/measurement/body", let_in(self._body)),
            Route("/v2/user/access", let_in(self._revoke), methods=["DELETE"]),
            *(Route(path, self._collection(records)) for path, records in COLLECTIONS.items()),
        ]
        return Mount("/whoop", routes=routes)

    async def _profile(self, _: Request, who: Wearer) -> Response:
        return json_answer(
            {
                "user_id": who.account_id,
                "email": f"{who.name}@example.org",
                "first_name": who.name.title(),
                "last_name": "Example",
            }
        )

    async def _body(self, _: Request, who: Wearer) -> Response:
        random = _random(self._sandbox.seed, who, date(2026, 1, 1), "body")
        return json_answer(
            {
                "height_meter": random.randrange(155, 195) / 100,
                "weight_kilogram": random.randrange(5500, 9500) / 100,
                "max_heart_rate": random.randrange(180, 202),
            }
        )

    async def _revoke(self, _: Request, who: Wearer) -> Response:
        self._oauth.forget(who.name)
        return Response(status_code=204)

    def _collection(self, records: _Records) -> Endpoint:
        async def answer(request: Request, who: Wearer) -> Response:
            now = self._sandbox.clock.instant()
            asked = request.query_params
            try:
                limit = int(asked.get("limit", "10"))
                skip = int(asked.get("nextToken", "0"))
                start = _read(asked.get("start")) or now - timedelta(days=HISTORY_DAYS)
                end = _read(asked.get("end")) or now
            except ValueError:
                return json_answer({"message": "Bad Request"}, 400)
            if not 1 <= limit <= LARGEST_PAGE:
                return json_answer({"message": "Bad Request"}, 400)
            first = max(start, now - timedelta(days=HISTORY_DAYS)).date() - _DAY
            days = (first + timedelta(days=n) for n in range((end.date() - first).days + 2))
            found = [
                one
                for day in days
                for one in records(self._sandbox.seed, who, day, now)
                if _is_within(one, start, end)
            ]
            # Newest first. A recovery has no start of its own, and its order is that of its sleep.
            found.sort(key=lambda one: str(one.get("start") or one["created_at"]), reverse=True)
            page = found[skip : skip + limit]
            following = str(skip + limit) if len(found) > skip + limit else None
            return json_answer({"records": page, "next_token": following})

        return self._oauth.let_in(answer)


def _read(text: str | None) -> datetime | None:
    at = datetime.fromisoformat(text) if text else None
    if at is not None and at.tzinfo is None:
        raise ValueError("no offset")
    return at


def _is_within(record: Json, start: datetime, end: datetime) -> bool:
    """Whether it went on at `start` or later, and began before `end`."""
    begins = str(record.get("start") or record["created_at"])
    ends = str(record.get("end") or begins) if "end" not in record or record["end"] else None
    return begins < _stamp(end) and (ends is None or ends >= _stamp(start))


def _refused() -> Response:
    return json_answer({"message": "Authorization was not valid"}, 401)
