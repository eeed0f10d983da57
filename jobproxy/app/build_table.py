"""Makes the correlation table, and what shares its jobs with other nodes."""

from functools import partial

from jobproxy.app.environment import Environment
from jobproxy.app.settings import CorrelateBy, Settings
from jobproxy.cluster.claims import Claims
from jobproxy.cluster.coordinator import Coordinator
from jobproxy.cluster.inbox import Inbox
from jobproxy.cluster.local_coordinator import LocalCoordinator
from jobproxy.cluster.outbox import Outbox
from jobproxy.cluster.remote_jobs import RemoteJobs
from jobproxy.cluster.replicator import Replicator
from jobproxy.cluster.store_coordinator import StoreCoordinator
from jobproxy.cluster.thin_relay import ThinRelay
from jobproxy.jobs.end_watch import EndObserver, EndWatch
from jobproxy.jobs.events import JobEvents, Observer
from jobproxy.jobs.index import UpstreamIds
from jobproxy.jobs.table import CorrelationTable
from jobproxy.wire.tokens import TokenSigner


def build_table(
    settings: Settings,
    environment: Environment,
    signer: TokenSigner,
    thin: ThinRelay,
    ends: EndWatch | None = None,
) -> tuple[CorrelationTable, Coordinator, Outbox | None]:
    """Return the table, the coordinator, and what calls the store in the background.

    :param thin: gets the thin callbacks that other nodes received.
    :param ends: is told when jobs have ended.
    """
    reactor, store, node = environment.reactor, environment.store, environment.node
    events: Observer = JobEvents(environment.wants_events)
    for job_ended in (None if ends is None else ends.job_ended, environment.job_ended):
        if job_ended is not None:
            events = EndObserver(events, job_ended)
    make_table = partial(
        CorrelationTable,
        reactor,
        settings.longest_retain,
        key_life=settings.key_life,
        bounds=environment.bounds,
        max_promised=settings.max_held // 2,
        strict_ids=settings.strict_ids,
    )
    if store is None:
        by_id = [profile.name for profile in settings.profile if profile.correlates_by_id]
        if settings.correlate_by is CorrelateBy.ID:
            by_id.append("")
        ids = UpstreamIds(
            lambda: signer.mint().job_id, settings.start_timeout, environment.parked_bounds
        )
        table = make_table(observer=events, upstream_ids=dict.fromkeys(by_id, ids))
        return table, LocalCoordinator(table, reactor), None
    outbox = Outbox(reactor, settings.retain, environment.bounds)
    replicator = Replicator(reactor, store, outbox, node, events)
    table = make_table(observer=replicator)
    remote_jobs = RemoteJobs(reactor, table, store, replicator, node)
    claims = Claims(reactor, table, store, remote_jobs, replicator)
    inbox = Inbox(table, store, remote_jobs, claims, replicator, outbox, thin, node)
    coordinator = StoreCoordinator(
        reactor, table, store, remote_jobs, claims, inbox, outbox, replicator, node
    )
    return table, coordinator, outbox
