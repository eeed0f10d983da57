"""Lets synchronous HTTP clients use a job server that answers only by callback."""

__version__ = "0.1.0"
