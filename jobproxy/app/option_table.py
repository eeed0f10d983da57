"""The table of the options of ``twistd jobproxy``."""

from collections import Counter
from pathlib import Path

from jobproxy.app.settings import CorrelateBy, SlotScope
from jobproxy.app.upstream_readers import (
    read_authorities,
    read_header_file,
    read_header_names,
    read_identity,
    read_proxy,
)
from jobproxy.daemon.options import Option
from jobproxy.daemon.readers import (
    read_base_url,
    read_count,
    read_delay,
    read_endpoints,
    read_origins,
    read_seconds,
    read_server_url,
    read_switch,
    read_url,
    reader_of,
)
from jobproxy.profiles.keys import BadProfile
from jobproxy.profiles.profile import Profile
from jobproxy.profiles.reader import read_profile
from jobproxy.store.address import read_address
from jobproxy.store.key_file import read_keys
from jobproxy.upstream.retries import OnLost, RetryMode
from jobproxy.wire.tokens import MIN_KEY

#: The job server of the work sample.
SAMPLE_URL = "http://jobs.asgateway.com/start"


def read_password(text: str) -> str:
    """Read a password from the file with this name; an end of line after it is removed."""
    try:
        return Path(text).read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise ValueError(f"names {text}, which cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError("must name a file of UTF-8 text") from error


def read_key_file(text: str) -> list[bytes]:
    """Read the keys of callback tokens from the file with this name."""
    try:
        return read_keys(text)
    except ValueError as error:
        raise ValueError(f"names {text}, which {error}") from error


def read_profiles(text: str) -> list[Profile]:
    """Read profiles by their names, which are separated by spaces."""
    try:
        profiles = [read_profile(name) for name in text.split()]
    except BadProfile as error:
        raise ValueError(f"is wrong: {error}") from error
    for what, values in (
        ("name", [profile.name for profile in profiles]),
        ("path", [profile.path.text for profile in profiles]),
    ):
        for value, number in Counter(values).items():
            if number > 1:
                raise ValueError(f"has two profiles with the {what} {value!r}")
    return profiles


TABLE = (
    Option(
        "callback-url",
        None,
        read_base_url,
        "public base of the callback URLs; callbacks are served below its path",
        required=True,
        aliases=("CALLBACK_URL",),
    ),
    Option(
        "job-server-url",
        None,
        read_server_url,
        f"URL where jobs are started; without a --profile {SAMPLE_URL}",
    ),
    Option(
        "profile",
        None,
        read_profiles,
        "file that says how another API is spoken to, or the name of one that comes with "
        "jobproxy; may be repeated",
        repeatable=True,
    ),
    Option(
        "listen",
        "tcp:8080:interface=127.0.0.1:backlog=4096",
        read_endpoints,
        "endpoint for clients (strports); may be repeated",
        repeatable=True,
    ),
    Option(
        "callback-listen",
        None,
        read_endpoints,
        "endpoint for callbacks, which are then not served on --listen; may be repeated",
        repeatable=True,
    ),
    Option(
        "admin-listen",
        None,
        read_endpoints,
        "endpoint for the live page, status, jobs and orphans, and for health and metrics, "
        "which are then not served on --listen; may be repeated",
        repeatable=True,
    ),
    Option("wait", "30", read_seconds, "seconds that a client is held at most"),
    Option("start-timeout", "10", read_seconds, "seconds for one start request"),
    Option(
        "ambiguous-grace",
        "2",
        read_delay,
        "seconds to wait for a callback after an ambiguous start",
    ),
    Option(
        "drain-timeout",
        "30",
        read_delay,
        "seconds to wait for held clients when the proxy stops",
    ),
    Option(
        "drain-delay",
        "0",
        read_delay,
        "seconds to still accept jobs, although not ready, before a stop begins",
    ),
    Option("retain", "300", read_seconds, "seconds that results are retained"),
    Option(
        "key-life", "86400", read_seconds, "seconds that an idempotency key starts no other job"
    ),
    Option(
        "retry",
        "not-sent",
        reader_of(RetryMode),
        "which start requests are sent again: never, not-sent (no ambiguous ones) or always",
    ),
    Option("start-attempts", "3", read_count, "maximum of start requests for one job"),
    Option(
        "on-lost",
        "fail",
        reader_of(OnLost),
        "what to do with a job whose callback does not come: fail or restart",
    ),
    Option(
        "lost-after",
        None,
        read_seconds,
        "seconds without a callback after which --on-lost restart starts the job again",
    ),
    Option(
        "correlate-by",
        "token",
        reader_of(CorrelateBy),
        "how callbacks are matched with jobs: token (in the URL) or id (one fixed URL)",
    ),
    Option(
        "strict-ids",
        "no",
        read_switch,
        "refuse callbacks about another id than that of the ack, although the token is right",
        is_switch=True,
    ),
    Option("max-held", "10000", read_count, "maximum of held clients"),
    Option(
        "max-connections",
        None,
        read_count,
        "maximum of connections of clients; by default what the limit of open files allows",
    ),
    Option(
        "max-connections-per-address",
        None,
        read_count,
        "maximum of connections of clients from one IP address",
    ),
    Option(
        "starts-per-account",
        "16",
        read_count,
        "maximum of start requests of one account at once",
    ),
    Option("queue-per-account", "1000", read_count, "maximum of queued jobs of one account"),
    Option("max-starts", "256", read_count, "maximum of start requests at once in all"),
    Option("max-body", "65536", read_count, "maximum of bytes of a request's or callback's body"),
    Option(
        "upstream-idle",
        "2",
        read_delay,
        "seconds that an idle connection to the job server is kept; 0: not at all",
    ),
    Option(
        "client-ca",
        None,
        read_authorities,
        "file with the certificates of authorities, in PEM: clients of an ssl: endpoint of "
        "--listen must have a certificate of one of them",
    ),
    Option(
        "upstream-ca",
        None,
        read_authorities,
        "file with the certificates of the authorities that may vouch for the job server, in "
        "PEM; by default those that the machine trusts",
    ),
    Option(
        "upstream-certificate",
        None,
        read_identity,
        "file with a certificate and its key, in PEM, for a job server that asks for one",
    ),
    Option(
        "upstream-proxy",
        None,
        read_proxy,
        "HTTP proxy through which job servers are reached: http://user:password@host:port",
    ),
    Option(
        "job-server-header-file",
        None,
        read_header_file,
        "file with headers of all start requests, like credentials; Name: value in each line",
    ),
    Option(
        "forward-header",
        None,
        read_header_names,
        "header of the client that goes on with its start request; may be repeated",
        repeatable=True,
    ),
    Option(
        "secret-file",
        None,
        read_key_file,
        f"file with the key of the callback tokens, at least {MIN_KEY} bytes; with two lines "
        "the first signs and both verify; by default the key is random",
    ),
    Option(
        "store",
        "memory:",
        read_address,
        "where keys, results and orphans are kept: memory:; sqlite:PATH, which survives "
        "restarts; or for several nodes redis://[user:password@]host:port/db, rediss:// with "
        "TLS, redis+sentinel://host:port,host:port/service/db",
    ),
    Option(
        "store-password-file",
        None,
        read_password,
        "file with the password of the Redis of --store",
    ),
    Option(
        "slot-scope",
        "node",
        reader_of(SlotScope),
        "whether --starts-per-account is for each node or for the whole cluster",
    ),
    Option(
        "allow-client-callbacks",
        "no",
        read_switch,
        "allow clients that do not wait to set their own callback URL",
        is_switch=True,
    ),
    Option(
        "allow-origin",
        None,
        read_origins,
        "origin whose web pages may start jobs, like https://app.example",
        repeatable=True,
    ),
    Option(
        "log-accounts",
        "no",
        read_switch,
        "show the accounts of jobs in the log and to the operator",
        is_switch=True,
    ),
    Option(
        "traces",
        None,
        read_url,
        "where an OpenTelemetry collector takes spans, like http://127.0.0.1:4318/v1/traces",
    ),
    Option(
        "config",
        None,
        str,
        "TOML file with options, by the same names; flags and the environment come first",
    ),
    Option(
        "check",
        "no",
        read_switch,
        "check all options, and the files that they name, and end: with exit code 0, or 78",
        is_switch=True,
    ),
)
