"""Azurite: Microsoft's Azure Blob emulator, which checks keys. Installed by `.ci/servers`."""

import base64
import hashlib
import hmac
import urllib.request
from email.utils import formatdate
from pathlib import Path

PROGRAM = Path(__file__).parents[2] / ".cache/npm/node_modules/.bin/azurite-blob"

# The emulator's published development account; a secret to nobody.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def command(port: int) -> list[str]:
    """The command line of a server that keeps its blobs in memory."""
    return [
        *(str(PROGRAM), "--inMemoryPersistence", "--silent", "--disableTelemetry"),
        "--skipApiVersionCheck",
        *("--blobHost", "127.0.0.1", "--blobPort", str(port)),
    ]


def create_container(endpoint: str, container: str) -> None:
    """Makes an empty container, signed by the account's key as Azure wants it."""
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    signed = "\n".join(
        [
            "PUT",
            *[""] * 11,
            *(f"{name}:{value}" for name, value in headers.items()),
            f"/{ACCOUNT}/{ACCOUNT}/{container}",
            "restype:container",
        ]
    )
    digest = hmac.new(base64.b64decode(KEY), signed.encode(), hashlib.sha256).digest()
    request = urllib.request.Request(
        f"{endpoint}/{container}?restype=container",
        method="PUT",
        headers={
            **headers,
            "Authorization": f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}",
            "Content-Length": "0",
        },
    )
    with urllib.request.urlopen(request, timeout=10):
        pass
