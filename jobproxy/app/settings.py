"""The settings of the proxy: the values of its options."""

from enum import Enum

from attrs import field, frozen
from twisted.internet.ssl import Certificate

from jobproxy.http1.tls import ClientIdentity
from jobproxy.http1.tunnel import HttpProxy
from jobproxy.profiles.profile import Profile
from jobproxy.store.address import MEMORY, StoreAddress
from jobproxy.upstream.retries import OnLost, RetryMode


class CorrelateBy(Enum):
    """What names the job of a callback."""

    TOKEN = "token"  # noqa: S105 - not a secret
    ID = "id"


class SlotScope(Enum):
    """Where the slots of an account are counted."""

    NODE = "node"
    CLUSTER = "cluster"


@frozen(kw_only=True)
class Settings:
    """One field for each option; docs/options.rst says what they mean.

    Times are in seconds, sizes in bytes, endpoints are strports descriptions. The defaults are
    those of the options, but for the required ones.

    :param job_server_url: of the work sample's job server; empty: there are only profiles.
    :param secret_file: the keys of callback tokens; the first signs.
    :param store: where keys, results and orphans are kept.
    """

    callback_url: str
    job_server_url: str = ""
    profile: tuple[Profile, ...] = ()
    listen: tuple[str, ...] = ("tcp:8080:interface=127.0.0.1:backlog=4096",)
    callback_listen: tuple[str, ...] = ()
    admin_listen: tuple[str, ...] = ()
    wait: float = 30.0
    start_timeout: float = 10.0
    ambiguous_grace: float = 2.0
    drain_timeout: float = 30.0
    drain_delay: float = 0.0
    retain: float = 300.0
    key_life: float = 86_400.0
    retry: RetryMode = RetryMode.NOT_SENT
    start_attempts: int = 3
    on_lost: OnLost = OnLost.FAIL
    lost_after: float | None = None
    correlate_by: CorrelateBy = CorrelateBy.TOKEN
    strict_ids: bool = False
    max_held: int = 10_000
    max_connections: int | None = None
    max_connections_per_address: int | None = None
    starts_per_account: int = 16
    queue_per_account: int = 1_000
    max_starts: int = 256
    max_body: int = 65_536
    upstream_idle: float = 2.0
    client_ca: tuple[Certificate, ...] = ()
    upstream_ca: tuple[Certificate, ...] = ()
    upstream_certificate: ClientIdentity | None = field(default=None, repr=False)
    upstream_proxy: HttpProxy | None = None
    job_server_header_file: tuple[tuple[bytes, bytes], ...] = field(default=(), repr=False)
    forward_header: tuple[str, ...] = ()
    secret_file: tuple[bytes, ...] = ()
    store: StoreAddress = MEMORY
    slot_scope: SlotScope = SlotScope.NODE
    allow_client_callbacks: bool = False
    allow_origin: tuple[str, ...] = ()
    log_accounts: bool = False
    traces: str | None = None

    @property
    def longest_retain(self) -> float:
        """The seconds that results are kept: the longest of all, as they are kept together."""
        return max((self.retain, *(each.limits.retain or 0 for each in self.profile)))

    @property
    def largest_body(self) -> int:
        """The bytes that any message's body may have."""
        return max((self.max_body, *(each.limits.max_body or 0 for each in self.profile)))
