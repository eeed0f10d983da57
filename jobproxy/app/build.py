"""The wiring: makes a proxy from its settings, for ``twistd`` and for tests.

Whatever reaches outside is an argument: the reactor, the HTTP client, the store, random numbers and
the wall clock.
"""

import math
from collections.abc import Sequence
from urllib.parse import urlsplit

from attrs import frozen
from twisted.application.service import IService

from jobproxy.api.admin import (
    DrainRoutes,
    HealthRoutes,
    JobListRoutes,
    MetricsRoutes,
    OrphanRoutes,
    PageRoutes,
    StatusRoutes,
)
from jobproxy.api.callbacks import CallbackRoutes
from jobproxy.api.jobs import ClientRoutes
from jobproxy.api.openapi import OpenApiRoutes
from jobproxy.api.origins import Origins
from jobproxy.api.refused_callbacks import RefusedCallbacks
from jobproxy.api.responses import Routes, describe_error, make_resource
from jobproxy.app.build_table import build_table
from jobproxy.app.environment import Environment
from jobproxy.app.settings import CorrelateBy, Settings, SlotScope
from jobproxy.cluster.coordinator import Coordinator
from jobproxy.cluster.outbox import Outbox
from jobproxy.cluster.slots import ClusterSlots
from jobproxy.gateway import Gateway
from jobproxy.http1.body_budget import BodyBudget
from jobproxy.http1.limits import ServerLimits
from jobproxy.http1.server import ServerFactory
from jobproxy.jobs.hold_times import HoldTimes
from jobproxy.jobs.table import CorrelationTable
from jobproxy.monitoring.metrics import ProxyCollector, make_registry
from jobproxy.monitoring.probes import Probes
from jobproxy.monitoring.reactor_lag import ReactorLag
from jobproxy.monitoring.status import Feed, Status
from jobproxy.monitoring.traffic import Traffic
from jobproxy.store.slots import ISlotStore
from jobproxy.store.times import TIMES
from jobproxy.upstream.circuit import Circuit
from jobproxy.upstream.job_server import JobServer
from jobproxy.upstream.keepalive import KeepAlivePolicy
from jobproxy.upstream.limiter import AccountLimiter
from jobproxy.upstream.retries import OnLost, RetryPolicy
from jobproxy.upstream.slots import Slots
from jobproxy.upstream.starts import Starter, circuit_opened
from jobproxy.wire.tokens import MIN_KEY, TokenSigner

#: Files that are not for clients: callbacks, the operator, the log, and the process itself. Those
#: of start requests come on top.
RESERVED_FILES = 256
#: Bytes of all large bodies that have not arrived completely; at least two of the largest fit.
INCOMPLETE_BODIES = 64 * 2**20


@frozen(eq=False, kw_only=True)
class Proxy:
    """A complete proxy. It does not listen yet, and its services do not run yet.

    :param feed: sends each change of the status to the live page.
    :param clients: serves clients, and all that has no port of its own.
    :param callbacks: serves only callbacks; :data:`None`: they have no port of their own.
    :param admin: serves the operator; :data:`None`: there is no admin side.
    :param services: to be started in this order, and stopped in reverse.
    """

    gateway: Gateway
    signer: TokenSigner
    probes: Probes
    feed: Feed
    clients: ServerFactory
    callbacks: ServerFactory | None
    admin: ServerFactory | None
    services: Sequence[IService]

    @property
    def factories(self) -> list[ServerFactory]:
        """All servers."""
        servers = (self.callbacks, self.admin, self.clients)
        return [factory for factory in servers if factory is not None]


def build_proxy(settings: Settings, environment: Environment) -> Proxy:
    """Return a proxy that neither listens nor runs yet."""
    reactor = environment.reactor
    signer = TokenSigner(
        settings.secret_file or (environment.entropy(MIN_KEY),),
        now=environment.now,
        node=environment.node,
        entropy=environment.entropy,
    )
    table, coordinator, outbox = build_table(settings, environment, signer)
    starter = _build_starter(settings, environment, table, coordinator, outbox)
    gateway = Gateway(
        table,
        starter,
        coordinator,
        signer,
        settings.callback_url,
        has_tokens=settings.correlate_by is CorrelateBy.TOKEN,
        hold_times=HoldTimes(settings.wait, settings.ambiguous_grace),
        max_held=settings.max_held,
        shows_accounts=settings.log_accounts,
    )
    lag = ReactorLag(reactor)
    traffic = Traffic(environment.now)
    budget = BodyBudget(max(INCOMPLETE_BODIES, 2 * settings.max_body))
    probes = Probes(
        gateway,
        traffic,
        environment.pool,
        lag.lag,
        environment.count_dropped,
        lambda: _count_kept(gateway, budget, outbox),
        environment.has_descriptors,
    )
    status = Status(probes, reactor, environment.now)
    feed = Feed(reactor, status)
    callbacks, admin, clients = _choose_routes(settings, environment, probes, status, feed)

    limits = ServerLimits(body=settings.max_body)
    refused = RefusedCallbacks(reactor, urlsplit(settings.callback_url).path)

    def serve(
        routes: Sequence[Routes], most: float = math.inf, of_address: float = math.inf
    ) -> ServerFactory:
        resource = make_resource(*routes, is_token=gateway.is_token, report=refused.report)
        return ServerFactory(
            resource,
            reactor,
            describe_error=describe_error,
            observer=traffic,
            now=environment.now,
            make_id=environment.make_request_id,
            limits=limits,
            budget=budget,
            needs_body=resource.needs_body,
            max_connections=most,
            max_per_address=of_address,
        )

    shared = [part for part in (coordinator, starter.slots) if IService.providedBy(part)]
    return Proxy(
        gateway=gateway,
        signer=signer,
        probes=probes,
        feed=feed,
        callbacks=serve(callbacks) if callbacks else None,
        admin=serve(admin) if admin else None,
        clients=serve(
            clients,
            _count_connections(settings, environment),
            settings.max_connections_per_address or math.inf,
        ),
        services=(lag, feed, *shared, table),
    )


