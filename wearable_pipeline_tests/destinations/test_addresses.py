import ipaddress
import socket
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from wearable_pipeline.destinations._addresses import (
    AddressGuard,
    RefusedAddressError,
    guard_url,
    reach_of,
)
from wearable_pipeline.destinations.webhook import WebhookSender
from wearable_pipeline.errors import UsageError
from wearable_pipeline_tests.destinations.batches import batch_of
from wearable_pipeline_tests.destinations.bench import SECRET

SETTING = "WEARABLE_WEBHOOK_URL"

LOOPBACK_SPELLINGS = [
    "127.0.0.1",
    "2130706433",
    "0x7f000001",
    "0177.0.0.1",
    "127.1",
    "0",
    "0.0.0.0",  # noqa: S104
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b::127.0.0.1]",
    "[2002:7f00:1::]",
]
OTHER_PRIVATE = [
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "169.254.169.254",
    "[fe80::1]",
    "[fd00:ec2::254]",
    "[fc00::1]",
    "100.100.100.200",
    "168.63.129.16",
    "224.0.0.1",
    "255.255.255.255",
    "192.0.2.1",
    "[64:ff9b::a9fe:a9fe]",
]


class Listener:
    """A socket that counts who connects."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            connection.close()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    with closing(Listener()) as opened:
        yield opened


@pytest.mark.parametrize(
    "host", [*sorted(set(LOOPBACK_SPELLINGS) - {"127.0.0.1", "[::1]"}), *OTHER_PRIVATE]
)
def test_a_private_address_is_refused_in_every_spelling_of_the_setting(host: str) -> None:
    with pytest.raises(UsageError, match=SETTING):
        guard_url(f"https://{host}/hook", SETTING, allow_private=False)


@pytest.mark.parametrize("host", [*LOOPBACK_SPELLINGS, *OTHER_PRIVATE])
def test_no_connection_is_made_to_a_private_address_in_any_spelling(
    host: str, listener: Listener
) -> None:
    """The check of the setting is left out: the guard at the socket must do alone."""
    url = f"http://{host}:{listener.port}/hook"
    with WebhookSender(url, SECRET, AddressGuard(frozenset({"public"})), timeout=2) as sender:
        (outcome,) = sender.deliver(batch_of(1))
    assert outcome.kind in ("transient", "permanent")
    assert listener.connections == 0


def test_the_listener_would_have_noticed(listener: Listener) -> None:
    url = f"http://127.0.0.1:{listener.port}/hook"
    with WebhookSender(url, SECRET, AddressGuard(frozenset({"loopback"})), timeout=2) as sender:
        (outcome,) = sender.deliver(batch_of(1))
    assert outcome.kind == "transient"
    assert listener.connections == 1


def test_a_name_that_comes_to_lead_home_is_refused_when_connecting(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def resolve(host: str, port: int, *args: object, **options: object) -> list[object]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", listener.port))]

    guard = guard_url("https://rebind.example/hook", SETTING, allow_private=False)
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    url = f"https://rebind.example:{listener.port}/hook"
    with WebhookSender(url, SECRET, guard, timeout=2) as sender:
        (outcome,) = sender.deliver(batch_of(1))
    assert asked
    assert outcome.message == (
        "webhook: the host leads to a loopback address;"
        " WEARABLE_WEBHOOK_ALLOW_PRIVATE=true allows private ones"
    )
    assert listener.connections == 0


@pytest.mark.parametrize(
    ("address", "reach"),
    [
        ("8.8.8.8", "public"),
        ("2606:4700:4700::1111", "public"),
        ("::ffff:8.8.8.8", "public"),
        ("127.8.9.10", "loopback"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("10.0.0.1", "private"),
        ("100.64.0.1", "private"),
        ("fd12::1", "private"),
        ("169.254.169.254", "never"),
        ("::ffff:169.254.169.254", "never"),
        ("64:ff9b::808:808", "never"),
        ("ff02::1", "never"),
        ("0.0.0.0", "never"),  # noqa: S104
    ],
)
def test_an_address_leads_where_it_leads(address: str, reach: str) -> None:
    assert reach_of(ipaddress.ip_address(address)) == reach


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/hook",
        "ftp://example.com/hook",
        "example.com/hook",
        "https:///hook",
        "https://user:password@example.com/hook",
        "https://127.0.0.1@169.254.169.254/hook",
        "https://exa mple.com:port/",
        "",
    ],
)
def test_a_url_we_must_not_post_to_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        guard_url(url, SETTING, allow_private=False)
    assert "password" not in str(caught.value).replace("user name or password", "")
    assert SETTING in str(caught.value)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_this_machine_named_outright_is_allowed_and_nothing_else(host: str) -> None:
    guard = guard_url(f"http://{host}:8000/hook", SETTING, allow_private=False)
    assert guard.allowed == {"loopback"}
    with pytest.raises(RefusedAddressError):
        guard.check("10.0.0.1")


def test_the_switch_opens_the_private_network_but_not_metadata_services() -> None:
    guard = guard_url("https://10.0.0.5/hook", SETTING, allow_private=True)
    guard.check("10.0.0.5")
    guard.check("8.8.8.8")
    with pytest.raises(RefusedAddressError):
        guard.check("169.254.169.254")
    with pytest.raises(UsageError):
        guard_url("https://169.254.169.254/hook", SETTING, allow_private=True)


def test_plain_http_never_leaves_the_private_network() -> None:
    guard = guard_url("http://receiver.internal/hook", SETTING, allow_private=True)
    guard.check("172.17.0.2")
    with pytest.raises(RefusedAddressError):
        guard.check("8.8.8.8")
