"""``twistd jobproxy``: its options, and the wiring of its services."""

import os
import random
import secrets
import signal
import time
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from twisted.application import strports
from twisted.application.internet import TimerService
from twisted.application.service import MultiService
from twisted.python import usage

from jobproxy import lifecycle, logs
from jobproxy.admin import (
    DrainRoutes,
    HealthRoutes,
    JobListRoutes,
    MetricsRoutes,
    OrphanRoutes,
    PageRoutes,
    StatusRoutes,
)
from jobproxy.answers import Routes, make_resource
from jobproxy.circuit import Circuit
from jobproxy.client import PlainClient
from jobproxy.correlation import CorrelationTable
from jobproxy.draining import Drain
from jobproxy.fixed import IdTable
from jobproxy.gateway import Gateway
from jobproxy.http1.agent import PooledAgent
from jobproxy.http1.limits import ClientLimits, ServerLimits
from jobproxy.http1.server import ServerFactory
from jobproxy.instruments import Instruments
from jobproxy.journal import Journal
from jobproxy.lag import LagMeter
from jobproxy.lanes import Lanes
from jobproxy.metrics import ProxyCollector, make_registry
from jobproxy.notify import Notifier, Pulse
from jobproxy.openapi import InterfaceRoutes
from jobproxy.options import (
    DaemonOptions,
    Option,
    read_base_url,
    read_count,
    read_delay,
    read_endpoints,
    read_seconds,
    read_switch,
    read_url,
    reader_of,
)
from jobproxy.retries import OnLost, Retry, RetryPolicy
from jobproxy.reuse import ReusePolicy
from jobproxy.starts import Starter
from jobproxy.status import Feed, Status
from jobproxy.tokens import MIN_KEY, TokenSigner
from jobproxy.upstream import JobServer
from jobproxy.web import PROXY_PATHS, CallbackRoutes, ClientRoutes, FixedCallbackRoutes

#: Seconds between two tries to write log lines that nobody took.
FLUSH_INTERVAL = 0.5


class CorrelateBy(Enum):
    """What tells the job that a callback is about."""

    TOKEN = "token"  # noqa: S105 - a word, not a secret
    ID = "id"


def read_keys(text: str) -> list[bytes]:
    """Read the keys of callback tokens from the file with this name."""
    try:
        keys = Path(text).read_bytes().split(b"\n")
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    keys = [key.strip() for key in keys if key.strip()]
    if not 1 <= len(keys) <= 2 or any(len(key) < MIN_KEY for key in keys):
        raise ValueError(f"must name a file of one or two lines of at least {MIN_KEY} bytes each")
    return keys


