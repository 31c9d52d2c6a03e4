"""What is peculiar to MongoDB, over the wire protocol against nx-27017."""

import builtins
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import polars as pl
import pytest
from pydantic import SecretStr, ValidationError
from pymongo import MongoClient

from wearable_pipeline.destinations import get_target
from wearable_pipeline.destinations._contract import Batch, Outcome, Target
from wearable_pipeline.destinations.mongodb import (
    DESTINATION,
    MongoSender,
    MongoSettings,
    document_id,
    open_mongodb,
)
from wearable_pipeline.errors import PermanentError, TransientError, UsageError
from wearable_pipeline.settings import Settings
from wearable_pipeline_tests.destinations.batches import batch_of, kinds, known_as
from wearable_pipeline_tests.destinations.bench import Bench, body_row
from wearable_pipeline_tests.destinations.counterpart_mongodb import read_mongodb, start_mongodb
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
PASSWORD = "hush-hush-9"


@pytest.fixture
def settings_of(request: pytest.FixtureRequest) -> MongoSettings:
    found = start_mongodb(request).target.settings
    assert isinstance(found, MongoSettings)
    return found


@pytest.fixture
def sender(settings_of: MongoSettings) -> Iterator[MongoSender]:
    with open_mongodb(settings_of) as opened:
        yield opened


def deliver(sender: MongoSender, batch: Batch) -> list[Outcome]:
    return list(sender.deliver(batch))


def documents(settings: MongoSettings, collection: str) -> list[dict[str, Any]]:
    with MongoClient[Any](settings.uri.get_secret_value()) as client:
        return list(client[settings.database][collection].find())


# What arrives.


def test_a_row_of_every_type_arrives_as_the_json_clients_know(
    sender: MongoSender, settings_of: MongoSettings
) -> None:
    for name in TYPES:
        assert kinds(deliver(sender, batch_of_type(name))) == {"delivered": 1}
    found = read_mongodb(settings_of)
    assert set(found) == {(USER_ID, name, key_of(name)) for name in TYPES}
    for name, path, value in EXPECTED:
        got = at_path(found[USER_ID, name, key_of(name)], path)
        assert (got, type(got)) == (value, type(value)), path
    body = found[USER_ID, "body", "2026-11-20"]
    assert body["reference_id"] == "person-ø"
    assert body["ordering_timestamp"] == 1_795_176_000_000


def test_the_id_is_the_natural_key(sender: MongoSender, settings_of: MongoSettings) -> None:
    deliver(sender, batch_of_type("activity"))
    (document,) = documents(settings_of, "activity")
    assert document["_id"] == "33333333-3333-4333-8333-333333333333:løb/1 50%"


def test_collections_have_the_prefix(settings_of: MongoSettings) -> None:
    prefixed = settings_of.model_copy(update={"prefix": "wearables_"})
    with open_mongodb(prefixed) as sender:
        deliver(sender, batch_of_type("daily"))
    assert len(documents(settings_of, "wearables_daily")) == 1


def test_a_withdrawn_row_leaves_a_tombstone_that_says_nothing_and_is_removed_after_a_day(
    sender: MongoSender, settings_of: MongoSettings
) -> None:
    deliver(sender, batch_of_type("sleep"))
    deliver(sender, batch_of_type("sleep", is_deleted=True, ordering=ORDERING + 1))
    assert read_mongodb(settings_of) == {}
    (tombstone,) = documents(settings_of, "sleep")
    assert set(tombstone) == {
        "_id",
        "user_id",
        "ordering_timestamp",
        "is_deleted",
        "withdrawn_at",
    }
    with MongoClient[Any](settings_of.uri.get_secret_value()) as client:
        indexes = client[settings_of.database]["sleep"].index_information()
    assert [one.get("expireAfterSeconds") for one in indexes.values()].count(86_400) == 1


def test_a_late_older_content_does_not_bring_a_withdrawn_row_back(
    sender: MongoSender, settings_of: MongoSettings
) -> None:
    deliver(sender, batch_of_type("sleep", is_deleted=True, ordering=ORDERING + 1))
    assert kinds(deliver(sender, batch_of_type("sleep"))) == {"delivered": 1}
    assert read_mongodb(settings_of) == {}
    deliver(sender, batch_of_type("sleep", ordering=ORDERING + 2))
    assert len(read_mongodb(settings_of)) == 1


def test_an_insert_that_lost_a_race_is_tried_again_before_it_counts_as_older(
    settings_of: MongoSettings,
) -> None:
    racing = settings_of.model_copy(update={"database": f"racing{settings_of.database}"})
    with open_mongodb(racing) as sender:
        assert kinds(deliver(sender, batch_of(3))) == {"delivered": 3}
    assert len(read_mongodb(racing)) == 3


# What is refused.


