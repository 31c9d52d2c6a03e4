"""SQS as counterpart: a consumer that takes messages off the queue and merges them by key."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import boto3
import msgspec
import pytest

from wearable_pipeline.destinations._contract import Target
from wearable_pipeline.destinations.sqs import DESTINATION, SqsSettings
from wearable_pipeline_tests.destinations.counterpart import Counterpart, State
from wearable_pipeline_tests.destinations.counterpart_queues import Merged
from wearable_pipeline_tests.servers.fixtures import MOTO_KEY, MOTO_SECRET


@dataclass
class Queue:
    """A queue of its own, and what a consumer of it knows."""

    endpoint: str
    is_fifo: bool = True
    known: Merged = field(default_factory=Merged)

    def __post_init__(self) -> None:
        self.client = boto3.client(
            "sqs",
            endpoint_url=self.endpoint,
            aws_access_key_id=MOTO_KEY,
            aws_secret_access_key=MOTO_SECRET,
            region_name="us-east-1",
        )
        name = f"t-{uuid4().hex[:20]}" + (".fifo" if self.is_fifo else "")
        attributes = {"FifoQueue": "true"} if self.is_fifo else {}
        self.url = self.client.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]

    def settings(self, **more: Any) -> SqsSettings:
        """What a target needs to send to it."""
        values: dict[str, Any] = {
            "queue_url": self.url,
            "access_key_id": MOTO_KEY,
            "secret_access_key": MOTO_SECRET,
        }
        return SqsSettings(**{**values, **more})

    def target(self, **more: Any) -> Target:
        """A target that leads there."""
        return Target("sqs", DESTINATION, self.settings(**more))

    def take(self) -> Iterator[Mapping[str, Any]]:
        """Every message that waits, taken off the queue."""
        while True:
            answer = self.client.receive_message(
                QueueUrl=self.url,
                MaxNumberOfMessages=10,
                MessageAttributeNames=["All"],
                AttributeNames=["All"],
                WaitTimeSeconds=0,
            )
            messages = answer.get("Messages", [])
            if not messages:
                return
            for message in messages:
                yield message
                self.client.delete_message(
                    QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"]
                )

    def read(self) -> State:
        """What a consumer has that merges by key."""
        for message in self.take():
            headers = {
                name: value["StringValue"] for name, value in message["MessageAttributes"].items()
            }
            self.known.take(headers, msgspec.json.decode(message["Body"]))
        return self.known.rows


def start_sqs(request: pytest.FixtureRequest) -> Counterpart:
    """A FIFO queue of moto."""
    queue = Queue(request.getfixturevalue("moto_endpoint"))
    return Counterpart(queue.target(), queue.read)
