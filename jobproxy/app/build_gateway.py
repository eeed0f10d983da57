"""Makes the gateway of a job server: how its jobs are started, and what is counted for it."""

from collections.abc import Mapping, Sequence

from attrs import frozen
from twisted.internet.interfaces import IReactorTime

from jobproxy.app.environment import Environment
from jobproxy.app.settings import CorrelateBy, Settings, SlotScope
from jobproxy.cluster.coordinator import Coordinator
from jobproxy.cluster.outbox import Outbox
from jobproxy.cluster.slots import ClusterSlots
from jobproxy.gateway import Gateway
from jobproxy.jobs.end_watch import EndWatch
from jobproxy.jobs.hold_times import HoldTimes
from jobproxy.jobs.table import CorrelationTable
from jobproxy.profiles.profile import Profile
from jobproxy.store.slots import ISlotStore
from jobproxy.store.times import TIMES
from jobproxy.upstream.circuit import Circuit
from jobproxy.upstream.follow_ups import FollowUps
from jobproxy.upstream.job_places import JobPlaces
from jobproxy.upstream.job_server import JobServer
from jobproxy.upstream.keepalive import KeepAlivePolicy
from jobproxy.upstream.limiter import AccountLimiter
from jobproxy.upstream.retries import OnLost, RetryPolicy
from jobproxy.upstream.slots import Slots
from jobproxy.upstream.starts import Starter, circuit_opened
from jobproxy.wire.problems import Kind
from jobproxy.wire.refusals import REFUSALS, choose_refusals
from jobproxy.wire.tokens import TokenSigner


@frozen(eq=False)
class Shared:
    """What all gateways of a process have in common.

    :param ends: tells when a job has ended, if that has to be known.
    """

    settings: Settings
    environment: Environment
    table: CorrelationTable
    coordinator: Coordinator
    outbox: Outbox | None
    signer: TokenSigner
    ends: EndWatch | None = None


def build_gateways(shared: Shared) -> Sequence[Gateway]:
    """Return the gateway of the work sample's job server, if there is one, and of each profile."""
    settings = shared.settings
    profiles = [_build_gateway(shared, profile) for profile in settings.profile]
    return [_build_gateway(shared, None), *profiles] if settings.job_server_url else profiles


def _build_gateway(shared: Shared, profile: Profile | None) -> Gateway:
    settings = shared.settings
    url, wait, has_tokens = settings.callback_url, settings.wait, True
    if profile is None:
        has_tokens = settings.correlate_by is CorrelateBy.TOKEN
    else:
        url, wait = f"{url}/{profile.name}", profile.limits.wait or wait
        has_tokens = not profile.correlates_by_id
    return Gateway(
        shared.table,
        _build_starter(shared, profile),
        shared.coordinator,
        shared.signer,
        url,
        has_tokens=has_tokens,
        hold_times=HoldTimes(wait, settings.ambiguous_grace),
        max_held=settings.max_held,
        shows_accounts=settings.log_accounts,
        profile="" if profile is None else profile.name,
    )


def _build_starter(shared: Shared, profile: Profile | None) -> Starter:
    settings, environment, table = shared.settings, shared.environment, shared.table
    reactor: IReactorTime = environment.reactor
    name, max_ack = "", settings.max_body
    refusals: Mapping[int, Kind] = REFUSALS
    starts_per_account = settings.starts_per_account
    if profile is not None:
        name, limits = profile.name, profile.limits
        refusals = choose_refusals(profile.start.busy, profile.start.rejected)
        max_ack = limits.max_body or max_ack
        starts_per_account = limits.starts_per_account or starts_per_account
    limiter = AccountLimiter(
        reactor, starts_per_account, settings.queue_per_account, settings.max_starts
    )
    job_server = JobServer(
        environment.client,
        reactor,
        settings.job_server_url,
        settings.start_timeout,
        KeepAlivePolicy(reactor, environment.pool.close_idle, settings.upstream_idle),
        Circuit(reactor, environment.random, lambda: circuit_opened(table, name)),
        environment.now,
        max_ack,
        refusals,
        settings.job_server_header_file if profile is None else (),
    )
    lost_after = settings.lost_after if settings.on_lost is OnLost.RESTART else None
    policy = RetryPolicy(settings.retry, settings.start_attempts, lost_after, environment.random)
    return Starter(
        reactor,
        table,
        limiter,
        _choose_slots(shared, limiter, starts_per_account),
        job_server,
        policy,
        settings.ambiguous_grace,
        shared.coordinator.claim,
        None if profile is None else _build_follow_ups(shared, profile, max_ack),
        None if profile is None else _build_places(shared, profile),
    )


def _build_places(shared: Shared, profile: Profile) -> JobPlaces | None:
    jobs = profile.limits.jobs_per_account
    if jobs is None or shared.ends is None:
        return None
    settings = shared.settings
    limiter = AccountLimiter(
        shared.environment.reactor, jobs, settings.queue_per_account, settings.max_held
    )
    return JobPlaces(limiter, shared.ends)


def _build_follow_ups(shared: Shared, profile: Profile, max_body: int) -> FollowUps | None:
    if not profile.needs_client_later:
        return None
    environment = shared.environment
    return FollowUps(
        environment.client,
        environment.reactor,
        profile,
        shared.settings.start_timeout,
        max_body,
        environment.random,
        environment.now,
    )


def _choose_slots(shared: Shared, limiter: AccountLimiter, per_account: int) -> Slots:
    """Return what grants slots: the limiter, or one that asks other nodes too."""
    settings, environment, store = shared.settings, shared.environment, shared.environment.store
    if store is None or shared.outbox is None or settings.slot_scope is not SlotScope.CLUSTER:
        return limiter
    return ClusterSlots(
        limiter,
        ISlotStore(store),
        shared.outbox,
        environment.node,
        per_account,
        settings.start_timeout + TIMES.lease,
        environment.random,
    )
