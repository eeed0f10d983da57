"""``twistd jobproxy``: the wiring of its services."""

import os
import random
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from twisted.application import strports
from twisted.application.internet import TimerService
from twisted.application.service import MultiService
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.ssl import optionsForClientTLS

from jobproxy import logs
from jobproxy.api.admin import (
    DrainRoutes,
    HealthRoutes,
    JobListRoutes,
    MetricsRoutes,
    OrphanRoutes,
    PageRoutes,
    StatusRoutes,
)
from jobproxy.api.jobs import CallbackRoutes, ClientRoutes, FixedCallbackRoutes
from jobproxy.api.openapi import InterfaceRoutes
from jobproxy.api.responses import Routes, describe_error, make_resource
from jobproxy.app.drain import Drain
from jobproxy.app.options import CorrelateBy, Options, SlotScope
from jobproxy.cluster.coordinator import ClusterGateway
from jobproxy.cluster.outbox import Outbox
from jobproxy.cluster.remote_jobs import RemoteJobs
from jobproxy.cluster.replicator import Replicator
from jobproxy.cluster.slots import SharedLimiter
from jobproxy.daemon import lifecycle
from jobproxy.daemon.systemd import Notifier, Pulse
from jobproxy.gateway import Gateway
from jobproxy.http1.agent import PooledAgent
from jobproxy.http1.client import PlainClient
from jobproxy.http1.limits import ClientLimits, ServerLimits
from jobproxy.http1.server import ServerFactory
from jobproxy.jobs.events import JobEvents
from jobproxy.jobs.index import IdTable
from jobproxy.jobs.table import CorrelationTable
from jobproxy.monitoring.metrics import ProxyCollector, make_registry
from jobproxy.monitoring.probes import Probes
from jobproxy.monitoring.reactor_lag import ReactorLag
from jobproxy.monitoring.status import Feed, Status
from jobproxy.monitoring.traffic import Traffic
from jobproxy.store.interface import IStore
from jobproxy.store.limits import ANSWER_TIME, LEASE_TIME
from jobproxy.upstream.circuit import Circuit
from jobproxy.upstream.job_server import JobServer
from jobproxy.upstream.keepalive import KeepAlivePolicy
from jobproxy.upstream.limiter import AccountLimiter
from jobproxy.upstream.retries import OnLost, RetryPolicy
from jobproxy.upstream.starts import Starter
from jobproxy.wire.tokens import MIN_KEY, TokenSigner, make_node

__all__ = ["Options", "makeService"]

#: Seconds between two tries to write log lines that nobody took.
FLUSH_INTERVAL = 0.5


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
    meter = ReactorLag(reactor)
    factories: list[ServerFactory] = []
    traffic = Traffic()
    probes = Probes(gateway, factories, traffic, agent, meter.lag, logs.count_dropped)
    status = Status(probes, reactor, time.time)
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
    if isinstance(gateway, ClusterGateway):
        gateway.store.setServiceParent(daemon)
    gateway.table.setServiceParent(daemon)
    callbacks = None
    handed_on = []
    watching: list[Routes] = [
        HealthRoutes(probes),
        MetricsRoutes(make_registry(ProxyCollector(probes))),
        InterfaceRoutes(),
    ]
    operating: list[Routes] = [
        PageRoutes(),
        StatusRoutes(status, feed),
        JobListRoutes(gateway, reactor),
        OrphanRoutes(gateway),
        DrainRoutes(gateway, lambda: signal.raise_signal(signal.SIGTERM)),
    ]
    for descriptions, routes in _share_out(config, gateway, watching, operating):
        limits = ServerLimits(body=config["max-body"])
        factory = ServerFactory(
            make_resource(*routes),
            reactor,
            describe_error=describe_error,
            observer=traffic,
            limits=limits,
        )
        factories.append(factory)
        if descriptions is config["callback-listen"]:
            callbacks = factory
        for description in descriptions:
            port = strports.service(description, factory, reactor)
            port.setServiceParent(daemon)
            if descriptions is config["listen"] and _is_handed_on(config, description):
                handed_on.append(port)
    daemon.shutdown = Drain(
        reactor, gateway, factories, config["drain-timeout"], notifier, callbacks, handed_on
    )
    return daemon


def _is_handed_on(config: Options, description: str) -> bool:
    """Whether an endpoint for clients outlives us, and can be left as no callback comes there."""
    return description.startswith("systemd:") and bool(config["callback-listen"])


def _make_gateway(config: Options, reactor: Any, agent: PooledAgent) -> Gateway:
    node = make_node()
    signer = TokenSigner(keys=config["secret-file"] or [secrets.token_bytes(MIN_KEY)], node=node)
    jitter = random.SystemRandom()
    job_server = JobServer(
        treq=PlainClient(agent),
        clock=reactor,
        url=config["job-server-url"],
        timeout=config["start-timeout"],
        keepalive=KeepAlivePolicy(reactor, agent.close_idle, config["upstream-idle"]),
        circuit=Circuit(reactor, jitter),
    )
    store = None if config["cluster"] is None else _make_store(config, reactor, node)
    events = JobEvents(logs.is_on)
    if store is not None:
        outbox = Outbox(reactor, config["retain"])
        events = Replicator(logs.is_on, store=store, outbox=outbox, node=node)
    table = CorrelationTable(reactor, config["retain"], events=events)
    if config["correlate-by"] is CorrelateBy.ID:
        table = IdTable(
            reactor,
            config["retain"],
            park=config["start-timeout"],
            make_job_id=lambda: signer.mint().job_id,
            events=events,
        )
    make_limiter: Callable[..., AccountLimiter] = AccountLimiter
    if store is not None and config["slot-scope"] is SlotScope.CLUSTER:
        lease = config["start-timeout"] + LEASE_TIME
        make_limiter = partial(SharedLimiter, store=store, lease=lease, random=jitter)
    starter = Starter(
        clock=reactor,
        table=table,
        limiter=make_limiter(
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
    make_gateway: Callable[..., Gateway] = Gateway
    if store is not None:
        assert isinstance(events, Replicator)
        store.listener = remote_jobs = RemoteJobs(reactor, table, store, events, node)
        make_gateway = partial(ClusterGateway, store=store, remote_jobs=remote_jobs, node=node)
    return make_gateway(
        table=table,
        starter=starter,
        signer=signer,
        callback_url=config["callback-url"],
        wait=config["wait"],
        max_held=config["max-held"],
        shows_accounts=config["log-accounts"],
    )


def _make_store(config: Options, reactor: Any, node: str) -> IStore:
    # Only who wants it needs to have txredisapi.
    from jobproxy.store.redis import RedisStore

    def make_endpoint(host: str, port: int) -> IStreamClientEndpoint:
        endpoint = HostnameEndpoint(reactor, host.encode(), port, ANSWER_TIME)
        return wrapClientTLS(optionsForClientTLS(host), endpoint) if address.is_tls else endpoint

    address = config["cluster"]
    return RedisStore(reactor, address, make_endpoint, node, config["retain"])


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