def _count_connections(settings: Settings, environment: Environment) -> int:
    """Return how many connections clients may have; the rest is for all others."""
    if settings.max_connections is not None:
        return settings.max_connections
    files = environment.file_limit
    return files - min(settings.max_starts + RESERVED_FILES, files // 2)


def _count_kept(gateway: Gateway, budget: BodyBudget, outbox: Outbox | None) -> dict[str, int]:
    """Return the bytes of all bodies that are kept; each part has a bound of its own."""
    retention = gateway.table.retention
    return {
        "incomplete": budget.size,
        "starting": gateway.starter.kept_bytes,
        "running": retention.unattended.size,
        "outcomes": retention.outcomes.size,
        "orphans": retention.orphans.size,
        "parked": gateway.table.index.parked_bytes,
        "unsent": 0 if outbox is None else outbox.size,
    }


def _choose_routes(
    settings: Settings, environment: Environment, probes: Probes, status: Status, feed: Feed
) -> tuple[list[Routes], list[Routes], list[Routes]]:
    """Return the routes of the servers for callbacks, operators and clients.

    Without ports of their own, callbacks and health, metrics and OpenAPI are served to clients.
    """
    gateway = probes.gateway
    path = urlsplit(settings.callback_url).path
    callbacks: list[Routes] = [
        CallbackRoutes(gateway, path, settings.correlate_by is CorrelateBy.TOKEN)
    ]
    watching: list[Routes] = [
        HealthRoutes(probes),
        MetricsRoutes(make_registry(ProxyCollector(probes))),
        OpenApiRoutes(),
    ]
    admin: list[Routes] = [
        *watching,
        PageRoutes(),
        StatusRoutes(status, feed),
        JobListRoutes(gateway, environment.reactor),
        OrphanRoutes(gateway),
        DrainRoutes(gateway, environment.stop),
    ]
    origins = Origins(frozenset(origin.encode() for origin in settings.allow_origin))
    clients: list[Routes] = [
        ClientRoutes(gateway, environment.reactor, settings.allow_client_callbacks, origins)
    ]
    if not settings.callback_listen:
        clients, callbacks = clients + callbacks, []
    if not settings.admin_listen:
        clients, admin = clients + watching, []
    return callbacks, admin, clients


def _build_starter(
    settings: Settings,
    environment: Environment,
    table: CorrelationTable,
    coordinator: Coordinator,
    outbox: Outbox | None,
) -> Starter:
    reactor, store = environment.reactor, environment.store
    limiter = AccountLimiter(
        reactor, settings.starts_per_account, settings.queue_per_account, settings.max_starts
    )
    slots: Slots = limiter
    if store is not None and outbox is not None and settings.slot_scope is SlotScope.CLUSTER:
        slots = ClusterSlots(
            limiter,
            ISlotStore(store),
            outbox,
            environment.node,
            settings.starts_per_account,
            settings.start_timeout + TIMES.lease,
            environment.random,
        )
    job_server = JobServer(
        environment.client,
        reactor,
        settings.job_server_url,
        settings.start_timeout,
        KeepAlivePolicy(reactor, environment.pool.close_idle, settings.upstream_idle),
        Circuit(reactor, environment.random, lambda: circuit_opened(table)),
        environment.now,
        settings.max_body,
    )
    lost_after = settings.lost_after if settings.on_lost is OnLost.RESTART else None
    policy = RetryPolicy(settings.retry, settings.start_attempts, lost_after, environment.random)
    return Starter(
        reactor,
        table,
        limiter,
        slots,
        job_server,
        policy,
        settings.ambiguous_grace,
        coordinator.claim,
    )
