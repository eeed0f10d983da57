"""Clients without keys, which send jobs through a proxy and record each response."""

import asyncio
import json
import re
from collections import Counter
from typing import Any

from attrs import define, field
from wire import Messages, NotUnderstood, closes_connection, make_post

#: Seconds that a client waits; longer than the proxy holds it.
PATIENCE = 60.0
#: Seconds over which the clients start, to avoid a burst.
RAMP = 1.5

_RETRY_AFTER = re.compile(rb"\r\nretry-after:[ \t]*(\d+)", re.IGNORECASE)


@define(eq=False)
class Load:
    """The state that all clients share.

    :param jobs: the number of jobs still to be sent; one that was not started is replaced.
    :ivar sent: the number of jobs that were sent.
    :ivar statuses: the status of the response to each job.
    :ivar responses: the numbers of responses by status and problem.
    :ivar started: the numbers of responses by their ``started``.
    """

    port: int
    jobs: int
    accounts: int
    sent: int = 0
    statuses: dict[int, int] = field(factory=dict)
    responses: Counter[str] = field(factory=Counter)
    started: Counter[str] = field(factory=Counter)
    errors: Counter[str] = field(factory=Counter)
    _ids: set[str] = field(factory=set)

    async def run(self, concurrency: int) -> None:
        """Run all jobs with so many clients."""
        await asyncio.gather(*(self._work(RAMP * n / concurrency) for n in range(concurrency)))

    async def _work(self, wait: float) -> None:
        await asyncio.sleep(wait)
        client = Client(self.port)
        while self.jobs > 0:
            number = self.sent
            self.sent += 1
            self.jobs -= 1
            body = {"account": f"account-{number % self.accounts}", "wait": True, "tag": number}
            try:
                head, response = await asyncio.wait_for(client.exchange(body), PATIENCE)
            except (OSError, NotUnderstood, asyncio.TimeoutError) as error:
                self.errors[f"no response: {error!r}"] += 1
                client.close()
                continue
            self._record(number, int(head[9:12]), json.loads(response))
            if pause := _RETRY_AFTER.search(head):
                await asyncio.sleep(int(pause[1]))
        client.close()

    def _record(self, number: int, status: int, response: dict[str, Any]) -> None:
        self.statuses[number] = status
        if status != 200:
            self.responses[f"{status} {response['type'].rpartition(':')[2]}"] += 1
            self.started[response["started"]] += 1
            self.jobs += response["started"] == "no"
            return
        self.responses["200"] += 1
        self.started["yes"] += 1
        if response["tag"] != number or response["state"] != "completed":
            self.errors["client got a wrong result"] += 1
        if response["id"] in self._ids:
            self.errors["two clients got the same job"] += 1
        self._ids.add(response["id"])


@define(eq=False)
class Client:
    """A client's connection, which is kept, and opened again when necessary."""

    _port: int
    _messages: Messages = field(factory=Messages, init=False)
    _reader: asyncio.StreamReader | None = None
    _writer: asyncio.StreamWriter | None = None

    async def exchange(self, job: dict[str, Any]) -> tuple[bytes, bytes]:
        """Send a job; return the head and the body of the response."""
        if self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writer.write(make_post(b"proxy", b"/proxy", json.dumps(job).encode()))
        responses: list[tuple[bytes, bytes]] = []
        while not responses:
            data = await self._reader.read(65_536)
            if not data:
                raise ConnectionError("the connection was closed before a response")
            responses = self._messages.feed(data)
        if len(responses) > 1:
            raise NotUnderstood("two responses to one job")
        if closes_connection(responses[0][0]):
            self.close()
        return responses[0]

    def close(self) -> None:
        """Close the connection."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None
        self._messages = Messages()
