"""At most once: no job is started twice and none is lost, whatever the faults of the job server.

Clients send jobs through jobproxy to a simulated job server. Each fault hits 1 % of the start
requests: a 500, an invalid ack, a connection reset, an ack after the start timeout, a 503, or a
port that is closed for a moment, so that connections are refused. Then the responses to the clients
are compared with the counts of the job server. The exit code is 1 if they do not agree.
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
from wire import Messages, NotUnderstood, closes_connection, make_post

from jobproxy.daemon.process import raise_file_limit
from jobproxy.sandbox.processes import DaemonProcess, run_pair

#: Seconds that the proxy waits for an ack; far more than an ack takes on a busy machine.
START_TIMEOUT = 1.0
#: Seconds that it waits for the callback of an ambiguous start.
GRACE = 5.0
FAULTS = {
    # The rate is that of closing the port; about one start request is refused each time.
    "refused": "0.01:0.002",
    "busy": "0.01:0",
    "reset": "0.01",
    "error": "0.01",
    "slow": f"0.01:{START_TIMEOUT + 0.5}",
    "garbage": "0.01",
}
#: Faults that make a start ambiguous; the job runs, except after an error.
AMBIGUOUS = frozenset({"reset", "error", "slow", "garbage"})

JOB_SERVER = {
    # 0 to 1.6 s, so that callbacks come before the ack, after it, and after the start timeout.
    "duration": "0.8",
    "jitter": "0.8",
    # A slow ack must not delay others, which would then time out too.
    "slots-per-account": "1000",
    "faults": ",".join(f"{kind}={rate}" for kind, rate in FAULTS.items()),
}
PROXY = {
    "start-timeout": str(START_TIMEOUT),
    "ambiguous-grace": str(GRACE),
    # Only a new connection can be refused.
    "upstream-idle": "0",
}

#: The fraction of ambiguous starts with a callback whose clients must get the result.
RECOVERED = 0.999
#: Seconds that a client waits; longer than the proxy holds it.
PATIENCE = 60.0
#: Seconds that a callback may take to arrive.
TRAVEL = 0.1
#: Seconds over which the clients start, to avoid a burst.
RAMP = 1.5

_REFUSED = re.compile(r'^jobproxy_starts_total\{result="refused"\} (\d+)', re.MULTILINE)
_DOUBTFUL = re.compile(
    r'^jobproxy_starts_total\{result="(?:timeout|lost|error|invalid)"\} (\d+)', re.MULTILINE
)
_ACCEPTED = re.compile(r'^jobproxy_callbacks_total\{result="accepted"\} (\d+)', re.MULTILINE)
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


@frozen
class Comparison:
    """The responses to the clients, and the counts of the job server.

    :param load: the clients.
    :param stats: the job server's ``/stats``.
    :param faulty: its start requests that had faults.
    :param refused: the number of connections that were refused.
    :param doubtful: the number of start requests that the proxy found ambiguous.
    :param accepted: the number of callbacks with the response ``accepted``.
    :param is_busy: whether the machine may be too slow to check rates.
    :param is_once: whether ambiguous starts must not be sent again.
    """

    load: Load
    stats: dict[str, Any]
    faulty: list[dict[str, Any]]
    refused: int
    doubtful: int
    accepted: int
    is_once: bool
    is_busy: bool

    @property
    def read(self) -> list[dict[str, Any]]:
        """The faulty starts that the job server has read, so that they must not be sent again."""
        return [start for start in self.faulty if "busy" not in start["faults"]]

    @property
    def ambiguous(self) -> list[dict[str, Any]]:
        """The ambiguous starts."""
        return [start for start in self.read if AMBIGUOUS.intersection(start["faults"])]

    @property
    def called_back(self) -> list[dict[str, Any]]:
        """The ambiguous starts whose callback was sent within the grace."""
        return [start for start in self.ambiguous if start["delivered"] and not is_late(start)]

    @property
    def late(self) -> int:
        """The number of callbacks after the grace, which happens only if the machine stalls."""
        return sum(is_late(start) for start in self.ambiguous if start["delivered"])

    @property
    def not_recovered(self) -> list[dict[str, Any]]:
        """Those whose clients did not get their result."""
        return [start for start in self.called_back if self.load.statuses.get(start["tag"]) != 200]

    @property
    def recovered(self) -> int:
        return len(self.called_back) - len(self.not_recovered)

    @property
    def dropped(self) -> list[dict[str, Any]]:
        """Those whose callback was accepted, but whose clients did not get their result."""
        return [
            start
            for start in self.ambiguous
            if any('"accepted"' in text for _, _, text in start["delivered"])
            and self.load.statuses.get(start["tag"]) != 200
        ]

    @property
    def errors(self) -> int:
        """The number of start requests that got a 500 and started no job."""
        return sum("error" in start["faults"] for start in self.read)

    @property
    def seen(self) -> int:
        """The number of different jobs whose start request was read."""
        repeated: int = self.stats["repeated_callback_urls"]
        return self.stats["started"] + self.errors - repeated

    @property
    def not_accepted(self) -> int:
        """The number of callbacks that the proxy did not accept."""
        return self.stats["callbacks_sent"] - self.stats["callbacks_accepted"]

    def find_faults(self) -> Iterator[str]:
        """Yield what does not agree."""
        load, repeated = self.load, self.stats["repeated_callback_urls"]
        for error, count in load.errors.items():
            yield f"{count} times: {error}"
        if repeated > (0 if self.is_once else self.doubtful):
            yield f"{repeated} jobs were started again"
        if self.accepted != load.responses["200"]:
            yield f"{self.accepted} callbacks were accepted, for another number of results"
        if self.dropped:
            yield f"accepted callbacks did not reach their clients: {self.dropped[:10]}"
        if self.recovered < RECOVERED * len(self.called_back) and not self.is_busy:
            yield f"{len(self.not_recovered)} clients got no result although the callback came"
            yield from map(str, self.not_recovered[:10])
        if self.seen + load.started["no"] > load.sent:
            yield "clients got started: no for jobs that were started"
        if self.stats["callbacks_sent"] < self.stats["started"] or self.not_accepted:
            yield "callbacks were lost"
        if not self.stats["faults"].keys() >= AMBIGUOUS:
            yield "not all kinds of faults occurred; use more jobs"

    def rows(self) -> Iterator[tuple[str, object]]:
        """Yield the rows of the table."""
        stats, count = self.stats, len(self.called_back)
        yield "jobs", self.load.sent
        for response, number in sorted(self.load.responses.items()):
            yield f"  with response {response}", number
        for word in ("yes", "unknown", "no"):
            yield f"  with started: {word}", self.load.started[word]
        yield "start requests that were read", self.seen + stats["repeated_callback_urls"]
        yield "start requests refused as busy", len(self.faulty) - len(self.read)
        yield "connections refused", self.refused
        yield "  with a repeated callback URL", stats["repeated_callback_urls"]
        yield "jobs without a start request", self.load.sent - self.seen
        yield "starts ambiguous to the proxy", self.doubtful
        yield "ambiguous starts", len(self.ambiguous)
        for kind in sorted(AMBIGUOUS):
            yield f"  {kind}", sum(kind in start["faults"] for start in self.read)
        yield "ambiguous starts with a callback", count
        percent = 100 * self.recovered / count if count else 100
        yield "  whose client got the result", f"{self.recovered} ({percent:.2f} %)"
        yield "ambiguous starts with a late callback", self.late
        yield "callbacks accepted for a client", self.accepted
        yield "callbacks that were not accepted", self.not_accepted


def is_late(start: dict[str, Any]) -> bool:
    """Return whether the callback of a start was sent after the grace."""
    lost = START_TIMEOUT if start["faults"] == ["slow"] else 0.0
    sent: float = start["delivered"][0][0]
    return sent > lost + GRACE - TRAVEL


def fetch_text(daemon: DaemonProcess, path: str) -> str:
    with urllib.request.urlopen(f"{daemon.url}/{path}") as response:
        text: str = response.read().decode()
        return text


def fetch(server: DaemonProcess, path: str) -> Any:
    """Return a JSON document of the job server."""
    return json.loads(fetch_text(server, path))


def wait_for_callbacks(server: DaemonProcess) -> None:
    """Wait until the callbacks of all jobs are accepted."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        stats = fetch(server, "stats")
        if stats["callbacks_sent"] == stats["callbacks_accepted"] == stats["started"]:
            return
        time.sleep(0.1)


