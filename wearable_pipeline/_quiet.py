"""HTTP libraries that log whole addresses, tokens and all, are quiet in every process of ours."""

import logging


def _is_warning(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING


# They tell every URL at INFO and headers at DEBUG. A filter holds whatever levels are configured.
for _name in (
    "httpx",
    "httpcore.connection",
    "httpcore.http11",
    "httpcore.http2",
    "httpcore.proxy",
):
    logging.getLogger(_name).addFilter(_is_warning)
