"""`wearable-pipeline normalize`: every body ends in rows, or in one line and a code."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner, Result

from wearable_pipeline.cli import app

CORPUS = Path(__file__).resolve().parents[2] / "shared" / "corpus"
FOLDERS = {
    "cardiomood": "cardiomood",
    "dexcom_share": "dexcom_share",
    "dexcom_v3": "dexcom",
    "fitbit": "fitbit",
    "google_health": "google_health",
    "keto_mojo": "keto_mojo",
    "garmin": "garmin",
    "libre_linkup": "freestyle_libre",
    "libreview_csv": "freestyle_libre",
    "nightscout": "nightscout",
    "polar": "polar",
    "strava": "strava",
    "whoop": "whoop",
    "withings": "withings",
    "tidepool": "tidepool",
}


def recorded() -> Iterator[tuple[str, Path]]:
    """Every file of the folders, also those nobody has seen yet."""
    for folder, provider in FOLDERS.items():
        for file in sorted((CORPUS / folder).glob("*")):
            yield provider, file


COMMAND = get_command(app)


@pytest.fixture(autouse=True)
def made_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Typer's runner makes all commands anew for every call, a fifth of what these tests cost."""
    monkeypatch.setattr("typer.testing._get_command", lambda _: COMMAND)


def call(provider: str, file: Path, *more: str) -> Result:
    return CliRunner().invoke(app, ["normalize", "--provider", provider, str(file), *more])


def read(provider: str, folder: str, name: str, *more: str) -> dict[str, Any]:
    (file,) = (CORPUS / folder).glob(f"*{name}")
    result = call(provider, file, *more)
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def samples(found: dict[str, Any], column: str, table: str = "body") -> list[dict[str, Any]]:
    return [one for row in found["tables"].get(table, []) for one in row[column] or []]


def refusal(provider: str, folder: str, name: str, code: int, *more: str) -> str:
    (file,) = (CORPUS / folder).glob(f"*{name}")
    result = call(provider, file, *more)
    assert result.exit_code == code, (result.stdout, result.stderr)
    (told,) = result.stderr.strip().splitlines()
    assert told.startswith("error: ")
    return told


@pytest.mark.corpus
@pytest.mark.slow
def test_every_recorded_body_ends_in_rows_or_in_one_line() -> None:
    files = list(recorded())
    assert files
    told = ["--timezone", "Europe/London", "--date-order", "dmy", "--as", "payload"]
    for provider, file in files:
        for more in ([], told):
            result = call(provider, file, *more)
            where = f"{file.name} {more}"
            assert result.exit_code in {0, 2, 3, 4, 5}, where
            assert result.exception is None or isinstance(result.exception, SystemExit), where
            if result.exit_code:
                assert result.stdout == "", where
                assert len(result.stderr.strip().splitlines()) == 1, where
            else:
                found = json.loads(result.stdout)
                assert set(found) == {"tables", "rejected", "unknown_fields"}, where


@pytest.mark.corpus
@pytest.mark.parametrize("provider", ["freestyle_libre", "nightscout"])
def test_bodies_of_somebody_else_are_told_in_one_line(provider: str) -> None:
    folders = [folder for folder, owner in FOLDERS.items() if owner != provider]
    for folder in [*folders, "dexcom_clarity", "dexcom_share", "keto_mojo", "apple"]:
        for file in sorted((CORPUS / folder).glob("*"))[:4]:
            result = call(provider, file)
            assert result.exit_code in {2, 3, 5}, file.name
            assert len(result.stderr.strip().splitlines()) == 1, file.name


GLUCOSE = "glucose_blood_glucose_samples"
LONG_GRAPH = "nightscout-librelink-up__tests_data_graph.json"


@pytest.mark.corpus
def test_a_recorded_graph_is_read_without_naming_its_resource() -> None:
    found = samples(read("freestyle_libre", "libre_linkup", LONG_GRAPH), GLUCOSE)
    assert len(found) == 142
    # The newest reading: 12/30/2022 4:47:40 PM, 115 mg/dL, arrow 3, phone one hour ahead.
    newest = found[-1]
    assert newest["timestamp"] == "2022-12-30T16:47:40Z"
    assert newest["local_timestamp"] == "2022-12-30T17:47:40"
    assert (newest["blood_glucose_mg_per_dl"], newest["trend_arrow"]) == (115.0, "flat")
    assert [s["trend_arrow"] for s in found[:-1]] == [None] * 141
    only = samples(
        read("freestyle_libre", "libre_linkup", LONG_GRAPH, "--resource", "current"), GLUCOSE
    )
    assert len(only) == 1


@pytest.mark.corpus
@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("login-failed.json", 3, "e-mail or password is wrong"),
        ("terms_of_use_response.json", 3, "terms of use"),
        ("privacy_policy_response.json", 3, "privacy policy"),
        ("tests_data_login.json", 5, "a login answer: it carries no readings"),
        ("realworldevidence_consent_response.json", 5, "a login answer: it carries no readings"),
    ],
)
def test_recorded_answers_without_readings_are_explained(name: str, code: int, says: str) -> None:
    assert says in refusal("freestyle_libre", "libre_linkup", name, code)


@pytest.mark.corpus
@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("aaps-patterns.json", 2, "--resource (entries, treatments)"),
        ("openaps-status.json", 5, "device status"),
        ("ns-profile.json", 5, "Nightscout profile"),
        ("examples_autosens.json", 5, "sensitivity ratio"),
        ("examples_basal_profile.json", 5, "basal profile"),
        ("examples_clock.json", 5, "clock"),
        ("examples_iob.json", 5, "insulin on board"),
        ("examples_meal.json", 5, "meal data"),
        ("examples_profile.json", 5, "profile of a loop"),
        ("examples_pumphistory.json", 5, "pump history"),
        ("examples_suggested.json", 5, "suggestion"),
        ("examples_temp_basal.json", 5, "temporary basal rate"),
    ],
)
def test_recorded_files_of_loops_and_settings_are_named(name: str, code: int, says: str) -> None:
    assert says in refusal("nightscout", "nightscout", name, code)


