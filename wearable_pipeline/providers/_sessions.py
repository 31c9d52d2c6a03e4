"""Sessions begun by name and password: when one is over, one process at a time begins the next."""

from collections.abc import Awaitable, Callable

from wearable_pipeline.errors import NotConnectedError
from wearable_pipeline.providers._contract import Connection

Login = Callable[[str, str], Awaitable[dict[str, object]]]


async def begin_anew(
    connection: Connection, provider: str, login: Login, *, session: str, name: str = "email"
) -> None:
    """Log in again with what is stored, unless somebody else has meanwhile.

    `session` and `name` are where the credentials hold the session and the name of the account. `login`
    gets name and password and returns the credentials that have changed.
    """
    refused = connection.credentials.get(session)
    async with connection.alone():
        known = connection.credentials
        # Somebody else has logged in while this one waited.
        if known.get(session) != refused:
            return
        account, password = known.get(name), known.get("password")
        if not account or not password:
            raise NotConnectedError(f"{provider}: no login is stored: connect this user again")
        known.update(await login(str(account), str(password)))
        connection.save_credentials()
