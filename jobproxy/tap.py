"""``twistd jobproxy``: its options, and the wiring of its services."""

import secrets
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from twisted.application import strports
from twisted.application.service import MultiService

from jobproxy import lifecycle
from jobproxy.client import PlainClient
from jobproxy.correlation import CorrelationTable
from jobproxy.gateway import Gateway
from jobproxy.http1.agent import PooledAgent
from jobproxy.http1.limits import ClientLimits
from jobproxy.http1.server import ServerFactory
from jobproxy.lanes import Lanes
from jobproxy.options import (
    DaemonOptions,
    Option,
    read_base_url,
    read_count,
    read_delay,
    read_endpoints,
    read_seconds,
    read_url,
)
from jobproxy.reuse import ReusePolicy
from jobproxy.tokens import MIN_KEY, TokenSigner
from jobproxy.upstream import JobServer
from jobproxy.web import Web


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
        Option("wait", "30", read_seconds, "seconds a client is held at most"),
        Option("start-timeout", "10", read_seconds, "seconds for one start call"),
        Option(
            "ambiguous-grace",
            "2",
            read_delay,
            "seconds a callback is waited for after a start whose outcome is not known",
        ),
        Option("max-held", "10000", read_count, "clients held at once"),
        Option("starts-per-account", "16", read_count, "start calls of one account at once"),
        Option("queue-per-account", "1000", read_count, "jobs of one account that may be queued"),
        Option("max-starts", "256", read_count, "start calls at once in all"),
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

    table = CorrelationTable(clock=reactor)
    agent = PooledAgent(
        reactor,
        ClientLimits(connections=config["max-starts"], idle_time=config["upstream-idle"]),
    )
    gateway = Gateway(
        table=table,
        lanes=Lanes(
            per_account=config["starts-per-account"],
            queue_per_account=config["queue-per-account"],
            total=config["max-starts"],
        ),
        job_server=JobServer(
            treq=PlainClient(agent),
            clock=reactor,
            url=config["job-server-url"],
            timeout=config["start-timeout"],
            reuse=ReusePolicy(reactor, agent.close_idle, config["upstream-idle"]),
        ),
        signer=TokenSigner(keys=config["secret-file"] or [secrets.token_bytes(MIN_KEY)]),
        callback_url=config["callback-url"],
        wait=config["wait"],
        ambiguous_grace=config["ambiguous-grace"],
        max_held=config["max-held"],
    )
    web = Web(gateway, callback_path=urlsplit(config["callback-url"]).path)
    site = ServerFactory(web.resource(), reactor)

    daemon = lifecycle.Daemon("jobproxy")
    # Services stop in reverse order: the ports close before the held clients are answered.
    table.setServiceParent(daemon)
    for description in config["listen"]:
        strports.service(description, site, reactor).setServiceParent(daemon)
    return daemon
