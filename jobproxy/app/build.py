"""The wiring: makes a proxy from its settings, for ``twistd`` and for tests.

Whatever reaches outside is an argument: the reactor, the HTTP client, the store, random numbers and
the wall clock.
"""

import math
from collections.abc import Iterable, Sequence
from functools import partial
from urllib.parse import urlsplit

from attrs import frozen
from twisted.application.service import IService

from jobproxy.api.admin import (
    DrainRoutes,
    HealthRoutes,
    JobListRoutes,
    MetricsRoutes,
    OrphanRoutes,
    StatusRoutes,
)
from jobproxy.api.callbacks import CallbackRoutes
from jobproxy.api.holding import ClientHolder, JobRoutes
from jobproxy.api.jobs import ClientRoutes
from jobproxy.api.openapi import OpenApiRoutes
from jobproxy.api.origins import NO_PAGES, Origins
from jobproxy.api.page import PageRoutes
from jobproxy.api.profiles import ProfileCallbackRoutes, ProfileRoutes
from jobproxy.api.refused_callbacks import RefusedCallbacks
from jobproxy.api.responses import Routes, describe_error, make_resource
from jobproxy.api.timelines import TimelineRoutes
from jobproxy.app.build_gateway import Shared, build_gateways
from jobproxy.app.build_table import build_table
from jobproxy.app.environment import Environment
from jobproxy.app.settings import CorrelateBy, Settings
from jobproxy.cluster.outbox import Outbox
from jobproxy.cluster.thin_relay import ThinRelay
from jobproxy.gateway import Gateway
from jobproxy.http1.body_budget import BodyBudget
from jobproxy.http1.limits import ServerLimits
from jobproxy.http1.server import ServerFactory
from jobproxy.jobs.end_watch import EndWatch
from jobproxy.monitoring.metrics import ProxyCollector, make_registry
from jobproxy.monitoring.probes import Probes
from jobproxy.monitoring.reactor_lag import ReactorLag
from jobproxy.monitoring.status import Feed, Status
from jobproxy.monitoring.traffic import Traffic
from jobproxy.monitoring.watch import Watch
from jobproxy.wire.tokens import MIN_KEY, TokenSigner

#: Files that are not for clients: callbacks, the operator, the log, and the process itself. Those
#: of start requests come on top.
RESERVED_FILES = 256
#: Bytes of all large bodies of clients that have not arrived completely, and of all of callbacks;
#: at least two of the largest fit.
INCOMPLETE_BODIES = 64 * 2**20


@frozen(eq=False, kw_only=True)
class Proxy:
    """A complete proxy. It does not listen yet, and its services do not run yet.

    :param gateways: of each job server; there is at least one.
    :param watch: judges the proxy.
    :param feed: sends each change of the status to the live page.
    :param clients: serves clients, and all that has no port of its own.
    :param callbacks: serves only callbacks; :data:`None`: they have no port of their own.
    :param admin: serves the operator; :data:`None`: there is no admin side.
    :param services: to be started in this order, and stopped in reverse.
    """

    gateways: Sequence[Gateway]
    signer: TokenSigner
    probes: Probes
    watch: Watch
    feed: Feed
    clients: ServerFactory
    callbacks: ServerFactory | None
    admin: ServerFactory | None
    services: Sequence[IService]

    @property
    def gateway(self) -> Gateway:
        """Any of the gateways: they share the table and the coordinator."""
        return self.gateways[0]

    @property
    def factories(self) -> list[ServerFactory]:
        """All servers."""
        servers = (self.callbacks, self.admin, self.clients)
        return [factory for factory in servers if factory is not None]


@frozen(eq=False)
class Operating:
    """What the operator's routes are made of."""

    probes: Probes
    watch: Watch
    status: Status
    feed: Feed