class Options(DaemonOptions):
    program = "jobproxy"
    synopsis = "--callback-url URL [options]"
    longdesc = (
        "Holds each client that POSTs a job, starts the job on the job server, and answers with "
        "what the job server POSTs back."
    )
    table = (
        Option(
            "callback-url",
            None,
            read_base_url,
            "public base of the URLs that the job server calls back; its path is served",
            required=True,
            aliases=("CALLBACK_URL",),
        ),
        Option(
            "job-server-url",
            "http://jobs.asgateway.com/start",
            read_url,
            "where jobs are started",
        ),
        Option(
            "listen",
            "tcp:8080:interface=127.0.0.1:backlog=4096",
            read_endpoints,
            "endpoint to serve on (strports); may come several times",
            repeatable=True,
        ),
        Option(
            "callback-listen",
            None,
            read_endpoints,
            "endpoint for callbacks, which are then served nowhere else; may come several times",
            repeatable=True,
        ),
        Option(
            "admin-listen",
            None,
            read_endpoints,
            "endpoint for the live page, status, jobs and orphans, and for health and metrics, "
            "which are then served nowhere else; may come several times",
            repeatable=True,
        ),
        Option("wait", "30", read_seconds, "seconds a client is held at most"),
        Option("start-timeout", "10", read_seconds, "seconds for one start call"),
        Option(
            "ambiguous-grace",
            "2",
            read_delay,
            "seconds a callback is waited for after a start whose outcome is not known",
        ),
        Option(
            "drain-timeout",
            "30",
            read_delay,
            "seconds that held clients have to be answered once the proxy is told to stop",
        ),
        Option("retain", "300", read_seconds, "seconds that results are kept to be asked for"),
        Option(
            "retry",
            "not-sent",
            reader_of(Retry),
            "which starts are sent again: never, not-sent (none that may have been read) or always",
        ),
        Option("start-attempts", "3", read_count, "start calls for one job at most"),
        Option(
            "on-lost",
            "fail",
            reader_of(OnLost),
            "what becomes of a job whose callback does not come: fail or restart",
        ),
        Option(
            "lost-after",
            None,
            read_seconds,
            "seconds after which such a job is started again",
        ),
        Option(
            "correlate-by",
            "token",
            reader_of(CorrelateBy),
            "token in the callback URL, or id for job servers that call back one fixed URL",
        ),
        Option("max-held", "10000", read_count, "clients held at once"),
        Option("starts-per-account", "16", read_count, "start calls of one account at once"),
        Option("queue-per-account", "1000", read_count, "jobs of one account that may be queued"),
        Option("max-starts", "256", read_count, "start calls at once in all"),
        Option("max-body", "65536", read_count, "bytes of a request's or a callback's body"),
        Option(
            "upstream-idle",
            "2",
            read_delay,
            "seconds an idle connection to the job server is kept; 0: none is",
        ),
        Option(
            "secret-file",
            None,
            read_keys,
            f"file with the key of the callback tokens, {MIN_KEY} bytes or more; of two lines "
            "the first signs and both verify; without it the key is random",
        ),
        Option(
            "allow-client-callbacks",
            "no",
            read_switch,
            "let clients that do not wait name a callback URL of their own",
            is_switch=True,
        ),
        Option(
            "log-accounts",
            "no",
            read_switch,
            "show whose a job is in the log and to the operator",
            is_switch=True,
        ),
    )

    def check(self) -> None:
        if self["on-lost"] is OnLost.RESTART and self["lost-after"] is None:
            raise usage.UsageError("--on-lost restart needs --lost-after")
        path = urlsplit(self["callback-url"]).path or "/"
        if self["correlate-by"] is CorrelateBy.ID and path in PROXY_PATHS:
            raise usage.UsageError(
                "--correlate-by id needs a --callback-url with a path of its own, "
                f"best one that nobody can guess, not {path}"
            )


def makeService(config: Options, reactor: Any = None) -> MultiService:
    """Return the proxy as a service.

    :param config: parsed options.
    :param reactor: a reactor that can listen, connect and tell the time; by default the global
        one, whose clock is then made monotonic.
    """
    if reactor is None:
        from twisted.internet import reactor as global_reactor

        reactor = global_reactor
        # By default this is time.time, so that a step of the wall clock would move every
        # deadline (Twisted #2424).
        reactor.seconds = time.monotonic

    agent = PooledAgent(
        reactor,
        ClientLimits(connections=config["max-starts"], idle_time=config["upstream-idle"]),
    )
    gateway = _make_gateway(config, reactor, agent)
    meter = LagMeter(reactor)
    factories: list[ServerFactory] = []
    instruments = Instruments(gateway, factories, agent, meter.lag, logs.count_dropped)
    status = Status(instruments, reactor, time.time)
    feed = Feed(reactor, status)
    writer = TimerService(FLUSH_INTERVAL, logs.flush)
    writer.clock = reactor
    daemon = lifecycle.Daemon("jobproxy")
    daemon.when_running, daemon.wake = reactor.callWhenRunning, reactor.callFromThread
    notifier = Notifier.from_environment(os.environ, os.getpid())
    pulse = Pulse(reactor, notifier, reactor.callWhenRunning, lambda: gateway.table.held)
    # Services stop in reverse order: the ports close before the held clients are answered.
    for service in (pulse, meter, writer, feed):
        service.setServiceParent(daemon)
    gateway.table.setServiceParent(daemon)
    callbacks = None
    handed_on = []
    watching: list[Routes] = [
        HealthRoutes(instruments),
        MetricsRoutes(make_registry(ProxyCollector(instruments))),
        InterfaceRoutes(),
    ]
    operating: list[Routes] = [
        PageRoutes(),
        StatusRoutes(status, feed),
        JobListRoutes(gateway, reactor),
        OrphanRoutes(gateway, reactor),
        DrainRoutes(gateway, lambda: signal.raise_signal(signal.SIGTERM)),
    ]
    for descriptions, routes in _share_out(config, gateway, watching, operating):
        limits = ServerLimits(body=config["max-body"])
        factory = ServerFactory(make_resource(*routes), reactor, limits=limits)
        factories.append(factory)
        if descriptions is config["callback-listen"]:
            callbacks = factory
        for description in descriptions:
            port = strports.service(description, factory, reactor)
            port.setServiceParent(daemon)
            if descriptions is config["listen"] and _is_handed_on(config, description):
                handed_on.append(port)
    daemon.way_out = Drain(
        reactor, gateway, factories, config["drain-timeout"], notifier, callbacks, handed_on
    )
    return daemon


