"""Sends the callbacks of a profile's API."""

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from attrs import define
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from jobproxy.http1 import client as http_client
from jobproxy.http1.client import PlainClient
from jobproxy.profiles.profile import Profile
from jobproxy.sandbox.profile_drafts import Draft
from jobproxy.sandbox.profile_jobs import MAX_NOTE, SimulatedJob
from jobproxy.sandbox.profile_signing import sign, sign_wrongly

_log = Logger()

#: Seconds for one callback.
TIMEOUT = 30.0
#: Bytes of the response to a callback.
MAX_BODY = 1_000_000


@define(eq=False)
class CallbackSender:
    """Sends callbacks, signed as the profile wants it.

    :param now: returns Unix time in seconds.
    """

    _client: PlainClient
    _clock: IReactorTime
    _profile: Profile
    _now: Callable[[], float]

    async def send(
        self, job: SimulatedJob, draft: Draft, state: str, *, is_forged: bool = False
    ) -> None:
        """Send a callback, and note the response to it."""
        url = choose_url(job.callback_urls, draft.query)
        if url is None:
            return
        headers, body, verifier = dict(draft.all_headers), draft.body, self._profile.verifier
        if verifier is not None:
            make = sign_wrongly if is_forged else sign
            headers |= make(verifier, body, f"msg_{job.job_id}_{state}", self._now())
        try:
            sending = Deferred.fromCoroutine(self._exchange(url, headers, body))
            status, response = await sending.addTimeout(TIMEOUT, self._clock)
        except Exception as error:  # any failure is one of the receiver, not of the simulator
            _log.warn("a callback was not delivered: {error!r}", error=error)
            return
        job.delivered.append((state, status, response.decode("utf-8", "replace")[:MAX_NOTE]))

    async def _exchange(self, url: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        lines = tuple((name.encode(), value.encode("latin-1")) for name, value in headers.items())
        method = self._profile.callback_methods[0]
        response: Any = await self._client.request(method, url, headers=lines, data=body)
        return response.code, await http_client.read_body(response, MAX_BODY)


def choose_url(urls: tuple[str, ...], query: dict[str, str]) -> str | None:
    """Return the URL of a callback, with the parameters that it needs.

    Where the profile sets several URLs, each may have another outcome in its query.

    :return: :data:`None`: there is none for this callback.
    """
    for url in urls:
        given = dict(parse_qsl(urlsplit(url).query))
        if all(given.get(name, value) == value for name, value in query.items()):
            missing = {name: value for name, value in query.items() if name not in given}
            if not missing:
                return url
            return url + ("&" if "?" in url else "?") + urlencode(missing)
    return None
