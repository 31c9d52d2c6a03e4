"""Any number of destinations of each kind, each under its own name, with its own filter."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from wearable_pipeline.destinations import configured, get_target, wanting
from wearable_pipeline.destinations.webhook import WebhookSettings
from wearable_pipeline.errors import UsageError
from wearable_pipeline.sandbox.receiver import Receiver
from wearable_pipeline.settings import Settings
from wearable_pipeline_tests.destinations.bench import SECRET, Bench, body_row

A = "11111111-1111-4111-8111-111111111111"
B = "22222222-2222-4222-8222-222222222222"

TWO = """
[crm]
kind = "webhook"
url = "https://crm.example.org/hook"
secret = "${CRM_SECRET}"
types = ["body"]

[research]
kind = "webhook"
url = "https://${RESEARCH_HOST}/hook"
secret = "old-fashioned"
concurrency = 2
providers = "nightscout, oura"
"""


FromFile = Callable[..., Settings]


@pytest.fixture
def from_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FromFile:
    monkeypatch.chdir(tmp_path)

    def write(text: str, **more: object) -> Settings:
        file = tmp_path / "destinations.toml"
        file.write_text(text)
        return Settings(home=tmp_path, destinations_file=file, **more)  # type: ignore[arg-type]

    return write


def test_a_file_adds_destinations_beside_the_webhook_of_the_environment(
    from_file: FromFile, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CRM_SECRET", "from-the-environment")
    (tmp_path / ".env").write_text("RESEARCH_HOST=lab.example.org\n")
    settings = from_file(TWO, webhook_url="https://app.example.org", webhook_types=("sleep",))
    targets = configured(settings)
    assert list(targets) == ["crm", "research", "webhook"]
    crm, research = targets["crm"].settings, targets["research"].settings
    assert isinstance(crm, WebhookSettings)
    assert isinstance(research, WebhookSettings)
    assert crm.secret is not None
    assert crm.secret.get_secret_value() == "from-the-environment"
    assert research.url == "https://lab.example.org/hook"
    assert (crm.concurrency, research.concurrency) == (16, 2)
    assert [target.name for target in wanting(settings, "body")] == ["crm", "research"]
    assert [target.name for target in wanting(settings, "sleep")] == ["research", "webhook"]
    assert targets["research"].filter.providers == {"nightscout", "oura"}


def test_a_variable_that_is_not_set_is_named(from_file: FromFile) -> None:
    with pytest.raises(UsageError, match=r"destination crm .* CRM_SECRET, which is not set"):
        configured(from_file(TWO))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[crm]\nurl = 'https://a.example'", "destination crm .* needs a kind: one of .*webhook"),
        ("[crm]\nkind = 'pigeon'", "destination crm .* no kind 'pigeon'; choose one of: .*webhook"),
        ("[crm]\nkind = 'webhook'", "url is not set .Where events are posted"),
        (
            "[crm]\nkind = 'webhook'\nurl = 'https://a.example'\nurll = 1",
            "urll is no setting of webhook; there are kind, url, secret, .*, users",
        ),
        ("kind = 'webhook'", "kind in WEARABLE_DESTINATIONS_FILE stands in no table"),
        (
            "[jobs]\nkind = 'sqs'\nqueue_url = 'https://a.example/q'\npayloads = {url = 's3://b/c', uri = 1}",
            "payloads.uri is no setting of sqs$",
        ),
        ("[lake]\nkind = 's3'\nbucket = 'a/b'", "FILE: a bucket or container is one name"),
        ("['Bad Name']\nkind = 'webhook'\nurl = 'https://a.example'", "lower-case letters"),
        ("crm = [", "is not TOML"),
        ("[webhook]\nkind = 'webhook'\nurl = 'https://a.example'", "configured twice"),
    ],
)
def test_a_mistake_in_the_file_is_said_in_one_line(
    from_file: FromFile, text: str, said: str
) -> None:
    settings = from_file(text, webhook_url="https://app.example.org")
    with pytest.raises(UsageError, match=said) as caught:
        configured(settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "types = ['body', 'glucose']",
            "types names glucose; choose among: activity, body, .*sleep",
        ),
        ("types = ['athlete']", "types names athlete"),
        ("providers = 'FREESTYLELIBRE'", "providers names FREESTYLELIBRE; .*freestyle_libre"),
    ],
)
def test_a_filter_nothing_could_pass_is_refused(from_file: FromFile, line: str, said: str) -> None:
    text = f"[crm]\nkind = 'webhook'\nurl = 'https://a.example'\n{line}"
    with pytest.raises(UsageError, match=f"destination crm in WEARABLE_DESTINATIONS_FILE: {said}"):
        configured(from_file(text))


def test_a_type_the_webhooks_variable_names_in_vain_is_refused(tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path, webhook_url="https://app.example.org", webhook_types=("glucose",)
    )
    with pytest.raises(UsageError, match="destination webhook: types names glucose"):
        configured(settings)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot be read: .*none\.toml \(No such file"):
        configured(Settings(home=tmp_path, destinations_file=tmp_path / "none.toml"))


def test_a_wrong_value_is_not_repeated(from_file: FromFile) -> None:
    settings = from_file(
        "[crm]\nkind = 'webhook'\nurl = 'https://a.example'\nsecret = ['hush-hush']"
    )
    with pytest.raises(UsageError) as caught:
        configured(settings)
    assert "secret" in str(caught.value)
    assert "hush-hush" not in str(caught.value)


def test_neither_secret_nor_address_shows_in_the_representation(from_file: FromFile) -> None:
    text = "[crm]\nkind = 'webhook'\nurl = 'https://a.example/key-123'\nsecret = 'hush-hush'"
    target = get_target(from_file(text), "crm")
    assert "hush-hush" not in repr(target) + repr(target.settings)
    assert "key-123" not in repr(target) + repr(target.settings)


def test_an_unknown_name_lists_the_configured_ones(from_file: FromFile) -> None:
    settings = from_file("[crm]\nkind = 'webhook'\nurl = 'https://a.example'")
    with pytest.raises(UsageError, match="choose one of: crm"):
        get_target(settings, "crn")
    with pytest.raises(UsageError, match="webhook is not configured"):
        get_target(settings, "webhook")


def test_where_none_is_configured_it_is_said_how(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match="no destination 'warehouse', none is configured: set WEARABLE"
    ):
        get_target(Settings(home=tmp_path), "warehouse")


def two_webhooks(bench: Bench, receiver: Receiver, from_file: FromFile, filters: str) -> None:
    text = (
        f"[main]\nkind = 'webhook'\nurl = '{receiver.url}/main'\nsecret = '{SECRET}'\n"
        f"[other]\nkind = 'webhook'\nurl = '{receiver.url}/other'\nsecret = '{SECRET}'\n{filters}\n"
    )
    settings = from_file(text)
    for name in ("main", "other"):
        bench.target = get_target(settings, name)
        of_nightscout = body_row(B, [110]).with_columns(provider=pl.lit("nightscout"))
        bench.note(body_row(A, [100]), of_nightscout)
        bench.deliver()


@pytest.mark.parametrize(
    ("filters", "arrived"),
    [
        ("", {A, B}),
        (f"users = ['{A}']", {A}),
        ("providers = ['nightscout']", {B}),
        (f"users = ['{A}']\nproviders = ['nightscout']", set()),
        ("types = ['sleep']", set()),
    ],
)
def test_each_of_two_webhooks_gets_what_its_filter_lets_through(
    bench: Bench, receiver: Receiver, from_file: FromFile, filters: str, arrived: set[str]
) -> None:
    bench.registry.add_user("freestyle_libre", user_id=A)
    bench.registry.add_user("nightscout", user_id=B)
    two_webhooks(bench, receiver, from_file, filters)
    got = [(post.path, A if A.encode() in post.body else B) for post in receiver.posts()]
    assert sorted(user for path, user in got if path == "/hook/main") == [A, B]
    assert {user for path, user in got if path == "/hook/other"} == arrived


def test_rows_noted_before_the_filter_changed_are_parked_with_the_reason(
    bench: Bench, receiver: Receiver, from_file
) -> None:
    bench.add_user(A)
    bench.note(body_row(A, [100]))
    text = f"[crm]\nkind = 'webhook'\nurl = '{receiver.url}'\nsecret = '{SECRET}'\n"
    target = get_target(from_file(text + "users = ['somebody-else']"), "crm")
    bench.target = get_target(from_file(text), "crm")
    bench.note(body_row(A, [100]))
    bench.target = target
    assert bench.deliver().parked == 1
    assert receiver.posts() == []
    assert bench.ledger()[0].last_error == "crm: the filter leaves it out"


def test_a_target_that_is_down_does_not_hold_up_another(
    bench: Bench, receiver: Receiver, from_file
) -> None:
    text = (
        "[down]\nkind = 'webhook'\nurl = 'http://127.0.0.1:9/'\nsecret = 's'\n"
        f"[up]\nkind = 'webhook'\nurl = '{receiver.url}'\nsecret = '{SECRET}'\n"
    )
    settings = from_file(text)
    bench.add_user(A)
    for name in ("down", "up"):
        bench.target = get_target(settings, name)
        bench.note(body_row(A, [100]))
    bench.target = get_target(settings, "down")
    assert bench.deliver().failed == 1
    bench.target = get_target(settings, "up")
    assert bench.deliver().delivered == 1
    assert bench.registry.counts("down").pending == 1
