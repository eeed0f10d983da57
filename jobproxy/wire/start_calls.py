"""The start request, as a frozen value."""

from attrs import field, frozen

from jobproxy.wire.headers import Headers


@frozen
class StartCall:
    """A request that starts a job.

    :param url: with a query, if it has one; empty: that of ``--job-server-url``.
    :param secrets: texts in it, in ASCII, that nobody but the job server may read, besides the
        callback URL itself.
    :param headers: with its ``Content-Type``.
    """

    body: bytes = field(repr=False)
    headers: Headers = field(repr=False)
    method: str = "POST"
    url: str = field(default="", repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)
