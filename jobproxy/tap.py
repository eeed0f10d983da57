"""``twistd jobproxy``: parses the options, and returns the service."""

import contextlib
import random
import sys
import time
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.error import ReactorNotRunning

from jobproxy.app.build import build_proxy
from jobproxy.app.build_client import make_agent
from jobproxy.app.build_store import UnusableStore, make_store, prepare
from jobproxy.app.build_traces import build_traces
from jobproxy.app.environment import Environment
from jobproxy.app.files_in_use import FIXED, list_files
from jobproxy.app.options import Options
from jobproxy.app.service import build_daemon, make_monotonic
from jobproxy.http1.client import PlainClient
from jobproxy.wire.tokens import make_node

__all__ = ["Options", "makeService"]


def makeService(config: Options, reactor: Any = None) -> MultiService:
    """Return the proxy as a service.

    :param config: parsed options.
    :raises SystemExit: if the options were only to be checked, or if the store cannot be used.
    :param reactor: a reactor that can listen, connect and tell the time; by default the global
        one, whose clock is then made monotonic.
    """
    if reactor is None:
        from twisted.internet import reactor as global_reactor

        reactor = make_monotonic(global_reactor)
    try:
        settings = prepare(config.settings())
    except UnusableStore as error:
        config.refuse(f"--store: {error}")
    if config["check"]:
        sys.stdout.write("jobproxy: all options are right\n")
        raise SystemExit(0)
    agent = make_agent(settings, reactor)
    node = make_node()
    traces = build_traces(settings, reactor, time.time)
    environment = Environment(
        reactor=reactor,
        client=PlainClient(agent),
        pool=agent,
        store=make_store(settings, reactor, node),
        random=random.SystemRandom(),
        now=time.time,
        node=node,
        stop=lambda: _stop(reactor),
        job_ended=None if traces is None else traces.trace,
    )
    key_path = config.find_text("secret-file")
    if key_path is None and settings.store.sqlite is not None:
        key_path = settings.store.sqlite.key_path
    proxy = build_proxy(settings, environment)
    return build_daemon(
        settings,
        proxy,
        reactor,
        [] if traces is None else [traces],
        files=list_files(config.find_text, proxy, agent, key_path),
        client_ca=config.find_text("client-ca"),
        fixed=[name for name in FIXED if config.find_text(name) is not None],
    )


def _stop(reactor: Any) -> None:
    """Stop as the first signal does; a signal that follows is then the first one."""
    with contextlib.suppress(ReactorNotRunning):
        reactor.stop()
