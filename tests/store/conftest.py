"""Fixtures of all tests of stores."""

from tests.support.stores import errors, short_times

__all__ = ["errors", "short_times"]
