"""`users connect` in the browser and `serve`, as commands."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import webbrowser
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from wearable_pipeline.api.server import is_serving
from wearable_pipeline.cli import app
from wearable_pipeline.sandbox._oauth_server import CLIENT_ID, CLIENT_SECRET
from wearable_pipeline.sandbox.server import SandboxProcess


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxProcess]:
    with SandboxProcess() as running:
        yield running


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture
def environment(
    tmp_path: Path, sandbox: SandboxProcess, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    values = {
        "WEARABLE_HOME": str(tmp_path / "home"),
        "WEARABLE_OURA_CLIENT_ID": CLIENT_ID,
        "WEARABLE_OURA_CLIENT_SECRET": CLIENT_SECRET,
        "WEARABLE_OURA_BASE_URL": f"{sandbox.url}/oura",
        "WEARABLE_OURA_AUTH_URL": f"{sandbox.url}/oura",
        "WEARABLE_SERVE_URL": f"http://127.0.0.1:{free_port()}",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return values


@pytest.fixture
def person_says(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Opens what the command opens, and says who it is: the last name of the list."""
    who = ["gus"]

    def visit(address: str) -> None:
        with httpx.Client(trust_env=False, timeout=20) as browser:
            start = browser.get(address)
            consent = browser.get(f"{start.headers['location']}&person={who[-1]}")
            browser.get(consent.headers["location"])

    def open_it(address: str) -> bool:
        threading.Thread(target=visit, args=(address,), daemon=True).start()
        return True

    monkeypatch.setattr(webbrowser, "open", open_it)
    return who


def test_connecting_serves_by_itself_and_prints_the_user(
    environment: dict[str, str], person_says: list[str]
) -> None:
    command = ["users", "connect", "oura", "--open", "--reference-id", "r-1", "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout.strip().splitlines()[-1])
    assert told["status"] == "connected"
    listed = CliRunner().invoke(app, ["users", "list", "--json"])
    (user,) = json.loads(listed.stdout)
    assert (user["user_id"], user["reference_id"]) == (told["user_id"], "r-1")
    assert not is_serving(environment["WEARABLE_SERVE_URL"])


def test_a_no_in_the_browser_ends_the_command_with_its_own_code(
    environment: dict[str, str], person_says: list[str]
) -> None:
    person_says.append("nobody")
    result = CliRunner().invoke(app, ["users", "connect", "oura", "--open"])
    assert result.exit_code == 3
    assert "permission was not given" in result.output


def test_a_missing_app_is_named_at_once(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WEARABLE_OURA_CLIENT_SECRET")
    result = CliRunner().invoke(app, ["users", "connect", "oura"])
    assert result.exit_code == 2
    assert "WEARABLE_OURA_CLIENT_SECRET" in result.output


def test_serve_is_used_when_it_runs_and_ends_cleanly(
    environment: dict[str, str], person_says: list[str]
) -> None:
    port = environment["WEARABLE_SERVE_URL"].rpartition(":")[2]
    server = subprocess.Popen(
        [sys.executable, "-m", "wearable_pipeline.cli", "serve", "--port", port],
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
    )
    try:
        deadline = time.monotonic() + 60
        while not is_serving(environment["WEARABLE_SERVE_URL"]):
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        result = CliRunner().invoke(app, ["users", "connect", "oura", "--open"])
        assert result.exit_code == 0, result.output
        # It was running before and still is.
        assert is_serving(environment["WEARABLE_SERVE_URL"])
        taken = CliRunner().invoke(app, ["push", "take-in", "--json"])
        assert json.loads(taken.stdout)["oura"]["pushes"] == 0
    finally:
        server.send_signal(signal.SIGTERM)
        _, words = server.communicate(timeout=20)
    assert b"Traceback" not in words
