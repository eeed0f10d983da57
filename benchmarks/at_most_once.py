"""At most once: no job is started twice, and none is lost, whatever becomes of the starts.

Clients send jobs through jobproxy to a simulated job server that does to 1 % of the starts each
what a job server can: it answers 500 or something that is no ack, resets the connection, holds the
ack back for longer than the proxy waits for it, or says at once that it is busy; and it does not
listen for a moment, so that the next ones are refused a connection. Then the books are compared:
what the clients were told, and what the job server has seen. The exit code is 1 if that is wrong.
"""

import argparse
import asyncio
import json
import re
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from attrs import define, field, frozen
from wire import Messages, NotUnderstood, make_post, wants_close

from jobproxy.daemon.lifecycle import raise_file_limit
from jobproxy.sandbox.processes import DaemonProcess, run_pair

#: Seconds that the proxy waits for an ack; far more than one takes on a machine that has to work.
START_TIMEOUT = 1.0
#: Seconds that it waits for the callback of a start whose ack is lost.
GRACE = 5.0
FAULTS = {
    # The rate is that of moments without a listener; about one start falls into each of them.
    "refused": "0.01:0.002",
    "busy": "0.01:0",
    "reset": "0.01",
    "error": "0.01",
    "slow": f"0.01:{START_TIMEOUT + 0.5}",
    "garbage": "0.01",
}
#: Those after which nobody but the job server can know whether the job runs; in fact it does, but
#: after an error.
AMBIGUOUS = frozenset({"reset", "error", "slow", "garbage"})

JOB_SERVER = {
    # From 0 to 1.6 s: callbacks overtake acks, come after them, and come once they are given up.
    "duration": "0.8",
    "jitter": "0.8",
    # An ack that is held back must not hold up others, as these would time out by themselves.
    "slots-per-account": "1000",
    "faults": ",".join(f"{kind}={rate}" for kind, rate in FAULTS.items()),
}
PROXY = {
    "start-timeout": str(START_TIMEOUT),
    "ambiguous-grace": str(GRACE),
    # Only who connects can be refused.
    "upstream-idle": "0",
}

#: Of the jobs whose ack was lost and whose callback came, how many have to be answered with 200.
RECOVERED = 0.999
#: Seconds; longer than the proxy holds a client.
PATIENCE = 60.0
#: Seconds that a callback may take to the proxy.
TRAVEL = 0.1
#: Seconds until all clients are there; at once they would be a burst that no later moment has.
RAMP = 1.5

_REFUSED = re.compile(r'^jobproxy_starts_total\{result="refused"\} (\d+)', re.MULTILINE)
_RETRY_AFTER = re.compile(rb"\r\nretry-after:[ \t]*(\d+)", re.IGNORECASE)


@define(eq=False)
class Load:
    """What all clients share.

    :param jobs: how many are still to be sent; one that was not started is sent again, as another.
    :ivar sent: how many were sent.
    :ivar statuses: what each job was answered with, by its number.
    :ivar answers: how often each status and kind of problem was met.
    :ivar started: how many clients were told that their job was started, was not, or may be.
    """

    port: int
    jobs: int
    accounts: int
    sent: int = 0
    statuses: dict[int, int] = field(factory=dict)
    answers: Counter[str] = field(factory=Counter)
    started: Counter[str] = field(factory=Counter)
    errors: Counter[str] = field(factory=Counter)
    _ids: set[str] = field(factory=set)

    async def run(self, concurrency: int) -> None:
        """Have all jobs done by so many clients."""
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
                head, answer = await asyncio.wait_for(client.exchange(body), PATIENCE)
            except (OSError, NotUnderstood, asyncio.TimeoutError) as error:
                self.errors[f"no answer: {error!r}"] += 1
                client.close()
                continue
            self._take(number, int(head[9:12]), json.loads(answer))
            if pause := _RETRY_AFTER.search(head):
                await asyncio.sleep(int(pause[1]))
        client.close()

    def _take(self, number: int, status: int, answer: dict[str, Any]) -> None:
        self.statuses[number] = status
        if status != 200:
            self.answers[f"{status} {answer['type'].rpartition(':')[2]}"] += 1
            self.started[answer["started"]] += 1
            self.jobs += answer["started"] == "no"
            return
        self.answers["200"] += 1
        self.started["yes"] += 1
        if answer["tag"] != number or answer["state"] != "completed":
            self.errors["a client got something else than its own result"] += 1
        if answer["id"] in self._ids:
            self.errors["two clients got the same job"] += 1
        self._ids.add(answer["id"])


