"""Clients that come all the time, and count what they get."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

from attrs import define, field

from tests.support.waiting import DEADLINE, wait_until


@define(eq=False)
class Visitors:
    """Clients that send one job after the other, each on a new connection, until they are stopped.

    :param number: how many there are.
    :ivar outcomes: how many jobs had which status, or error.
    """

    port: int
    number: int
    outcomes: Counter[str] = field(factory=Counter, init=False)
    is_over: Event = field(factory=Event, init=False)

    def run(self) -> None:
        asyncio.run(self._send())

    def wait_for(self, count: int) -> None:
        """Wait until so many jobs have had a response."""
        wait_until(lambda: self.outcomes.total() >= count)

    async def _send(self) -> None:
        await asyncio.gather(*(self._visit(f"account {turn}") for turn in range(self.number)))

    async def _visit(self, account: str) -> None:
        while not self.is_over.is_set():
            try:
                outcome = await asyncio.wait_for(self._converse(account), DEADLINE)
            except (OSError, asyncio.TimeoutError) as error:
                outcome = type(error).__name__
            self.outcomes[outcome] += 1

    async def _converse(self, account: str) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        body = json.dumps({"account": account})
        head = (
            f"POST /proxy HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {len(body)}"
        )
        writer.write(f"{head}\r\n\r\n{body}".encode())
        try:
            response = (await reader.read()).decode().partition("\r\n")
        finally:
            writer.close()
        status = response[0][9:12]
        return status if status != "200" or '"state":"completed"' in response[2] else "cut short"


@contextmanager
def visit(port: int, number: int) -> Iterator[Visitors]:
    """Have clients come to a port while the context lasts."""
    visitors = Visitors(port, number)
    thread = Thread(target=visitors.run)
    thread.start()
    try:
        yield visitors
    finally:
        visitors.is_over.set()
        thread.join()
