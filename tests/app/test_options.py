"""Options: flags, environment, defaults, and the message for an invalid value."""

import io
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

from jobproxy import __version__, tap
from jobproxy.app.settings import CorrelateBy, SlotScope
from jobproxy.store.address import MEMORY
from jobproxy.upstream.retries import OnLost, RetryMode
from tests.support.identities import authority
from tests.support.options import REQUIRED, OptionsTestCase

NAME = (
    "must have a host name of letters, digits and hyphens, with at most 63 in each part "
    "(RFC 1123, section 2.1), not"
)
URL = '\n[start]\nurl = "http://a/"'
OTHER = "give the server another name, or use its address"


class ProfileOptionsTests(OptionsTestCase):
    """``--profile``."""

    def test_profiles_that_cannot_be_served_are_refused(self) -> None:
        """Their paths are jobproxy's own or those of others, or they have no URL."""
        with TemporaryDirectory() as folder:
            for text, words in (
                ('path = "/x"', "profile api needs a start.url or --job-server-url"),
                (f'path = "/jobs/{{x}}"{URL}', "below /jobs, which jobproxy needs itself"),
                (f'path = "/callback/x"{URL}', "below /callback, which jobproxy needs itself"),
                (f'correlate-by = "id"{URL}', "which needs --store memory:"),
                ("x = 1", f"--profile is wrong: {folder}/api.toml:1:5: x: there is no such key"),
            ):
                Path(folder, "api.toml").write_text(text)
                store = f"--store=sqlite:{folder}/s.db"
                message = self.find_refusal([*REQUIRED, store, f"--profile={folder}/api.toml"])
                self.assertIn(words, message)
            Path(folder, "api.toml").write_text(f'path = "/x"{URL}')
            Path(folder, "b.toml").write_text(f'path = "/x"{URL}')
            both = [f"--profile={folder}/{name}.toml" for name in ("api", "b")]
            message = self.find_refusal([*REQUIRED, *both])
            self.assertIn("has two profiles with the path '/x'", message)


