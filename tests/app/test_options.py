"""Options: where they come from, and what is said of bad ones."""

import io
import os
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, cast
from unittest import mock

from attrs import evolve
from twisted.application.service import IServiceMaker, MultiService
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactorClock
from twisted.plugin import getPlugins
from twisted.trial.unittest import SynchronousTestCase

from jobproxy import __version__, tap
from jobproxy.app import options as options_module
from jobproxy.app.settings import CorrelateBy, SlotScope
from jobproxy.daemon.options import DaemonOptions
from jobproxy.sandbox import tap as sandbox_tap
from jobproxy.upstream.retries import OnLost, RetryMode
from tests.support.proxy import Client

NEEDED = ["--callback-url=http://proxy.example/callback"]


class OptionsTestCase(SynchronousTestCase):
    """Options in an environment of the test's own."""

    def parse(
        self, *arguments: str, kind: type[DaemonOptions] = tap.Options, **environment: str
    ) -> DaemonOptions:
        options = kind()
        with mock.patch.dict(os.environ, environment, clear=True):
            options.parseOptions(list(arguments))
        return options

    def check_refused(
        self,
        arguments: list[str],
        line: str,
        kind: type[DaemonOptions] = tap.Options,
        **environment: str,
    ) -> None:
        """Check that a start ends with exactly one line, and the code for bad configuration."""
        errors, output = io.StringIO(), io.StringIO()
        with (
            redirect_stderr(errors),
            redirect_stdout(output),
            self.assertRaises(SystemExit) as caught,
        ):
            self.parse(*arguments, kind=kind, **environment)
        self.assertEqual(caught.exception.code, 78)
        self.assertEqual(errors.getvalue(), f"{kind.program}: {line}\n")
        self.assertEqual(output.getvalue(), "")


