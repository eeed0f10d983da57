"""The requests of a load: each with the next account, a number and a key of its own."""

import json

from attrs import define, field

from jobproxy.http1.sender import HeaderLines

#: What is replaced in data: by the number of the job, from 1, and by its account.
NUMBER, ACCOUNT = b"{n}", b"{account}"


@define(eq=False)
class LoadRequests:
    """Makes the request of each job.

    :param url: where all of them are POSTed.
    :param accounts: used in turn; there is at least one.
    :param headers: of each request, besides those that this class adds.
    :param data: the body, in which :data:`NUMBER` and :data:`ACCOUNT` are replaced; None: the job
        of an account as in the work sample.
    :param key_prefix: begins the idempotency key of each job; empty: there are no keys.
    """

    url: str
    _accounts: tuple[str, ...]
    _headers: HeaderLines
    _data: bytes | None = None
    _key_prefix: str = ""
    _bodies: list[bytes] = field(init=False, repr=False)
    _has_number: bool = field(init=False)

    def __attrs_post_init__(self) -> None:
        data = self._data
        self._bodies = [
            json.dumps({"account": account, "wait": True}).encode()
            if data is None
            else data.replace(ACCOUNT, account.encode())
            for account in self._accounts
        ]
        self._has_number = data is not None and NUMBER in data
        names = {name.lower() for name, _ in self._headers}
        if b"content-type" not in names:
            self._headers = (*self._headers, (b"Content-Type", b"application/json"))

    def make(self, number: int) -> tuple[str, HeaderLines, bytes]:
        """Return the account, the headers and the body of a job."""
        turn = (number - 1) % len(self._accounts)
        body, headers = self._bodies[turn], self._headers
        if self._has_number:
            body = body.replace(NUMBER, b"%d" % number)
        if self._key_prefix:
            key = f"{self._key_prefix}-{number}".encode()
            headers = (*headers, (b"Idempotency-Key", key))
        return self._accounts[turn], headers, body
