"""Tells twistd of our two daemons; imports nothing of ours, so that listing them costs nothing."""

from twisted.application.service import ServiceMaker

jobproxy = ServiceMaker(
    "jobproxy",
    "jobproxy.tap",
    "Hold synchronous HTTP clients until an asynchronous job server calls back.",
    "jobproxy",
)

jobserver = ServiceMaker(
    "jobserver",
    "jobproxy.sandbox.tap",
    "A simulated job server: one connection at a time per account, results by callback.",
    "jobserver",
)
