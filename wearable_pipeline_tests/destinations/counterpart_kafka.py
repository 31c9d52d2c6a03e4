"""Kafka as counterpart: a consumer that reads a topic from its beginning and merges it by key."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from confluent_kafka import Consumer, Message, TopicPartition

from wearable_pipeline.destinations._contract import Target
from wearable_pipeline.destinations.kafka import DESTINATION, KafkaSettings
from wearable_pipeline_tests.destinations.counterpart import Counterpart, State
from wearable_pipeline_tests.destinations.counterpart_queues import Merged


@dataclass
class Topic:
    """A topic of its own, made by its first record."""

    brokers: str
    name: str = field(default_factory=lambda: f"t-{uuid4().hex[:20]}")

    def settings(self, **more: Any) -> KafkaSettings:
        """What a target needs to write to it."""
        values: dict[str, Any] = {"brokers": self.brokers, "topic": self.name}
        return KafkaSettings(**{**values, **more})

    def target(self, **more: Any) -> Target:
        """A target that leads there."""
        return Target("kafka", DESTINATION, self.settings(**more))

    def records(self) -> Iterator[Message]:
        """All records, those of one partition in their order."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.brokers,
                "group.id": uuid4().hex,
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 10,
                "allow.auto.create.topics": True,
            }
        )
        try:
            found = consumer.list_topics(self.name, timeout=10).topics[self.name]
            starts, left = [], 0
            for number in found.partitions:
                partition = TopicPartition(self.name, number)
                first, end = consumer.get_watermark_offsets(partition, timeout=10)
                if end > first:
                    starts.append(TopicPartition(self.name, number, first))
                    left += end - first
            consumer.assign(starts)
            for _ in range(left):
                record = consumer.poll(10)
                assert record is not None
                assert record.error() is None
                yield record
        finally:
            consumer.close()

    def read(self) -> State:
        """What a consumer has that merges by key."""
        known = Merged()
        for record in self.records():
            headers = {name: value.decode() for name, value in record.headers()}
            known.take(headers, msgspec.json.decode(record.value()))
        return known.rows


def start_kafka(request: pytest.FixtureRequest) -> Counterpart:
    """A topic of a cluster in memory."""
    topic = Topic(request.getfixturevalue("kafka_brokers"))
    return Counterpart(topic.target(), topic.read)
