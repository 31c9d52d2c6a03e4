"""What only a store behind a network has to worry about: lost answers, outages, keys, quirks."""

import time
from collections.abc import Callable
from dataclasses import replace as changed
from datetime import timedelta

import pytest
from pydantic import SecretStr

from wearable_pipeline.errors import StorageError, UsageError
from wearable_pipeline.lake import storage as module
from wearable_pipeline.lake.storage import (
    ConflictError,
    MissingError,
    ObjectStorage,
    Storage,
)
from wearable_pipeline.settings import Settings
from wearable_pipeline_tests.servers import azurite, gcs, rgw
from wearable_pipeline_tests.servers.fixtures import (
    MOTO_KEY,
    MOTO_SECRET,
    MakeProxy,
    Place,
    make_settings,
)
from wearable_pipeline_tests.servers.processes import find_free_port
from wearable_pipeline_tests.servers.proxy import Fault, FaultyProxy

Behind = tuple[Storage, FaultyProxy]


def _open(place: Place, **values: object) -> Storage:
    return Storage.open(place.url, place.settings.model_copy(update=values))


@pytest.fixture(params=["moto", "gcs"])
def behind(request: pytest.FixtureRequest, make_proxy: MakeProxy) -> Behind:
    """A store and the unreliable line to it."""
    place: Place = request.getfixturevalue(f"{request.param}_place")
    proxy = make_proxy(place.settings.lake_endpoint)
    return _open(place, lake_endpoint=proxy.url), proxy


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives up within fractions of a second."""
    monkeypatch.setattr(module, "_RETRIES", 1)
    monkeypatch.setattr(module, "_RETRY_TIMEOUT", timedelta(seconds=0.5))
    monkeypatch.setattr(module, "_READ_TIMEOUT", timedelta(seconds=0.2))


@pytest.mark.parametrize("fault", ["lose", "refuse", 500, 503])
def test_a_creation_whose_answer_was_lost_succeeds_once(behind: Behind, fault: Fault) -> None:
    storage, proxy = behind
    proxy.commit("PUT", fault)

    version = storage.create("x", b"1")

    assert storage.read_versioned("x") == (b"1", version)
    with pytest.raises(ConflictError):
        storage.create("x", b"2")


@pytest.mark.parametrize("fault", ["lose", "refuse", 500, 503])
def test_a_replacement_whose_answer_was_lost_succeeds_once(behind: Behind, fault: Fault) -> None:
    storage, proxy = behind
    first = storage.put("x", b"1")
    proxy.commit("PUT", fault)

    second = storage.replace("x", b"2", first)

    assert storage.read_versioned("x") == (b"2", second)
    assert second != first


def test_a_lost_answer_does_not_hide_a_rival_with_equal_bytes(behind: Behind) -> None:
    # The rival's write is not ours, though nobody could tell by the bytes.
    storage, proxy = behind
    first = storage.put("counter", b"1")
    storage.replace("counter", b"2", first)
    proxy.commit("PUT", "refuse")

    with pytest.raises(ConflictError):
        storage.replace("counter", b"2", first)


@pytest.mark.parametrize("fault", ["lose", "refuse", 429, 500, 503])
def test_a_read_and_a_put_are_tried_again(behind: Behind, fault: Fault) -> None:
    storage, proxy = behind
    proxy.commit("PUT", fault)
    proxy.commit("GET", fault)

    storage.put("x", b"1")

    assert storage.read("x") == b"1"


def test_an_outage_ends_in_one_line_that_says_try_later(
    moto_place: Place, make_proxy: MakeProxy, quick: None
) -> None:
    proxy = make_proxy(moto_place.settings.lake_endpoint)
    storage = _open(moto_place, lake_endpoint=proxy.url)
    outage: list[Fault] = [503] * 20
    proxy.commit("PUT", *outage)

    with pytest.raises(StorageError, match=r"writing x failed: .* 503; try again later$"):
        storage.replace("x", b"1", None)
    assert 2 <= proxy.seen.count("PUT") <= 8


def test_a_server_that_never_answers_fails_the_probe(
    moto_place: Place, make_proxy: MakeProxy, quick: None
) -> None:
    proxy = make_proxy(moto_place.settings.lake_endpoint)
    storage = _open(moto_place, lake_endpoint=proxy.url)
    silence: list[Fault] = ["stall"] * 10
    proxy.commit("GET", *silence)

    with pytest.raises(StorageError, match=r"no answer from http://127\.0\.0\.1"):
        storage.probe()


def test_the_time_outs_add_up_to_less_than_fifteen_seconds() -> None:
    assert (module._RETRY_TIMEOUT + module._CONNECT_TIMEOUT).total_seconds() < 15
    # A silent server uses up the time for retries with its first silence.
    assert module._RETRY_TIMEOUT < module._READ_TIMEOUT < timedelta(seconds=15)


def test_an_endpoint_where_nobody_listens_fails_soon(moto_place: Place) -> None:
    endpoint = f"http://127.0.0.1:{find_free_port()}"
    storage = _open(moto_place, lake_endpoint=endpoint)
    started = time.monotonic()

    with pytest.raises(StorageError) as caught:
        storage.probe()

    assert time.monotonic() - started < 15
    assert str(caught.value) == (
        f"{moto_place.url}: opening the lake failed: no answer from {endpoint};"
        " check WEARABLE_LAKE_ENDPOINT and the network, then try again"
    )


@pytest.mark.parametrize(
    ("kind", "key", "secret", "token"),
    [
        pytest.param("rgw", rgw.ACCESS_KEY, "wrong" * 8, None, marks=pytest.mark.real),
        pytest.param("rgw", "AKIANOBODY0000000000", rgw.SECRET_KEY, None, marks=pytest.mark.real),
        pytest.param("azurite", azurite.ACCOUNT, "d3Jvbmc=", None, marks=pytest.mark.real),
        ("gcs", None, None, "wrong-token"),
    ],
)
def test_bad_credentials_are_told_in_one_line_without_them(
    request: pytest.FixtureRequest,
    kind: str,
    key: str | None,
    secret: str | None,
    token: str | None,
) -> None:
    place: Place = request.getfixturevalue(f"{kind}_place")
    storage = _open(
        place,
        lake_access_key_id=key,
        lake_secret_access_key=SecretStr(secret) if secret else None,
        lake_session_token=SecretStr(token) if token else None,
    )
    calls: list[Callable[[], object]] = [
        storage.probe,
        lambda: storage.read("x"),
        lambda: storage.put("x", b"1"),
        lambda: storage.create("x", b"1"),
        lambda: storage.list(),
        lambda: storage.delete("x"),
        lambda: storage.version("x"),
    ]
    for call in calls:
        with pytest.raises(StorageError) as caught:
            call()
        text = str(caught.value)
        assert not isinstance(caught.value, ConflictError | MissingError)
        assert place.url in text
        assert "credentials" in text
        assert "\n" not in text
        assert caught.value.__suppress_context__
        for hidden in (key, secret, token):
            assert hidden is None or hidden not in text


def test_a_token_is_sent(gcs_place: Place) -> None:
    storage = _open(gcs_place, lake_session_token=SecretStr(gcs.TOKEN))

    storage.probe()


@pytest.mark.parametrize(
    "kind",
    [
        "moto",
        "gcs",
        pytest.param("azurite", marks=pytest.mark.real),
        pytest.param("rgw", marks=pytest.mark.real),
    ],
)
def test_a_bucket_that_is_not_there_is_an_error_and_not_an_empty_lake(
    request: pytest.FixtureRequest, kind: str
) -> None:
    place: Place = request.getfixturevalue(f"{kind}_place")
    place = changed(place, url=place.url.replace("://t-", "://no-"))
    storage = _open(place)

    calls: list[Callable[[], object]] = [
        storage.probe,
        storage.list,
        storage.list_prefixes,
        lambda: storage.read("x"),
        lambda: storage.read_versioned("x"),
        lambda: storage.put("x", b"1"),
        lambda: storage.create("x", b"1"),
        lambda: storage.replace("x", b"1", None),
    ]
    for call in calls:
        with pytest.raises(StorageError, match="create the bucket") as caught:
            call()
        assert not isinstance(caught.value, ConflictError | MissingError)


def test_a_store_that_refuses_quoted_etags_is_found_out_once(
    moto_place: Place, make_proxy: MakeProxy
) -> None:
    proxy = make_proxy(moto_place.settings.lake_endpoint, refuses_quoted_etags=True)
    storage = _open(moto_place, lake_endpoint=proxy.url)
    version = storage.put("x", b"0")
    proxy.seen.clear()

    version = storage.replace("x", b"1", version)
    assert proxy.seen == ["PUT", "HEAD", "PUT"]

    stale = version
    version = storage.replace("x", b"2", version)
    assert proxy.seen == ["PUT", "HEAD", "PUT", "PUT"]
    with pytest.raises(ConflictError):
        storage.replace("x", b"3", stale)
    assert storage.read("x") == b"2"
    storage.probe()


@pytest.mark.real
def test_ceph_takes_unquoted_etags_and_compares_them(rgw_place: Place) -> None:
    storage = _open(rgw_place)
    assert isinstance(storage, ObjectStorage)
    first = storage.put("x", b"1")

    second = storage.replace("x", b"2", first)

    assert not storage._quotes_etags
    with pytest.raises(ConflictError):
        storage.replace("x", b"3", first)
    assert storage.read_versioned("x") == (b"2", second)


def test_a_store_that_ignores_conditions_fails_the_probe(
    moto_place: Place, make_proxy: MakeProxy
) -> None:
    proxy = make_proxy(moto_place.settings.lake_endpoint, ignores_conditions=True)

    with pytest.raises(StorageError, match="the store ignores exclusive creation"):
        _open(moto_place, lake_endpoint=proxy.url).probe()


def test_empty_objects_that_consoles_use_as_folders_are_not_listed(
    moto_place: Place, moto_endpoint: str
) -> None:
    import boto3

    bucket = moto_place.url.split("/")[2]
    client = boto3.client(
        "s3",
        endpoint_url=moto_endpoint,
        aws_access_key_id=MOTO_KEY,
        aws_secret_access_key=MOTO_SECRET,
        region_name="us-east-1",
    )
    for key in ("lake/one/", "lake/one/body/", "lake/one/empty"):
        client.put_object(Bucket=bucket, Key=key, Body=b"")

    assert [entry.path for entry in _open(moto_place).list()] == ["empty"]


def test_a_body_of_many_parts_arrives_whole(
    moto_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MULTIPART_BYTES", 6 * 1024 * 1024)
    storage = _open(moto_place)
    data = bytes(range(256)) * (4096 * 11)

    version = storage.put("large", data)

    assert storage.read_versioned("large") == (data, version)
    storage.replace("large", b"small", version)


@pytest.mark.parametrize(
    ("url", "values", "reason"),
    [
        ("ftp://host/x", {}, "unknown lake URL ftp://"),
        ("file://host/x", {}, "three slashes"),
        ("s3:///x", {}, "names no bucket"),
        ("s3://AKIA:secret-word@bucket/x", {}, "put credentials into"),
        ("az://container/x?sig=secret-word", {}, "put credentials into"),
        ("s3://bucket/x", {"lake_endpoint": "127.0.0.1:9000"}, "must look like https://"),
        ("s3://bucket/x", {"lake_endpoint": "http://u:secret-word@host"}, "without a login"),
        ("az://container/x", {}, "account's name"),
        (
            "az://container/x",
            {"lake_access_key_id": "a", "lake_secret_access_key": SecretStr("secret-word!")},
            "base64 key",
        ),
        ("gs://bucket/x", {"lake_secret_access_key": SecretStr('{"secret-word')}, "account"),
    ],
)
def test_a_lake_that_cannot_be_understood_is_refused_without_repeating_secrets(
    no_cloud_variables: None, url: str, values: dict[str, object], reason: str
) -> None:
    settings: Settings = make_settings(**values)

    with pytest.raises(UsageError, match=reason) as caught:
        Storage.open(url, settings)
    assert "secret-word" not in str(caught.value)


def test_a_storage_shows_no_secret_when_printed(moto_place: Place) -> None:
    storage = _open(moto_place)

    shown = repr(storage) + str(storage) + repr(storage.duckdb_setup())

    assert MOTO_SECRET not in shown
    assert moto_place.url in shown
