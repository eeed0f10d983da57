"""What a response to a request about a job means, and whether to ask again."""

from collections.abc import Callable
from typing import Any, cast

from attrs import frozen

from jobproxy.http1.response import Response
from jobproxy.profiles.messages import Message, read_headers
from jobproxy.upstream.start_responses import read_retry_after

_NOT_FOUND = 404
#: Statuses after which to ask again is useless. Redirects are never followed.
_REFUSED = frozenset({*range(300, 400), 400, 401, 403, _NOT_FOUND, 405, 410, 422})


@frozen
class Answer:
    """What came of a request.

    :param message: of a success; :data:`None`: it failed.
    :param retry_after: seconds that the job server asks to wait.
    :param is_refused: whether to ask again is useless.
    """

    message: Message | None = None
    retry_after: float = 0.0
    is_refused: bool = False


def judge(
    response: Response,
    body: bytes,
    names: frozenset[bytes],
    now: Callable[[], float],
    *,
    is_of_ended: bool,
) -> Answer:
    """Return what a response means.

    :param names: of the headers to keep, in lower case.
    :param now: returns Unix time in seconds.
    :param is_of_ended: whether the job server has said that the job has ended: then it is known,
        but perhaps not yet to the one of its servers that is asked.
    """
    wait = float(read_retry_after(cast(Any, response), now) or 0)
    if 200 <= response.code < 300:
        headers = read_headers(response, names)
        return Answer(Message(body, headers, status=response.code), wait)
    is_early = is_of_ended and response.code == _NOT_FOUND
    return Answer(None, wait, response.code in _REFUSED and not is_early)
