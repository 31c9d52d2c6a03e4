"""Bodies nobody knows anything of: which resource they are, what they become, what they are not."""

import contextlib
import json
import random
from datetime import UTC, datetime
from typing import Any

import pytest

from wearable_pipeline.errors import (
    BadPayloadError,
    NotConnectedError,
    PermanentError,
    PipelineError,
    RateLimitedError,
    TransientError,
    UsageError,
)
from wearable_pipeline.providers import get_provider
from wearable_pipeline.tables import inspect
from wearable_pipeline.tables.inspect import Inspection, inspect_body

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
GLUCOSE = "glucose_blood_glucose_samples"


def look(provider: str, body: object, resource: str | None = None) -> Inspection:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return inspect_body(
        get_provider(provider), raw, name="body.json", now=NOW, resource_name=resource
    )


def values(found: Inspection) -> list[float]:
    """Glucose in mg/dL, in order."""
    return [
        sample["blood_glucose_mg_per_dl"]
        for row in found.tables.get("body", [])
        for sample in row[GLUCOSE]  # type: ignore[attr-defined]
    ]


def measurement(minute: int, mg: int, kind: int = 0) -> dict[str, object]:
    return {
        "FactoryTimestamp": f"11/20/2026 1:{minute:02}:00 AM",
        "Timestamp": f"11/20/2026 2:{minute:02}:00 AM",
        "type": kind,
        "ValueInMgPerDl": mg,
        "Value": mg,
        "GlucoseUnits": 1,
        "isHigh": False,
        "isLow": False,
    }


def shared(mg: int, patient: str = "p-1") -> dict[str, object]:
    return {"patientId": patient, "glucoseMeasurement": measurement(30, mg, kind=1)}


GRAPH = {
    "status": 0,
    "data": {
        "connection": shared(120),
        "graphData": [measurement(0, 100), measurement(5, 101)],
    },
}
LOGBOOK = {"status": 0, "data": [measurement(0, 100, kind=1), {**measurement(5, 0), "type": 2}]}


def sgv(minute: int, mg: object, **more: object) -> dict[str, object]:
    # 1795136400000 is 2026-11-20T01:00:00Z.
    return {"type": "sgv", "date": 1_795_136_400_000 + minute * 60_000, "sgv": mg, **more}


MEAL = {"eventType": "Carb Correction", "carbs": 20, "created_at": "2026-11-20T01:00:00Z"}


# --- LibreLinkUp


def test_a_graph_answer_gives_its_points_and_its_newest_reading() -> None:
    found = look("freestyle_libre", GRAPH)
    assert values(found) == [100.0, 101.0, 120.0]
    assert found.rejected == []
    assert found.unknown_fields == []


@pytest.mark.parametrize(
    ("resource", "expected"), [("graph", [100.0, 101.0]), ("current", [120.0])]
)
def test_naming_a_resource_narrows_the_answer_to_it(resource: str, expected: list[float]) -> None:
    assert values(look("freestyle_libre", GRAPH, resource)) == expected


@pytest.mark.parametrize(
    ("body", "resource", "expected"),
    [
        (LOGBOOK, "logbook", [100.0]),
        ({"status": 0, "data": []}, "logbook", []),
        ({"status": 0, "data": [shared(77)]}, "current", [77.0]),
        (measurement(0, 100), "graph", [100.0]),
        (measurement(0, 101, kind=1), "current", [101.0]),
        ([measurement(0, 100), measurement(5, 101)], "graph", [100.0, 101.0]),
        ([measurement(0, 100), measurement(5, 101, kind=1)], "logbook", [100.0, 101.0]),
        ({"status": 0, "data": {"connection": None, "graphData": None}}, "graph", []),
    ],
)
def test_every_answer_of_librelinkup_is_recognised(
    body: object, resource: str, expected: list[float]
) -> None:
    provider = get_provider("freestyle_libre")
    fitting = [r.name for r in provider.resources if r.recognise and r.recognise(body)]
    assert fitting == [resource]
    assert values(look("freestyle_libre", body)) == expected


