"""The client against servers that answer what no server should: bounded, patient, silent."""

import asyncio
import gzip
import logging
import socket
import threading
import time
import traceback
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wearable_pipeline.errors import (
    BadPayloadError,
    NotConnectedError,
    PermanentError,
    PipelineError,
    RateLimitedError,
    TransientError,
)
from wearable_pipeline.providers._contract import Answer
from wearable_pipeline.raw import client as client_module
from wearable_pipeline.raw.client import HttpClient, Pace, parse_retry_after

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
CANARIES = ("canary-token", "canary-query", "canary-path", "canary-body", "canary-header")

Behave = Callable[[socket.socket, int], None]


class RawServer:
    """Answers every connection with what `behave` sends, byte for byte; counts them."""

    def __init__(self, behave: Behave) -> None:
        self._behave = behave
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.heads: list[bytes] = []
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/canary-path"

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with closing(connection), suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                block = connection.recv(65536)
                if not block:
                    return
                head += block
            self.heads.append(head)
            self._behave(connection, len(self.heads))

    def close(self) -> None:
        self._listener.close()


Serve = Callable[[Behave | bytes], RawServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[RawServer] = []

    def start(behave: Behave | bytes) -> RawServer:
        if isinstance(behave, bytes):
            content = behave
            server = RawServer(lambda connection, _: connection.sendall(content))
        else:
            server = RawServer(behave)
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.close()


def answer(status: str, body: bytes = b"{}", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", "connection: close", *headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def ask(url: str, *, attempts: int = 1, timeout: float = 5.0, wait: float = 0.001) -> Answer:
    async def run() -> Answer:
        async with HttpClient(
            "test",
            max_concurrency=4,
            requests_per_second=1e6,
            now=lambda: NOW,
            timeout=timeout,
            attempts=attempts,
            wait_initial=wait,
        ) as client:
            return await client.request(
                "GET",
                url,
                params={"token": "canary-query"},
                headers={"authorization": "Bearer canary-token", "x-own": "canary-header"},
            )

    return asyncio.run(run())


def test_an_answer_comes_as_it_is(serve: Serve) -> None:
    server = serve(answer("200 OK", b'{"a": 1}', "content-type: application/json"))
    found = ask(server.url)
    assert (found.status, found.body, found.fetched_at) == (200, b'{"a": 1}', NOW)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("400 Bad Request", PermanentError),
        ("401 Unauthorized", NotConnectedError),
        ("403 Forbidden", NotConnectedError),
        ("404 Not Found", PermanentError),
        ("408 Request Timeout", TransientError),
        ("410 Gone", PermanentError),
        ("418 I'm a teapot", PermanentError),
        ("429 Too Many Requests", RateLimitedError),
        ("500 Internal Server Error", TransientError),
        ("503 Service Unavailable", TransientError),
        ("599 Whatever", TransientError),
    ],
)
def test_each_status_is_sorted_by_whether_trying_again_can_help(
    serve: Serve, status: str, kind: type[PipelineError]
) -> None:
    with pytest.raises(PipelineError) as caught:
        ask(serve(answer(status)).url)
    assert type(caught.value) is kind


def test_only_what_may_pass_is_tried_again(serve: Serve) -> None:
    for status, tries in (("500 No", 3), ("400 No", 1), ("401 No", 1), ("404 No", 1)):
        server = serve(answer(status))
        with pytest.raises(PipelineError):
            ask(server.url, attempts=3)
        assert len(server.heads) == tries


def test_a_server_that_recovers_is_not_told_of(serve: Serve) -> None:
    def behave(connection: socket.socket, number: int) -> None:
        connection.sendall(answer("200 OK", b"[1]") if number == 3 else answer("502 Bad Gateway"))

    server = serve(behave)
    assert ask(server.url, attempts=3).body == b"[1]"
    assert len(server.heads) == 3


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
def test_a_redirect_is_not_followed(serve: Serve, status: str) -> None:
    elsewhere = serve(answer("200 OK"))
    server = serve(answer(status, b"", f"location: {elsewhere.url}"))
    with pytest.raises(PermanentError):
        ask(server.url, attempts=3)
    assert elsewhere.heads == []
    assert len(server.heads) == 1