class ProxyOptionsTests(OptionsTestCase):
    """The options of ``twistd jobproxy``."""

    def test_all_options_but_the_callback_url_have_defaults(self) -> None:
        """All options but the callback URL have defaults."""
        options = self.parse(*REQUIRED)
        self.assertEqual(
            {option.name: options[option.name] for option in tap.Options.table},
            {
                "callback-url": "http://proxy.example/callback",
                "job-server-url": "http://jobs.asgateway.com/start",
                "profile": None,
                "listen": ["tcp:8080:interface=127.0.0.1:backlog=4096"],
                "callback-listen": None,
                "admin-listen": None,
                "wait": 30.0,
                "start-timeout": 10.0,
                "ambiguous-grace": 2.0,
                "drain-timeout": 30.0,
                "drain-delay": 0.0,
                "retain": 300.0,
                "key-life": 86400.0,
                "retry": RetryMode.NOT_SENT,
                "start-attempts": 3,
                "on-lost": OnLost.FAIL,
                "lost-after": None,
                "correlate-by": CorrelateBy.TOKEN,
                "strict-ids": False,
                "max-held": 10_000,
                "max-connections": None,
                "max-connections-per-address": None,
                "starts-per-account": 16,
                "queue-per-account": 1_000,
                "max-starts": 256,
                "max-body": 65_536,
                "upstream-idle": 2.0,
                "client-ca": None,
                "upstream-ca": None,
                "upstream-certificate": None,
                "upstream-proxy": None,
                "job-server-header-file": None,
                "forward-header": None,
                "secret-file": None,
                "store": MEMORY,
                "store-password-file": None,
                "slot-scope": SlotScope.NODE,
                "allow-client-callbacks": False,
                "allow-origin": None,
                "log-accounts": False,
                "traces": None,
                "config": None,
                "check": False,
            },
            "tests/app/test_options.py: state the default of each option",
        )

    def test_option_of_fixed_words_accepts_no_other(self) -> None:
        """An option that is one of a few words accepts each of them, and no other."""
        for name, words in (
            ("retry", ("never", "not-sent", "always")),
            ("on-lost", ("fail", "restart")),
            ("correlate-by", ("token", "id")),
        ):
            for word in words:
                more = ["--lost-after=1"] if word == "restart" else []
                options = self.parse(*REQUIRED, f"--{name}={word}", *more)
                self.assertEqual(options[name].value, word)
            for wrong in ("", words[0].upper(), "maybe"):
                line = f"--{name} must be one of {', '.join(words)}, not {wrong!r}"
                self.check_refused([*REQUIRED, f"--{name}={wrong}"], line)

    def test_times_of_zero_are_accepted_where_they_make_sense(self) -> None:
        """Some times may be zero."""
        names = ("ambiguous-grace", "drain-timeout", "drain-delay", "upstream-idle")
        options = self.parse(*REQUIRED, *(f"--{name}=0" for name in names))
        self.assertEqual([options[name] for name in names], [0.0] * 4)

    def test_flag_beats_environment_beats_default(self) -> None:
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

    def test_callback_url_without_prefix_is_accepted(self) -> None:
        """The callback URL is also read from the variable CALLBACK_URL."""
        options = self.parse(CALLBACK_URL="http://0b32866f.ngrok.io/callback")
        self.assertEqual(options["callback-url"], "http://0b32866f.ngrok.io/callback")

    def test_endpoints_may_be_repeated(self) -> None:
        """The flags of endpoints may be repeated."""
        for name in ("listen", "callback-listen", "admin-listen"):
            options = self.parse(*REQUIRED, f"--{name}=tcp:1", f"--{name}=tcp:2")
            self.assertEqual(options[name], ["tcp:1", "tcp:2"])

    def test_missing_callback_url_is_refused(self) -> None:
        """Without a callback URL the process ends."""
        self.check_refused([], "--callback-url is missing (or JOBPROXY_CALLBACK_URL)")

    def test_name_that_is_no_option_is_refused_with_advice(self) -> None:
        """For a flag or a variable that is no option, the line says what may have been meant."""
        for flag, line in (
            (
                "--jobserver-url=x",
                "--jobserver-url is not an option; did you mean --job-server-url?",
            ),
            ("--xyz=1", "--xyz is not an option; see --help"),
            ("--pidfile=", "--pidfile is an option of twistd: write it before jobproxy"),
            ("-n", "-n is an option of twistd: write it before jobproxy"),
        ):
            self.check_refused([*REQUIRED, flag], line)
        unknown = "the environment variable JOBPROXY_{} is not an option; {}".format
        self.check_refused(
            REQUIRED, unknown("MAXHELD", "did you mean JOBPROXY_MAX_HELD?"), JOBPROXY_MAXHELD="1"
        )
        self.check_refused(REQUIRED, unknown("Q", "see --help"), JOBPROXY_Q="1")

    def test_variables_of_others_are_left_alone(self) -> None:
        """Variables of jobproxyctl, and those of Kubernetes for a service, are no options."""
        self.parse(
            *REQUIRED,
            JOBPROXY_ADMIN="http://127.0.0.1:8082",
            JOBPROXY_PORT="tcp://10.0.0.1:80",
            JOBPROXY_PORT_80_TCP_ADDR="10.0.0.1",
            JOBPROXY_SERVICE_HOST="10.0.0.1",
            JOBPROXY_SERVICE_PORT_HTTP="80",
            JOBPROXY_ADMIN_SERVICE_HOST="10.0.0.1",
        )

    def test_invalid_value_is_refused_with_its_option(self) -> None:
        """The message for an invalid value is one line with the option and what it must be."""
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
            ("--listen=tcp:65536", "--listen must have a port of 0 to 65535, not 'tcp:65536'"),
            ("--listen=tcp:-1", "--listen must have a port of 0 to 65535, not 'tcp:-1'"),
            (
                "--listen=haproxy:tcp:65536",
                "--listen must have a port of 0 to 65535, not 'haproxy:tcp:65536'",
            ),
            (
                "--listen=unix:/none/s:mode=660",
                "--listen must have a socket in a folder that exists, not 'unix:/none/s:mode=660'",
            ),
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
            *[
                (f"--wait={wrong}", f"--wait {number} {wrong!r}")
                for wrong in ("1_0", "\u0661\u0660", "1e308", "1e3", "inf", "+1", " 1", "1" * 10)
            ],
            ("--max-body=64k", f"--max-body {count} '64k'"),
            (
                "--secret-file=/nowhere",
                "--secret-file names /nowhere, which cannot be read: No such file or directory",
            ),
            ("extra", "'extra' is not an option; see --help"),
            ("--nonsense=1", "--nonsense is not an option; see --help"),
        ):
            self.check_refused([*REQUIRED, argument], line)

    def test_invalid_variable_is_refused_with_its_name(self) -> None:
        """The message for an invalid value from the environment names the variable."""
        self.check_refused(
            REQUIRED,
            "JOBPROXY_WAIT must be a number of seconds above 0, not 'x'",
            JOBPROXY_WAIT="x",
        )

    def test_help_has_variable_and_default(self) -> None:
        """The help has the variable and the default of each option."""
        text = " ".join(str(tap.Options()).split())
        self.assertIn("[JOBPROXY_MAX_STARTS; default 256]", text)
        self.assertIn("[JOBPROXY_LISTEN; default tcp:8080", text)
        self.assertIn("[JOBPROXY_CALLBACK_URL; required]", text)

    def test_version_is_that_of_jobproxy(self) -> None:
        """--version prints the version of jobproxy, not of Twisted."""
        output = io.StringIO()
        with redirect_stdout(output), self.assertRaises(SystemExit) as caught:
            self.parse("--version")
        self.assertEqual(caught.exception.code, 0)
        self.assertEqual(output.getvalue(), f"jobproxy {__version__}\n")


