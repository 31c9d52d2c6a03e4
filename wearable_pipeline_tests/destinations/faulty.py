"""Targets as a fault test wants them: watched, in small batches, behind a gate, written into a file."""

import json
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from wearable_pipeline.destinations._contract import Batch, DestinationSettings, Outcome, Target
from wearable_pipeline_tests.servers.gate import Gate

_ADDRESS = re.compile(r"(?<![\w.])(127\.0\.0\.1|localhost):(\d+)")


@dataclass
class Watcher:
    """Hears of every batch before it goes out and of every outcome when it is known."""

    batch: Callable[[Batch], None] = lambda batch: None
    outcome: Callable[[Outcome], None] = lambda outcome: None
    batches: list[Batch] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)

    def watch(self, target: Target, batch_rows: int) -> Target:
        """The target with batches of at most `batch_rows`, its senders watched."""
        real = target.destination.open

        @contextmanager
        def opened(settings: Any, name: str) -> Iterator[_Sender]:
            with real(settings, name) as sender:
                yield _Sender(self, sender)

        destination = replace(target.destination, open=opened, batch_rows=batch_rows)
        return replace(target, destination=destination)


@dataclass
class _Sender:
    watcher: Watcher
    sender: Any

    def deliver(self, batch: Batch) -> Iterator[Outcome]:
        self.watcher.batches.append(batch)
        self.watcher.batch(batch)
        for outcome in self.sender.deliver(batch):
            self.watcher.outcomes.append(outcome)
            self.watcher.outcome(outcome)
            yield outcome

    def deliver_events(self, events: Sequence[Any]) -> Iterator[Outcome]:
        yield from self.sender.deliver_events(events)


def reveal(value: Any) -> Any:
    """Settings as plain values, secrets too; what is unset is left out."""
    if isinstance(value, DestinationSettings):
        found = {name: getattr(value, name) for name in type(value).model_fields}
        return {name: reveal(one) for name, one in found.items() if one is not None}
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list | set | frozenset):
        return [reveal(one) for one in value]
    if isinstance(value, dict):
        return {key: reveal(one) for key, one in value.items()}
    return value


def write_toml(target: Target, file: Path) -> None:
    """The target as a file of destinations has it."""
    values = {"kind": target.destination.name, **reveal(target.settings)}
    lines = [f"{name} = {_toml(value)}" for name, value in values.items()]
    file.write_text("\n".join([f"[{target.name}]", *lines]) + "\n")


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(key)} = {_toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(one) for one in value) + "]"
    return json.dumps(value, ensure_ascii=False)  # TOML's text, numbers and booleans are JSON's


@contextmanager
def silent_server() -> Iterator[str]:
    """The address of a server that lets everybody in, takes what comes and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@dataclass(frozen=True)
class Gated:
    """A target whose server stands behind gates of ours; `hasty` leads there too and waits less."""

    target: Target
    hasty: Target
    gates: tuple[Gate, ...]

    def shut(self) -> None:
        for gate in self.gates:
            gate.shut()

    def stall(self) -> None:
        for gate in self.gates:
            gate.stall()

    def open(self) -> None:
        for gate in self.gates:
            gate.open()


@contextmanager
def gated(target: Target, timeout_seconds: float = 1.0) -> Iterator[Gated]:
    """The target by way of a gate for every port of this machine its settings name.

    The timeouts of the hasty one are `timeout_seconds`, or the least it allows.
    """
    values = reveal(target.settings)
    with ExitStack() as stack:
        gates: dict[int, Gate] = {}

        def enter(port: int) -> Gate:
            if port not in gates:
                made: AbstractContextManager[Gate] = Gate(port)
                gates[port] = stack.enter_context(made)
            return gates[port]

        def reroute(value: Any) -> Any:
            if isinstance(value, str):
                return _ADDRESS.sub(lambda m: f"{m[1]}:{enter(int(m[2])).port}", value)
            if isinstance(value, list):
                return [reroute(one) for one in value]
            if isinstance(value, dict):
                return {key: reroute(one) for key, one in value.items()}
            return value

        values = reroute(values)
        assert gates, f"{target.name}: no port of this machine in its settings"
        make = type(target.settings)
        timeouts = {
            name: max(timeout_seconds, known.get("minimum", 0))
            for name, known in make.model_json_schema()["properties"].items()
            if name.endswith("timeout_seconds")
        }
        patient, hasty = make(**values), make(**{**values, **timeouts})
        yield Gated(
            replace(target, settings=patient),
            replace(target, settings=hasty),
            tuple(gates.values()),
        )
