"""The destination Kafka: one record per row; see `_messages` for what they hold.

The user is the key, so what happens to a user stays in one partition, in order. The producer is
idempotent and waits for all replicas; a row counts as delivered at its delivery report. A process
that dies before it has written that down sends again: readers merge by user, type and row and keep
the greatest `ordering_timestamp`, a header.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, SecretStr, model_validator

from wearable_pipeline.destinations._addresses import LOCAL_NAMES
from wearable_pipeline.destinations._contract import (
    Batch,
    Destination,
    Event,
    Item,
    Outcome,
    delivered,
    permanent,
    transient,
    untried,
)
from wearable_pipeline.destinations._messages import Message, MessageMaker, QueueSettings
from wearable_pipeline.errors import UsageError

if TYPE_CHECKING:
    from confluent_kafka import KafkaError

# What brokers accept unless they are told otherwise.
MAX_BYTES = 1_000_000
BATCH_ROWS = 1_000
TIMEOUT_SECONDS = 20
# A broker that is being restarted may turn a login away once.
REFUSED_AFTER = 3
_OVERHEAD_BYTES = 200
_GRACE_SECONDS = 5.0

_log = logging.getLogger(__name__)


class KafkaSettings(QueueSettings):
    """What a Kafka topic needs."""

    brokers: str = Field(description="Addresses to start from, host:port, separated by commas.")
    topic: str = Field(description="Topic everything is written to.")
    tls: bool | None = Field(
        None, description="Encrypt the connection (default: yes, except to this machine)."
    )
    ca_file: str | None = Field(None, description="File of the authority that signed the brokers.")
    username: str | None = Field(None, description="User name of SASL.")
    password: SecretStr | None = Field(None, description="Password of SASL.")
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "PLAIN", description="How the password is shown to the brokers."
    )
    compression: Literal["zstd", "lz4", "gzip", "snappy", "none"] = Field(
        "zstd", description="How records are compressed."
    )
    max_bytes: int = Field(
        MAX_BYTES, ge=1_000, le=100_000_000, description="What brokers accept as one record."
    )
    timeout_seconds: int = Field(
        TIMEOUT_SECONDS, ge=2, le=300, description="How long a delivery may take, retries included."
    )

    @model_validator(mode="after")
    def _check_login(self) -> Self:
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password go together")
        return self

    @property
    def hosts(self) -> list[str]:
        """Names of the brokers, without ports."""
        addresses = [address.strip() for address in self.brokers.split(",") if address.strip()]
        return [address.rpartition(":")[0].strip("[]") for address in addresses]

    @property
    def is_encrypted(self) -> bool:
        """Whether the connection is."""
        return self._is_elsewhere if self.tls is None else self.tls

    @property
    def _is_elsewhere(self) -> bool:
        return any(host not in LOCAL_NAMES for host in self.hosts)


class KafkaSender:
    """Produces records to one topic; a context manager."""

    def __init__(self, config: dict[str, Any], settings: KafkaSettings, name: str) -> None:
        from confluent_kafka import Producer

        self._name = name
        self._topic = settings.topic
        self._max_bytes = settings.max_bytes
        self._timeout = settings.timeout_seconds
        self._maker = MessageMaker(settings, name, self._fits)
        self._outcomes: list[Outcome] = []
        self._open = 0
        self._acknowledged = 0
        self._turned_away = 0
        self._stopped: str | None = None
        self._refused: str | None = None
        self._producer: Producer = Producer({**config, "error_cb": self._note_error}, logger=_log)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._producer.purge()
        self._producer.flush(1)
        self._maker.__exit__(kind, error, traceback)

    def deliver(self, batch: Batch) -> Iterator[Outcome]:
        """Produce every row; an outcome at its delivery report."""
        return self._produce(self._maker.make(batch))

    def deliver_events(self, events: Sequence[Event]) -> Iterator[Outcome]:
        """Produce every event, in their order."""
        return self._produce(self._maker.make_event(event) for event in events)

    def _produce(self, made: Iterator[Message | Outcome]) -> Iterator[Outcome]:
        self._acknowledged = 0
        try:
            for one in made:
                if isinstance(one, Outcome):
                    yield one
                elif self._refused is not None:
                    yield permanent(one.item, self._refused)
                elif self._stopped is not None:
                    yield untried(one.item, self._stopped)
                else:
                    yield from self._hand_over(one)
            deadline = time.monotonic() + self._timeout + _GRACE_SECONDS
            while self._open:
                if self._refused is not None or time.monotonic() > deadline:
                    self._producer.purge()
                self._producer.poll(0.1)
                yield from self._collect()
        finally:
            if self._open:
                # Left early: what is still here is not sent, what is on its way goes unheard.
                self._producer.purge()
                self._producer.flush(1)
                self._outcomes.clear()

    def _hand_over(self, message: Message) -> Iterator[Outcome]:
        from confluent_kafka import KafkaException

        while True:
            try:
                self._producer.produce(
                    self._topic,
                    value=message.body,
                    key=message.item.user.user_id,
                    headers=[(name, text.encode()) for name, text in message.headers.items()],
                    on_delivery=partial(self._report, message.item),
                )
            except BufferError:
                self._producer.poll(0.1)
                yield from self._collect()
                continue
            except KafkaException as error:
                yield self._judge(message.item, error.args[0])
                return
            break
        self._open += 1
        self._producer.poll(0)
        yield from self._collect()

    def _collect(self) -> Iterator[Outcome]:
        outcomes, self._outcomes = self._outcomes, []
        yield from outcomes

    def _report(self, item: Item, error: "KafkaError | None", _: object) -> None:
        self._open -= 1
        if error is None:
            self._acknowledged += 1
            self._turned_away = 0
            self._outcomes.append(delivered(item))
        else:
            self._outcomes.append(self._judge(item, error))

    def _judge(self, item: Item, error: "KafkaError") -> Outcome:
        from confluent_kafka import KafkaError

        code = error.code()
        name = self._name
        if code in (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE):
            return permanent(
                item,
                f"{name}: the broker takes no record of that size; lower {name}.max_bytes and set"
                f" {name}.payloads, or raise the topic's max.message.bytes",
            )
        if code in (KafkaError._UNKNOWN_TOPIC, KafkaError.UNKNOWN_TOPIC_OR_PART):
            return permanent(item, f"{name}: there is no topic {self._topic}; create it")
        if code in _refusals():
            return permanent(item, self._refusal(error))
        if self._refused is not None:
            return permanent(item, self._refused)
        if error.fatal():
            self._stopped = f"{name}: the producer gave up ({error.name()})"
        elif code == KafkaError._MSG_TIMED_OUT and not self._acknowledged:
            self._stopped = f"{name}: no broker answered within {self._timeout} s"
        return transient(item, f"{name}: not acknowledged ({error.name()})")

    def _refusal(self, error: "KafkaError") -> str:
        return (
            f"{self._name}: the brokers refuse ({error.name()}); check {self._name}.username,"
            f" {self._name}.password and the right to write to {self._topic}"
        )

    def _note_error(self, error: "KafkaError") -> None:
        """Take down what concerns the connection: nothing else is ever said about a bad login."""
        if error.code() in _refusals():
            self._turned_away += 1
            if self._turned_away >= REFUSED_AFTER:
                self._refused = self._refusal(error)

    def _fits(self, message: Message) -> bool:
        beside = sum(len(name) + len(text.encode()) for name, text in message.headers.items())
        key = len(message.item.user.user_id)
        return len(message.body) + beside + key + _OVERHEAD_BYTES <= self._max_bytes


def _refusals() -> frozenset[int]:
    from confluent_kafka import KafkaError

    return frozenset(
        {
            KafkaError._AUTHENTICATION,
            KafkaError.SASL_AUTHENTICATION_FAILED,
            KafkaError.UNSUPPORTED_SASL_MECHANISM,
            KafkaError.TOPIC_AUTHORIZATION_FAILED,
            KafkaError.CLUSTER_AUTHORIZATION_FAILED,
            KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
            KafkaError.TOPIC_EXCEPTION,
            KafkaError.POLICY_VIOLATION,
            KafkaError.INVALID_RECORD,
        }
    )


def open_kafka(settings: KafkaSettings, name: str) -> KafkaSender:
    """A sender for the topic. Raises UsageError when it may not or cannot be used."""
    if not settings.hosts or not all(settings.hosts):
        raise UsageError(f"{name}.brokers must look like host:9092, host:9092")
    if not settings.topic:
        raise UsageError(f"{name}.topic is not set")
    is_open = any(host not in LOCAL_NAMES for host in settings.hosts) and not settings.is_encrypted
    if is_open and settings.password is not None and settings.sasl_mechanism == "PLAIN":
        raise UsageError(
            f"{name}.tls=false would send the password in the clear; leave it out, or use SCRAM"
        )
    try:
        from confluent_kafka import KafkaException
    except ImportError:
        raise UsageError(
            f"destination {name} needs confluent-kafka: pip install 'wearable-pipeline[kafka]'"
        ) from None
    milliseconds = settings.timeout_seconds * 1000
    protocol = ("SASL_" if settings.username else "") + (
        "SSL" if settings.is_encrypted else "PLAINTEXT"
    )
    config: dict[str, Any] = {
        "bootstrap.servers": settings.brokers,
        "client.id": "wearable-pipeline",
        "security.protocol": protocol,
        "enable.idempotence": True,
        # Every try of every broker would be a line; what it comes to is an outcome.
        "log_level": 2,
        "acks": "all",
        "compression.type": settings.compression,
        "message.max.bytes": settings.max_bytes,
        "delivery.timeout.ms": milliseconds,
        "request.timeout.ms": milliseconds // 2,
        "socket.timeout.ms": milliseconds // 2,
        "socket.connection.setup.timeout.ms": min(5_000, milliseconds // 2),
        "topic.metadata.propagation.max.ms": min(5_000, milliseconds // 2),
        "linger.ms": 5,
        "queue.buffering.max.messages": 10 * BATCH_ROWS,
        # As clients of the Java library choose the partition of a key.
        "partitioner": "murmur2_random",
    }
    if settings.ca_file:
        config["ssl.ca.location"] = settings.ca_file
    if settings.username and settings.password:
        config |= {
            "sasl.mechanism": settings.sasl_mechanism,
            "sasl.username": settings.username,
            "sasl.password": settings.password.get_secret_value(),
        }
    try:
        return KafkaSender(config, settings, name)
    except KafkaException:
        # Not chained: its text may quote the configuration.
        raise UsageError(
            f"destination {name}: brokers, tls, ca_file and login do not fit together"
        ) from None


DESTINATION = Destination(
    name="kafka",
    title="Apache Kafka",
    kind="queue",
    summary="One record per new or changed row in a Kafka topic, keyed by user.",
    settings=KafkaSettings,
    open=open_kafka,
    takes_events=True,
    extra="kafka",
    batch_rows=BATCH_ROWS,
)