@pytest.mark.parametrize("resource", ["graph", "logbook", "current"])
def test_a_bare_measurement_may_be_named_as_any_resource(resource: str) -> None:
    assert values(look("freestyle_libre", measurement(0, 100), resource)) == [100.0]
    assert values(look("freestyle_libre", [measurement(0, 100)], resource)) == [100.0]


def test_the_readings_of_two_people_are_not_mixed() -> None:
    with pytest.raises(BadPayloadError, match="2 people"):
        look("freestyle_libre", {"status": 0, "data": [shared(77), shared(99, "p-2")]})


TICKET = {"token": "secret-token", "expires": 1, "duration": 1}
LOCKED = {"status": 429, "data": {"code": 60, "data": {"lockout": 300}}}


@pytest.mark.parametrize(
    ("body", "error", "says"),
    [
        ({"status": 2, "error": {"message": "notAuthenticated"}}, NotConnectedError, "password"),
        ({"status": 4, "data": {"step": {"type": "tou"}}}, NotConnectedError, "terms of use"),
        (
            {"status": 4, "data": {"step": {"type": "pp"}, "authTicket": TICKET}},
            NotConnectedError,
            "privacy policy",
        ),
        (
            {"status": 4, "error": {"message": "couldNotLoadPatient"}},
            TransientError,
            "patient not loaded",
        ),
        (LOCKED, TransientError, "locked"),
        ({"status": 911}, TransientError, "maintenance"),
        ({"status": 920}, PermanentError, "app version"),
        ({"status": 77}, BadPayloadError, "unknown status 77"),
        ({"message": "invalid or expired jwt"}, NotConnectedError, "refused"),
        ({"status": 401, "message": "Unauthorized"}, NotConnectedError, "refused"),
        (b"<!DOCTYPE html><title>x</title>error code: 1015", RateLimitedError, "throttled"),
        (b"<html><body>Access denied</body></html>", BadPayloadError, "web page"),
        (
            {"status": 0, "data": {"user": {"id": "u-1"}, "authTicket": TICKET}},
            BadPayloadError,
            "a login answer: it carries no readings",
        ),
        (
            {"status": 0, "data": {"redirect": True, "region": "eu2"}},
            BadPayloadError,
            "another region",
        ),
        ({"status": 0, "data": {"user": {"id": "u-1"}}}, BadPayloadError, "account data"),
    ],
)
@pytest.mark.parametrize("resource", [None, "graph"])
def test_an_answer_without_readings_is_told_as_what_it_is(
    body: object, error: type[PipelineError], says: str, resource: str | None
) -> None:
    with pytest.raises(error, match=says) as raised:
        look("freestyle_libre", body, resource)
    assert "\n" not in str(raised.value)
    assert "secret-token" not in str(raised.value)


# --- Nightscout


@pytest.mark.parametrize(
    "body",
    [
        [sgv(0, 100), sgv(5, "101")],
        {"status": 200, "result": [sgv(0, 100), sgv(5, 101)]},
        b"\xef\xbb\xbf"
        + json.dumps([sgv(0, 100), sgv(5, 101)], indent=1).replace("\n", "\r\n").encode(),
        [sgv(0, 100), {"sgv": 101, "date": 1_795_136_700_000}],
    ],
    ids=["v1", "v3", "BOM and CRLF", "without a type"],
)
def test_entries_are_recognised_in_both_shapes(body: object) -> None:
    found = look("nightscout", body)
    assert values(found) == [100.0, 101.0]


def test_a_lone_document_is_taken_as_what_it_is() -> None:
    assert values(look("nightscout", sgv(0, 100))) == [100.0]
    assert values(look("nightscout", {"status": 200, "result": sgv(0, 100)})) == [100.0]
    (row,) = look("nightscout", MEAL).tables["nutrition"]
    meals: Any = row["meals"]
    assert [meal["macros_carbohydrates_g"] for meal in meals] == [20.0]


def test_treatments_need_no_event_type() -> None:
    body = [
        {"enteredBy": "x", "carbs": 5, "created_at": "2026-11-20T01:00:00.000Z", "insulin": None}
    ]
    (row,) = look("nightscout", body).tables["nutrition"]
    assert len(row["meals"]) == 1  # type: ignore[arg-type]


