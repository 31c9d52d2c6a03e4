"""Pushes the receiver takes per second, each answered only once its bytes are on disk.

Signed pushes over 256 connections to `serve` in a process of its own, on local disk; client and server
share the machine. Peer: the same application, on a route that reads the body and answers. After the
runs every accepted push is looked up in the inbox, by its id.

`receive_sustained_s` offers 1,000 pushes with data every second, for a minute, each at its own time; then the
inbox is taken in, and every one of them looked up in raw.
"""

import asyncio
import hashlib
import hmac
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from wearable_pipeline.lake.storage import Storage
from wearable_pipeline.partitions import Partition
from wearable_pipeline.raw.push import KeptPush, inbox_root, take_in
from wearable_pipeline.registry import Registry
from wearable_pipeline.settings import Settings
from wearable_pipeline.workspace import Workspace, open_workspace
from wearable_pipeline_tests.bench._figures import Figure, Scale, medians
from wearable_pipeline_tests.bench._receive_server import SECRET
from wearable_pipeline_tests.raw.postbox import DAY, make_postbox, note, signed

CONNECTIONS = 256
OFFERED = 1_000
ACCOUNTS = 100
# How long the most impatient provider waits for an answer before it sends again.
PATIENCE_MS = 2_000.0


def measure(scale: Scale) -> list[Figure]:
    """`receive_pushes_s`, the CPU the server spends on one, and a minute at a steady rate."""
    return [*_measure_most(scale), *_measure_sustained(scale)]


def _measure_most(scale: Scale) -> list[Figure]:
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


def _measure_sustained(scale: Scale) -> list[Figure]:
    count = OFFERED * scale.of(60, 2)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        settings = Settings(_env_file=None, home=home)  # type: ignore[call-arg]
        with open_workspace(settings) as workspace:
            _connect_accounts(workspace.registry)
        with _server(home) as (_, port):
            _warm_up(port)
            pushes = [_data_push(number) for number in range(count)]
            started = time.perf_counter()
            waits = asyncio.run(_send(port, pushes, OFFERED))
            seconds = time.perf_counter() - started
        with open_workspace(settings) as workspace:
            started = time.perf_counter()
            report = take_in(workspace, make_postbox())
            taking = time.perf_counter() - started
            found = _notes_in_raw(workspace)
        if report is None or report.pushes != count or found != count:
            raise AssertionError(f"{found} of {count} accepted pushes are in raw")
    return [
        Figure(
            name="receive_sustained_s",
            value=count / seconds,
            unit="pushes/s",
            peer="offered",
            peer_value=float(OFFERED),
            target="1,000/s for 60 s on 2 cores",
            note=f"{count:,} pushes over {seconds:.0f} s, each found in raw afterwards",
        ),
        Figure(
            name="receive_p99_ms",
            value=1000 * statistics.quantiles(waits, n=100)[98],
            unit="ms from its time to its answer, 99th percentile",
            peer="what the most impatient provider waits",
            peer_value=PATIENCE_MS,
            better="lower",
        ),
        Figure(
            name="take_in_pushes_s",
            value=count / taking,
            unit="pushes/s from the inbox into raw",
            peer="offered",
            peer_value=float(OFFERED),
        ),
    ]


def _connect_accounts(registry: Registry) -> None:
    for number in range(ACCOUNTS):
        account = registry.hash_account("postbox", f"account-{number}")
        registry.add_user("postbox", reference_id=None, account_hash=account, credentials={})


def _notes_in_raw(workspace: Workspace) -> int:
    """How many different notes of our accounts raw holds."""
    users = workspace.registry.find_users("postbox")
    cells = {Partition(DAY, workspace.lake.scheme.cohort_of(user.user_id)) for user in users}
    rows = workspace.lake.raw.read(["postbox"], sorted(cells, key=str))
    return rows.select("user_id", "record_id").n_unique()


def _data_push(number: int) -> bytes:
    body = msgspec.json.encode([note(number, f"account-{number % ACCOUNTS}", "x" * 200)])
    proof = "".join(f"{name}: {value}\r\n" for name, value in _proof(body).items())
    head = (
        f"POST /in/postbox HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"{proof}content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _proof(body: bytes) -> dict[str, str]:
    return signed(body, datetime.now(UTC), SECRET)


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


async def _send(port: int, requests: list[bytes], per_second: float | None = None) -> list[float]:
    """Send all, each connection one after the other; raises when one is not answered with 200.

    With `per_second` each has a time to leave. Returns seconds from that time, or from when it left, to
    the answer.
    """
    waiting = iter(enumerate(requests))
    waits: list[float] = []
    started = time.perf_counter()

    async def one_connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number, request in waiting:
            due = time.perf_counter()
            if per_second is not None:
                due = started + number / per_second
                await asyncio.sleep(due - time.perf_counter())
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
            waits.append(time.perf_counter() - due)
        writer.close()

    await asyncio.gather(*(one_connection() for _ in range(CONNECTIONS)))
    return waits


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
