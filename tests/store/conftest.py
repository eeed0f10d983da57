"""Fixtures of all tests of stores."""

from tests.support.stores import errors

__all__ = ["errors"]
