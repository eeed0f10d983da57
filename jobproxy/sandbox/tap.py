"""``twistd jobserver``: the options of the simulator, and the wiring of its services."""

import time
from random import Random
from typing import Any

from twisted.application import strports
from twisted.application.service import MultiService
from twisted.python import usage
from twisted.web.resource import IResource
from twisted.web.server import Site

from jobproxy.daemon.options import DaemonOptions, Option
from jobproxy.daemon.readers import read_count, read_delay, read_endpoints, read_url
from jobproxy.daemon.shutdown import Daemon
from jobproxy.http1.agent import PooledAgent
from jobproxy.http1.client import PlainClient
from jobproxy.http1.limits import ClientLimits
from jobproxy.profiles.keys import BadProfile
from jobproxy.sandbox.faults import KINDS, NO_PROFILES, ONLY_PROFILES, read_faults
from jobproxy.sandbox.jobs import JobFactory
from jobproxy.sandbox.network import LatencyFactory
from jobproxy.sandbox.profile_file import ProfileFile, read_profile_file
from jobproxy.sandbox.profile_messages import NotSimulated
from jobproxy.sandbox.profile_server import ProfileServer, check_simulated
from jobproxy.sandbox.profile_site import ProfileResource
from jobproxy.sandbox.server import Simulator
from jobproxy.sandbox.slots import Slots


def read_holding(text: str) -> str:
    """Parse what holds a slot: ``request`` or ``connection``."""
    if text not in ("request", "connection"):
        raise ValueError(f"must be request or connection, not {text!r}")
    return text


def read_seed(text: str) -> int:
    """Parse an integer."""
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"must be a whole number, not {text!r}") from None


def read_file(text: str) -> ProfileFile:
    """Read the profile with this name."""
    try:
        return read_profile_file(text)
    except BadProfile as error:
        raise ValueError(f": {error}") from error


class Options(DaemonOptions):
    program = "jobserver"
    synopsis = "[options]"
    longdesc = (
        "Simulates a job server that serves one connection of an account at a time. POST /start "
        "runs a job, GET /stats counts them, POST /verify checks the proof of jobclient."
    )
    table = (
        Option(
            "listen",
            "tcp:9000:interface=127.0.0.1:backlog=4096",
            read_endpoints,
            "endpoint to serve on (strports); may be repeated",
            repeatable=True,
        ),
        Option("duration", "0.5", read_delay, "seconds that a job takes"),
        Option(
            "jitter", "0", read_delay, "seconds by which the duration of a job varies, up and down"
        ),
        Option("latency", "0", read_delay, "seconds of network latency, each way"),
        Option(
            "slots-per-account",
            "1",
            read_count,
            "connections of an account that are served at once",
        ),
        Option(
            "hold-slot",
            "request",
            read_holding,
            "what holds a slot: a request until its response, or a connection until its close",
        ),
        Option(
            "faults",
            "",
            read_faults,
            f"kind=rate or kind=rate:seconds, separated by commas; kinds: {', '.join(KINDS)}",
        ),
        Option(
            "profile",
            None,
            read_file,
            "behave like the API of this profile: a file, or one that comes with jobproxy",
        ),
        Option(
            "webhook",
            None,
            read_url,
            "URL of all callbacks, for a profile whose start requests do not say it",
        ),
        Option("seed", None, read_seed, "seed of ids, proofs and faults, for repeatable runs"),
    )

    def check(self) -> None:
        kinds = self["faults"].rates.keys()
        wrong = kinds & (ONLY_PROFILES if self["profile"] is None else NO_PROFILES)
        if wrong:
            words = "needs" if self["profile"] is None else "is not possible with"
            raise usage.UsageError(f"--faults {min(wrong)} {words} --profile")
        if self["webhook"] is not None and self["profile"] is None:
            raise usage.UsageError("--webhook needs --profile")
        if self["profile"] is not None:
            try:
                check_simulated(self["profile"], self["webhook"])
            except NotSimulated as error:
                raise usage.UsageError(f"--profile cannot be simulated: {error}") from error


class QuietSite(Site):
    """A site without an access log; ``/stats`` has the counts."""

    noisy = False

    def log(self, request: Any) -> None:
        """Write no access log."""


def makeService(config: Options, reactor: Any = None) -> MultiService:
    """Return the simulator as a service.

    :param config: parsed options.
    :param reactor: by default the global one.
    """
    if reactor is None:
        from twisted.internet import reactor as global_reactor

        reactor = global_reactor

    source = Random(config["seed"])
    make = make_sample if config["profile"] is None else make_api
    site = QuietSite(make(config, source, reactor), reactor=reactor)
    factory = LatencyFactory(site, reactor, config["latency"])

    daemon = Daemon("jobserver", None, reactor.callWhenRunning, reactor.callFromThread)
    for description in config["listen"]:
        strports.service(description, factory, reactor).setServiceParent(daemon)
    return daemon


def make_sample(config: Options, source: Random, reactor: Any) -> IResource:
    """Return the resource of the work sample's job server."""
    simulator = Simulator(
        make_client(reactor),
        reactor,
        JobFactory(source),
        Slots(config["slots-per-account"], config["hold-slot"]),
        random=source,
        faults=config["faults"],
        duration=config["duration"],
        jitter=config["jitter"],
        latency=config["latency"],
    )
    return simulator.resource()


def make_api(config: Options, source: Random, reactor: Any) -> IResource:
    """Return the resource of a profile's API."""
    server = ProfileServer(
        make_client(reactor),
        reactor,
        source,
        config["profile"],
        time.time,
        webhook=config["webhook"],
        faults=config["faults"],
        duration=config["duration"],
    )
    return ProfileResource(server)


def make_client(reactor: Any) -> PlainClient:
    """Return the client that sends callbacks."""
    return PlainClient(PooledAgent(reactor, ClientLimits(connect_time=10, connections=1_000)))