def _is_handed_on(config: Options, description: str) -> bool:
    """Whether an endpoint for clients outlives us, and can be left as no callback comes there."""
    return description.startswith("systemd:") and bool(config["callback-listen"])


def _make_gateway(config: Options, reactor: Any, agent: PooledAgent) -> Gateway:
    signer = TokenSigner(keys=config["secret-file"] or [secrets.token_bytes(MIN_KEY)])
    jitter = random.SystemRandom()
    job_server = JobServer(
        treq=PlainClient(agent),
        clock=reactor,
        url=config["job-server-url"],
        timeout=config["start-timeout"],
        reuse=ReusePolicy(reactor, agent.close_idle, config["upstream-idle"]),
        circuit=Circuit(reactor, jitter),
    )
    journal = Journal(logs.is_on)
    table = CorrelationTable(reactor, config["retain"], journal=journal)
    if config["correlate-by"] is CorrelateBy.ID:
        table = IdTable(
            reactor,
            config["retain"],
            park=config["start-timeout"],
            make_handle=lambda: signer.mint().handle,
            journal=journal,
        )
    starter = Starter(
        clock=reactor,
        table=table,
        lanes=Lanes(
            clock=reactor,
            per_account=config["starts-per-account"],
            queue_per_account=config["queue-per-account"],
            total=config["max-starts"],
        ),
        job_server=job_server,
        policy=RetryPolicy(
            retry=config["retry"],
            attempts=config["start-attempts"],
            lost_after=config["lost-after"] if config["on-lost"] is OnLost.RESTART else None,
            random=jitter,
        ),
        grace=config["ambiguous-grace"],
    )
    return Gateway(
        table=table,
        starter=starter,
        signer=signer,
        callback_url=config["callback-url"],
        wait=config["wait"],
        max_held=config["max-held"],
        shows_accounts=config["log-accounts"],
    )


def _share_out(
    config: Options, gateway: Gateway, watching: list[Routes], operating: list[Routes]
) -> Iterator[tuple[list[str], list[Routes]]]:
    """Yield endpoints, and what is served on them."""
    path = urlsplit(config["callback-url"]).path
    by_id = config["correlate-by"] is CorrelateBy.ID
    callbacks = FixedCallbackRoutes(gateway, path) if by_id else CallbackRoutes(gateway, path)
    routes: list[Routes] = [ClientRoutes(gateway, config["allow-client-callbacks"])]
    if config["callback-listen"]:
        yield config["callback-listen"], [callbacks]
    else:
        routes.append(callbacks)
    if config["admin-listen"]:
        yield config["admin-listen"], [*watching, *operating]
    else:
        routes += watching
    yield config["listen"], routes
