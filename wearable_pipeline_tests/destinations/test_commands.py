"""`destinations list|retry|replay|backfill`, as a person calls them."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import Result
from typer.testing import CliRunner

from wearable_pipeline.cli import app
from wearable_pipeline.sandbox.receiver import Answer, Receiver
from wearable_pipeline_tests.destinations.bench import SECRET, Bench, body_row

A = "11111111-1111-4111-8111-111111111111"
Call = Callable[..., Result]


@pytest.fixture
def call(bench: Bench, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> Call:
    monkeypatch.setenv("WEARABLE_HOME", str(bench.settings.home))
    monkeypatch.setenv("WEARABLE_WEBHOOK_URL", receiver.url)
    monkeypatch.setenv("WEARABLE_WEBHOOK_SECRET", SECRET)
    # Commands read the wall clock: what is noted must be due by then.
    bench.clock.now = datetime.now(UTC) - timedelta(minutes=1)

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["destinations", *arguments])

    return invoke


def test_a_backfill_sends_what_the_lake_holds_and_the_second_has_nothing_to_send(
    bench: Bench, receiver: Receiver, call: Call
) -> None:
    bench.add_user(A)
    today = bench.clock.now.date()
    bench.write(*(body_row(A, [100], today - timedelta(days=n)) for n in range(3)))
    told = json.loads(call("backfill", "webhook", "--json").output)
    assert (told["rows"], told["delivered"], told["remaining"]) == (3, 3, 0)
    assert len(receiver.posts()) == 3
    told = json.loads(call("backfill", "webhook", "--json").output)
    assert (told["rows"], told["delivered"]) == (0, 0)
    assert len(receiver.posts()) == 3


def test_a_backfill_may_be_left_to_the_daemon(bench: Bench, receiver: Receiver, call: Call) -> None:
    bench.add_user(A)
    bench.write(body_row(A, [100]))
    told = json.loads(call("backfill", "webhook", "--no-send", "--json").output)
    assert told == {"destination": "webhook", "rows": 1}
    assert receiver.posts() == []
    assert bench.registry.counts("webhook").pending == 1


def test_replay_puts_delivered_days_in_line_again(bench: Bench, call: Call) -> None:
    bench.add_user(A)
    days = [datetime(2026, 11, day, tzinfo=UTC).date() for day in (18, 19, 20)]
    bench.note(*(body_row(A, [100], day) for day in days))
    bench.deliver()
    answer = call("replay", "webhook", "--since", "2026-11-19", "--type", "body", "--user", A)
    assert answer.output == "2 rows will be sent again\n"
    assert bench.registry.counts("webhook").pending == 2
    assert call("replay", "webhook", "--since", "soon").exit_code == 2


def test_retry_puts_parked_rows_in_line_again(bench: Bench, receiver: Receiver, call: Call) -> None:
    bench.add_user(A)
    bench.note(body_row(A, [100]))
    receiver.answer([Answer(410)])
    bench.deliver()
    assert call("retry", "webhook", "--user", "somebody-else").output.startswith("0 rows")
    assert call("retry", "webhook").output == "1 rows will be sent again\n"
    bench.clock.forward(minutes=10)
    assert bench.deliver().delivered == 1


def test_the_list_tells_name_kind_filter_and_standing(bench: Bench, call: Call) -> None:
    bench.add_user(A)
    bench.note(body_row(A, [100]))
    (told,) = json.loads(call("list", "--json").output)
    assert told == {
        "name": "webhook",
        "kind": "webhook",
        "types": [],
        "providers": [],
        "users": [],
        "delivered": 0,
        "pending": 1,
        "parked": 0,
    }
    assert "everything" in call("list").output


def test_where_none_is_configured_the_list_says_how(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WEARABLE_WEBHOOK_URL")
    answer = call("list")
    assert answer.exit_code == 0
    assert "set WEARABLE_WEBHOOK_URL, or WEARABLE_DESTINATIONS_FILE" in answer.output
    assert json.loads(call("list", "--json").output) == []


def test_a_destination_that_is_not_configured_is_a_wrong_call(call: Call) -> None:
    answer = call("retry", "pigeon")
    assert answer.exit_code == 2