class HostNameTests(OptionsTestCase):
    """The host name of the job server."""

    def test_name_that_cannot_be_resolved_is_refused(self) -> None:
        """G11: a host name that Twisted cannot resolve is refused when the process starts."""
        for host in ("job_server", "a" * 64, "a..b", "-a.b", "a-", "ab--cd.e", "a." * 130 + "a"):
            url = f"--job-server-url=https://{host}:8443/start"
            self.check_refused([*REQUIRED, url], f"--job-server-url {NAME} '{host}'; {OTHER}")

    def test_names_and_addresses_are_accepted(self) -> None:
        """G11: all that can be connected to is accepted."""
        for host in ("jobs", "a" * 63, "Jobs.example.", "xn--zckzah.x", "127.0.0.1", "[::1]", "1a"):
            url = f"http://{host}/start"
            options = self.parse(*REQUIRED, f"--job-server-url={url}")
            self.assertEqual(options["job-server-url"], url)


class SwitchTests(OptionsTestCase):
    """An option that is a switch."""

    def check(self, is_on: bool, *flags: str, variable: str = "") -> None:
        options = self.parse(*REQUIRED, *flags, JOBPROXY_ALLOW_CLIENT_CALLBACKS=variable)
        self.assertIs(options["allow-client-callbacks"], is_on)

    def test_flag_alone_means_yes(self) -> None:
        """Q4: the flag alone means yes, also if the environment says no."""
        self.check(True, "--allow-client-callbacks")
        self.check(True, "--allow-client-callbacks", variable="no")

    def test_variable_is_yes_or_no(self) -> None:
        """Q4: the variable is yes or no; an empty one is like none."""
        for text in ("yes", "YES", "true", "1"):
            self.check(True, variable=text)
        for text in ("no", "False", "0", ""):
            self.check(False, variable=text)

    def test_other_word_than_yes_or_no_is_refused(self) -> None:
        """Q4: any other word is refused with one line."""
        line = "JOBPROXY_ALLOW_CLIENT_CALLBACKS must be yes or no, not 'maybe'"
        self.check_refused(REQUIRED, line, JOBPROXY_ALLOW_CLIENT_CALLBACKS="maybe")
        self.check_refused(
            [*REQUIRED, "--allow-client-callbacks=no"],
            "option --allow-client-callbacks must not have an argument",
        )

    def test_help_has_the_default_no(self) -> None:
        """The help has the variable and the default of a switch."""
        text = " ".join(str(tap.Options()).split())
        self.assertIn("[JOBPROXY_ALLOW_CLIENT_CALLBACKS; default no]", text)


