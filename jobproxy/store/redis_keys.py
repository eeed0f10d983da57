"""What our values are called in Redis, and how they are written."""

from hashlib import blake2b

from jobproxy.store.interface import Claim
from jobproxy.wire.tokens import JOB_ID_LENGTH

PREFIX = "jobproxy:"
NODES = f"{PREFIX}nodes"
EPOCH = f"{PREFIX}epoch"
ORPHANS = f"{PREFIX}orphans"
RESULTS = f"{PREFIX}result:"
NOTES = f"{PREFIX}note:"


def claim(key_digest: bytes) -> str:
    """Return the name of a key's claim."""
    return f"{PREFIX}claim:{key_digest.hex()}"


def slots(account: str) -> str:
    """Return the name of an account's slots; it does not show the account."""
    return f"{PREFIX}slots:{blake2b(account.encode(), digest_size=16).hexdigest()}"


def channel(db: int, node: str | None) -> str:
    """Return the channel of a node, or of all; channels know nothing of databases."""
    return f"{PREFIX}{db}:all" if node is None else f"{PREFIX}{db}:node:{node}"


def write_claim(value: Claim) -> bytes:
    return value.job_id.encode() + value.request_digest


def read_claim(data: bytes) -> Claim:
    return Claim(data[:JOB_ID_LENGTH].decode(), data[JOB_ID_LENGTH:])


def ms(seconds: float) -> int:
    """Return a time as Redis takes it: in whole milliseconds, at least one."""
    return max(1, round(seconds * 1000))
