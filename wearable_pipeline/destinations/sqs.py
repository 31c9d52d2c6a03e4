"""The destination SQS: one message per row, in batches of ten; see `_messages` for what they hold.

In a FIFO queue the user is the message group, so what happens to a user arrives in order, and a
message sent again within five minutes is dropped by the queue. A standard queue may deliver twice and
out of order; readers tell by `ordering_timestamp` in both.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, model_validator

from wearable_pipeline.destinations._addresses import LOCAL_NAMES
from wearable_pipeline.destinations._contract import (
    Batch,
    Destination,
    Event,
    Outcome,
    delivered,
    permanent,
    transient,
    untried,
)
from wearable_pipeline.destinations._messages import Message, MessageMaker, QueueSettings
from wearable_pipeline.destinations._workers import run_jobs
from wearable_pipeline.errors import UsageError

BATCH = 10
MAX_BYTES = 1024 * 1024
CONCURRENCY = 8
OUTAGE_AFTER = 2
TIMEOUT_SECONDS = 15.0
_CONNECT_SECONDS = 5.0

_BUSY = frozenset(
    {
        "InternalError",
        "InternalFailure",
        "KmsThrottled",
        "OverLimit",
        "RequestThrottled",
        "RequestTimeout",
        "ServiceUnavailable",
        "Throttling",
        "ThrottlingException",
    }
)


class SqsSettings(QueueSettings):
    """What an SQS queue needs."""

    queue_url: str = Field(
        description="URL of the queue, e.g. https://sqs.eu-central-1.amazonaws.com/1234/wearables.fifo."
    )
    region: str | None = Field(None, description="Region; taken from AWS's URLs when not given.")
    access_key_id: str | None = Field(
        None, description="Access key; without it AWS's own chain is asked (environment, role)."
    )
    secret_access_key: SecretStr | None = Field(None, description="Secret of the access key.")
    session_token: SecretStr | None = Field(None, description="Token of temporary credentials.")
    allow_http: bool = Field(False, description="Let a queue off this machine be http://.")
    max_bytes: int = Field(
        MAX_BYTES,
        ge=1024,
        le=MAX_BYTES,
        description="What a message and what a batch may hold, attributes counted.",
    )
    concurrency: int = Field(CONCURRENCY, ge=1, le=64, description="Batches at a time.")
    timeout_seconds: float = Field(
        TIMEOUT_SECONDS, ge=1, le=600, description="How long to wait for an answer; asked twice."
    )

    @model_validator(mode="after")
    def _check_keys(self) -> Self:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id and secret_access_key go together")
        return self


class SqsSender:
    """Sends messages to one queue; a context manager."""

    def __init__(self, client: Any, settings: SqsSettings, name: str) -> None:
        self._client = client
        self._queue_url = settings.queue_url
        self._is_fifo = settings.queue_url.endswith(".fifo")
        self._name = name
        self._max_bytes = settings.max_bytes
        self._concurrency = settings.concurrency
        self._maker = MessageMaker(settings, name, self._fits)
        self._pool = ThreadPoolExecutor(settings.concurrency, thread_name_prefix=name)
        self._unreached = 0
        self._stopped: str | None = None
        self._refused: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._maker.__exit__(kind, error, traceback)
        self._client.close()

    def deliver(self, batch: Batch) -> Iterator[Outcome]:
        """Send every row; an outcome as soon as the queue has the message."""
        messages = []
        for made in self._maker.make(batch):
            if isinstance(made, Message):
                messages.append(made)
            else:
                yield made
        yield from self._send(messages, self._concurrency)

    def deliver_events(self, events: Sequence[Event]) -> Iterator[Outcome]:
        """Send every event, one batch after the other."""
        yield from self._send([self._maker.make_event(event) for event in events], 1)

    def _send(self, messages: Sequence[Message], concurrency: int) -> Iterator[Outcome]:
        from botocore.exceptions import BotoCoreError, ClientError

        self._refused = None
        jobs = [(pack, partial(self._post, pack)) for pack in self._pack(messages)]
        for pack, done in run_jobs(
            self._pool, jobs, concurrency, lambda: self._is_over, ClientError, BotoCoreError
        ):
            if done is None:
                if self._refused is not None:
                    yield from (permanent(one.item, self._refused) for one in pack)
                else:
                    yield from (untried(one.item, self._stopped or "") for one in pack)
            elif isinstance(done, Exception):
                verdict, message = _judge(done, self._name)
                self._note(verdict, message)
                made = permanent if verdict == "all" else transient
                yield from (made(one.item, message) for one in pack)
            else:
                self._unreached = 0
                yield from done

    @property
    def _is_over(self) -> bool:
        return self._stopped is not None or self._refused is not None

    def _note(self, verdict: str, message: str) -> None:
        if verdict == "all":
            self._refused = message
        self._unreached = self._unreached + 1 if verdict == "down" else 0
        if self._unreached >= OUTAGE_AFTER:
            self._stopped = f"{self._name}: not reached {OUTAGE_AFTER} times in a row"

    def _fits(self, message: Message) -> bool:
        return _size(message) <= self._max_bytes

    def _pack(self, messages: Sequence[Message]) -> Iterator[tuple[Message, ...]]:
        pack: list[Message] = []
        size = 0
        for message in messages:
            length = _size(message)
            if pack and (len(pack) == BATCH or size + length > self._max_bytes):
                yield tuple(pack)
                pack, size = [], 0
            pack.append(message)
            size += length
        if pack:
            yield tuple(pack)

    def _post(self, pack: Sequence[Message]) -> list[Outcome]:
        entries = [self._entry(index, message) for index, message in enumerate(pack)]
        answer = self._client.send_message_batch(QueueUrl=self._queue_url, Entries=entries)
        failed = {int(entry["Id"]): entry for entry in answer.get("Failed", ())}
        taken = {int(entry["Id"]) for entry in answer.get("Successful", ())}
        outcomes = []
        for index, message in enumerate(pack):
            if index in taken:
                outcomes.append(delivered(message.item))
                continue
            entry = failed.get(index, {})
            code = str(entry.get("Code", "no answer"))
            said = f"{self._name}: the queue refused the message ({code})"
            is_final = entry.get("SenderFault", False) and not _is_busy(code)
            outcomes.append((permanent if is_final else transient)(message.item, said))
        return outcomes

    def _entry(self, index: int, message: Message) -> dict[str, object]:
        entry: dict[str, object] = {
            "Id": str(index),
            "MessageBody": _text(message.body),
            "MessageAttributes": {
                name: {"DataType": _data_type(name), "StringValue": value}
                for name, value in message.headers.items()
            },
        }
        if self._is_fifo:
            entry["MessageGroupId"] = message.item.user.user_id
            entry["MessageDeduplicationId"] = message.deduplication_id
        return entry


def _data_type(name: str) -> str:
    return "Number" if name == "ordering_timestamp" else "String"


def _text(body: bytes) -> str:
    # The only characters JSON allows as they are and SQS does not.
    return body.decode().replace("\ufffe", "\\ufffe").replace("\uffff", "\\uffff")


def _size(message: Message) -> int:
    """As SQS counts: the body, and name, type and value of every attribute."""
    beside = sum(
        len(name) + len(_data_type(name)) + len(value.encode())
        for name, value in message.headers.items()
    )
    return len(message.body) + beside


def _is_busy(code: str) -> bool:
    return code.rpartition(".")[2] in _BUSY


def _judge(error: Exception, name: str) -> tuple[Literal["down", "busy", "all"], str]:
    """Whether the queue is down, busy or will refuse everything, and how to say it."""
    from botocore.exceptions import ClientError, NoCredentialsError, PartialCredentialsError

    if isinstance(error, ClientError):
        code = str(error.response.get("Error", {}).get("Code", "")).rpartition(".")[2]
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if _is_busy(code) or status in (408, 429) or status >= 500:
            return "busy", f"{name}: the queue answered {status} {code}"
        return "all", (
            f"{name}: the queue answered {status} {code}; check {name}.queue_url, the credentials and"
            " their right to send there"
        )
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return (
            "all",
            f"{name}: no credentials: set {name}.access_key_id and {name}.secret_access_key",
        )
    return "down", f"{name}: cannot be reached ({type(error).__name__})"


def open_sqs(settings: SqsSettings, name: str) -> SqsSender:
    """A sender for the queue. Raises UsageError when it may not or cannot be used."""
    parts = urlsplit(settings.queue_url)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise UsageError(f"{name}.queue_url must look like https://host/account/queue")
    if parts.scheme == "http" and parts.hostname not in LOCAL_NAMES and not settings.allow_http:
        raise UsageError(
            f"{name}.queue_url must use https:// (http:// is for localhost; {name}.allow_http=true"
            " allows it in your own network)"
        )
    region = settings.region or _region_of(parts.hostname)
    if region is None:
        raise UsageError(f"{name}.region is not set, and {name}.queue_url names none")
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        raise UsageError(
            f"destination {name} needs boto3: pip install 'wearable-pipeline[sqs]'"
        ) from None
    secret, token = settings.secret_access_key, settings.session_token
    client = boto3.client(
        "sqs",
        region_name=region,
        endpoint_url=f"{parts.scheme}://{parts.netloc}",
        aws_access_key_id=settings.access_key_id,
        aws_secret_access_key=secret.get_secret_value() if secret else None,
        aws_session_token=token.get_secret_value() if token else None,
        config=Config(
            connect_timeout=min(_CONNECT_SECONDS, settings.timeout_seconds),
            read_timeout=settings.timeout_seconds,
            max_pool_connections=settings.concurrency,
            # What fails again after that is tried again by the ledger.
            retries={"mode": "standard", "total_max_attempts": 2},
        ),
    )
    return SqsSender(client, settings, name)


def _region_of(host: str) -> str | None:
    """The region in an address of AWS; of anybody else's server any will do."""
    if not host.endswith((".amazonaws.com", ".amazonaws.com.cn", ".api.aws")):
        return "us-east-1"
    labels = host.split(".")
    return labels[labels.index("sqs") + 1] if "sqs" in labels[:-2] else None


DESTINATION = Destination(
    name="sqs",
    title="Amazon SQS",
    kind="queue",
    summary="One message per new or changed row in an SQS queue, standard or FIFO.",
    settings=SqsSettings,
    open=open_sqs,
    takes_events=True,
    extra="sqs",
    batch_rows=500,
)
