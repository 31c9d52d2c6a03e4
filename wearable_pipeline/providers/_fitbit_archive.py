"""Archives of Fitbit Web API answers: one JSON file, or a zip of as many as people kept.

Of a zip, every file named `….json` is read. It is refused as a whole, before anything is stored, when
one of them is broken or nobody knows what it is: half an archive taken for the whole would be lost
in silence. Answers without readings (profile, goals, errors) are passed over; a profile tells the
time zone where the person importing does not.
"""

import re
import zipfile
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import PurePath
from typing import BinaryIO

from wearable_pipeline.errors import BadPayloadError
from wearable_pipeline.providers._contract import (
    HEAD_BYTES,
    ImportOptions,
    Page,
    Record,
    Resource,
)
from wearable_pipeline.providers._fitbit_split import Recognise, name_other, profile_zone
from wearable_pipeline.providers._split import decode_any

# An answer is held in memory whole. The longest, seconds of a day, have some megabytes.
LARGEST_ANSWER = 256 << 20
_WHAT = "fitbit: reading the archive"
# Not used for anything: an archive does not say when it was asked for.
_ANY_TIME = datetime(1970, 1, 1, tzinfo=UTC)
_ZIP = b"PK\x03\x04"
_SHOWN = 3

# How answers begin, for those longer than the head that is shown.
_BEGINS = re.compile(
    rb'\s*\{\s*"(activities|sleep|body|foods|weight|fat|water|hrv|br|bp|spo2|temp|cardioScore'
    rb'|ecgReadings|summary|pagination)[\w-]*"\s*:'
    rb'|\s*\[\s*\{\s*"(dateTime|minutes|value|logId|activeDuration|dateOfSleep)"\s*:'
)

Explain = Callable[[bytes], None]


def recognise(is_known: Recognise) -> Callable[[bytes], bool]:
    """Tells by its head whether a file is an answer or a zip."""

    def by_head(head: bytes) -> bool:
        if head.startswith(_ZIP):
            return True
        text = head.removeprefix(BOM_UTF8)
        if len(head) >= HEAD_BYTES:
            return _BEGINS.match(text) is not None
        return is_known(decode_any(text))

    return by_head


def reader(
    resources: Sequence[Resource], explain: Explain
) -> Callable[[BinaryIO, ImportOptions], Iterator[list[Record]]]:
    """Reads files that `recognise` knows into records of all `resources`."""

    def read(stream: BinaryIO, options: ImportOptions) -> Iterator[list[Record]]:
        stream.seek(0)
        is_zip = stream.read(len(_ZIP)) == _ZIP
        stream.seek(0)
        if is_zip:
            yield from _read_zip(stream, options, resources)
            return
        body = stream.read(LARGEST_ANSWER + 1)
        if len(body) > LARGEST_ANSWER:
            raise BadPayloadError(f"{_WHAT}: longer than {LARGEST_ANSWER >> 20} MiB")
        body = body.removeprefix(BOM_UTF8)
        explain(body)
        name = getattr(stream, "name", None)
        known = PurePath(name).name if isinstance(name, str | PurePath) else None
        yield from _read_answer(body, known, options, resources)

    return read


def _read_answer(
    body: bytes,
    name: str | None,
    options: ImportOptions,
    resources: Sequence[Resource],
    zone: str | None = None,
) -> Iterator[list[Record]]:
    fitting = _fitting(body, resources)
    if not fitting:
        raise BadPayloadError(f"{_WHAT}: it is no answer of the Web API, cut off or broken")
    context = {"timezone": options.timezone or zone, "file": name, "units": options.units}
    for resource in fitting:
        yield list(resource.split(Page(resource.name, body, _ANY_TIME, context)))


def _fitting(body: bytes, resources: Sequence[Resource]) -> list[Resource]:
    answer = decode_any(body)
    return [r for r in resources if r.recognise is not None and r.recognise(answer)]


def _read_zip(
    stream: BinaryIO, options: ImportOptions, resources: Sequence[Resource]
) -> Iterator[list[Record]]:
    try:
        with zipfile.ZipFile(stream) as folder:
            members = [
                member
                for member in folder.infolist()
                if not member.is_dir()
                and member.filename.lower().endswith(".json")
                and not member.filename.startswith("__MACOSX/")
            ]
            answers, zone = _survey(folder, members, options, resources)
            for member in answers:
                # Folders do not name a day: many are named after that of the export.
                name = PurePath(member.filename).name
                yield from _read_answer(_body(folder, member), name, options, resources, zone)
    except NotImplementedError:
        # What zipfile raises for a compression it does not know; a RuntimeError too.
        raise BadPayloadError(
            f"{_WHAT}: the zip cannot be read: it is compressed in an unusual way; pack it again"
        ) from None
    except (zipfile.BadZipFile, EOFError, RuntimeError) as error:
        # RuntimeError is what a member with a password raises.
        kind = "it asks for a password" if isinstance(error, RuntimeError) else "it is damaged"
        raise BadPayloadError(f"{_WHAT}: the zip cannot be read: {kind}") from None


def _survey(
    folder: zipfile.ZipFile,
    members: Sequence[zipfile.ZipInfo],
    options: ImportOptions,
    resources: Sequence[Resource],
) -> tuple[list[zipfile.ZipInfo], str | None]:
    """The members with readings and the zone of a profile, once all members are known to be sound."""
    answers: list[zipfile.ZipInfo] = []
    strange: list[str] = []
    zone: str | None = None
    for number, member in enumerate(members, 1):
        body = _body(folder, member)
        fitting = _fitting(body, resources)
        answer = decode_any(body)
        zone = profile_zone(answer) or zone
        if fitting:
            for resource in fitting:
                # Whatever is wrong with it shows before anything is stored.
                context = {"timezone": options.timezone, "file": None}
                for _ in resource.split(Page(resource.name, body, _ANY_TIME, context)):
                    pass
            answers.append(member)
        elif name_other(answer) is None:
            strange.append(f"number {number}")
    if strange:
        shown = ", ".join(strange[:_SHOWN]) + (" and more" if len(strange) > _SHOWN else "")
        raise BadPayloadError(
            f"{_WHAT}: {len(strange)} of its {len(members)} JSON files are broken or no answers of"
            f" the Web API ({shown}): take them out"
        )
    if not answers:
        raise BadPayloadError(f"{_WHAT}: the zip holds no answer with readings")
    return answers, zone


def _body(folder: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    with folder.open(member) as opened:
        # What the directory says of its length need not be true.
        body = opened.read(LARGEST_ANSWER + 1)
    if len(body) > LARGEST_ANSWER:
        raise BadPayloadError(f"{_WHAT}: a file in it is longer than {LARGEST_ANSWER >> 20} MiB")
    return body.removeprefix(BOM_UTF8)
