"""The proof that an address is ours which providers ask for when a subscription is made."""

from hmac import compare_digest

import msgspec

from wearable_pipeline.providers._contract import PushAnswer, PushRequest, PushSecrets


def echo_challenge(
    request: PushRequest, secrets: PushSecrets, *, proof: str, challenge: str
) -> PushAnswer | None:
    """The parameter `challenge` sent back as JSON, to a GET whose parameter `proof` is our secret."""
    if request.method != "GET":
        return None
    given = request.query.get(proof, "").encode()
    if not secrets.push_secret or not compare_digest(given, secrets.push_secret.encode()):
        return PushAnswer(401)
    body = msgspec.json.encode({challenge: request.query.get(challenge, "")})
    return PushAnswer(200, body, "application/json")
