"""Pushes the receiver takes per second, each answered only once its bytes are on disk.

Signed pushes over 256 connections to `serve` in a process of its own, on local disk; client and server
share the machine. Peer: the same application, on a route that reads the body and answers. After the
runs every accepted push is looked up in the inbox, by its id.
"""

import asyncio
import hashlib
import hmac
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from wearable_pipeline.lake.storage import Storage
from wearable_pipeline.raw.push import KeptPush, inbox_root
from wearable_pipeline.settings import Settings
from wearable_pipeline_tests.bench._figures import Figure, Scale, medians
from wearable_pipeline_tests.bench._receive_server import SECRET

CONNECTIONS = 256


def measure(scale: Scale) -> list[Figure]:
    """`receive_pushes_s` and the CPU the server spends on one."""
    count = scale.of(20_000, 2_000)
    sent: set[str] = set()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        with _server(home) as (process, port):

            def run(path: str) -> None:
                pushes = [_push(path, len(sent) + number) for number in range(count)]
                if path == "/in/oura":
                    sent.update(name for name, _ in pushes)
                asyncio.run(_send(port, [request for _, request in pushes]))

            _warm_up(port)
            seconds = medians(
                scale.rounds, {"kept": lambda: run("/in/oura"), "peer": lambda: run("/nothing")}
            )
            before = _cpu_seconds(process.pid)
            run("/in/oura")
            cpu = _cpu_seconds(process.pid) - before
        found = _inbox_ids(home)
        if found != sent:
            raise AssertionError(
                f"{len(sent - found)} of {len(sent)} accepted pushes are not there"
            )
    return [
        Figure(
            name="receive_pushes_s",
            value=count / seconds["kept"],
            unit="pushes/s",
            peer="the same application, storing nothing",
            peer_value=count / seconds["peer"],
            target="1,000/s for 60 s on 2 cores",
            note=f"{len(sent):,} pushes, each found afterwards; client on the same cores",
        ),
        Figure(
            name="receive_cpu_ms",
            value=1000 * cpu / count,
            unit="ms CPU of the server per push",
            peer="one core at 1,000 pushes/s",
            peer_value=1.0,
            better="lower",
        ),
    ]


def _push(path: str, number: int) -> tuple[str, bytes]:
    """A push's id and the request, ready to be sent."""
    name = f"{os.getpid()}-{time.time_ns()}-{number}"
    body = msgspec.json.encode(
        {
            "event_type": "update",
            "data_type": "sleep",
            "object_id": name,
            "event_time": "2026-11-20T12:00:00Z",
            "user_id": f"account-{number % 1000}",
        }
    )
    stamp = str(int(time.time()))
    signature = hmac.digest(SECRET.encode(), stamp.encode() + body, hashlib.sha256).hex().upper()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"x-oura-timestamp: {stamp}\r\nx-oura-signature: {signature}\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return name, head.encode() + body


async def _send(port: int, requests: list[bytes]) -> None:
    """Send all, each connection one after the other; raises when one is not answered with 200."""
    waiting = iter(requests)

    async def one_connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for request in waiting:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise AssertionError(head.split(b"\r\n")[0].decode())
            length = next(
                (
                    int(line.partition(b":")[2])
                    for line in head.lower().split(b"\r\n")
                    if line.startswith(b"content-length")
                ),
                0,
            )
            if length:
                await reader.readexactly(length)
        writer.close()

    await asyncio.gather(*(one_connection() for _ in range(CONNECTIONS)))


def _warm_up(port: int) -> None:
    asyncio.run(_send(port, [_push("/nothing", number)[1] for number in range(200)]))


def _inbox_ids(home: Path) -> set[str]:
    storage = Storage.open(str(home / "lake"), Settings(_env_file=None, home=home))  # type: ignore[call-arg]
    found: list[str] = []
    for entry in storage.list(inbox_root("oura")):
        kept = msgspec.msgpack.decode(storage.read(entry.path), type=list[KeptPush])
        found += [str(msgspec.json.decode(one.body)["object_id"]) for one in kept]
    if len(found) != len(set(found)):
        raise AssertionError("a push is there twice")
    return set(found)


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _server(home: Path) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    command = [sys.executable, "-m", "wearable_pipeline_tests.bench._receive_server", str(home)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("no pipes")
        port = int(process.stdout.readline())
        yield process, port
    finally:
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
