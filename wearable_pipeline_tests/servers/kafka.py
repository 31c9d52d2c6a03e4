"""A Kafka cluster in memory: the mock cluster librdkafka tests itself with. As a script:
`kafka.py --address FILE`, which gets the brokers' addresses once they listen.

The brokers live as long as the producer they belong to, so this process does nothing else. They take
no credentials and make topics at the first use.
"""

import argparse
import time
from pathlib import Path

from confluent_kafka import Producer

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", type=Path, required=True)
    arguments = parser.parse_args()
    cluster = Producer({"test.mock.num.brokers": 1})
    brokers = cluster.list_topics(timeout=10).brokers.values()
    found = ",".join(f"{broker.host}:{broker.port}" for broker in brokers)
    written = arguments.address.with_suffix(".new")
    written.write_text(found)
    written.replace(arguments.address)
    while True:
        time.sleep(3600)