def test_a_temporary_basal_is_a_treatment_that_fills_no_table() -> None:
    body = [
        {
            "raw_rate": {"_type": "TempBasal", "parts": [{"a": 1}, {"b": [2, 3]}]},
            "created_at": "2026-11-20T01:00:00-07:00",
            "eventType": "Temp Basal",
            "duration": "30",
            "absolute": "1.425",
        }
    ]
    found = look("nightscout", body)
    assert found.tables == {}
    assert found.rejected == []
    assert found.unknown_fields == ["raw_rate._type", "raw_rate.parts[].a", "raw_rate.parts[].b[]"]


def test_an_empty_answer_has_no_rows() -> None:
    assert look("nightscout", []).tables == {}
    assert look("nightscout", {"status": 200, "result": []}).tables == {}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ([{"defaultProfile": "Default", "store": {}, "created_at": "2026-11-20"}], "profile"),
        ([{"device": "rig", "created_at": "2026-11-20", "openaps": {}}], "device status"),
        ([{"device": "phone", "uploaderBattery": 84}], "device status"),
        ([{"_type": "Bolus", "timestamp": "2026-11-20T01:00:00Z", "amount": 0.4}], "pump history"),
        ([{"iob": 0.1, "activity": 0.2, "time": "2026-11-20T01:00:00Z"}], "insulin on board"),
        (
            {"temp": "absolute", "bg": 101, "eventualBG": 106, "rate": 0, "duration": 30},
            "suggestion",
        ),
        ({"carbs": 20, "mealCOB": 0}, "meal data"),
        ({"carb_ratios": {}, "basalprofile": []}, "profile of a loop"),
        ([{"minutes": 0, "rate": 1, "start": "00:00:00", "i": 0}], "basal profile"),
        ({"duration": 30, "temp": "absolute", "rate": 0}, "temporary basal rate"),
        ({"ratio": 1.0}, "sensitivity ratio"),
        ("2026-11-20T01:00:00-07:00", "clock"),
        ({"status": "ok", "apiEnabled": True}, "status of a site"),
        ({"status": 200, "result": {"collections": {}, "srvDate": 1}}, "last changes"),
        ([{"type": "food", "carbs": 5, "created_at": "2026-11-20T01:00:00Z"}], "foods"),
        ({"status": 404, "message": "Not found"}, "HTTP 404"),
    ],
)
@pytest.mark.parametrize("resource", [None, "entries", "treatments"])
def test_what_else_lies_beside_a_nightscout_is_named(
    body: object, says: str, resource: str | None
) -> None:
    with pytest.raises(BadPayloadError, match=says) as raised:
        look("nightscout", body, resource)
    assert "carries no readings" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"status": 401, "message": "Unauthorized"}, NotConnectedError),
        ({"status": 429}, RateLimitedError),
        ({"status": 503, "message": "starting"}, TransientError),
    ],
)
def test_a_refusal_of_the_site_is_the_error_of_the_fetch(
    body: object, error: type[PipelineError]
) -> None:
    with pytest.raises(error):
        look("nightscout", body)


def test_a_nest_of_fixtures_is_no_answer() -> None:
    body = {"COMMENT": "x", "SGV_ENTRIES": {"SINGLE": sgv(0, 100)}, "MEAL": {"CARBS": MEAL}}
    with pytest.raises(UsageError, match="entries, treatments"):
        look("nightscout", body)
    with pytest.raises(BadPayloadError, match="no list of entries"):
        look("nightscout", body, "entries")


def test_a_mixture_is_asked_about() -> None:
    with pytest.raises(UsageError, match="--resource"):
        look("nightscout", [sgv(0, 100), MEAL])
    assert values(look("nightscout", [sgv(0, 100), MEAL], "entries")) == [100.0]


def test_another_resource_than_the_named_one_is_told() -> None:
    with pytest.raises(BadPayloadError, match="looks like entries"):
        look("nightscout", [sgv(0, 100)], "treatments")
    with pytest.raises(BadPayloadError, match="looks like current, graph"):
        look("freestyle_libre", GRAPH, "logbook")
    with pytest.raises(BadPayloadError, match="LibreView export"):
        look("freestyle_libre", GRAPH, "libreview_csv")


def test_a_resource_that_does_not_exist_is_answered_with_the_choices() -> None:
    with pytest.raises(UsageError, match="entries, treatments"):
        look("nightscout", [], "sleep")


