"""The daemon: a proxy with its ports, reports to systemd, and a drain before it stops."""

import os
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from twisted.application.internet import TimerService
from twisted.application.service import IService, MultiService
from twisted.internet.endpoints import serverFromString
from twisted.logger import Logger

from jobproxy import __version__, logs
from jobproxy.app.build import Proxy
from jobproxy.app.drain import Drain
from jobproxy.app.files_in_use import authorities_in
from jobproxy.app.reload import FileInUse, Reload
from jobproxy.app.settings import CorrelateBy, Settings
from jobproxy.daemon.listening import ListeningService
from jobproxy.daemon.shutdown import Daemon
from jobproxy.daemon.systemd import Heartbeat, Notifier
from jobproxy.daemon.tls_ports import TlsPort

_log = Logger()

#: Seconds between two attempts to write the log lines that are still buffered.
FLUSH_INTERVAL = 0.5
#: Who may connect to a Unix socket: the user of the process alone; the group too.
OPERATOR_MODE = "600"
CLIENT_MODE = "660"


def make_monotonic(reactor: Any) -> Any:
    """Set a reactor's clock to the monotonic one.

    By default ``seconds`` is ``time.time``, so that a step of the wall clock would move every
    deadline (Twisted #2424). Its ``callLater`` computes with it, so it has to be set on the reactor
    itself.
    """
    reactor.seconds = time.monotonic
    return reactor


def build_daemon(
    settings: Settings,
    proxy: Proxy,
    reactor: Any,
    services: Sequence[IService] = (),
    *,
    files: Sequence[FileInUse] = (),
    client_ca: str | None = None,
    fixed: Sequence[str] = (),
) -> MultiService:
    """Return the service that twistd runs: a proxy, and all that belongs to its process.

    :param services: others, which run until the proxy has ended its jobs.
    :param files: that SIGHUP reads again.
    :param client_ca: the file with the authorities of clients, which it reads again too.
    :param fixed: options whose files it does not read again.
    """
    notifier = Notifier.from_environment(os.environ, os.getpid())
    clients = proxy.gateway.table.clients
    heartbeat = Heartbeat(reactor, notifier, reactor.callWhenRunning, lambda: clients.held)
    writer = TimerService(FLUSH_INTERVAL, logs.flush)
    writer.clock = reactor
    ports: list[IService] = []
    closed_first: list[IService] = []
    tls_ports: list[TlsPort] = []
    asking: list[TlsPort] = []
    for endpoints, factory in (
        (settings.callback_listen, proxy.callbacks),
        (settings.admin_listen, proxy.admin),
        (settings.listen, proxy.clients),
    ):
        for endpoint in endpoints:
            assert factory is not None
            mode = OPERATOR_MODE if factory is proxy.admin else CLIENT_MODE
            if endpoint.startswith("ssl:"):
                authorities = settings.client_ca if factory is proxy.clients else ()
                tls_ports.append(TlsPort(reactor, endpoint, authorities))
                asking += tls_ports[-1:] if authorities else []
                place = tls_ports[-1].make_endpoint()
            else:
                place = serverFromString(reactor, restrict(endpoint, mode))
            is_inherited = endpoint.startswith("systemd:")
            port = ListeningService(place, factory, reactor, is_inherited=is_inherited)
            ports.append(port)
            if factory is proxy.clients and settings.callback_listen:
                closed_first.append(port)
    drain = Drain(
        reactor,
        proxy.gateways,
        proxy.factories,
        settings.drain_timeout,
        notifier,
        proxy.callbacks,
        closed_first,
        delay=settings.drain_delay,
    )
    if client_ca is not None:
        files = [*files, authorities_in(client_ca, asking)]
    reload = Reload(files, tls_ports, fixed)
    reactor.callWhenRunning(lambda: announce(settings))
    daemon = Daemon("jobproxy", drain, reactor.callWhenRunning, reactor.callFromThread, reload.run)
    # Services stop in reverse order: the ports close before the table ends the held clients.
    for service in (heartbeat, writer, *services, *proxy.services, *ports):
        service.setServiceParent(daemon)
    return daemon


def restrict(endpoint: str, mode: str) -> str:
    """Return the description of an endpoint whose Unix socket, if it is one, is not for everybody.

    Twisted's default is 666. It sets the mode before it listens, whatever the umask is.

    :param mode: in octal digits; a mode that the description has counts instead.
    """
    if endpoint.startswith("unix:") and ":mode=" not in endpoint:
        return f"{endpoint}:mode={mode}"
    return endpoint


def announce(settings: Settings) -> None:
    """Log who is expected where; a job that gets nowhere is mostly due to one of these."""
    callbacks = settings.callback_url
    if settings.correlate_by is CorrelateBy.ID:
        # Its path is the secret that the token is otherwise.
        callbacks = urlsplit(callbacks)._replace(path="/...").geturl()
    if settings.callback_listen:
        callbacks = f"{callbacks} ({' '.join(settings.callback_listen)})"
    _log.info(
        "jobproxy {version}: clients at {clients}; jobs are started at {job_server}; "
        "callbacks at {callbacks}; operator at {operator}",
        version=__version__,
        clients=" ".join(settings.listen),
        job_server=" ".join(
            each
            for each in (settings.job_server_url, *(f"profile {p.name}" for p in settings.profile))
            if each
        ),
        callbacks=callbacks,
        operator=" ".join(settings.admin_listen) or "none",
    )
