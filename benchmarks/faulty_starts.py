"""The simulator makes a fault in 1 % of the start requests each: the mode ``faults``.

A 500, an invalid ack, a connection reset, an ack after the start timeout, a 503, or a port that is
closed for a moment, so that connections are refused. The responses to the clients are compared with
the counts of the job server.
"""

import argparse
import asyncio
import json
import re
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

from attrs import frozen
from faulty_clients import PATIENCE, Load

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
#: Seconds that a callback may take to arrive.
TRAVEL = 0.1

_REFUSED = re.compile(r'^jobproxy_starts_total\{result="refused"\} (\d+)', re.MULTILINE)
_DOUBTFUL = re.compile(
    r'^jobproxy_starts_total\{result="(?:timeout|lost|error|invalid)"\} (\d+)', re.MULTILINE
)
_ACCEPTED = re.compile(r'^jobproxy_callbacks_total\{result="accepted"\} (\d+)', re.MULTILINE)


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