def test_bad_records_are_rejected_by_id_and_reason_without_values() -> None:
    body = [sgv(0, 100), {**sgv(5, "a lot"), "identifier": "e-2"}, {"sgv": 313, "dateString": "x"}]
    found = look("nightscout", body)
    assert values(found) == [100.0]
    reasons = {str(r["record"]): r["reason"] for r in found.rejected}
    assert reasons["e-2"] == "sgv: not a number"
    assert len(reasons) == 2
    assert all("a lot" not in str(r) and "313" not in str(r) for r in found.rejected)


# --- no JSON at all


@pytest.mark.parametrize("provider", ["freestyle_libre", "nightscout"])
@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "empty"),
        (b" \r\n", "empty"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "binary"),
        ("[1]".encode("utf-16"), "binary"),
        (b'[{"sgv": 100, "date": 17', "cut off"),
        (b'{"status": 0, "data": \xff\xfe}', "cut off or broken"),
        (b"[" * 100_000, "cut off or broken"),
        (b"Index,Timestamp\r\n1,2026-11-20\r\n", "no JSON"),
        (b"<html><body>sign in</body></html>", "web page"),
    ],
    ids=["empty", "blank", "image", "UTF-16", "cut", "not UTF-8", "deep", "other CSV", "page"],
)
@pytest.mark.parametrize("named", [False, True])
def test_what_is_no_json_is_told_in_one_line(
    provider: str, body: bytes, says: str, named: bool
) -> None:
    resource = get_provider(provider).resources[0].name if named else None
    with pytest.raises(BadPayloadError, match=says) as raised:
        look(provider, body, resource)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("provider", ["freestyle_libre", "nightscout"])
@pytest.mark.parametrize("body", [b"null", b"true", b"17", b'"x"', b"{}", b"[1, null]", b"[[]]"])
def test_json_that_is_nothing_known_is_asked_about(provider: str, body: bytes) -> None:
    with pytest.raises(UsageError, match="--resource"):
        look(provider, body)


def test_a_body_too_large_to_show_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspect, "LARGEST_BODY", 10)
    with pytest.raises(UsageError, match="import it"):
        look("nightscout", [sgv(0, 100)])


LOGIN = {"status": 0, "data": {"user": {"id": "u"}, "authTicket": TICKET}}
BODIES: list[tuple[str, object]] = [
    ("freestyle_libre", GRAPH),
    ("freestyle_libre", LOGBOOK),
    ("freestyle_libre", LOGIN),
    ("freestyle_libre", {"status": 4, "data": {"step": {"type": "tou"}}}),
    ("freestyle_libre", {"status": 0, "data": [shared(77)]}),
    ("nightscout", [sgv(0, 100, dateString="2026-11-20T01:00:00Z", utcOffset=60, device="x")]),
    ("nightscout", {"status": 200, "result": [{**MEAL, "date": 1_795_136_400_000, "notes": "n"}]}),
]


@pytest.mark.parametrize(("provider", "body"), BODIES)
def test_a_body_cut_anywhere_is_an_error_of_ours(provider: str, body: object) -> None:
    whole = json.dumps(body).encode()
    for length in range(1, len(whole), 7):
        with pytest.raises(PipelineError):
            look(provider, whole[:length])


STRANGE: list[object] = [
    None,
    True,
    -1,
    1e300,
    2**70,
    "",
    "x",
    "0001-01-01T00:00:00+14:00",
    [],
    [None],
    {},
    {"a": []},
]


def _mutated(value: Any, chance: random.Random) -> Any:
    if chance.random() < 0.12:
        return chance.choice(STRANGE)
    if isinstance(value, dict):
        return {key: _mutated(child, chance) for key, child in value.items()}
    if isinstance(value, list):
        return [_mutated(child, chance) for child in value]
    return value


@pytest.mark.parametrize(("provider", "body"), BODIES)
def test_strange_values_anywhere_never_escape_as_anything_else(provider: str, body: object) -> None:
    chance = random.Random(20261120)
    for _ in range(15):
        strange = _mutated(body, chance)
        with contextlib.suppress(PipelineError):
            assert isinstance(look(provider, strange), Inspection)
