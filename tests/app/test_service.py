"""The service that twistd runs: its ports, and what is served on each."""

from typing import Any, cast

from twisted.application.service import IServiceMaker, MultiService
from twisted.internet.protocol import Factory
from twisted.logger import capturedLogs
from twisted.plugin import getPlugins

from jobproxy import __version__, tap
from jobproxy.app.service import announce
from jobproxy.sandbox import tap as sandbox_tap
from tests.support.callbacks import read_log
from tests.support.clients import Client
from tests.support.memory_reactor import MemoryReactor
from tests.support.options import REQUIRED, OptionsTestCase
from tests.support.proxy import JOB_PATHS, MONITORING_PATHS, OPERATOR_PATHS, find_served


class WiringTests(OptionsTestCase):
    """Services that are made from options."""

    def start(self, *arguments: str) -> MemoryReactor:
        """Start a proxy, which is stopped when the test ends."""
        reactor = MemoryReactor()
        service = tap.makeService(cast(Any, self.parse(*REQUIRED, *arguments)), reactor)
        service.privilegedStartService()
        service.startService()

        def stop() -> None:
            stopping = service.stopService()
            reactor.advance(60)
            self.successResultOf(stopping)

        self.addCleanup(stop)
        return reactor

    def list_ports(self, reactor: MemoryReactor) -> list[tuple[int, Factory]]:
        """Return the ports that are listened on, and what serves their connections."""
        return [(server[0], cast(Factory, server[1])) for server in reactor.tcpServers]

    def find_served(self, reactor: MemoryReactor, port: int) -> set[str]:
        """Return the paths that are served on a port."""
        (site,) = [site for at, site in self.list_ports(reactor) if at == port]
        return find_served(site)

    def test_log_says_who_is_expected_where(self) -> None:
        """Once it runs, the log names all addresses; but not a path that is a secret."""
        place = "jobproxy {}: clients at tcp:1; jobs are started at http://jobs.example/start; "
        for arguments, rest in (
            (
                ("--admin-listen=unix:/c", "--callback-listen=tcp:2"),
                "callbacks at http://proxy.example/callback (tcp:2); operator at unix:/c",
            ),
            (("--correlate-by=id",), "callbacks at http://proxy.example/...; operator at none"),
        ):
            options = self.parse(
                *REQUIRED,
                "--listen=tcp:1",
                "--job-server-url=http://jobs.example/start",
                *arguments,
            )
            with capturedLogs() as events:
                announce(cast(tap.Options, options).settings())
            self.assertIn(place.format(__version__) + rest, read_log(events).splitlines())

    def test_unix_sockets_are_not_for_everybody(self) -> None:
        """G10: a Unix socket is for the user and the group, the operator's for the user alone."""
        reactor = self.start(
            "--listen=unix:/a", "--callback-listen=unix:/b", "--admin-listen=unix:/c"
        )
        modes = {server[0]: server[3] for server in reactor.unixServers}
        self.assertEqual(modes, {"/a": 0o660, "/b": 0o660, "/c": 0o600})

    def test_mode_of_an_endpoint_counts(self) -> None:
        """G10: a mode in the description of an endpoint counts."""
        reactor = self.start("--listen=unix:/a:mode=666", "--admin-listen=unix:/c:mode=660")
        modes = {server[0]: server[3] for server in reactor.unixServers}
        self.assertEqual(modes, {"/a": 0o666, "/c": 0o660})

    def test_service_listens_on_every_endpoint(self) -> None:
        """A service listens on every endpoint that it is given, and on no other."""
        for kind, make in (
            (tap.Options, tap.makeService),
            (sandbox_tap.Options, cast(Any, sandbox_tap.makeService)),
        ):
            reactor = MemoryReactor()
            needed = REQUIRED if kind is tap.Options else []
            options = self.parse(
                *needed, "--listen=tcp:1234", "--listen=tcp:1235:interface=127.0.0.2", kind=kind
            )
            service: MultiService = make(cast(Any, options), reactor)
            self.assertEqual(reactor.tcpServers, [])
            service.privilegedStartService()
            service.startService()
            self.assertEqual(
                [(server[0], server[3]) for server in reactor.tcpServers],
                [(1234, ""), (1235, "127.0.0.2")],
            )
            stopping = service.stopService()
            reactor.pump([0] * 4)
            self.successResultOf(stopping)

    def test_one_port_serves_jobs_callbacks_and_health(self) -> None:
        """With one endpoint, jobs, callbacks and health are served there."""
        reactor = self.start("--listen=tcp:1")
        self.assertEqual(
            self.find_served(reactor, 1), JOB_PATHS | MONITORING_PATHS | {"/callback/x"}
        )

    def test_callbacks_and_operator_have_ports_of_their_own(self) -> None:
        """Callbacks and the operator's routes are served only on their own endpoints."""
        reactor = self.start("--listen=tcp:1", "--callback-listen=tcp:2", "--admin-listen=tcp:3")
        self.assertEqual(self.find_served(reactor, 1), JOB_PATHS)
        self.assertEqual(self.find_served(reactor, 2), {"/callback/x"})
        self.assertEqual(self.find_served(reactor, 3), MONITORING_PATHS | OPERATOR_PATHS)

    def test_callbacks_with_ids_come_to_the_callback_url(self) -> None:
        """With --correlate-by id callbacks come to the callback URL itself."""
        reactor = self.start("--listen=tcp:1", "--callback-listen=tcp:2", "--correlate-by=id")
        self.assertEqual(self.find_served(reactor, 2), {"/callback"})

    def test_max_body_limits_jobs_and_callbacks(self) -> None:
        """--max-body limits the bodies of clients and of callbacks."""
        reactor = self.start("--listen=tcp:1", "--callback-listen=tcp:2", "--max-body=50")
        for _, site in self.list_ports(reactor):
            for length, status in ((50, 404), (51, 413)):
                client = Client(site)
                self.assertEqual(client.request("/x", b"x" * length).response.status, status)
                client.leave()

    def test_client_callbacks_are_an_option(self) -> None:
        """Q4: clients may name callbacks with --allow-client-callbacks only."""
        body = b'{"account":"example","wait":false,"callback":"http://client.example/"}'
        for arguments, is_refused in (([], True), (["--allow-client-callbacks"], False)):
            reactor = self.start("--listen=tcp:1", *arguments)
            ((_, site),) = self.list_ports(reactor)
            client = Client(site).request(body=body)
            self.assertEqual(client.is_held, not is_refused)
            client.leave()

    def test_twistd_finds_both_plugins(self) -> None:
        """Twisted finds both plugins, with our functions and options."""
        found = {maker.tapname: maker for maker in getPlugins(IServiceMaker)}
        self.assertIs(found["jobproxy"].makeService, tap.makeService)
        self.assertIs(found["jobproxy"].options, tap.Options)
        self.assertIs(found["jobserver"].makeService, sandbox_tap.makeService)
        self.assertIs(found["jobserver"].options, sandbox_tap.Options)
