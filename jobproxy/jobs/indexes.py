"""The indexes of all job servers: one for each that calls back one fixed URL."""

from collections.abc import Callable, Mapping
from functools import partial

from attrs import define, field
from twisted.internet.interfaces import IReactorTime

from jobproxy.jobs.index import Index, TokenIndex, UpstreamIdIndex, UpstreamIds
from jobproxy.jobs.record import JobRecord
from jobproxy.wire.reports import Report

_TOKENS = TokenIndex()


@define(eq=False)
class Indexes:
    """Finds the index of a profile's jobs; upstream ids of different job servers may be the same.

    :param ids: how to find jobs by upstream id, by profile; the others' callbacks have tokens.
    :param keep_unclaimed: is called with a profile, and as that of :class:`UpstreamIdIndex`.
    :param drop_orphan: see :class:`UpstreamIdIndex`.
    """

    _clock: IReactorTime
    _ids: Mapping[str, UpstreamIds]
    _keep_unclaimed: Callable[[str, str, Report], JobRecord]
    _drop_orphan: Callable[[str], None]
    _indexes: dict[str, Index] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._indexes = {
            profile: UpstreamIdIndex(
                self._clock, ids, partial(self._keep_unclaimed, profile), self._drop_orphan
            )
            for profile, ids in self._ids.items()
        }

    @property
    def parked_bytes(self) -> int:
        """The bytes of the callbacks that are kept."""
        return sum(index.parked_bytes for index in self._indexes.values())

    def of(self, profile: str) -> Index:
        """Return the index of a profile's jobs."""
        return self._indexes.get(profile, _TOKENS)

    def clear(self) -> None:
        """Remove everything."""
        for index in self._indexes.values():
            index.clear()