class ProxyOptionsTests(OptionsTestCase):
    """The options of ``twistd jobproxy``."""

    def test_defaults(self) -> None:
        """Everything but the callback URL has a default."""
        options = self.parse(*NEEDED)
        self.assertEqual(
            {option.name: options[option.name] for option in tap.Options.table},
            {
                "callback-url": "http://proxy.example/callback",
                "job-server-url": "http://jobs.asgateway.com/start",
                "listen": ["tcp:8080:interface=127.0.0.1:backlog=4096"],
                "callback-listen": None,
                "admin-listen": None,
                "wait": 30.0,
                "start-timeout": 10.0,
                "ambiguous-grace": 2.0,
                "drain-timeout": 30.0,
                "retain": 300.0,
                "retry": RetryMode.NOT_SENT,
                "start-attempts": 3,
                "on-lost": OnLost.FAIL,
                "lost-after": None,
                "correlate-by": CorrelateBy.TOKEN,
                "max-held": 10_000,
                "starts-per-account": 16,
                "queue-per-account": 1_000,
                "max-starts": 256,
                "max-body": 65_536,
                "upstream-idle": 2.0,
                "secret-file": None,
                "cluster": None,
                "cluster-password-file": None,
                "slot-scope": SlotScope.NODE,
                "allow-client-callbacks": False,
                "log-accounts": False,
            },
        )

    def test_words(self) -> None:
        """Options that are one of a few words take each of them, and nothing else."""
        for name, words in (
            ("retry", ("never", "not-sent", "always")),
            ("on-lost", ("fail", "restart")),
            ("correlate-by", ("token", "id")),
        ):
            for word in words:
                options = self.parse(*NEEDED, f"--{name}={word}", "--lost-after=1")
                self.assertEqual(options[name].value, word)
            for wrong in ("", words[0].upper(), "maybe"):
                line = f"--{name} must be one of {', '.join(words)}, not {wrong!r}"
                self.check_refused([*NEEDED, f"--{name}={wrong}"], line)

    def test_zero(self) -> None:
        """Times that may be nothing at all may be zero."""
        names = ("ambiguous-grace", "drain-timeout", "upstream-idle")
        options = self.parse(*NEEDED, *(f"--{name}=0" for name in names))
        self.assertEqual([options[name] for name in names], [0.0] * 3)

    def test_environment(self) -> None:
        """Each option has a variable; a flag beats it, and it beats the default."""
        options = self.parse(
            "--wait=5",
            JOBPROXY_CALLBACK_URL="https://proxy.example/a/",
            CALLBACK_URL="http://other.example",
            JOBPROXY_WAIT="6",
            JOBPROXY_MAX_HELD="7",
            JOBPROXY_LISTEN="tcp:1 tcp:2",
        )
        self.assertEqual(options["callback-url"], "https://proxy.example/a")
        self.assertEqual(options["wait"], 5.0)
        self.assertEqual(options["max-held"], 7)
        self.assertEqual(options["listen"], ["tcp:1", "tcp:2"])

    def test_bare_callback_url(self) -> None:
        """The callback URL is also taken from CALLBACK_URL alone."""
        options = self.parse(CALLBACK_URL="http://0b32866f.ngrok.io/callback")
        self.assertEqual(options["callback-url"], "http://0b32866f.ngrok.io/callback")

    def test_several_endpoints(self) -> None:
        """The flags of endpoints may come several times."""
        for name in ("listen", "callback-listen", "admin-listen"):
            options = self.parse(*NEEDED, f"--{name}=tcp:1", f"--{name}=tcp:2")
            self.assertEqual(options[name], ["tcp:1", "tcp:2"])

    def test_no_callback_url(self) -> None:
        """Without a callback URL nothing starts."""
        self.check_refused([], "--callback-url is missing (or JOBPROXY_CALLBACK_URL)")

    def test_bad_values(self) -> None:
        """Each bad value is told in one line that names the option and says what it must be."""
        number = "must be a number of seconds above 0, not"
        delay = "must be a number of seconds, 0 or more, not"
        endpoint = "must be an endpoint like tcp:8080:interface=127.0.0.1, not"
        count = "must be a whole number above 0, not"
        path = "must have a path of letters, digits and ._~-/ only"
        url = "must be a URL like http://host:port/path, not"
        for argument, line in (
            ("--wait=abc", f"--wait {number} 'abc'"),
            ("--wait=0", f"--wait {number} '0'"),
            ("--wait=-1", f"--wait {number} '-1'"),
            ("--wait=nan", f"--wait {number} 'nan'"),
            ("--wait=inf", f"--wait {number} 'inf'"),
            ("--start-timeout=", f"--start-timeout {number} ''"),
            ("--ambiguous-grace=-1", f"--ambiguous-grace {delay} '-1'"),
            ("--max-held=0", f"--max-held {count} '0'"),
            ("--max-held=1.5", f"--max-held {count} '1.5'"),
            ("--starts-per-account=many", f"--starts-per-account {count} 'many'"),
            ("--queue-per-account=-3", f"--queue-per-account {count} '-3'"),
            ("--max-starts=99999999999", f"--max-starts {count} '99999999999'"),
            ("--job-server-url=jobs.example", f"--job-server-url {url} 'jobs.example'"),
            ("--job-server-url=ftp://a/", f"--job-server-url {url} 'ftp://a/'"),
            ("--job-server-url=http://", f"--job-server-url {url} 'http://'"),
            ("--job-server-url=http://a:x/", f"--job-server-url {url} 'http://a:x/'"),
            ("--job-server-url=http://u:p@a/", f"--job-server-url {url} 'http://u:p@a/'"),
            ("--job-server-url=http://a b/", f"--job-server-url {url} 'http://a b/'"),
            ("--job-server-url=http://[::1/", f"--job-server-url {url} 'http://[::1/'"),
            (
                "--callback-url=http://a/?b=c",
                "--callback-url must have no query and no fragment, not 'http://a/?b=c'",
            ),
            (
                "--callback-url=http://a/<b>",
                f"--callback-url {path}, not 'http://a/<b>'",
            ),
            ("--listen=8080x", f"--listen {endpoint} '8080x'"),
            ("--listen=tcp:x", f"--listen {endpoint} 'tcp:x'"),
            ("--callback-listen=tcp", f"--callback-listen {endpoint} 'tcp'"),
            ("--admin-listen=x:1", f"--admin-listen {endpoint} 'x:1'"),
            ("--drain-timeout=-1", f"--drain-timeout {delay} '-1'"),
            ("--retain=0", f"--retain {number} '0'"),
            ("--start-attempts=0", f"--start-attempts {count} '0'"),
            ("--lost-after=0", f"--lost-after {number} '0'"),
            ("--max-body=64k", f"--max-body {count} '64k'"),
            ("--secret-file=/nowhere", "--secret-file cannot be read: No such file or directory"),
            ("extra", "'extra' is not an option; see --help"),
            ("--nonsense=1", "option --nonsense not recognized"),
        ):
            self.check_refused([*NEEDED, argument], line)

    def test_bad_variable(self) -> None:
        """A bad value from the environment is told with its variable."""
        self.check_refused(
            NEEDED,
            "JOBPROXY_WAIT must be a number of seconds above 0, not 'x'",
            JOBPROXY_WAIT="x",
        )

    def test_help_names_everything(self) -> None:
        """The help tells each option's variable and default."""
        text = " ".join(str(tap.Options()).split())
        self.assertIn("[JOBPROXY_MAX_STARTS; default 256]", text)
        self.assertIn("[JOBPROXY_LISTEN; default tcp:8080", text)
        self.assertIn("[JOBPROXY_CALLBACK_URL; required]", text)

    def test_version(self) -> None:
        """The version is ours, not Twisted's."""
        output = io.StringIO()
        with redirect_stdout(output), self.assertRaises(SystemExit) as caught:
            self.parse("--version")
        self.assertEqual(caught.exception.code, 0)
        self.assertEqual(output.getvalue(), f"jobproxy {__version__}\n")