def test_of_a_batch_only_what_the_server_refuses_is_not_delivered(
    sender: MongoSender, settings_of: MongoSettings
) -> None:
    batch = known_as(batch_of(6), "unwelcome", "person-1", "throttled")
    outcomes = {outcome.item.trace_id: outcome for outcome in deliver(sender, batch)}
    assert len(outcomes) == 6
    assert outcomes["trace-0"].kind == "permanent"
    assert outcomes["trace-0"].message == (
        "mongodb: the collection's validation rules refuse it (error 121)"
    )
    assert outcomes["trace-2"].kind == "transient"
    assert outcomes["trace-2"].message == "mongodb: refused (error 16500)"
    arrived = {document["_id"] for document in documents(settings_of, "body")}
    assert arrived == {document_id(batch.items[n]) for n in (1, 3, 4, 5)}
    assert {o.kind for trace, o in outcomes.items() if trace not in ("trace-0", "trace-2")} == {
        "delivered"
    }


def test_a_unique_index_of_somebody_else_is_not_taken_for_a_newer_content(
    sender: MongoSender, settings_of: MongoSettings
) -> None:
    with MongoClient[Any](settings_of.uri.get_secret_value()) as client:
        client[settings_of.database]["body"].create_index("provider", unique=True)
    outcomes = deliver(sender, batch_of(2))
    assert kinds(outcomes) == {"delivered": 1, "permanent": 1}
    (refused,) = (outcome for outcome in outcomes if outcome.kind == "permanent")
    assert refused.message == ("mongodb: a unique index of the collection refuses it (error 11000)")
    assert len(read_mongodb(settings_of)) == 1


def test_tombstones_live_as_long_as_an_index_made_by_somebody_else_says(
    sender: MongoSender, settings_of: MongoSettings
) -> None:
    with MongoClient[Any](settings_of.uri.get_secret_value()) as client:
        client[settings_of.database]["sleep"].create_index("withdrawn_at", expireAfterSeconds=60)
    withdrawal = batch_of_type("sleep", is_deleted=True)
    assert kinds(deliver(sender, withdrawal)) == {"delivered": 1}


def test_a_row_too_large_for_a_document_does_not_hold_up_the_others(
    sender: MongoSender, settings_of: MongoSettings
) -> None:
    batch = batch_of(3)
    names = pl.Series("device_name", ["a", "x" * (17 * 1024 * 1024), "b"])
    batch = replace(batch, rows=batch.rows.with_columns(names))
    outcomes = deliver(sender, batch)
    assert kinds(outcomes) == {"delivered": 2, "permanent": 1}
    (refused,) = (outcome for outcome in outcomes if outcome.kind == "permanent")
    assert refused.item.trace_id == "trace-1"
    assert "larger than the 16 MB of a MongoDB document" in refused.message
    assert len(read_mongodb(settings_of)) == 2


def test_a_row_bson_cannot_say_does_not_hold_up_the_others(
    sender: MongoSender, settings_of: MongoSettings
) -> None:
    batch = batch_of_type("daily")
    contributors = "data_enrichment_stress_contributors"
    odd = pl.Series(contributors, [[{"contributor_name": "nul\0", "contributor_score": 1.0}]])
    strange = replace(batch.items[0], row_key="2026-11-19", trace_id="strange")
    rows = pl.concat([batch.rows, batch.rows.with_columns(odd)])
    outcomes = deliver(sender, replace(batch, items=(*batch.items, strange), rows=rows))
    assert {outcome.item.trace_id: outcome.kind for outcome in outcomes} == {
        "trace-daily": "delivered",
        "strange": "permanent",
    }
    assert list(read_mongodb(settings_of)) == [(USER_ID, "daily", "2026-11-20")]


def test_a_wrong_password_is_permanent_and_the_rest_of_the_pass_is_left_alone(
    settings_of: MongoSettings,
) -> None:
    address = settings_of.uri.get_secret_value().removeprefix("mongodb://")
    wrong = settings_of.model_copy(
        update={"uri": SecretStr(f"mongodb://writer:{PASSWORD}@{address}")}
    )
    with open_mongodb(wrong, "clinic") as sender:
        with pytest.raises(PermanentError) as caught:
            deliver(sender, batch_of(2))
        assert str(caught.value) == "clinic: user name or password refused (error 18)"
        again = deliver(sender, batch_of(2))
    assert kinds(again) == {"untried": 2}
    assert PASSWORD not in repr(sender) + repr(wrong) + repr(again)


def test_without_the_right_to_write_the_message_says_what_to_grant(
    settings_of: MongoSettings,
) -> None:
    readonly = settings_of.model_copy(update={"database": f"readonly{settings_of.database}"})
    with open_mongodb(readonly) as sender, pytest.raises(PermanentError) as caught:
        deliver(sender, batch_of(1))
    assert str(caught.value) == (
        "mongodb: no right to write; grant readWrite on the database (error 13)"
    )


