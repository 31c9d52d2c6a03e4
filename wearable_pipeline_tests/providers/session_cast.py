"""People of the sandbox who connect by a password, and the sessions they have there."""

import httpx

from wearable_pipeline.sandbox.server import SandboxProcess


def change_session(sandbox: SandboxProcess, provider: str, person: str, action: str) -> None:
    """`reset`, `expire` or `change_password` of somebody's session at the sandbox."""
    httpx.post(
        f"{sandbox.url}/{provider}/control/sessions",
        json={"person": person, "action": action},
        trust_env=False,
    ).raise_for_status()