class SwitchTests(OptionsTestCase):
    """An option that is yes or no."""

    def check(self, is_on: bool, *flags: str, variable: str = "") -> None:
        options = self.parse(*NEEDED, *flags, JOBPROXY_ALLOW_CLIENT_CALLBACKS=variable)
        self.assertIs(options["allow-client-callbacks"], is_on)

    def test_flag(self) -> None:
        """Q4: the flag alone means yes, also if the environment says no."""
        self.check(True, "--allow-client-callbacks")
        self.check(True, "--allow-client-callbacks", variable="no")

    def test_environment(self) -> None:
        """Q4: in the environment it is yes or no; nothing there is as if it were not set."""
        for text in ("yes", "YES", "true", "1"):
            self.check(True, variable=text)
        for text in ("no", "False", "0", ""):
            self.check(False, variable=text)

    def test_bad(self) -> None:
        """Q4: anything else is told in one line."""
        line = "JOBPROXY_ALLOW_CLIENT_CALLBACKS must be yes or no, not 'maybe'"
        self.check_refused(NEEDED, line, JOBPROXY_ALLOW_CLIENT_CALLBACKS="maybe")
        self.check_refused(
            [*NEEDED, "--allow-client-callbacks=no"],
            "option --allow-client-callbacks must not have an argument",
        )

    def test_help(self) -> None:
        """The help tells its variable and its default."""
        text = " ".join(str(tap.Options()).split())
        self.assertIn("[JOBPROXY_ALLOW_CLIENT_CALLBACKS; default no]", text)


class TogetherTests(OptionsTestCase):
    """Options that depend on each other."""

    def test_restart_needs_a_time(self) -> None:
        """A proxy that is to start lost jobs again has to know when a job is lost."""
        line = "--on-lost restart needs --lost-after"
        self.check_refused([*NEEDED, "--on-lost=restart"], line)
        self.check_refused(NEEDED, line, JOBPROXY_ON_LOST="restart")
        options = self.parse(*NEEDED, "--on-lost=restart", JOBPROXY_LOST_AFTER="5")
        self.assertEqual((options["on-lost"], options["lost-after"]), (OnLost.RESTART, 5.0))

    def test_fixed_callbacks_need_a_path(self) -> None:
        """Callbacks that all come to one path cannot come to where jobs are sent."""
        for path, told in (("", "/"), ("/", "/"), ("/proxy", "/proxy"), ("/start/", "/start")):
            url = f"--callback-url=http://proxy.example{path}"
            line = (
                "--correlate-by id needs a --callback-url with a path of its own that "
                f"cannot be guessed, not {told}"
            )
            self.check_refused([url, "--correlate-by=id"], line)
            self.parse(url)
        options = self.parse("--callback-url=http://proxy.example/x7Kq", "--correlate-by=id")
        self.assertIs(options["correlate-by"], CorrelateBy.ID)


class SecretFileTests(OptionsTestCase):
    """The file with the keys of callback tokens."""

    def write(self, content: bytes) -> str:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = Path(folder.name, "secret")
        path.write_bytes(content)
        return str(path)

    def test_keys(self) -> None:
        """One or two lines are keys; line ends and empty lines are none of them."""
        old, new = b"o" * 32, b"n" * 40
        options = self.parse(*NEEDED, f"--secret-file={self.write(old)}")
        self.assertEqual(options["secret-file"], [old])
        name = self.write(b"\n" + new + b"\r\n" + old + b"\n\n")
        options = self.parse(*NEEDED, JOBPROXY_SECRET_FILE=name)
        self.assertEqual(options["secret-file"], [new, old])

    def test_bad_keys(self) -> None:
        """Keys that are too short or too many are refused, and not told."""
        line = "--secret-file must name a file of one or two lines of at least 32 bytes each"
        key = b"x" * 32
        for content in (b"", b"short", key[1:], key + b"\nshort", (key + b"\n") * 3):
            self.check_refused([*NEEDED, f"--secret-file={self.write(content)}"], line)


