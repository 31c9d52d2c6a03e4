"""Subscriptions an app has at a provider, each at an address of its own."""

from collections.abc import Collection, Mapping

from wearable_pipeline.providers._contract import Client


async def end_all(
    client: Client,
    path: str,
    ids: Collection[object],
    *,
    params: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> int:
    """End the subscriptions `<path>/<id>`, those that are gone by now too; how many there were."""
    for one in ids:
        await client.request(
            "DELETE", f"{path}/{one}", params=params, headers=headers, accept=(204, 200, 404)
        )
    return len(ids)
