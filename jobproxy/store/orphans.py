"""The list of orphans, which is read in pages."""

from collections.abc import Iterable

from attrs import frozen

from jobproxy.wire.tokens import is_job_id


@frozen(order=True)
class Position:
    """A place in the list of orphans, which stays the same when others are removed."""

    came: int
    job_id: str

    def __str__(self) -> str:
        return f"{self.came}.{self.job_id}"


#: Before all orphans.
START = Position(0, "")


@frozen
class Orphan:
    """A result that no client has waited for or asked for.

    :param upstream_id: the job server's name of the job, if it is known.
    :param size: of its body, in bytes.
    :param came: when the result came, in milliseconds on a clock of the store's.
    :param age: seconds since the result came.
    """

    job_id: str
    upstream_id: str | None
    size: int
    came: int
    age: float

    @property
    def position(self) -> Position:
        """Where it is in the list of all orphans."""
        return Position(self.came, self.job_id)


@frozen
class OrphanPage:
    """Some orphans, the oldest first.

    :param is_partial: whether there may be others before or between them, which cannot be read now.
    """

    orphans: list[Orphan]
    is_partial: bool = False


def parse_position(text: str) -> Position:
    """Parse what ``str`` made of a position.

    :raises ValueError: if it is none.
    """
    came, _, job_id = text.partition(".")
    if not (came.isascii() and came.isdigit() and len(came) < 16 and is_job_id(job_id)):
        raise ValueError("not a position")
    return Position(int(came), job_id)


def make_orphan(
    job_id: str, upstream_id: str | None, body: bytes, came: float, now: float
) -> Orphan:
    """Return an orphan, given its result and two times in seconds on the same clock."""
    return Orphan(job_id, upstream_id, len(body), int(came * 1000), now - came)


def choose_orphans(orphans: Iterable[Orphan], limit: int, after: Position) -> list[Orphan]:
    """Return the oldest orphans after a position."""
    found = sorted(orphans, key=lambda orphan: orphan.position)
    return [orphan for orphan in found if orphan.position > after][:limit]