class SimulatorOptionsTests(OptionsTestCase):
    """The options of ``twistd jobserver``."""

    def test_bad_values(self) -> None:
        """Each bad value is told in one line."""
        count = "must be a whole number above 0, not"
        delay = "must be a number of seconds, 0 or more, not"
        kinds = "drop, duplicate, early, late, reset, refused, busy, error, garbage, slow, failed"
        example = "must be like drop=0.01,slow=0.1:5, not"
        for argument, line in (
            ("--duration=x", f"--duration {delay} 'x'"),
            ("--jitter=-1", f"--jitter {delay} '-1'"),
            ("--latency=-1", f"--latency {delay} '-1'"),
            (
                "--slots-per-account=0",
                f"--slots-per-account {count} '0'",
            ),
            ("--hold-slot=both", "--hold-slot must be request or connection, not 'both'"),
            ("--seed=x", "--seed must be a whole number, not 'x'"),
            ("--faults=gone=1", f"--faults must name a known fault, not 'gone'; there are {kinds}"),
            ("--faults=drop", f"--faults {example} 'drop'"),
            ("--faults=drop=x", f"--faults {example} 'drop=x'"),
            ("--faults=slow=1:x", f"--faults {example} 'slow=1:x'"),
            (
                "--faults=drop=2",
                "--faults must have rates from 0 to 1 and seconds from 0, not 'drop=2'",
            ),
        ):
            self.check_refused([argument], line, kind=sandbox_tap.Options)


class Reactor(MemoryReactorClock):
    """A reactor in memory, as far as our services need one."""

    def callFromThread(self, call: Callable[[], object]) -> None:
        call()


class WiringTests(OptionsTestCase):
    """What the options are made into."""

    def start(self, *arguments: str) -> Reactor:
        """Start a proxy, which is stopped when the test ends."""
        reactor = Reactor()
        service = tap.makeService(cast(Any, self.parse(*NEEDED, *arguments)), reactor)
        service.privilegedStartService()
        service.startService()

        def stop() -> None:
            stopping = service.stopService()
            reactor.advance(60)
            self.successResultOf(stopping)

        self.addCleanup(stop)
        return reactor

    def sites(self, reactor: Reactor) -> list[tuple[int, Factory]]:
        """Return the ports that are listened on, and what serves their connections."""
        return [(server[0], cast(Factory, server[1])) for server in reactor.tcpServers]

    def find_served(self, reactor: Reactor, port: int) -> set[str]:
        """Return which paths are served on a port; on the others there is nothing."""
        (site,) = [site for at, site in self.sites(reactor) if at == port]
        served = set()
        for path in ("/proxy", "/jobs/x", "/callback/x", "/callback", "/healthz", "/orphans"):
            client = Client(site)
            # What no route has is refused before the method is looked at.
            response = client.request(path, None, method="OPTIONS").response
            client.leave()
            self.assertIn(response.status, (404, 405))
            if response.status == 405:
                served.add(path)
        return served

    def test_listens(self) -> None:
        """A service listens on every endpoint it was given, and on nothing else."""
        for kind, make in (
            (tap.Options, tap.makeService),
            (sandbox_tap.Options, cast(Any, sandbox_tap.makeService)),
        ):
            reactor = Reactor()
            needed = NEEDED if kind is tap.Options else []
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

    def test_one_port(self) -> None:
        """Without listeners of their own callbacks and health are served where jobs are."""
        reactor = self.start("--listen=tcp:1")
        self.assertEqual(
            self.find_served(reactor, 1), {"/proxy", "/jobs/x", "/callback/x", "/healthz"}
        )

    def test_own_ports(self) -> None:
        """Callbacks and the operator's side are served on their own listeners and nowhere else."""
        reactor = self.start("--listen=tcp:1", "--callback-listen=tcp:2", "--admin-listen=tcp:3")
        self.assertEqual(self.find_served(reactor, 1), {"/proxy", "/jobs/x"})
        self.assertEqual(self.find_served(reactor, 2), {"/callback/x"})
        self.assertEqual(self.find_served(reactor, 3), {"/healthz", "/orphans"})

    def test_fixed_callbacks(self) -> None:
        """Callbacks that are found by their id come to the callback URL itself."""
        reactor = self.start("--listen=tcp:1", "--callback-listen=tcp:2", "--correlate-by=id")
        self.assertEqual(self.find_served(reactor, 2), {"/callback"})

    def test_largest_body(self) -> None:
        """Bodies of clients and of callbacks are bounded as it was said."""
        reactor = self.start("--listen=tcp:1", "--callback-listen=tcp:2", "--max-body=50")
        for _, site in self.sites(reactor):
            for length, status in ((50, 404), (51, 413)):
                client = Client(site)
                self.assertEqual(client.request("/x", b"x" * length).response.status, status)
                client.leave()

    def test_client_callbacks(self) -> None:
        """Q4: whether clients may name callbacks is as it was said."""
        body = b'{"account":"example","wait":false,"callback":"http://client.example/"}'
        for arguments, is_refused in (([], True), (["--allow-client-callbacks"], False)):
            reactor = self.start("--listen=tcp:1", *arguments)
            ((_, site),) = self.sites(reactor)
            client = Client(site).request(body=body)
            self.assertEqual(client.is_held, not is_refused)
            client.leave()

    def test_plugins(self) -> None:
        """Twisted finds both plugins, and makes the services by our functions."""
        found = {maker.tapname: maker for maker in getPlugins(IServiceMaker)}
        self.assertIs(found["jobproxy"].makeService, tap.makeService)
        self.assertIs(found["jobproxy"].options, tap.Options)
        self.assertIs(found["jobserver"].makeService, sandbox_tap.makeService)
        self.assertIs(found["jobserver"].options, sandbox_tap.Options)


