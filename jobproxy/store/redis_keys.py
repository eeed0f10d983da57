"""The keys and channels in Redis, and the format of claims and times."""

from hashlib import blake2b

from jobproxy.store.interface import Claim
from jobproxy.wire.tokens import JOB_ID_LENGTH

PREFIX = "jobproxy:"
NODES = f"{PREFIX}nodes"
EPOCH = f"{PREFIX}epoch"
ORPHANS = f"{PREFIX}orphans"
RESULTS = f"{PREFIX}result:"
NOTES = f"{PREFIX}note:"
#: The Redis keys of claims, by the ids of jobs that have not ended: a node that gets the callback
#: of another one knows the job, but not its idempotency key.
CLAIM_NAMES = f"{PREFIX}key:"
#: The upstream ids of results that may be orphans.
UPSTREAM_IDS = f"{PREFIX}id:"
#: The results that were sent to a node, and that it has not confirmed.
UNCONFIRMED = f"{PREFIX}unconfirmed:"

_HAS_ENDED = {False: b"?", True: b"+"}


def claim(key_digest: bytes) -> str:
    """Return the Redis key of the claim of an idempotency key."""
    return f"{PREFIX}claim:{key_digest.hex()}"


def slots(account: str) -> str:
    """Return the Redis key of an account's slots; it does not reveal the account."""
    return f"{PREFIX}slots:{_hide(account)}"


def pause(account: str) -> str:
    """Return the Redis key of an account's pause."""
    return f"{PREFIX}pause:{_hide(account)}"


def channel(db: int, node: str | None) -> str:
    """Return the channel of a node, or that of all nodes.

    :param db: is part of the name, because the databases of a Redis share their channels.
    :param node: a name; the empty string: the prefix of all channels of nodes.
    """
    return f"{PREFIX}{db}:all" if node is None else f"{PREFIX}{db}:node:{node}"


def write_claim(value: Claim) -> bytes:
    """Return a claim as it is stored.

    The job id has a fixed length; after it is a mark, which scripts change when the job has ended.
    """
    return value.job_id.encode() + _HAS_ENDED[value.has_ended] + value.request_digest


def read_claim(data: bytes) -> Claim:
    """Return the claim that :func:`write_claim` wrote."""
    job_id, mark = data[:JOB_ID_LENGTH], data[JOB_ID_LENGTH : JOB_ID_LENGTH + 1]
    return Claim(job_id.decode(), data[JOB_ID_LENGTH + 1 :], mark == _HAS_ENDED[True])


def _hide(account: str) -> str:
    return blake2b(account.encode(), digest_size=16).hexdigest()


def ms(seconds: float) -> int:
    """Return a time in whole milliseconds, at least 1, as Redis accepts it."""
    return max(1, round(seconds * 1000))
