"""The options of ``twistd jobproxy``."""

from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from attrs import evolve, fields
from twisted.python import usage

from jobproxy.api.jobs import PROXY_PATHS
from jobproxy.app.option_table import SAMPLE_URL, TABLE
from jobproxy.app.settings import CorrelateBy, Settings, SlotScope
from jobproxy.daemon.options import DaemonOptions
from jobproxy.profiles.profile import Profile
from jobproxy.store.address import MEMORY, StoreAddress
from jobproxy.upstream.retries import OnLost

#: The first segments of jobproxy's own paths.
RESERVED = frozenset({"healthz", "jobs", "metrics", "openapi.json", "readyz"})


class Options(DaemonOptions):
    program = "jobproxy"
    #: Of jobproxyctl, which is often configured in the same file.
    other_variables = ("JOBPROXY_ADMIN",)
    synopsis = "--callback-url URL [options]"
    longdesc = (
        "Holds each client that POSTs a job, starts the job on the job server, and responds with "
        "the body of the job server's callback."
    )
    table = TABLE

    def settings(self) -> Settings:
        """Return the parsed options as :class:`Settings`."""
        values: dict[str, Any] = {}
        for name in (attribute.name for attribute in fields(Settings)):
            value = self[name.replace("_", "-")]
            if value is not None:
                values[name] = tuple(value) if isinstance(value, list) else value
        return Settings(**values)

    def check(self) -> None:
        if self["job-server-url"] is None and not self["profile"]:
            self["job-server-url"] = SAMPLE_URL
        self._check_restarts()
        if self["client-ca"] and not any(each.startswith("ssl:") for each in self["listen"]):
            raise usage.UsageError("--client-ca needs an ssl: endpoint as --listen")
        path = urlsplit(self["callback-url"]).path or "/"
        if self["correlate-by"] is CorrelateBy.ID and path in PROXY_PATHS:
            raise usage.UsageError(
                "--correlate-by id needs a --callback-url with a path of its own that "
                f"cannot be guessed, not {path}"
            )
        for profile in self["profile"] or ():
            self._check_profile(profile)
            if profile.correlates_by_id and self["store"] != MEMORY:
                raise usage.UsageError(
                    f'profile {profile.name} has correlate-by = "id", which needs --store memory:'
                )
        self._check_store()
        if self["traces"] is not None and find_spec("opentelemetry.sdk") is None:
            raise usage.UsageError("--traces needs OpenTelemetry: pip install 'jobproxy[otel]'")

    def _check_restarts(self) -> None:
        lost_after, wait = self["lost-after"], self["wait"]
        if self["on-lost"] is not OnLost.RESTART:
            if lost_after is not None:
                raise usage.UsageError("--lost-after needs --on-lost restart")
        elif lost_after is None:
            raise usage.UsageError("--on-lost restart needs --lost-after")
        elif lost_after >= wait:
            raise usage.UsageError(
                f"--lost-after must be less than --wait, which is {wait:g} seconds: a job that no "
                "client waits for is not started again"
            )

    def _check_profile(self, profile: Profile) -> None:
        if profile.start.url is None and self["job-server-url"] is None:
            raise usage.UsageError(f"profile {profile.name} needs a start.url or --job-server-url")
        own = {*RESERVED, urlsplit(self["callback-url"]).path.strip("/").split("/")[0]}
        first = profile.path.text.split("/")[1]
        if first and first in own:
            raise usage.UsageError(
                f"profile {profile.name} has a path below /{first}, which jobproxy needs itself"
            )

    def _check_store(self) -> None:
        store = self["store"]
        if store != MEMORY and self["correlate-by"] is CorrelateBy.ID:
            raise usage.UsageError("--correlate-by id needs --store memory:")
        if store.redis is None:
            for name, is_given in (
                ("--store-password-file", self["store-password-file"] is not None),
                ("--slot-scope cluster", self["slot-scope"] is SlotScope.CLUSTER),
            ):
                if is_given:
                    raise usage.UsageError(f"{name} needs a Redis as --store")
            return
        if self["secret-file"] is None:
            raise usage.UsageError("a Redis as --store needs --secret-file, the same for all nodes")
        if find_spec("txredisapi") is None:
            raise usage.UsageError(
                "a Redis as --store needs txredisapi: pip install 'jobproxy[redis]'"
            )
        if self["store-password-file"] is not None:
            redis = evolve(store.redis, password=self["store-password-file"])
            self["store"] = StoreAddress(redis=redis)
