"""Following a provider's pages to their end, with a bound on those that never end."""

from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping
from typing import Protocol, TypeVar

from wearable_pipeline.errors import BadPayloadError
from wearable_pipeline.providers._contract import Answer, Client
from wearable_pipeline.providers._split import decode

C = TypeVar("C", bound=Hashable)

MAX_PAGES = 5_000


class Listing(Protocol):
    """An answer that may name the token of the next one."""

    next_token: str | None


async def follow(
    ask: Callable[[C | None], Awaitable[Answer]],
    find_next: Callable[[Answer], C | None],
    what: str,
    max_pages: int = MAX_PAGES,
) -> AsyncIterator[Answer]:
    """Every page from the first to the last; `ask` gets None first, then what `find_next` found.

    Raises BadPayloadError when a cursor comes back a second time or the pages do not end: half a
    listing must not pass for a whole one.
    """
    cursor: C | None = None
    seen: set[C] = set()
    for _ in range(max_pages):
        answer = await ask(cursor)
        cursor = find_next(answer)
        if cursor is not None and cursor in seen:
            raise BadPayloadError(f"{what}: the pages repeat themselves instead of going on")
        yield answer
        if cursor is None:
            return
        seen.add(cursor)
    raise BadPayloadError(f"{what}: more than {max_pages} pages; ask for less")


async def follow_tokens(
    client: Client,
    path: str,
    params: Mapping[str, str | int],
    parameter: str,
    shape: type[Listing],
    what: str,
) -> AsyncIterator[Answer]:
    """Every page of a listing whose answers, of `shape`, name what `parameter` sends back for the next.

    A page that was refused (HTTP 403) is the last.
    """

    async def ask(token: str | None) -> Answer:
        following = {**params, parameter: token} if token else params
        return await client.request("GET", path, params=following)

    def find_next(answer: Answer) -> str | None:
        return None if answer.status == 403 else decode(answer.body, shape, what).next_token or None

    async for answer in follow(ask, find_next, what):
        yield answer
