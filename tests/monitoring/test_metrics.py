"""Metrics: they agree with what clients and the job server see, and hold no secrets."""

import subprocess

from prometheus_client.parser import text_string_to_metric_families
from twisted.internet import error
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.monitoring.reactor_lag import ReactorLag
from jobproxy.wire.problems import Kind
from tests.support.programs import needs
from tests.support.proxy import ProxyTestCase, result_of

ACCOUNT = "somebody's account"


class MetricsTests(ProxyTestCase):
    """The metrics of jobs, as Prometheus reads them."""

    settings = {"max_held": 2_000, "starts_per_account": 3}

    def scrape(self) -> str:
        response = self.operate().get("/metrics").response
        self.assertEqual(response.status, 200)
        self.assertEqual(
            response.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8"
        )
        return response.body.decode()

    def read(self, name: str, **labels: str) -> float:
        """Return one sample; 0.0 if there is none."""
        for family in text_string_to_metric_families(self.scrape()):
            for sample in family.samples:
                if sample.name == f"jobproxy_{name}" and sample.labels == labels:
                    return sample.value
        return 0.0

    def check(self, **expected: float) -> None:
        """Check samples without labels."""
        self.assertEqual({name: self.read(name) for name in expected}, expected)

    def test_clients_jobs_and_slots_are_counted_once(self) -> None:
        """Each client, job and slot is counted once, and as long as it lives."""
        clients = [self.submit(ACCOUNT) for _ in range(5)]
        self.check(held=5, jobs=5, accounts=1, starting=3, queued=2, retained=0, draining=0)
        for start in self.starts[:3]:
            start.ack("1")
        self.check(held=5, jobs=5, starting=2, queued=0)
        clients[0].leave()
        self.check(held=4, jobs=5)
        for number in range(5):
            self.call_back(self.starts[number], result_of("1"))
        for start in self.starts[3:]:
            start.ack("1")
        self.check(held=0, jobs=0, accounts=0, starting=0, orphans=1, retained=5)
        self.assertGreater(self.read("retained_bytes"), 5 * len(result_of("1")))
        self.clock.advance(300)
        self.check(orphans=0, retained=0, orphaned_total=1)

    def test_a_thousand_held_clients_are_counted(self) -> None:
        """With a thousand held clients the numbers are right."""
        clients = [self.submit(f"account {number}") for number in range(1_000)]
        self.check(held=1_000, jobs=1_000, starting=100, queued=900)
        self.gateway.drain()
        self.check(held=100, draining=1)
        for start in self.starts:
            start.respond(result_of("1"))
        self.assertEqual([client.response.status for client in clients].count(200), 100)
        self.assertEqual(
            self.read("responses_total", side="client", code="5xx", outcome="draining"), 900
        )

    def test_starts_are_counted_by_result_and_timed(self) -> None:
        """Start requests are counted by result, and timed."""
        responses = (
            (b'{"id":"1"}', 200, "acknowledged"),
            (b"{}", 200, "no-id"),
            (result_of("1"), 200, "inline"),
            (b"<html>", 202, "no-id"),
            (b"", 500, "error"),
            (b"", 422, "rejected"),
            (b"", 401, "auth"),
            (b"", 307, "redirect"),
            (b"", 429, "busy"),
        )
        for number, (body, status, result) in enumerate(responses):
            client = self.submit(f"account {number}")
            self.clock.advance(0.3)
            self.starts[-1].respond(body, status)
            self.assertEqual(self.read("starts_total", result=result), 1 + (status == 202), result)
            client.leave()
        self.assertEqual(self.read("start_seconds_count"), len(responses))
        self.assertAlmostEqual(self.read("start_seconds_sum"), 0.3 * len(responses))
        self.assertEqual(self.read("start_seconds_bucket", le="0.25"), 0)
        self.assertEqual(self.read("start_seconds_bucket", le="0.5"), len(responses))

    def test_unsent_starts_are_counted_by_reason(self) -> None:
        """Start requests that were never sent are counted by reason."""
        failures = (
            (error.ConnectionRefusedError(), "refused"),
            (error.DNSLookupError(), "dns"),
            (error.TimeoutError(), "no-connection"),
            (error.ConnectError(24), "no-socket"),
        )
        for failure, result in failures:
            self.fail_starts(failure)
            self.submit(result).leave()
            self.assertEqual(self.read("starts_total", result=result), 1, result)

    def test_start_without_an_ack_counts_as_timeout(self) -> None:
        """S8: a start without an ack in time counts as a timeout."""
        self.submit().leave()
        self.clock.advance(10)
        self.assertEqual(self.read("starts_total", result="timeout"), 1)

    def test_callbacks_are_counted_by_result(self) -> None:
        """Callbacks are counted by result."""
        self.submit()
        start = self.starts[0]
        start.ack("1")
        for body in (
            result_of("1", "running"),
            result_of("1"),
            result_of("1"),
            result_of("1", "failed"),
        ):
            self.call_back(start, body)
        self.connect().request("/callback/x", b"{}")
        token = self.signer.mint().text
        self.connect().request(f"/callback/{token}", b"{}")
        for result, count in {
            "accepted": 1,
            "progress": 1,
            "conflict": 1,
            "duplicate": 1,
            "forged": 1,
            "late": 1,
        }.items():
            self.assertEqual(self.read("callbacks_total", result=result), count, result)

    def test_responses_are_counted_by_status_and_outcome(self) -> None:
        """Responses are counted by status and outcome, also for clients that left."""
        self.submit()
        self.clock.advance(0.04)
        self.starts[0].respond(result_of("1"))
        self.submit().leave()
        self.connect().request(body=b"[")
        self.assertEqual(
            self.read("responses_total", side="client", code="4xx", outcome="client-left"), 1
        )
        self.assertEqual(
            self.read("responses_total", side="client", code="4xx", outcome="invalid-json"), 1
        )
        self.assertEqual(self.read("job_seconds_count"), 1)
        self.assertAlmostEqual(self.read("job_seconds_sum"), 0.04)
        self.connect().send(b"nonsense\r\n\r\n")
        self.assertEqual(self.read("refused_total", reason="malformed-request"), 1)

    def test_every_count_is_there_before_its_first_event(self) -> None:
        """What can be counted is 0 from the start: Prometheus sees no rise from nothing to 1."""
        text = self.scrape()
        for name, label, values in (
            ("starts", "result", ("acknowledged", "lost", "auth", "crash", "busy")),
            ("callbacks", "result", ("accepted", "late", "conflict", "malformed", "forged")),
            ("refused", "reason", ("overloaded", "silent", "crowded", "malformed-request")),
            ("log_dropped", "reason", ("full", "failed", "limited")),
        ):
            for value in values:
                self.assertIn(f'jobproxy_{name}_total{{{label}="{value}"}} 0.0\n', text)
        for kind in Kind:
            self.assertRegex(text, f'jobproxy_responses_total{{.*outcome="{kind.slug}".*}} 0.0')

    def count_responses(self, side: str, code: str, outcome: str) -> float:
        return self.read("responses_total", side=side, code=code, outcome=outcome)

    def test_responses_are_counted_by_who_asks(self) -> None:
        """Responses to callbacks and to the operator are not counted with those to clients."""
        self.submit()
        self.call_back(self.starts[0], result_of("1"))
        self.operate().get("/healthz")
        self.assertEqual(self.count_responses("client", "2xx", "ok"), 1)
        self.assertEqual(self.count_responses("callback", "2xx", "ok"), 1)
        self.assertEqual(self.count_responses("admin", "2xx", "ok"), 3)

    def test_a_wait_that_the_client_chose_is_counted_apart(self) -> None:
        """A client that asks for a short wait is not counted as one whose result is late."""
        self.connect().request(headers={"Prefer": "wait=1"})
        self.submit("other")
        for start in self.starts:
            start.ack("1")
        self.clock.advance(1)
        self.assertEqual(self.count_responses("client", "5xx", "own-wait-over"), 1)
        self.clock.advance(29)
        self.assertEqual(self.count_responses("client", "5xx", "wait-over"), 1)
        self.assertEqual(self.count_responses("client", "5xx", "own-wait-over"), 1)
        self.connect().request(headers={"Prefer": "respond-async"})
        self.starts[-1].ack("2")
        self.assertEqual(self.count_responses("client", "2xx", "running"), 1)
        self.assertEqual(self.count_responses("client", "2xx", "ok"), 0)

    def test_oldest_job_without_a_result_has_its_age(self) -> None:
        """The oldest job that was started and has not ended has its age, with a client or not."""
        self.check(oldest_started_seconds=0)
        for number in range(2):
            self.submit(f"account {number}")
            self.starts[number].ack(str(number))
            self.clock.advance(40)
        self.check(oldest_started_seconds=80)
        self.call_back(self.starts[0], result_of("0"))
        self.check(oldest_started_seconds=40)

    def test_twenty_acks_without_any_callback_are_told(self) -> None:
        """That no callback has ever come is a metric, until one comes."""
        for number in range(20):
            self.check(unheard=0)
            self.submit(f"account {number}").leave()
            self.starts[number].ack(str(number))
        self.check(unheard=1)
        self.call_back(self.starts[0], result_of("0"))
        self.check(unheard=0)

    def test_circuit_is_in_one_state(self) -> None:
        """S23: the circuit is in one state at a time."""
        self.assertEqual(self.read("circuit", state="closed"), 1)
        for number in range(10):
            self.submit(f"account {number}").leave()
            self.starts[-1].respond(b"", 500)
        self.assertEqual(self.read("circuit", state="open"), 1)
        self.assertEqual(self.read("circuit", state="closed"), 0)

    def test_metrics_hold_no_secret(self) -> None:
        """No account, no id and no token is in the metrics."""
        self.submit(ACCOUNT)
        start = self.starts[0]
        start.ack("4499a6e0c2ef4b98")
        self.call_back(start, result_of("4499a6e0c2ef4b98"))
        text = self.scrape()
        job_id, _, mac = start.callback_path.removeprefix("/callback/").partition(".")
        for secret in (ACCOUNT, "4499a6e0c2ef4b98", job_id, mac):
            self.assertNotIn(secret, text)

    @needs("prometheus", "promtool")
    def test_promtool_finds_no_fault(self) -> None:
        """Prometheus's own tool finds no fault in names, units and types."""
        self.submit().leave()
        self.starts[0].respond(result_of("1"))
        checked = subprocess.run(
            ["promtool", "check", "metrics"],
            input=self.scrape(),
            text=True,
            capture_output=True,
            check=False,
        )
        self.assertEqual((checked.returncode, checked.stdout, checked.stderr), (0, "", ""))


class ReactorLagTests(SynchronousTestCase):
    """The reactor lag."""

    def test_lag_is_measured_every_half_second(self) -> None:
        """The lag is measured every half second; no timer is left after the stop."""
        clock = Clock()
        meter = ReactorLag(clock)
        meter.startService()
        clock.advance(0.5)
        clock.advance(1.5)
        self.assertEqual(meter.lag.buckets()[-1], ("+Inf", 2))
        self.assertAlmostEqual(meter.lag.total, 1.0)
        meter.stopService()
        self.assertEqual(clock.getDelayedCalls(), [])
