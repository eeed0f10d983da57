"""The proof that jobclient prints: base64 of gzip of a JSON array of ``[id, startedAt, proof]``."""

import binascii
import gzip
import json
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterable

from jobproxy.sandbox.jobs import Job

#: The maximum of bytes of an unpacked proof: about 500,000 jobs.
MAX_UNPACKED = 50_000_000


class BadProof(ValueError):
    """The text is not a valid proof."""


def pack_proof(jobs: Iterable[Job]) -> str:
    """Return the proof of some jobs."""
    rows = [[job.job_id, job.started_at, job.proof] for job in jobs]
    return b64encode(gzip.compress(json.dumps(rows).encode(), mtime=0)).decode()


def unpack_proof(text: str) -> list[Job]:
    """Return the jobs of a proof, which may be forged; white space is ignored.

    :raises BadProof: if it cannot be unpacked.
    """
    try:
        packed = b64decode("".join(text.split()).encode("ascii", "replace"), validate=True)
        unzip = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        unpacked = unzip.decompress(packed, MAX_UNPACKED)
    except binascii.Error as error:
        raise BadProof(f"not base64: {error}") from error
    except zlib.error as error:
        raise BadProof(f"not gzip: {error}") from error
    if not unzip.eof or unzip.unused_data:
        raise BadProof("not gzip: truncated, too long, or followed by other data")
    try:
        rows = json.loads(unpacked)
    except (ValueError, RecursionError) as error:
        raise BadProof(f"not JSON: {error}") from error
    if not isinstance(rows, list) or not all(_is_row(row) for row in rows):
        raise BadProof("not a list of [id, startedAt, proof]")
    return [Job(*row) for row in rows]


def _is_row(row: object) -> bool:
    if not isinstance(row, list) or len(row) != 3:
        return False
    return all(isinstance(cell, str) and cell.isascii() for cell in row)
