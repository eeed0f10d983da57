"""The options of ``twistd jobproxy``."""

from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from attrs import evolve
from twisted.python import usage

from jobproxy.api.jobs import PROXY_PATHS
from jobproxy.daemon.options import (
    DaemonOptions,
    Option,
    read_base_url,
    read_count,
    read_delay,
    read_endpoints,
    read_seconds,
    read_switch,
    read_url,
    reader_of,
)
from jobproxy.store.redis_address import read_address
from jobproxy.upstream.retries import OnLost, Retry
from jobproxy.wire.tokens import MIN_KEY


class CorrelateBy(Enum):
    """What tells the job that a callback is about."""

    TOKEN = "token"  # noqa: S105 - a word, not a secret
    ID = "id"


class SlotScope(Enum):
    """Whose starts are counted together."""

    NODE = "node"
    CLUSTER = "cluster"


def read_password(text: str) -> str:
    """Read a password from the file with this name; the end of its line does not belong to it."""
    try:
        return Path(text).read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError("must name a file of UTF-8 text") from error


def read_keys(text: str) -> list[bytes]:
    """Read the keys of callback tokens from the file with this name."""
    try:
        keys = Path(text).read_bytes().split(b"\n")
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    keys = [key.strip() for key in keys if key.strip()]
    if not 1 <= len(keys) <= 2 or any(len(key) < MIN_KEY for key in keys):
        raise ValueError(f"must name a file of one or two lines of at least {MIN_KEY} bytes each")
    return keys


class Options(DaemonOptions):
    program = "jobproxy"
    synopsis = "--callback-url URL [options]"
    longdesc = (
        "Holds each client that POSTs a job, starts the job on the job server, and answers with "
        "what the job server POSTs back."
    )
    table = (
        Option(
            "callback-url",
            None,
            read_base_url,
            "public base of the URLs that the job server calls back; its path is served",
            required=True,
            aliases=("CALLBACK_URL",),
        ),
        Option(
            "job-server-url",
            "http://jobs.asgateway.com/start",
            read_url,
            "where jobs are started",
        ),
        Option(
            "listen",
            "tcp:8080:interface=127.0.0.1:backlog=4096",
            read_endpoints,
            "endpoint to serve on (strports); may come several times",
            repeatable=True,
        ),
        Option(
            "callback-listen",
            None,
            read_endpoints,
            "endpoint for callbacks, which are then served nowhere else; may come several times",
            repeatable=True,
        ),
        Option(
            "admin-listen",
            None,
            read_endpoints,
            "endpoint for the live page, status, jobs and orphans, and for health and metrics, "
            "which are then served nowhere else; may come several times",
            repeatable=True,
        ),
        Option("wait", "30", read_seconds, "seconds a client is held at most"),
        Option("start-timeout", "10", read_seconds, "seconds for one start call"),
        Option(
            "ambiguous-grace",
            "2",
            read_delay,
            "seconds a callback is waited for after a start whose outcome is not known",
        ),
        Option(
            "drain-timeout",
            "30",
            read_delay,
            "seconds that held clients have to be answered once the proxy is told to stop",
        ),
        Option("retain", "300", read_seconds, "seconds that results are kept to be asked for"),
        Option(
            "retry",
            "not-sent",
            reader_of(Retry),
            "which starts are sent again: never, not-sent (none that may have been read) or always",
        ),
        Option("start-attempts", "3", read_count, "start calls for one job at most"),
        Option(
            "on-lost",
            "fail",
            reader_of(OnLost),
            "what becomes of a job whose callback does not come: fail or restart",
        ),
        Option(
            "lost-after",
            None,
            read_seconds,
            "seconds after which such a job is started again",
        ),
        Option(
            "correlate-by",
            "token",
            reader_of(CorrelateBy),
            "token in the callback URL, or id for job servers that call back one fixed URL",
        ),
        Option("max-held", "10000", read_count, "clients held at once"),
        Option("starts-per-account", "16", read_count, "start calls of one account at once"),
        Option("queue-per-account", "1000", read_count, "jobs of one account that may be queued"),
        Option("max-starts", "256", read_count, "start calls at once in all"),
        Option("max-body", "65536", read_count, "bytes of a request's or a callback's body"),
        Option(
            "upstream-idle",
            "2",
            read_delay,
            "seconds an idle connection to the job server is kept; 0: none is",
        ),
        Option(
            "secret-file",
            None,
            read_keys,
            f"file with the key of the callback tokens, {MIN_KEY} bytes or more; of two lines "
            "the first signs and both verify; without it the key is random",
        ),
        Option(
            "cluster",
            "memory:",
            read_address,
            "what several nodes share: redis://[user:password@]host:port/db, rediss:// for TLS, "
            "redis+sentinel://host:port,host:port/service/db; memory: if there is one node",
        ),
        Option(
            "cluster-password-file",
            None,
            read_password,
            "file with the password of that Redis",
        ),
        Option(
            "slot-scope",
            "node",
            reader_of(SlotScope),
            "whether --starts-per-account counts for each node or for the whole cluster",
        ),
        Option(
            "allow-client-callbacks",
            "no",
            read_switch,
            "let clients that do not wait name a callback URL of their own",
            is_switch=True,
        ),
        Option(
            "log-accounts",
            "no",
            read_switch,
            "show whose a job is in the log and to the operator",
            is_switch=True,
        ),
    )

    def check(self) -> None:
        if self["on-lost"] is OnLost.RESTART and self["lost-after"] is None:
            raise usage.UsageError("--on-lost restart needs --lost-after")
        path = urlsplit(self["callback-url"]).path or "/"
        if self["correlate-by"] is CorrelateBy.ID and path in PROXY_PATHS:
            raise usage.UsageError(
                "--correlate-by id needs a --callback-url with a path of its own, "
                f"best one that nobody can guess, not {path}"
            )
        self._check_cluster()

    def _check_cluster(self) -> None:
        address = self["cluster"]
        if address is None:
            if self["cluster-password-file"] is not None:
                raise usage.UsageError("--cluster-password-file needs --cluster")
            if self["slot-scope"] is SlotScope.CLUSTER:
                raise usage.UsageError("--slot-scope cluster needs --cluster")
            return
        if self["secret-file"] is None:
            raise usage.UsageError("--cluster needs --secret-file, the same for all nodes")
        if find_spec("txredisapi") is None:
            raise usage.UsageError("--cluster needs more: pip install 'jobproxy[redis]'")
        if self["correlate-by"] is CorrelateBy.ID:
            raise usage.UsageError("--cluster does not go together with --correlate-by id")
        if self["cluster-password-file"] is not None:
            self["cluster"] = evolve(address, password=self["cluster-password-file"])