class TogetherTests(OptionsTestCase):
    """Options that depend on each other."""

    def test_client_ca_needs_tls(self) -> None:
        """--client-ca needs an endpoint with TLS."""
        line = "--client-ca needs an ssl: endpoint as --listen"
        with TemporaryDirectory() as folder:
            path = Path(folder, "authority.pem")
            path.write_bytes(authority().pem)
            self.check_refused([*REQUIRED, f"--client-ca={path}"], line)

    def test_restart_needs_lost_after(self) -> None:
        """--on-lost restart needs --lost-after."""
        line = "--on-lost restart needs --lost-after"
        self.check_refused([*REQUIRED, "--on-lost=restart"], line)
        self.check_refused(REQUIRED, line, JOBPROXY_ON_LOST="restart")
        options = self.parse(*REQUIRED, "--on-lost=restart", JOBPROXY_LOST_AFTER="5")
        self.assertEqual((options["on-lost"], options["lost-after"]), (OnLost.RESTART, 5.0))

    def test_lost_after_that_would_do_nothing_is_refused(self) -> None:
        """--lost-after needs --on-lost restart, and a client that waits for longer."""
        self.check_refused([*REQUIRED, "--lost-after=5"], "--lost-after needs --on-lost restart")
        for seconds in ("30", "31"):
            self.check_refused(
                [*REQUIRED, "--on-lost=restart", f"--lost-after={seconds}"],
                "--lost-after must be less than --wait, which is 30 seconds: a job that no client "
                "waits for is not started again",
            )

    def test_correlate_by_id_needs_a_path_of_its_own(self) -> None:
        """--correlate-by id needs a callback URL whose path is no path for jobs."""
        for path, shown in (("", "/"), ("/", "/"), ("/proxy", "/proxy"), ("/start/", "/start")):
            url = f"--callback-url=http://proxy.example{path}"
            line = (
                "--correlate-by id needs a --callback-url with a path of its own that "
                f"cannot be guessed, not {shown}"
            )
            self.check_refused([url, "--correlate-by=id"], line)
            self.parse(url)
        options = self.parse("--callback-url=http://proxy.example/x7Kq", "--correlate-by=id")
        self.assertIs(options["correlate-by"], CorrelateBy.ID)


class SecretFileTests(OptionsTestCase):
    """The file with the keys of callback tokens."""

    def test_secret_file_has_one_or_two_keys(self) -> None:
        """One or two lines are keys; line ends and empty lines do not count."""
        old, new = b"o" * 32, b"n" * 40
        options = self.parse(*REQUIRED, f"--secret-file={self.write_file(old)}")
        self.assertEqual(options["secret-file"], [old])
        name = self.write_file(b"\n" + new + b"\r\n" + old + b"\n\n")
        options = self.parse(*REQUIRED, JOBPROXY_SECRET_FILE=name)
        self.assertEqual(options["secret-file"], [new, old])

    def test_invalid_keys_are_refused_and_not_shown(self) -> None:
        """Keys that are too short or too many are refused, and not shown."""
        key = b"x" * 32
        for content in (b"", b"short", key[1:], key + b"\nshort", (key + b"\n") * 3):
            path = self.write_file(content)
            reason = "must have one or two lines of at least 32 bytes each"
            line = f"--secret-file names {path}, which {reason}"
            self.check_refused([*REQUIRED, f"--secret-file={path}"], line)