@define(eq=False)
class Client:
    """A client's connection, which is kept, and made again where that is needed."""

    _port: int
    _messages: Messages = field(factory=Messages, init=False)
    _reader: asyncio.StreamReader | None = None
    _writer: asyncio.StreamWriter | None = None

    async def exchange(self, job: dict[str, Any]) -> tuple[bytes, bytes]:
        """Send a job; return the head and the body of its answer."""
        if self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writer.write(make_post(b"proxy", b"/proxy", json.dumps(job).encode()))
        answers: list[tuple[bytes, bytes]] = []
        while not answers:
            data = await self._reader.read(65_536)
            if not data:
                raise ConnectionError("the connection was closed instead of an answer")
            answers = self._messages.feed(data)
        if len(answers) > 1:
            raise NotUnderstood("two answers to one job")
        if wants_close(answers[0][0]):
            self.close()
        return answers[0]

    def close(self) -> None:
        """Close the connection."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None
        self._messages = Messages()


@frozen
class Books:
    """What the clients were told, and what the job server saw.

    :param load: the clients' side.
    :param stats: the job server's numbers.
    :param mishaps: its starts that had faults.
    :param refused: start calls that found nobody listening.
    :param is_once: whether no start may be sent again that may have been read.
    """

    load: Load
    stats: dict[str, Any]
    mishaps: list[dict[str, Any]]
    refused: int
    is_once: bool

    @property
    def read(self) -> list[dict[str, Any]]:
        """The starts with faults that the job server has read, so that they must not come again."""
        return [start for start in self.mishaps if "busy" not in start["faults"]]

    @property
    def ambiguous(self) -> list[dict[str, Any]]:
        """The starts that got no usable ack."""
        return [start for start in self.read if AMBIGUOUS.intersection(start["faults"])]

    @property
    def called_back(self) -> list[dict[str, Any]]:
        """The starts without a usable ack whose callback was sent while it was waited for."""
        return [start for start in self.ambiguous if start["delivered"] and not is_late(start)]

    @property
    def late(self) -> int:
        """How many were called back only then; no job takes so long, but the machine may stall."""
        return sum(is_late(start) for start in self.ambiguous if start["delivered"])

    @property
    def not_recovered(self) -> list[dict[str, Any]]:
        """Those whose clients were nevertheless not answered with their result."""
        return [start for start in self.called_back if self.load.statuses.get(start["tag"]) != 200]

    @property
    def recovered(self) -> int:
        return len(self.called_back) - len(self.not_recovered)

    @property
    def errors(self) -> int:
        """How many starts were read, and answered with 500 instead of being run."""
        return sum("error" in start["faults"] for start in self.read)

    @property
    def seen(self) -> int:
        """How many different jobs the job server has read a start of."""
        repeated: int = self.stats["repeated_callback_urls"]
        return self.stats["started"] + self.errors - repeated

    @property
    def not_taken(self) -> int:
        """How many callbacks the proxy did not answer with 200."""
        return self.stats["callbacks_sent"] - self.stats["callbacks_accepted"]

    def find_faults(self) -> Iterator[str]:
        """Say what is wrong."""
        load, repeated = self.load, self.stats["repeated_callback_urls"]
        for error, count in load.errors.items():
            yield f"{count} times: {error}"
        if repeated > (0 if self.is_once else len(self.ambiguous)):
            yield f"{repeated} starts of jobs that had been started before"
        if self.recovered < RECOVERED * len(self.called_back):
            yield f"only {self.recovered} of {len(self.called_back)} lost acks were made up for"
            yield from map(str, self.not_recovered[:10])
        if self.seen + load.started["no"] > load.sent:
            yield "jobs were started whose clients were told that they were not"
        if self.stats["callbacks_sent"] < self.stats["started"] or self.not_taken:
            yield "callbacks were lost"
        if not self.stats["faults"].keys() >= AMBIGUOUS:
            yield "not all kinds of faults came up; more jobs are needed"

    def rows(self) -> Iterator[tuple[str, object]]:
        """Yield the lines of the table."""
        stats, count = self.stats, len(self.called_back)
        yield "jobs", self.load.sent
        for answer, number in sorted(self.load.answers.items()):
            yield f"  answered {answer}", number
        for word in ("yes", "unknown", "no"):
            yield f"  told started: {word}", self.load.started[word]
        yield "starts that the job server read", self.seen + stats["repeated_callback_urls"]
        yield "  answered busy, so not read", len(self.mishaps) - len(self.read)
        yield "  refused a connection", self.refused
        yield "  of a callback URL seen before", stats["repeated_callback_urls"]
        yield "  jobs of which it read no start", self.load.sent - self.seen
        yield "ambiguous faults injected", len(self.ambiguous)
        for kind in sorted(AMBIGUOUS):
            yield f"  {kind}", sum(kind in start["faults"] for start in self.read)
        yield "ambiguous, and the callback came", count
        percent = 100 * self.recovered / count if count else 100
        yield "  and the client got it", f"{self.recovered} ({percent:.2f} %)"
        yield "ambiguous, and the callback was late", self.late
        yield "callbacks that were not taken", self.not_taken


def is_late(start: dict[str, Any]) -> bool:
    """Whether the proxy had given up a start when it was called back, whatever it told of it."""
    lost = START_TIMEOUT if start["faults"] == ["slow"] else 0.0
    sent: float = start["delivered"][0][0]
    return sent > lost + GRACE - TRAVEL


def fetch_text(daemon: DaemonProcess, path: str) -> str:
    with urllib.request.urlopen(f"{daemon.url}/{path}") as response:
        text: str = response.read().decode()
        return text


def fetch(server: DaemonProcess, path: str) -> Any:
    """Return a document of the job server's."""
    return json.loads(fetch_text(server, path))