def test_a_server_that_is_down_is_tried_again_and_then_has_everything(
    settings_of: MongoSettings, bench: Bench
) -> None:
    port = int(settings_of.uri.get_secret_value().rpartition(":")[2])
    user_id = bench.add_user("11111111-1111-4111-8111-111111111111")
    with Gate(port) as gate:
        behind = settings_of.model_copy(
            update={
                "uri": SecretStr(f"mongodb://127.0.0.1:{gate.port}"),
                "timeout_seconds": 0.5,
            }
        )
        bench.target = Target("mongodb", DESTINATION, behind)
        bench.note(body_row(user_id, [100, 101]))
        gate.shut()
        report = bench.deliver()
        assert (report.delivered, report.failed, report.parked) == (0, 1, 0)
        (message,) = report.errors
        assert message == "mongodb: cannot be reached (ServerSelectionTimeoutError)"
        gate.open()
        bench.clock.forward(minutes=1)
        assert bench.deliver().delivered == 1
    assert len(read_mongodb(settings_of)) == 1


def test_a_server_lost_in_the_middle_is_no_reason_to_wait_batch_after_batch(
    settings_of: MongoSettings,
) -> None:
    port = int(settings_of.uri.get_secret_value().rpartition(":")[2])
    with Gate(port) as gate:
        behind = settings_of.model_copy(
            update={
                "uri": SecretStr(f"mongodb://127.0.0.1:{gate.port}"),
                "timeout_seconds": 0.5,
            }
        )
        with open_mongodb(behind) as sender:
            assert kinds(deliver(sender, batch_of(1))) == {"delivered": 1}
            gate.shut()
            with pytest.raises(TransientError):
                deliver(sender, batch_of(3))
            assert kinds(deliver(sender, batch_of(3))) == {"untried": 3}


# Settings.


def from_file(tmp_path: Any, text: str) -> Any:
    file = tmp_path / "destinations.toml"
    file.write_text(text)
    return get_target(Settings(home=tmp_path, destinations_file=file), "clinic")


def test_a_target_of_a_file_delivers(settings_of: MongoSettings, tmp_path: Any) -> None:
    target = from_file(
        tmp_path,
        f"[clinic]\nkind = 'mongodb'\nuri = '{settings_of.uri.get_secret_value()}'\n"
        f"database = '{settings_of.database}'\ntypes = ['body']\n",
    )
    with target.open() as sender:
        assert kinds(list(sender.deliver(batch_of(1)))) == {"delivered": 1}
    assert target.filter.takes_table("body")
    assert not target.filter.takes_table("sleep")
    assert len(read_mongodb(settings_of)) == 1


@pytest.mark.parametrize(
    "uri",
    [
        "mongodb://db.example.org/",
        "mongodb://db.example.org/?tls=false",
        "mongodb://127.0.0.1,db.example.org/",
        "mongodb+srv://cluster.example.org/?tls=false",
    ],
)
def test_health_data_do_not_travel_in_the_clear(uri: str) -> None:
    with pytest.raises(UsageError, match=r"clinic\.uri must say tls=true.*allow_plaintext"):
        open_mongodb(MongoSettings(uri=SecretStr(uri)), "clinic")
    open_mongodb(MongoSettings(uri=SecretStr(uri), allow_plaintext=True), "clinic").client.close()


@pytest.mark.parametrize(
    "uri",
    [
        "mongodb://db.example.org/?tls=true",
        "mongodb+srv://cluster.example.org/",
        "mongodb://localhost:27017/",
        "mongodb://[::1]:27017/",
    ],
)
def test_encrypted_or_on_this_machine_is_fine(uri: str) -> None:
    open_mongodb(MongoSettings(uri=SecretStr(uri)), "clinic").client.close()


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://writer:hush-hush-9@db/",
        f"mongodb://writer:{PASSWORD}@@db.example.org/?tls=true",
        f"mongodb://writer:{PASSWORD}@db.example.org/?tls=true&tsl=1",
        f"mongodb://writer:{PASSWORD}@db.example.org:port/?tls=true",
        "mongodb://",
    ],
)
def test_a_string_that_is_no_uri_is_refused_without_repeating_it(uri: str) -> None:
    with pytest.raises(UsageError, match=r"clinic\.uri is no MongoDB connection string") as caught:
        open_mongodb(MongoSettings(uri=SecretStr(uri)), "clinic")
    assert PASSWORD not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [{"database": "a/b"}, {"database": ""}, {"timeout_seconds": 0}, {"collection": "x"}],
)
def test_settings_that_cannot_be_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        MongoSettings(uri=SecretStr("mongodb://localhost"), **values)


def test_a_missing_client_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_client(name: str, *args: Any) -> Any:
        if name.startswith("pymongo"):
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without_client)
    with pytest.raises(UsageError, match=r"pip install 'wearable-pipeline\[mongodb\]'"):
        open_mongodb(MongoSettings(uri=SecretStr("mongodb://localhost")), "clinic")
