"""What is peculiar to Firestore, against a double of its gRPC service."""

import builtins
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.cloud.firestore_v1 import _helpers
from google.cloud.firestore_v1.types import Document
from pydantic import SecretStr, ValidationError

from wearable_pipeline.destinations import firestore, get_target
from wearable_pipeline.destinations._contract import Batch, Outcome, Target
from wearable_pipeline.destinations.firestore import (
    DESTINATION,
    FirestoreSender,
    FirestoreSettings,
    document_id,
    open_firestore,
)
from wearable_pipeline.errors import PermanentError, TransientError, UsageError
from wearable_pipeline.settings import Settings
from wearable_pipeline_tests.destinations.batches import batch_of, kinds, known_as
from wearable_pipeline_tests.destinations.bench import Bench, body_row
from wearable_pipeline_tests.destinations.counterpart_firestore import (
    read_documents,
    read_firestore,
    read_parts,
    start_firestore,
)
from wearable_pipeline_tests.destinations.every_type import (
    EXPECTED,
    ORDERING,
    USER_ID,
    at_path,
    batch_of_type,
    key_of,
)
from wearable_pipeline_tests.servers.gate import Gate

TYPES = sorted({name for name, _, _ in EXPECTED})


@pytest.fixture
def settings_of(request: pytest.FixtureRequest) -> FirestoreSettings:
    found = start_firestore(request).target.settings
    assert isinstance(found, FirestoreSettings)
    return found


@pytest.fixture
def sender(settings_of: FirestoreSettings) -> Iterator[FirestoreSender]:
    with open_firestore(settings_of) as opened:
        yield opened


def deliver(sender: FirestoreSender, batch: Batch) -> list[Outcome]:
    return list(sender.deliver(batch))


def changed(settings: FirestoreSettings, **values: Any) -> FirestoreSettings:
    return settings.model_copy(update=values)


# What arrives.


def test_a_row_of_every_type_arrives_as_the_json_clients_know(
    sender: FirestoreSender, settings_of: FirestoreSettings
) -> None:
    for name in TYPES:
        assert kinds(deliver(sender, batch_of_type(name))) == {"delivered": 1}
    found = {
        (user_id, name, key.replace("%2F", "/").replace("%25", "%")): row
        for (user_id, name, key), row in read_firestore(settings_of).items()
    }
    assert set(found) == {(USER_ID, name, key_of(name)) for name in TYPES}
    for name, path, value in EXPECTED:
        got = at_path(found[USER_ID, name, key_of(name)], path)
        assert (got, type(got)) == (value, type(value)), path
    body = found[USER_ID, "body", "2026-11-20"]
    assert body["reference_id"] == "person-ø"
    assert body["ordering_timestamp"] == 1_795_176_000_000


def test_the_id_is_the_natural_key_without_slashes() -> None:
    (item,) = batch_of_type("activity").items
    assert document_id(item) == "33333333-3333-4333-8333-333333333333:løb%2F1 50%25"


def test_documents_are_what_the_clients_own_encoder_makes(sender: FirestoreSender) -> None:
    for name in TYPES:
        batch = batch_of_type(name)
        (row,) = sender._rows(batch)
        (payload,) = batch.payloads
        added = {"ordering_timestamp": ORDERING, "reference_id": "person-ø"}
        expected = Document(name=row.document.name, fields=_helpers.encode_dict(payload | added))
        assert row.document == Document.pb(expected)


def test_collections_have_the_prefix(settings_of: FirestoreSettings) -> None:
    prefixed = changed(settings_of, prefix="wearables_")
    with open_firestore(prefixed) as sender:
        deliver(sender, batch_of_type("daily"))
    assert read_firestore(settings_of) == {}
    assert len(read_firestore(prefixed)) == 1


def test_a_withdrawn_row_leaves_a_tombstone_that_says_nothing(
    sender: FirestoreSender, settings_of: FirestoreSettings
) -> None:
    deliver(sender, batch_of_type("sleep"))
    deliver(sender, batch_of_type("sleep", is_deleted=True, ordering=ORDERING + 1))
    assert read_firestore(settings_of) == {}
    (tombstone,) = read_documents(settings_of, "sleep").values()
    assert set(tombstone) == {"user_id", "ordering_timestamp", "is_deleted", "expire_at"}


def test_a_late_older_content_does_not_bring_a_withdrawn_row_back(
    sender: FirestoreSender, settings_of: FirestoreSettings
) -> None:
    deliver(sender, batch_of_type("sleep", is_deleted=True, ordering=ORDERING + 1))
    assert kinds(deliver(sender, batch_of_type("sleep"))) == {"delivered": 1}
    assert read_firestore(settings_of) == {}
    deliver(sender, batch_of_type("sleep", ordering=ORDERING + 2))
    assert len(read_firestore(settings_of)) == 1


