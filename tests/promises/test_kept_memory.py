"""Memory: what is kept of others' messages is counted as what it takes, whatever is in them."""

import gc
import json
import tracemalloc
from typing import Any

from jobproxy.jobs.retention import Bounds
from tests.support.profiles import parse_profile
from tests.support.proxy import ProxyTestCase, result_of

SIZE = 60_000
PROFILE = """
path = "/v1/jobs"
account = "$request.body#/account"
[start]
url = "{URL}/v1/jobs"
forward = ["X-Long"]
[start.set]
"$request.body#/webhook" = "{$callback.url}"
[callback]
state = "$message.payload#/state"
succeeded = ["done"]
"""
#: As many small values as fit: parsed they take twenty times the memory.
VALUES = json.dumps({"account": "a", "more": (SIZE // 3) * [[]]}, separators=(",", ":")).encode()
#: One character for which Python would store all others with four bytes.
WIDE = json.dumps({"account": "a", "x": SIZE * "y" + "\N{ROCKET}"}, ensure_ascii=False).encode()


class QueuedTests(ProxyTestCase):
    """Jobs that wait for their start."""

    settings: dict[str, Any] = {
        "starts_per_account": 1,
        "queue_per_account": 100,
        "profile": (parse_profile(PROFILE),),
        "forward_header": ("x-long",),
    }

    def measure(self, path: str, body: bytes, headers: dict[str, str] | None = None) -> None:
        """Hold clients of one account: what their jobs take is at most a little more."""
        clients = [self.connect().request(path, body, headers=headers or {})]
        gc.collect()
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        before = self.count()
        clients += [self.connect().request(path, body, headers=headers or {}) for _ in range(20)]
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0]
        # What the transports of the tests have received is not the proxy's.
        counted = self.count() - before
        self.assertGreaterEqual(counted, 20 * len(body))
        self.assertLess(taken, counted + 20 * 20_000)
        for client in clients:
            client.leave()

    def count(self) -> int:
        return self.proxy.probes.count_kept()["starting"]

    def test_text_takes_what_it_has_bytes(self) -> None:
        """L17: a job with one character of four bytes does not take four times its bytes."""
        self.measure("/proxy", WIDE)

    def test_values_take_what_they_have_bytes(self) -> None:
        """L17: a job of a profile with many small values does not take what they take parsed."""
        self.measure("/v1/jobs", VALUES)
        self.measure("/v1/jobs", WIDE)

    def test_headers_that_go_on_count(self) -> None:
        """L17: headers that go on with the start request count."""
        for path in ("/proxy", "/v1/jobs"):
            self.measure(path, b'{"account":"a"}', {"X-Long": 10_000 * "x"})


class RetainedTests(ProxyTestCase):
    """What the job server has said."""

    bounds = Bounds(number=1_000, size=100_000)

    def test_long_types_count(self) -> None:
        """L17: a result with a long Content-Type takes its share of what is kept."""
        for number in range(30):
            client = self.submit()
            self.starts[-1].ack(f"{number}")
            headers = {"Content-Type": "application/json;x=" + 10_000 * "y"}
            path = self.starts[-1].callback_path
            self.connect().request(path, result_of(f"{number}"), headers=headers)
            self.assertEqual(client.response.status, 200)
            self.assertLessEqual(self.table.retention.retained_bytes, 100_000)
        self.assertEqual(self.table.retention.retained, 8)

    def test_acks_with_long_types_count(self) -> None:
        """L17: so does an ack, as long as its client waits."""
        client = self.submit()
        self.starts[0].respond(b'{"id":"1"}', Content_Type="application/json;x=" + 10_000 * "y")
        self.assertGreater(self.proxy.probes.count_kept()["acks"], 10_000)
        self.call_back(self.starts[0], result_of("1"))
        self.assertEqual(client.response.status, 200)
        self.assertEqual(self.proxy.probes.count_kept()["acks"], 0)