def run_jobs(arguments: argparse.Namespace) -> Comparison:
    """Run the jobs, and return the counts of both sides."""
    job_server = {**JOB_SERVER, "seed": str(arguments.seed)}
    with run_pair(job_server, {**PROXY, "retry": arguments.retry}) as (server, proxy):
        load = Load(proxy.port, arguments.jobs, arguments.accounts)
        asyncio.run(load.run(arguments.concurrency))
        wait_for_callbacks(server)
        stats, faulty = fetch(server, "stats"), fetch(server, "faulty-starts")
        # Only the proxy knows of connections that were refused.
        metrics = fetch_text(proxy, "metrics")
        return Comparison(
            load,
            stats,
            faulty,
            refused=count(_REFUSED, metrics),
            doubtful=count(_DOUBTFUL, metrics),
            accepted=count(_ACCEPTED, metrics),
            is_once=arguments.retry != "always",
            is_busy=arguments.busy,
        )


def count(metric: re.Pattern[str], text: str) -> int:
    """Return a metric, summed over its labels."""
    return sum(map(int, metric.findall(text)))


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000, help="number of jobs; %(default)s")
    parser.add_argument(
        "--concurrency", type=int, default=500, help="number of clients; %(default)s"
    )
    parser.add_argument("--accounts", type=int, default=200, help="number of accounts; %(default)s")
    parser.add_argument("--retry", default="not-sent", choices=["never", "not-sent", "always"])
    parser.add_argument("--seed", type=int, default=1, help="seed of the faults; %(default)s")
    parser.add_argument(
        "--busy", action="store_true", help="check nothing that depends on the machine's speed"
    )
    return parser.parse_args()


def main() -> None:
    """Run the jobs, and print the comparison."""
    arguments = read_arguments()
    raise_file_limit()
    began = time.monotonic()
    comparison = run_jobs(arguments)
    for label, figure in comparison.rows():
        print(f"{label:36}{figure:>10}" if isinstance(figure, int) else f"{label:36}{figure}")
    faults = list(comparison.find_faults())
    for fault in faults:
        print(f"WRONG: {fault}")
    took = time.monotonic() - began
    print(f"{'FAILED' if faults else 'PASSED'} --retry {arguments.retry}, in {took:.0f} s")
    sys.exit(bool(faults))


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