def test_who_is_overtaken_between_read_and_write_reads_again(
    settings_of: FirestoreSettings,
) -> None:
    racing = changed(settings_of, project=f"racing-{settings_of.project}")
    with open_firestore(racing) as sender:
        assert kinds(deliver(sender, batch_of(3))) == {"delivered": 3}
    found = read_firestore(racing)
    assert {row["ordering_timestamp"] for row in found.values()} == {1_795_176_000_000}
    assert len(found) == 3


def test_of_two_senders_that_read_the_same_the_newer_content_stays(
    settings_of: FirestoreSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = batch_of_type("sleep", ordering=ORDERING + 1)
    with open_firestore(settings_of) as first, open_firestore(settings_of) as second:
        real = FirestoreSender._read_versions
        overtaking = [newer]

        def read_then_be_overtaken(self: FirestoreSender, rows: Any) -> Any:
            versions = real(self, rows)
            if overtaking:
                assert kinds(deliver(second, overtaking.pop())) == {"delivered": 1}
            return versions

        monkeypatch.setattr(FirestoreSender, "_read_versions", read_then_be_overtaken)
        assert kinds(deliver(first, batch_of_type("sleep"))) == {"delivered": 1}
    (row,) = read_firestore(settings_of).values()
    assert row["ordering_timestamp"] == ORDERING + 1


def test_more_rows_than_a_request_holds_arrive(
    sender: FirestoreSender, settings_of: FirestoreSettings
) -> None:
    assert kinds(deliver(sender, batch_of(503))) == {"delivered": 503}
    assert len(read_firestore(settings_of)) == 503


def test_more_bytes_than_a_request_holds_arrive(
    sender: FirestoreSender, settings_of: FirestoreSettings
) -> None:
    batch = batch_of(30)
    large = pl.lit("x" * 900_000).alias("device_name")
    batch = replace(batch, rows=batch.rows.with_columns(large))
    assert kinds(deliver(sender, batch)) == {"delivered": 30}
    assert len(read_firestore(settings_of)) == 30


# What is larger than a document.


def long_day(count: int, *, is_deleted: bool = False, ordering: int = ORDERING) -> Batch:
    """A day with a heart rate every few seconds, 60.0, 61.0, … 159.0 and again."""
    batch = batch_of_type("daily", is_deleted=is_deleted, ordering=ordering)
    if is_deleted:
        return batch
    name = "heart_rate_detailed_hr_samples"
    start = datetime(2026, 11, 20, tzinfo=UTC)
    samples = [
        {"timestamp": start + timedelta(seconds=5 * n), "bpm": 60.0 + n % 100} for n in range(count)
    ]
    dtype = batch.table.polars_schema()[name]
    return replace(
        batch, rows=batch.rows.with_columns(pl.Series(name, [samples], dtype=dtype, strict=False))
    )


DAILY_ID = f"{USER_ID}:2026-11-20"


def heart_rates(settings: FirestoreSettings) -> list[float]:
    (row,) = read_firestore(settings).values()
    return [sample["bpm"] for sample in row["heart_rate_data"]["detailed"]["hr_samples"]]


def test_a_list_that_does_not_fit_lies_below_the_document_and_the_rest_in_it(
    sender: FirestoreSender, settings_of: FirestoreSettings
) -> None:
    assert kinds(deliver(sender, long_day(17_280))) == {"delivered": 1}
    (document,) = read_documents(settings_of, "daily").values()
    assert document["heart_rate_data"]["detailed"]["hr_samples"] is None
    assert document["data_enrichment"]["stress_contributors"] == {"søvn.kvalitet": 71.5}
    assert list(document["parts"]) == ["heart_rate_data.detailed.hr_samples"]
    assert len(read_parts(settings_of, "daily", DAILY_ID)) > 1
    assert heart_rates(settings_of) == [60.0 + n % 100 for n in range(17_280)]


def test_parts_go_when_the_list_gets_shorter_or_the_row_is_withdrawn(
    sender: FirestoreSender, settings_of: FirestoreSettings
) -> None:
    for ordering, count in enumerate((25_000, 12_000, 3, 12_000), ORDERING):
        assert kinds(deliver(sender, long_day(count, ordering=ordering))) == {"delivered": 1}
        assert heart_rates(settings_of) == [60.0 + n % 100 for n in range(count)]
    withdrawal = long_day(0, is_deleted=True, ordering=ORDERING + 9)
    assert kinds(deliver(sender, withdrawal)) == {"delivered": 1}
    assert read_firestore(settings_of) == {}
    assert read_parts(settings_of, "daily", DAILY_ID) == {}
    deliver(sender, long_day(12_000, ordering=ORDERING + 8))
    assert read_firestore(settings_of) == {}
    assert read_parts(settings_of, "daily", DAILY_ID) == {}


def test_a_large_row_overtaken_between_read_and_write_reads_again(
    settings_of: FirestoreSettings,
) -> None:
    racing = changed(settings_of, project=f"racing-{settings_of.project}")
    with open_firestore(racing) as sender:
        assert kinds(deliver(sender, long_day(12_000))) == {"delivered": 1}
    assert len(heart_rates(racing)) == 12_000


def test_a_row_larger_than_a_commit_is_parked_with_the_reason(
    sender: FirestoreSender, settings_of: FirestoreSettings
) -> None:
    (outcome,) = deliver(sender, long_day(100_000))
    assert outcome.kind == "permanent"
    assert "more than 10 MiB" in outcome.message
    assert read_firestore(settings_of) == {}
    assert read_parts(settings_of, "daily", DAILY_ID) == {}


# What is refused.


def test_a_key_too_long_for_an_id_does_not_hold_up_the_others(
    sender: FirestoreSender, settings_of: FirestoreSettings
) -> None:
    batch = batch_of(2)
    long = replace(batch.items[0], row_key="ø" * 800)
    outcomes = deliver(sender, replace(batch, items=(long, batch.items[1])))
    assert {outcome.item.trace_id: outcome.kind for outcome in outcomes} == {
        "trace-0": "permanent",
        "trace-1": "delivered",
    }
    assert len(read_firestore(settings_of)) == 1


def test_of_a_batch_only_what_is_refused_is_not_delivered(
    sender: FirestoreSender, settings_of: FirestoreSettings
) -> None:
    batch = known_as(batch_of(6), "unwelcome", "person-1", "throttled")
    outcomes = {outcome.item.trace_id: outcome for outcome in deliver(sender, batch)}
    assert len(outcomes) == 6
    assert outcomes["trace-0"].kind == "permanent"
    assert outcomes["trace-0"].message.startswith("firestore: not a document Firestore takes")
    assert outcomes["trace-2"].kind == "transient"
    assert outcomes["trace-2"].message == "firestore: refused (status 8)"
    assert {o.kind for trace, o in outcomes.items() if trace not in ("trace-0", "trace-2")} == {
        "delivered"
    }
    arrived = {key for _, _, key in read_firestore(settings_of)}
    assert arrived == {batch.items[n].row_key for n in (1, 3, 4, 5)}


def test_one_row_that_spoils_the_request_does_not_hold_up_the_others(
    sender: FirestoreSender, settings_of: FirestoreSettings
) -> None:
    batch = batch_of(5)
    names = pl.Series("device_name", ["a", "b", "x" * (2 * 1024 * 1024), "c", "d"])
    outcomes = deliver(sender, replace(batch, rows=batch.rows.with_columns(names)))
    assert kinds(outcomes) == {"delivered": 4, "permanent": 1}
    (refused,) = (outcome for outcome in outcomes if outcome.kind == "permanent")
    assert refused.item.trace_id == "trace-2"
    assert "not a document Firestore takes" in refused.message
    assert "xxx" not in refused.message
    assert len(read_firestore(settings_of)) == 4


@pytest.mark.parametrize(
    ("project", "said"),
    [
        ("locked", "clinic: the credentials are refused (status 16)"),
        ("denied", "clinic: no right to write; grant roles/datastore.user (status 7)"),
    ],
)
def test_wrong_credentials_are_permanent_and_the_rest_of_the_pass_is_left_alone(
    settings_of: FirestoreSettings, project: str, said: str
) -> None:
    with open_firestore(changed(settings_of, project=project), "clinic") as sender:
        with pytest.raises(PermanentError) as caught:
            deliver(sender, batch_of(2))
        assert str(caught.value) == said
        assert kinds(deliver(sender, batch_of(2))) == {"untried": 2}


def test_a_server_that_is_down_is_tried_again_and_then_has_everything(
    settings_of: FirestoreSettings, bench: Bench
) -> None:
    user_id = bench.add_user("11111111-1111-4111-8111-111111111111")
    with Gate(int(str(settings_of.emulator).rpartition(":")[2])) as gate:
        behind = changed(settings_of, emulator=f"127.0.0.1:{gate.port}", timeout_seconds=5)
        bench.target = Target("firestore", DESTINATION, behind)
        bench.note(body_row(user_id, [100, 101]))
        gate.shut()
        report = bench.deliver()
        assert (report.delivered, report.failed, report.parked) == (0, 1, 0)
        assert list(report.errors) == ["firestore: not written (unavailable)"]
        gate.open()
        bench.clock.forward(minutes=1)
        assert bench.deliver().delivered == 1
    assert len(read_firestore(settings_of)) == 1


def test_a_server_lost_in_the_middle_is_no_reason_to_wait_batch_after_batch(
    settings_of: FirestoreSettings,
) -> None:
    with Gate(int(str(settings_of.emulator).rpartition(":")[2])) as gate:
        behind = changed(settings_of, emulator=f"127.0.0.1:{gate.port}", timeout_seconds=5)
        with open_firestore(behind) as sender:
            assert kinds(deliver(sender, batch_of(1))) == {"delivered": 1}
            gate.shut()
            with pytest.raises(TransientError):
                deliver(sender, batch_of(3))
            assert kinds(deliver(sender, batch_of(3))) == {"untried": 3}


# Settings.


def make_key() -> str:
    """A service account's key as Google hands it out, of nobody."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return json.dumps(
        {
            "type": "service_account",
            "project_id": "clinic-1",
            "private_key_id": "k1",
            "private_key": pem.decode(),
            "client_email": "writer@clinic-1.iam.gserviceaccount.com",
            "token_uri": "https://oauth2.googleapis.com/token",
        }
    )


def test_a_target_of_a_file_delivers(settings_of: FirestoreSettings, tmp_path: Path) -> None:
    file = tmp_path / "destinations.toml"
    file.write_text(
        f"[clinic]\nkind = 'firestore'\nproject = '{settings_of.project}'\n"
        f"emulator = '{settings_of.emulator}'\nproviders = ['oura']\n"
    )
    target = get_target(Settings(home=tmp_path, destinations_file=file), "clinic")
    with target.open() as sender:
        assert kinds(list(sender.deliver(batch_of(1)))) == {"delivered": 1}
    assert target.filter.takes_user("u1", "oura")
    assert not target.filter.takes_user("u1", "nightscout")
    assert len(read_firestore(settings_of)) == 1


def test_a_service_account_opens_from_text_or_file(tmp_path: Path) -> None:
    key = make_key()
    file = tmp_path / "key.json"
    file.write_text(key)
    for settings in (
        FirestoreSettings(project="clinic-1", service_account=SecretStr(key)),
        FirestoreSettings(project="clinic-1", service_account_file=file),
    ):
        with open_firestore(settings) as sender:
            assert sender.client.transport.host == "firestore.googleapis.com:443"
            assert "PRIVATE KEY" not in repr(settings) + repr(sender)


@pytest.mark.parametrize("key", ["not json, hush-hush", '{"type": "hush-hush"}', "[]", "null"])
def test_a_key_that_is_none_is_refused_without_repeating_it(key: str) -> None:
    settings = FirestoreSettings(project="clinic-1", service_account=SecretStr(key))
    with pytest.raises(UsageError, match="clinic: the service account's key is not") as caught:
        open_firestore(settings, "clinic")
    assert "hush-hush" not in str(caught.value)


def test_a_key_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    settings = FirestoreSettings(project="clinic-1", service_account_file=tmp_path / "none.json")
    with pytest.raises(UsageError, match=r"clinic\.service_account_file cannot be read"):
        open_firestore(settings, "clinic")


def test_without_credentials_anywhere_opening_says_how_to_give_some(
    monkeypatch: pytest.MonkeyPatch, no_cloud_variables: None, tmp_path: Path
) -> None:
    # No gcloud of this machine and no metadata service.
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    with pytest.raises(UsageError, match=r"clinic: no credentials; set clinic\.service_account"):
        open_firestore(FirestoreSettings(project="clinic-1"), "clinic")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"emulator": "db.example.org:8080"}, "must be on this machine.*allow_plaintext"),
        ({"emulator": "localhost"}, "must be host:port"),
        (
            {"emulator": "localhost:1", "service_account_file": "key.json"},
            "an emulator takes no service account",
        ),
        (
            {"service_account": "{}", "service_account_file": "key.json"},
            "service_account or service_account_file, not both",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        open_firestore(FirestoreSettings(project="clinic-1", **values), "clinic")
    assert str(caught.value).startswith("clinic")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "values", [{"project": "a/b"}, {"database": "a/b"}, {"prefix": "a/b"}, {"collection": "x"}]
)
def test_settings_that_cannot_be_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        FirestoreSettings(**{"project": "clinic-1", **values})


def test_a_missing_client_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_client(name: str, *args: Any) -> Any:
        if name.startswith("google.cloud"):
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without_client)
    with pytest.raises(UsageError, match=r"pip install 'wearable-pipeline\[firestore\]'"):
        open_firestore(FirestoreSettings(project="clinic-1", emulator="localhost:1"), "clinic")
    assert firestore.DESTINATION.extra == "firestore"
