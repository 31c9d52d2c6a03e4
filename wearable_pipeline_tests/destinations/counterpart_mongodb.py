"""A MongoDB server, and what an application finds in its collections."""

from typing import Any
from uuid import uuid4

import pytest
from pydantic import SecretStr
from pymongo import MongoClient

from wearable_pipeline.destinations._contract import Target
from wearable_pipeline.destinations.mongodb import DESTINATION, MongoSettings
from wearable_pipeline.model import TABLES
from wearable_pipeline_tests.destinations.counterpart import Counterpart, State


def read_mongodb(settings: MongoSettings) -> State:
    """Every document that is no tombstone."""
    found: dict[tuple[str, str, str], Any] = {}
    with MongoClient[Any](settings.uri.get_secret_value()) as client:
        database = client[settings.database]
        for name in set(database.list_collection_names()) & set(TABLES):
            for document in database[name].find({"is_deleted": {"$ne": True}}):
                user_id, _, key = document.pop("_id").partition(":")
                assert (user_id, name, key) not in found
                found[user_id, name, key] = document
    return found


def start_mongodb(request: pytest.FixtureRequest) -> Counterpart:
    """A database of its own on the session's server."""
    server: str = request.getfixturevalue("mongodb_server")
    settings = MongoSettings(uri=SecretStr(server), database=f"t{uuid4().hex}")
    target = Target("mongodb", DESTINATION, settings)
    return Counterpart(target, lambda: read_mongodb(settings))
