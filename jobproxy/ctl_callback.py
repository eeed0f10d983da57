"""``jobproxyctl check-callback``: whether a job server here could reach the callback URL."""

import json
from typing import Any

from treq.client import HTTPClient
from twisted.web.client import Agent
from twisted.web.http_headers import Headers

from jobproxy.ctl_client import NO_PATH, TIMEOUT, Failed


async def check_callback(reactor: Any, url: str) -> None:
    """Send a callback with a wrong token, as a job server would send one.

    :param url: the proxy's ``--callback-url``.
    :raises Failed: if no jobproxy has refused it; the message says what to change.
    """
    client = HTTPClient(Agent(reactor, connectTimeout=TIMEOUT))
    try:
        response = await client.post(
            f"{url.rstrip('/')}/check",
            data=b"{}",
            headers=Headers({"Content-Type": ["application/json"]}),
            allow_redirects=False,
            timeout=TIMEOUT,
            reactor=reactor,
        )
        body: bytes = await response.content()
    except Exception as error:
        reasons = [each.getErrorMessage() for each in getattr(error, "reasons", ())]
        reason = ", ".join(reasons) or str(error) or type(error).__name__
        raise Failed(
            f"{url} cannot be reached from here: {reason}. The callbacks of a job server on this "
            "machine would be lost"
        ) from error
    if 300 <= response.code < 400:
        raise Failed(f"{url} redirects (status {response.code}), which job servers may not follow")
    if not _is_ours(body):
        raise Failed(
            f"{url} is served by something else (status {response.code}): what is in front of "
            "jobproxy has to forward this path to it"
        )


def _is_ours(body: bytes) -> bool:
    """Whether a response is jobproxy's to a path that it does not know."""
    try:
        return bool(json.loads(body)["type"] == NO_PATH)
    except (ValueError, KeyError, TypeError):
        return False