@pytest.mark.corpus
def test_recorded_nightscout_documents_are_read_without_naming_their_resource() -> None:
    merged = read("nightscout", "nightscout", "glucose-zoned-merge.json")
    assert [(s["timestamp"], s["blood_glucose_mg_per_dl"]) for s in samples(merged, GLUCOSE)] == [
        ("2016-10-23T18:18:37Z", 87.0),
        ("2016-10-23T18:23:37Z", 91.0),
        ("2016-10-23T18:28:36Z", 98.0),
        ("2016-10-23T18:33:36Z", 102.0),
    ]
    assert merged["unknown_fields"] == ["display_time", "system_time", "trend_arrow"]
    loop = read("nightscout", "nightscout", "examples_glucose.json")
    assert [s["blood_glucose_mg_per_dl"] for s in samples(loop, GLUCOSE)] == [
        *(100.0, 102.0, 105.0, 105.0, 102.0, 101.0)
    ]
    meals = samples(
        read("nightscout", "nightscout", "examples_carbhistory.json"), "meals", "nutrition"
    )
    assert [meal["macros_carbohydrates_g"] for meal in meals] == [5.0, 15.0]
    basal = read("nightscout", "nightscout", "pump-history-formatted.json")
    assert basal["tables"] == {}
    assert "raw_rate._type" in basal["unknown_fields"]


@pytest.mark.corpus
def test_a_nest_of_fixtures_named_as_entries_is_an_error_and_no_crash() -> None:
    told = refusal("nightscout", "nightscout", "aaps-patterns.json", 5, "--resource", "entries")
    assert "no list of entries" in told


@pytest.mark.corpus
def test_a_recorded_export_is_counted_to_the_line() -> None:
    found = read("freestyle_libre", "libreview_csv", "sample_libreview.csv")
    assert found["rejected"] == []
    assert found["unknown_fields"] == []
    glucose = samples(found, GLUCOSE)
    historic = [s["native_value"] for s in glucose if s["sample_kind"] == "cgm"]
    assert (len(historic), min(historic), max(historic)) == (2349, 2.2, 22.1)
    assert round(sum(historic) / 2349, 4) == 6.7298
    assert sum(s["sample_kind"] == "scan" for s in glucose) == 760
    assert len(glucose) == 3109
    doses = samples(found, "measurements_measurements")
    assert len(doses) == 148
    assert sum(d["insulin_units"] or 0 for d in doses if d["insulin_type"] == "rapid") == 256.0
    meals = samples(found, "meals", "nutrition")
    assert (len(meals), sum(m["macros_carbohydrates_g"] for m in meals)) == (88, 2277.0)
    # Without a zone nobody knows the instants.
    assert all(s["timestamp"] is None for s in glucose)


@pytest.mark.corpus
def test_recorded_exports_that_read_both_ways_ask_for_the_date_order() -> None:
    for name in ("tiny_sample.csv", "tiny_sample_delimiter.csv"):
        assert "--date-order" in refusal("freestyle_libre", "libreview_csv", name, 5)
    found = read("freestyle_libre", "libreview_csv", "tiny_sample.csv", "--date-order", "dmy")
    # The six values of the file; 16:25 on 5 December 2019.
    assert [s["native_value"] for s in samples(found, GLUCOSE)] == [6.3, 6.4, 6.5, 6.7, 6.9, 7.1]
    assert samples(found, GLUCOSE)[0]["local_timestamp"] == "2019-12-05T16:25:00"


# --- without the corpus

ENTRY = {"type": "sgv", "date": 1_795_136_400_000, "sgv": 100}


@pytest.mark.parametrize(
    ("content", "code", "says"),
    [
        (b"", 5, "empty"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", 5, "binary"),
        (b'[{"type": "sgv", "da', 5, "cut off"),
        (b"a;b\n1;2\n", 5, "no JSON"),
        (b"{}", 2, "--resource (entries, treatments)"),
        (b'{"status": 401, "message": "Unauthorized"}', 3, "refuses"),
        (b'{"status": 503}', 4, "HTTP 503"),
    ],
)
def test_each_class_of_error_has_its_code(
    tmp_path: Path, content: bytes, code: int, says: str
) -> None:
    file = tmp_path / "body.json"
    file.write_bytes(content)
    result = call("nightscout", file)
    assert result.exit_code == code
    (told,) = result.stderr.strip().splitlines()
    assert says in told
    assert result.stdout == ""


def test_a_directory_and_a_missing_file_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.json"):
        result = call("nightscout", path)
        assert result.exit_code == 2
        assert "cannot read" in result.stderr


def test_rows_are_printed_as_columns_or_as_client_json(tmp_path: Path) -> None:
    file = tmp_path / "body.json"
    file.write_text(json.dumps([ENTRY]))
    columns = json.loads(call("nightscout", file).stdout)
    assert columns["tables"]["body"][0][GLUCOSE][0]["blood_glucose_mg_per_dl"] == 100.0
    payload = json.loads(call("nightscout", file, "--as", "payload").stdout)
    (sample,) = payload["tables"]["body"][0]["glucose_data"]["blood_glucose_samples"]
    assert sample["blood_glucose_mg_per_dL"] == 100
    # 1795136400000 is 2026-11-20T01:00:00Z, and nobody said where.
    assert sample["timestamp"] == "2026-11-20T01:00:00.000000Z"
    assert sample["occurrence"] is None
