"""Makes the connections to job servers."""

from typing import Any

from jobproxy.app.settings import Settings
from jobproxy.http1.agent import PooledAgent
from jobproxy.http1.limits import ClientLimits
from jobproxy.http1.tls import ClientTls


def make_agent(settings: Settings, reactor: Any) -> PooledAgent:
    """Return what sends requests to job servers."""
    limits = ClientLimits(
        body=settings.largest_body,
        connections=settings.max_starts,
        idle_time=settings.upstream_idle,
    )
    tls = ClientTls(settings.upstream_ca, settings.upstream_certificate)
    return PooledAgent(reactor, limits, tls, settings.upstream_proxy)
