"""The twistd plugins of jobproxy; imports none of its modules, so that listing them is cheap."""

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
    "Simulate a job server: one connection at a time per account, results by callback.",
    "jobserver",
)