def wait_for_callbacks(server: DaemonProcess) -> None:
    """Wait until all jobs have ended, those too that nobody waits for."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        stats = fetch(server, "stats")
        if stats["callbacks_sent"] == stats["callbacks_accepted"] == stats["started"]:
            return
        time.sleep(0.1)


def keep_books(arguments: argparse.Namespace) -> Books:
    """Run the jobs, and collect what both sides know."""
    job_server = {**JOB_SERVER, "seed": str(arguments.seed)}
    with run_pair(job_server, {**PROXY, "retry": arguments.retry}) as (server, proxy):
        load = Load(proxy.port, arguments.jobs, arguments.accounts)
        asyncio.run(load.run(arguments.concurrency))
        wait_for_callbacks(server)
        stats, mishaps = fetch(server, "stats"), fetch(server, "mishaps")
        # A connection that is refused is known to nobody but who wanted to make it.
        refused = sum(map(int, _REFUSED.findall(fetch_text(proxy, "metrics"))))
        return Books(load, stats, mishaps, refused, arguments.retry != "always")


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000, help="%(default)s")
    parser.add_argument("--concurrency", type=int, default=500, help="clients; %(default)s")
    parser.add_argument("--accounts", type=int, default=200, help="%(default)s")
    parser.add_argument("--retry", default="not-sent", choices=["never", "not-sent", "always"])
    parser.add_argument("--seed", type=int, default=1, help="of the faults; %(default)s")
    return parser.parse_args()


def main() -> None:
    """Run the jobs, and print the books."""
    arguments = read_arguments()
    raise_file_limit()
    began = time.monotonic()
    books = keep_books(arguments)
    for label, figure in books.rows():
        print(f"{label:36}{figure:>10}" if isinstance(figure, int) else f"{label:36}{figure}")
    faults = list(books.find_faults())
    for fault in faults:
        print(f"WRONG: {fault}")
    took = time.monotonic() - began
    print(f"{'FAILED' if faults else 'PASSED'} --retry {arguments.retry}, in {took:.0f} s")
    sys.exit(bool(faults))


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
