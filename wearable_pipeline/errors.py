"""What can go wrong, sorted by whether trying again can help.

Every message is one line: what was being done, for whom, what to do about it. Messages are logged and
stored, so they never carry a token, a name, an e-mail address or a measured value.
"""

from datetime import timedelta


class PipelineError(Exception):
    """Base of every error a person may see; its text is safe to log."""

    error_class = "permanent"


class UsageError(PipelineError):
    """The call cannot be carried out as given: unknown user, unreadable file, bad setting."""

    error_class = "usage"


class TransientError(PipelineError):
    """Trying again later can help: time-outs, 408, 429, 5xx, maintenance."""

    error_class = "transient"

    def __init__(self, message: str, retry_after: timedelta | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RateLimitedError(TransientError):
    """The provider asked us to slow down; `retry_after` says for how long."""

    error_class = "rate_limited"


class QuotaSpentError(RateLimitedError):
    """The provider was not asked: what it allows in a window of time is spent, or our share of it."""

    error_class = "quota_spent"


class PermanentError(PipelineError):
    """Trying again cannot help until somebody changes something."""


class NotConnectedError(PermanentError):
    """The provider no longer lets us in for this user: wrong password, revoked, consent pending."""

    error_class = "not_connected"


class BadPayloadError(PermanentError):
    """The body is not what the provider documents: HTML, cut off, another provider's."""

    error_class = "bad_payload"


class StorageError(PipelineError):
    """The lake cannot be read or written; the message names the URL and the way out."""

    error_class = "storage"