class ClusterOptionsTests(OptionsTestCase):
    """What several nodes need, and what does not go with it."""

    def setUp(self) -> None:
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.secret, self.password = f"{folder.name}/secret", f"{folder.name}/password"
        Path(self.secret).write_text("k" * 32)
        Path(self.password).write_text("s3cret\n")
        self.needed = [*NEEDED, f"--secret-file={self.secret}"]

    def test_address(self) -> None:
        """The URL comes from the command line or the environment, its password from a file too."""
        url = "redis://redis.example/1"
        address = self.parse(*self.needed, f"--cluster={url}")["cluster"]
        self.assertEqual((address.hosts, address.db), ((("redis.example", 6379),), 1))
        self.assertEqual(self.parse(*self.needed, JOBPROXY_CLUSTER=url)["cluster"], address)
        whole = self.parse(
            *self.needed, f"--cluster={url}", f"--cluster-password-file={self.password}"
        )
        self.assertEqual(whole["cluster"], evolve(address, password="s3cret"))

    def test_bad_address(self) -> None:
        """Something that is no URL of a Redis is refused, and not repeated."""
        self.check_refused(
            [*self.needed, "--cluster=redis://:s3cret@host/name"],
            "--cluster must be memory:, redis://[user:password@]host[:port][/db], rediss://… for "
            "TLS, or redis+sentinel://[user:password@]host[:port],…/service[/db]",
        )

    def test_needs_a_key(self) -> None:
        """G6: a node that cannot verify the others' tokens is none of them."""
        self.check_refused(
            [*NEEDED, "--cluster=redis://host"],
            "--cluster needs --secret-file, the same for all nodes",
        )

    def test_needs_a_library(self) -> None:
        """G6: without what speaks to Redis it is said how to get that."""
        self.patch(options_module, "find_spec", lambda name: None)
        self.check_refused(
            [*self.needed, "--cluster=redis://host"],
            "--cluster needs txredisapi: pip install 'jobproxy[redis]'",
        )

    def test_needs_tokens(self) -> None:
        """G6: an id in a callback does not tell which node has its job."""
        by_id = ["--correlate-by=id", "--callback-url=http://proxy.example/secret-path"]
        self.check_refused(
            [*self.needed, "--cluster=redis://host", *by_id],
            "--cluster cannot be used with --correlate-by id",
        )

    def test_without_a_cluster(self) -> None:
        """G6: what makes sense only with other nodes is refused where there are none."""
        for argument, name in (
            ("--slot-scope=cluster", "--slot-scope cluster"),
            (f"--cluster-password-file={self.password}", "--cluster-password-file"),
        ):
            self.check_refused([*self.needed, argument], f"{name} needs --cluster")

    def test_no_password_file(self) -> None:
        """G6: a password that cannot be read is said."""
        self.check_refused(
            [*self.needed, "--cluster=redis://host", "--cluster-password-file=/nowhere"],
            "--cluster-password-file cannot be read: No such file or directory",
        )

    def test_lane_scope(self) -> None:
        """Starts are counted for each node or for all."""
        for scope in SlotScope:
            arguments = ["--cluster=redis://host", f"--slot-scope={scope.value}"]
            self.assertIs(self.parse(*self.needed, *arguments)["slot-scope"], scope)