def build_proxy(settings: Settings, environment: Environment) -> Proxy:
    """Return a proxy that neither listens nor runs yet."""
    reactor = environment.reactor
    signer = TokenSigner(
        settings.secret_file or (environment.entropy(MIN_KEY),),
        now=environment.now,
        node=environment.node,
        entropy=environment.entropy,
    )
    ends = None
    if any(profile.limits.jobs_per_account for profile in settings.profile):
        ends = EndWatch()
    thin = ThinRelay()
    table, coordinator, outbox = build_table(settings, environment, signer, thin, ends)
    shared = Shared(settings, environment, table, coordinator, outbox, signer, ends)
    gateways = build_gateways(shared)
    for gateway in gateways:
        thin.add(gateway.profile, gateway.thin.receive_relayed)
    lag = ReactorLag(reactor)
    traffic = Traffic(environment.now)
    incomplete = max(INCOMPLETE_BODIES, 2 * settings.largest_body)
    # Clients that are slow must not take the memory that results need.
    budgets = {side: BodyBudget(incomplete) for side in ("client", "callback")}
    probes = Probes(
        gateways,
        traffic,
        environment.pool,
        lag.lag,
        environment.count_dropped,
        lambda: _count_kept(gateways, budgets.values(), outbox),
        environment.has_descriptors,
    )
    watch = Watch(probes, reactor, environment.now)
    status = Status(probes, watch, reactor, environment.now)
    feed = Feed(reactor, status)
    operating = Operating(probes, watch, status, feed)
    callbacks, admin, clients = _choose_routes(settings, environment, operating)

    limits = ServerLimits(body=settings.largest_body)
    refused = RefusedCallbacks(reactor, urlsplit(settings.callback_url).path)

    def is_token(text: str) -> bool:
        return any(gateway.is_token(text) for gateway in gateways)

    def serve(
        routes: Sequence[Routes],
        side: str,
        most: float = math.inf,
        of_address: float = math.inf,
        origins: Origins = NO_PAGES,
    ) -> ServerFactory:
        resource = make_resource(*routes, is_token=is_token, report=refused.report, origins=origins)
        return ServerFactory(
            resource,
            reactor,
            describe_error=partial(describe_error, origins=origins),
            observer=traffic,
            now=environment.now,
            make_id=environment.make_request_id,
            limits=limits,
            find_budget=lambda *request: budgets.get(resource.find_side(*request) or ""),
            side=side,
            max_connections=most,
            max_per_address=of_address,
        )

    parts = (coordinator, *(gateway.starter.slots for gateway in gateways))
    services = [part for part in parts if IService.providedBy(part)]
    return Proxy(
        gateways=gateways,
        signer=signer,
        probes=probes,
        watch=watch,
        feed=feed,
        callbacks=serve(callbacks, "callback") if callbacks else None,
        admin=serve(admin, "admin") if admin else None,
        clients=serve(
            clients,
            "client",
            _count_connections(settings, environment),
            settings.max_connections_per_address or math.inf,
            _find_origins(settings),
        ),
        services=(lag, watch, feed, *services, table),
    )


def _count_connections(settings: Settings, environment: Environment) -> int:
    """Return how many connections clients may have; the rest is for all others."""
    if settings.max_connections is not None:
        return settings.max_connections
    files = environment.file_limit
    return files - min(settings.max_starts + RESERVED_FILES, files // 2)


def _count_kept(
    gateways: Sequence[Gateway], budgets: Iterable[BodyBudget], outbox: Outbox | None
) -> dict[str, int]:
    """Return the bytes of all bodies that are kept; each part has a bound of its own."""
    table = gateways[0].table
    retention = table.retention
    return {
        "incomplete": sum(budget.size for budget in budgets),
        "starting": sum(gateway.starter.kept_bytes for gateway in gateways),
        "acks": table.ack_bytes - retention.running_ack_bytes,
        "running": retention.unattended.size,
        "outcomes": retention.outcomes.size,
        "orphans": retention.orphans.size,
        "parked": table.indexes.parked_bytes,
        "unsent": 0 if outbox is None else outbox.size,
    }


def _choose_routes(
    settings: Settings, environment: Environment, operating: Operating
) -> tuple[list[Routes], list[Routes], list[Routes]]:
    """Return the routes of the servers for callbacks, operators and clients.

    Without ports of their own, callbacks and health, metrics and OpenAPI are served to clients.
    """
    probes, watch = operating.probes, operating.watch
    gateway = probes.gateway
    callbacks, clients = _make_job_routes(settings, environment, probes.gateways)
    watching: list[Routes] = [
        HealthRoutes(probes, watch),
        MetricsRoutes(make_registry(ProxyCollector(probes, watch))),
        OpenApiRoutes(settings.profile, bool(settings.job_server_url)),
    ]
    admin: list[Routes] = [
        *watching,
        PageRoutes(operating.status),
        StatusRoutes(operating.status, watch.history, operating.feed),
        JobListRoutes(gateway, environment.reactor),
        TimelineRoutes(gateway, environment.reactor, environment.now),
        OrphanRoutes(gateway),
        DrainRoutes(gateway, environment.stop),
    ]
    if not settings.callback_listen:
        clients, callbacks = clients + callbacks, []
    if not settings.admin_listen:
        clients, admin = clients + watching, []
    return callbacks, admin, clients


def _make_job_routes(
    settings: Settings, environment: Environment, gateways: Sequence[Gateway]
) -> tuple[list[Routes], list[Routes]]:
    """Return the routes for callbacks, and those for clients."""
    path = urlsplit(settings.callback_url).path
    origins = _find_origins(settings)
    profiles = {profile.name: profile for profile in settings.profile}
    callbacks: list[Routes] = []
    clients: list[Routes] = [JobRoutes(gateways, origins)]
    for gateway in gateways:
        holder = ClientHolder(gateway)
        profile = profiles.get(gateway.profile)
        if profile is None:
            has_tokens = settings.correlate_by is CorrelateBy.TOKEN
            callbacks.append(CallbackRoutes(gateway, path, has_tokens))
            allows_callbacks = settings.allow_client_callbacks
            clients.append(
                ClientRoutes(
                    holder,
                    environment.reactor,
                    allows_callbacks,
                    origins,
                    [name.encode() for name in settings.forward_header],
                )
            )
        else:
            callbacks.append(
                ProfileCallbackRoutes(profile, gateway, path, environment.reactor, environment.now)
            )
            max_body = profile.limits.max_body or settings.max_body
            clients.append(ProfileRoutes(profile, holder, environment.reactor, max_body, origins))
    return callbacks, clients


def _find_origins(settings: Settings) -> Origins:
    return Origins(frozenset(origin.encode() for origin in settings.allow_origin))
