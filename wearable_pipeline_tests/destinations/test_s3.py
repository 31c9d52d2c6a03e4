"""Settings of an S3 bucket; what all object stores share is in `test_objects`."""

import pytest
from pydantic import ValidationError

from wearable_pipeline.destinations import configured, get_target
from wearable_pipeline.destinations._objects import S3Settings
from wearable_pipeline.errors import UsageError
from wearable_pipeline_tests.destinations.test_targets import FromFile, from_file

__all__ = ["from_file"]

FULL = """
[archive]
kind = "s3"
bucket = "health"
prefix = "wearables/eu"
region = "eu-central-1"
access_key_id = "AKIA"
secret_access_key = "hush-hush"
form = "both"
"""


def test_a_bucket_is_described_in_the_file(from_file: FromFile) -> None:
    target = get_target(from_file(FULL), "archive")
    assert isinstance(target.settings, S3Settings)
    assert target.settings.store.url == "s3://health/wearables/eu"
    assert target.settings.form == "both"
    assert "hush" not in repr(target.settings) + repr(target)
    with target.open() as sender:
        assert "hush" not in repr(sender)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("secret_access_key = 'x'", "access_key_id and secret_access_key go together"),
        ("form = 'csv'", "form: Input should be 'json', 'parquet' or 'both'"),
        ("buckett = 'b'", "buckett is no setting of s3"),
        ("bucket = 'a/b'", "a bucket or container is one name"),
        ("concurrency = 0", "concurrency: .*greater than or equal to 1"),
    ],
)
def test_a_mistake_is_said_in_one_line(from_file: FromFile, line: str, said: str) -> None:
    bucket = "" if line.startswith("bucket =") else "bucket = 'b'\n"
    with pytest.raises(UsageError, match=said) as caught:
        configured(from_file(f"[archive]\nkind = 's3'\n{bucket}{line}\n"))
    assert "destination archive" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bucket_has_to_be_named() -> None:
    with pytest.raises(ValidationError, match="bucket"):
        S3Settings()  # type: ignore[call-arg]