# --- patience


def test_a_short_retry_after_is_waited_for_and_a_long_one_is_left_to_the_ledger(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(answer("429 Slow", b"", "retry-after: 21"))
    with pytest.raises(RateLimitedError) as caught:
        ask(server.url, attempts=3)
    assert caught.value.retry_after == timedelta(seconds=21)
    assert len(server.heads) == 1
    waits: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        await real(0)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    server = serve(answer("429 Slow", b"", "retry-after: 7"))
    with pytest.raises(RateLimitedError):
        ask(server.url, attempts=3)
    assert len(server.heads) == 3
    long = [seconds for seconds in waits if seconds >= 1]
    assert len(long) == 2
    assert all(7 <= seconds <= 8 for seconds in long)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("120", timedelta(seconds=120)),
        (" 120 ", timedelta(seconds=120)),
        ("0", timedelta()),
        ("Fri, 20 Nov 2026 12:02:00 GMT", timedelta(minutes=2)),
        ("Fri, 20 Nov 2026 12:02:00 -0000", timedelta(minutes=2)),
        ("Fri, 20 Nov 2026 13:02:00 +0100", timedelta(minutes=2)),
        ("Fri, 20 Nov 2026 11:00:00 GMT", timedelta()),
        ("99999999999", timedelta(days=7)),
        ("9" * 5000, timedelta(days=7)),
        ("Fri, 31 Dec 9999 23:59:59 GMT", timedelta(days=7)),
        ("Mon, 99999999999999999999 Nov 2026 10:00:00 GMT", None),
        ("²", None),
        ("٣", None),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_read_or_left(header: str | None, expected: timedelta | None) -> None:
    assert parse_retry_after(header, NOW) == expected


@given(st.text(max_size=40) | st.from_regex(r"\w{3}, \d+ \w{3} \d+ \d+:\d+:\d+ [+-]?\w+"))
def test_no_retry_after_breaks_the_client(header: str) -> None:
    wait = parse_retry_after(header, NOW)
    assert wait is None or timedelta() <= wait <= timedelta(days=7)


def test_a_throttle_without_a_time_gets_one(serve: Serve) -> None:
    for headers in ((), ("retry-after: soon",), ("retry-after: \xb2",), ("retry-after: 0",)):
        with pytest.raises(RateLimitedError) as caught:
            ask(serve(answer("429 Slow", b"", *headers)).url)
        assert caught.value.retry_after == timedelta(minutes=5)


def test_the_web_fronts_own_throttle_page_counts_as_one(serve: Serve) -> None:
    page = b"<html><title>error code: 1015</title></html>"
    with pytest.raises(RateLimitedError):
        ask(serve(answer("403 Forbidden", page)).url)


def test_calls_are_spaced_whoever_makes_them() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async def run() -> None:
        pace = Pace(10, sleep)
        await asyncio.gather(*(pace.wait() for _ in range(5)))

    asyncio.run(run())
    assert [round(seconds, 1) for seconds in slept] == [0.1, 0.2, 0.3, 0.4]


# --- bounds


def test_a_body_without_end_is_cut(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "MAX_BODY_BYTES", 1 << 20)
    sent = 0

    def behave(connection: socket.socket, _: int) -> None:
        nonlocal sent
        connection.sendall(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")
        for _ in range(1024):
            connection.sendall(b"x" * 65536)
            sent += 65536

    with pytest.raises(BadPayloadError, match="larger than 1 MiB"):
        ask(serve(behave).url, attempts=3)
    assert sent < 32 << 20


def test_a_gzip_bomb_is_cut_before_it_fills_the_memory(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "MAX_BODY_BYTES", 1 << 20)
    bomb = gzip.compress(bytes(256 << 20), 9)
    server = serve(answer("200 OK", bomb, "content-encoding: gzip"))
    tracemalloc.start()
    with pytest.raises(BadPayloadError, match="larger"):
        ask(server.url)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 << 20


def test_a_bomb_inside_a_bomb_is_not_opened(serve: Serve) -> None:
    bomb = gzip.compress(gzip.compress(bytes(256 << 20), 9), 9)
    server = serve(answer("200 OK", bomb, "content-encoding: gzip, gzip"))
    with pytest.raises(BadPayloadError, match="encoding"):
        ask(server.url)


def test_an_encoding_nobody_asked_for_is_refused(serve: Serve) -> None:
    with pytest.raises(BadPayloadError, match="encoding"):
        ask(serve(answer("200 OK", b"???", "content-encoding: zstd")).url)


def test_honest_encodings_are_read(serve: Serve) -> None:
    packed = answer("200 OK", gzip.compress(b"[1]"), "content-encoding: gzip")
    assert ask(serve(packed).url).body == b"[1]"
    deflated = answer("200 OK", zlib.compress(b"[2]"), "content-encoding: Deflate")
    assert ask(serve(deflated).url).body == b"[2]"


def test_a_broken_encoding_is_a_bad_payload(serve: Serve) -> None:
    server = serve(answer("200 OK", b"canary-body no gzip", "content-encoding: gzip"))
    with pytest.raises(BadPayloadError, match="encoding is broken"):
        ask(server.url, attempts=3)
    assert len(server.heads) == 1


def test_a_dripping_body_ends_with_the_total_time(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "TOTAL_SECONDS", 0.5)

    def drip(connection: socket.socket, _: int) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        for _ in range(200):
            connection.sendall(b"x")
            # The server's own pace is what the test is about.
            time.sleep(0.05)

    started = time.monotonic()
    with pytest.raises(TransientError, match="no answer in time"):
        ask(serve(drip).url, timeout=5)
    assert time.monotonic() - started < 4


def test_a_server_that_says_nothing_is_given_up(serve: Serve) -> None:
    silent = threading.Event()

    def say_nothing(connection: socket.socket, _: int) -> None:
        silent.wait(5)

    server = serve(say_nothing)
    with pytest.raises(TransientError, match="no answer in time"):
        ask(server.url, timeout=0.2)
    silent.set()


@pytest.mark.parametrize(
    "behaviour",
    [
        b"",
        b"canary-body is no HTTP at all\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\ncut",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\ncanary-body\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x-long: " + b"y" * 100_000 + b"\r\n\r\n",
    ],
    ids=["hang up", "no http", "cut off", "broken chunks", "endless header"],
)
def test_a_broken_connection_is_transient_and_tells_nothing(serve: Serve, behaviour: bytes) -> None:
    with pytest.raises(TransientError) as caught:
        ask(serve(behaviour).url)
    assert not any(canary in str(caught.value) for canary in CANARIES)


def test_nobody_listening_is_transient() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(TransientError, match="cannot be reached"):
        ask(f"http://127.0.0.1:{port}/")


@pytest.mark.parametrize("url", ["http://[::1", "http://exa mple:99999/", "ftp://x/", "nonsense"])
def test_an_address_that_is_none_is_an_error_of_ours(url: str) -> None:
    with pytest.raises(PipelineError) as caught:
        ask(url)
    assert url not in str(caught.value)


# --- silence


@pytest.mark.parametrize(
    "behaviour",
    [
        answer("200 OK", b"canary-body"),
        answer("400 No", b"canary-body"),
        answer("401 No", b"canary-body", "www-authenticate: canary-header"),
        answer("429 Slow", b"canary-body", "retry-after: 1000"),
        answer("500 No", b"canary-body"),
        answer("302 Found", b"canary-body", "location: http://127.0.0.1:1/?t=canary-query"),
        b"canary-body",
        b"",
    ],
    ids=["ok", "400", "401", "429", "500", "302", "no http", "hang up"],
)
def test_no_header_query_path_or_body_reaches_logs_or_errors(
    serve: Serve, behaviour: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    text = ""
    try:
        ask(serve(behaviour).url, attempts=2)
    except PipelineError as error:
        # What a log shows of it: with its chain of causes, were there one.
        text = "".join(traceback.format_exception(error)) + f"{error!r} {error.args}"
    told = text + caplog.text + " ".join(str(record.args) for record in caplog.records)
    assert [canary for canary in CANARIES if canary in told] == []
