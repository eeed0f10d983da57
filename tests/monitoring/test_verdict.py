"""The verdict: in each situation that an operator should hear of, and in no others."""

import json
from typing import Any

from twisted.internet import error
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.monitoring.counts import STEP, Counts, Past
from jobproxy.monitoring.reasons import Reason, State
from jobproxy.monitoring.verdict import Verdict, judge
from tests.support.callbacks import read_log
from tests.support.cluster import ClusterTestCase
from tests.support.proxy import EPOCH, Proxy, ProxyTestCase, result_of


def read_verdict(proxy: Proxy) -> Any:
    """Return the verdict that an operator sees."""
    return proxy.operate().get("/status").response.json["verdict"]


class VerdictTestCase(ProxyTestCase):
    """A proxy that is watched, as one whose services run is."""

    def setUp(self) -> None:
        super().setUp()
        self.proxy.watch.startService()

    def tearDown(self) -> None:
        self.proxy.watch.stopService()
        super().tearDown()

    def pass_time(self, seconds: float) -> None:
        """Let time pass as the watch sees it."""
        for _ in range(round(seconds / STEP)):
            self.clock.advance(STEP)

    def run_job(self, account: str = "example") -> None:
        """Let a job end well."""
        client = self.submit(account)
        self.starts[-1].ack("1")
        self.call_back(self.starts[-1], result_of("1"))
        self.assertEqual(client.response.status, 200)

    def time_out(self, number: int) -> None:
        """Let so many jobs start at once, and get no callback in time."""
        clients = [self.submit(f"account {each}") for each in range(number)]
        for start in self.starts[-number:]:
            start.ack("1")
        self.pass_time(30)
        self.assertEqual([each.response.status for each in clients], [504] * number)

    def start_unheld(self) -> None:
        """Start a job whose client does not wait."""
        self.connect().request(headers={"Prefer": "respond-async"})
        self.starts[-1].ack("1")

    def check(self, state: str, *reasons: str) -> Any:
        """Check the state and its reasons, and return the verdict."""
        verdict = read_verdict(self)
        found = [each["reason"] for each in verdict["findings"]]
        self.assertEqual((verdict["state"], found), (state, list(reasons)), verdict)
        return verdict

    def check_text(self, text: str) -> None:
        self.assertEqual(read_verdict(self)["text"], text)


class GoodTests(VerdictTestCase):
    """Situations in which nothing has to be done."""

    settings = {"queue_per_account": 3}

    def test_healthy_load_is_ok(self) -> None:
        """Jobs that end are all right, and are said so."""
        for _ in range(12):
            self.run_job()
            self.pass_time(STEP)
        self.check("ok")
        self.check_text("Ok since 15:34 UTC: 12 jobs ended in the last minute.")

    def test_process_without_jobs_is_ok_and_stays_so(self) -> None:
        """A process without jobs is all right, for as long as none come."""
        for _ in range(12):
            self.check_text("Ok since 15:34 UTC: no jobs in the last minute.")
            self.pass_time(3_600)

    def test_one_account_that_floods_concerns_no_others(self) -> None:
        """An account whose queue is full is refused, and the proxy is all right for the others."""
        flood = [self.submit("flood") for _ in range(50)]
        refused = [each for each in flood if not each.is_held]
        self.assertEqual({each.response.status for each in refused}, {429})
        self.assertEqual(len(refused), 45)
        self.run_job("other")
        self.check("ok")
        for client in flood:
            client.leave()

    def test_clients_mistakes_are_no_trouble(self) -> None:
        """Wrong requests, and waits that a client chose too short, are not held against us."""
        for _ in range(10):
            self.connect().request(body=b"[]")
            client = self.connect().request(headers={"Prefer": "wait=1"})
            self.starts[-1].ack("1")
            self.clock.advance(1)
            self.assertEqual(client.response.status, 504)
            self.call_back(self.starts[-1], result_of("1"))
        self.check("ok")

    def test_a_scan_of_the_callbacks_is_no_trouble(self) -> None:
        """Forged callbacks between good ones, or during a long job, change nothing."""
        for _ in range(30):
            self.connect().request("/callback/x", b"{}")
            self.run_job()
            self.pass_time(STEP)
        self.check("ok")
        self.start_unheld()
        for _ in range(30):
            self.connect().request("/callback/x", b"{}")
            self.pass_time(STEP)
        self.check("ok")

    def test_jobs_from_before_a_restart_are_no_trouble(self) -> None:
        """Callbacks that a new key does not verify, and no jobs yet, are no trouble."""
        for _ in range(20):
            self.connect().request("/callback/x", b"{}")
        self.check("ok")
        self.run_job()
        self.pass_time(120)
        self.check("ok")

    def test_first_jobs_under_load_are_no_trouble(self) -> None:
        """Many jobs that are acknowledged before the first has ended are no trouble."""
        clients = [self.submit(f"account {number}") for number in range(50)]
        for start in self.starts:
            start.ack("1")
        self.pass_time(5)
        self.check("ok")
        for start in self.starts:
            self.call_back(start, result_of("1"))
        self.assertEqual({each.response.status for each in clients}, {200})
        self.check("ok")

    def test_one_failure_among_many_jobs_is_no_trouble(self) -> None:
        """Up to one job in twenty may fail."""
        for _ in range(60):
            self.run_job()
        self.time_out(2)
        self.check("ok")


class TimeoutTests(VerdictTestCase):
    """Callbacks do not come, or too late."""

    settings = {"max_starts": 1_000, "max_held": 1_000}

    def test_first_jobs_without_any_callback(self) -> None:
        """A2: where all clients get 504, the verdict says so at once, and what to do."""
        self.time_out(200)
        self.check("degraded", "no-callback-yet", "timeouts")
        self.check_text(
            "Degraded since 15:34 UTC: 200 of 200 jobs timed out in the last minute; 200 jobs were "
            "acknowledged, and no callback has ever come. What to do: JobproxyUnheard"
        )

    def test_callbacks_that_cease(self) -> None:
        """A2: callbacks that came once, and do not come any more, are told with the time since."""
        self.run_job()
        self.pass_time(150)
        self.time_out(30)
        self.check("degraded", "no-callbacks", "timeouts")
        self.check_text(
            "Degraded since 15:37 UTC: 30 of 30 jobs timed out in the last minute; no callback for "
            "3 minutes. What to do: JobproxyUnanswered"
        )
        self.call_back(self.starts[-1], result_of("1"))
        silence, timeouts = read_verdict(self)["findings"]
        self.assertEqual((silence["until"], timeouts["until"]), (EPOCH + 180, None))

    def test_rare_jobs_that_all_time_out(self) -> None:
        """A2: with a job every two minutes, the failures of a longer time count."""
        self.run_job()
        for _ in range(3):
            self.time_out(1)
            self.pass_time(75)
        self.time_out(1)
        self.assertIn("2 of 2 jobs timed out in the last 2 minutes", read_verdict(self)["text"])

    def test_slow_callbacks(self) -> None:
        """A2: results that come too late are timeouts, but no silence."""
        for _ in range(3):
            self.time_out(10)
            self.check("degraded", "timeouts")
            for start in self.starts[-10:]:
                self.call_back(start, result_of("1"))
        (finding,) = self.check("degraded", "timeouts")["findings"]
        self.assertEqual(finding["since"], EPOCH + 30)

    def test_one_job_in_ten_times_out(self) -> None:
        """A2: more than one job in twenty is enough, if there are two."""
        for _ in range(18):
            self.run_job()
        self.time_out(2)
        self.assertIn("2 of 20 jobs timed out", self.check("degraded", "timeouts")["text"])

    def test_first_jobs_of_no_held_client(self) -> None:
        """A2: jobs whose clients do not wait, and of which none ends, are missed after a minute."""
        for _ in range(25):
            self.start_unheld()
        self.pass_time(55)
        self.check("ok")
        self.pass_time(5)
        self.check("degraded", "no-callback-yet")

    def test_wrong_secret_of_jobs_of_no_held_client(self) -> None:
        """A2: refused callbacks are told without any timeout, if no other came for a minute."""
        self.run_job()
        self.pass_time(STEP)
        for _ in range(20):
            self.start_unheld()
            self.connect().request(self.starts[-1].callback_path[:-2] + "xx", result_of("1"))
            self.pass_time(STEP)
        self.check("degraded", "callbacks-refused")

    def test_wrong_secret(self) -> None:
        """A2: callbacks that are all refused are told as the cause of the timeouts."""
        self.run_job()
        for _ in range(3):
            self.time_out(10)
            for start in self.starts[-10:]:
                self.connect().request(start.callback_path[:-2] + "xx", result_of("1"))
        self.time_out(10)
        verdict = self.check("degraded", "callbacks-refused", "no-callbacks", "timeouts")
        self.assertIn("callbacks were refused in the last minute, and none was", verdict["text"])
        self.assertEqual(verdict["runbook"], "JobproxyForgedCallbacks")

    def test_jobs_of_no_held_client(self) -> None:
        """A2: jobs whose clients do not wait are missed after a quarter of an hour."""
        self.run_job()
        self.pass_time(STEP)
        for _ in range(30):
            self.start_unheld()
        self.pass_time(890)
        self.check("ok")
        self.pass_time(15)
        verdict = self.check("degraded", "no-callbacks")
        self.assertIn("no callback for 15 minutes", verdict["text"])

    def test_it_is_over_after_quiet_minutes_and_does_not_flap(self) -> None:
        """A2: it gets better only once nothing was wrong for a minute, and says since when."""
        self.run_job()
        self.time_out(10)
        since = self.check("degraded", "timeouts")["since"]
        self.call_back(self.starts[-1], result_of("1"))
        self.pass_time(65)
        verdict = self.check("degraded", "timeouts")
        self.assertIn("(not any more since 15:35 UTC)", verdict["text"])
        self.assertEqual(verdict["since"], since)
        self.run_job()
        self.time_out(10)
        self.assertEqual(self.check("degraded", "timeouts")["since"], since)
        self.call_back(self.starts[-1], result_of("1"))
        self.pass_time(125)
        self.check("ok")


class JobServerTests(VerdictTestCase):
    """The job server is away."""

    settings = {"start_attempts": 1}

    def go_away(self) -> None:
        self.fail_starts(error.ConnectionRefusedError())
        for number in range(10):
            self.submit(f"account {number}")

    def test_failures_before_the_circuit_opens(self) -> None:
        """A2: start requests that fail are told before there are so many that the circuit opens."""
        self.fail_starts(error.ConnectionRefusedError())
        for number in range(3):
            self.submit(f"account {number}")
        verdict = self.check("degraded", "job-server-unreachable")
        self.assertIn("3 of 3 jobs did not reach the job server", verdict["text"])

    def test_job_server_is_down(self) -> None:
        """A2: with the circuit open the proxy is down, but ready: so are the other nodes."""
        self.go_away()
        verdict = self.check("down", "job-server-unreachable")
        self.assertEqual(verdict["runbook"], "JobproxyCircuitOpen")
        response = self.operate().get("/readyz").response
        self.assertEqual((response.status, response.json["verdict"]), (200, verdict))

    def test_quiet_night_with_an_open_circuit_does_not_flap(self) -> None:
        """A2: as long as no job shows that the job server is back, it counts as away."""
        self.go_away()
        since = self.check("down", "job-server-unreachable")["since"]
        for _ in range(24):
            self.pass_time(1_200)
            self.assertEqual(self.check("down", "job-server-unreachable")["since"], since)
        self.sender.failure = None
        self.run_job()
        self.pass_time(55)
        self.check("down", "job-server-unreachable")
        self.pass_time(5)
        self.check("ok")

    def test_wrong_credentials(self) -> None:
        """A2: a job server that refuses our credentials is told as a matter of configuration."""
        for number in range(3):
            self.submit(f"account {number}")
            self.starts[-1].respond(b"", 401)
        self.assertEqual(
            self.check("degraded", "misconfigured")["runbook"], "JobproxyMisconfigured"
        )


class ProcessTests(VerdictTestCase):
    """The process itself is the reason."""

    settings = {"max_held": 5, "starts_per_account": 10}

    def test_drain(self) -> None:
        """A2: a process that drains is down, and in a word of its own, as that is meant."""
        client = self.submit()
        self.gateway.leave()
        verdict = self.check("down", "draining")
        self.assertEqual(verdict["word"], "draining")
        self.assertTrue(verdict["text"].startswith("Draining since 15:34 UTC: no new job is"))
        client.leave()

    def test_no_descriptors(self) -> None:
        """A2, L5: a process without free descriptors is down until it had some for a minute."""
        self.has_descriptors = False
        self.assertEqual(self.check("down", "no-file-descriptors")["runbook"], "JobproxyFilesShort")
        self.has_descriptors = True
        self.pass_time(55)
        self.check("down", "no-file-descriptors")
        self.pass_time(5)
        self.check("ok")

    def test_overload(self) -> None:
        """A2, L3: a proxy that holds as many clients as it may is degraded."""
        clients = [self.submit() for _ in range(5)]
        verdict = self.check("degraded", "full")
        self.assertIn("5 clients are held, and no more may be", verdict["text"])
        for client in clients:
            client.leave()
        self.pass_time(60)
        self.check("ok")

    def test_loop_is_late(self) -> None:
        """A2: an event loop that stands for more than a fifth of the time is told."""
        for _ in range(8):
            self.proxy.probes.lag.observe(2.0)
            self.pass_time(STEP)
        self.check("degraded", "loop-late")

    def test_change_is_logged(self) -> None:
        """A2: each change of the state is one line in the log."""
        with capturedLogs() as events:
            self.has_descriptors = False
            self.pass_time(30)
        self.assertEqual(read_log(events).count("Down since"), 1)

    def test_metrics_have_the_same_verdict(self) -> None:
        """A2: the metrics have the state and the reasons as gauges, all of them from the start."""
        self.has_descriptors = False
        text = self.operate().get("/metrics").response.body.decode()
        for line in (
            'jobproxy_verdict{state="down"} 1.0',
            'jobproxy_verdict{state="ok"} 0.0',
            'jobproxy_verdict_reason{reason="no-file-descriptors"} 1.0',
            'jobproxy_verdict_reason{reason="timeouts"} 0.0',
        ):
            self.assertIn(line, text)


class PollTests(SynchronousTestCase):
    def test_start_is_over_once_the_store_was_reached(self) -> None:
        """A2: a process that has just joined the others is well at once, not after a minute."""
        first = Counts(time=0.0, unix=0.0, reasons=(Reason.STORE.slug,))
        verdict = judge(first, Past(first), Verdict(State.OK, 0.0))
        self.assertIs(verdict.state, State.DOWN)
        joined = Counts(time=1.0, unix=1.0, has_store=True, is_store_up=True)
        self.assertIs(judge(joined, Past(first), verdict).state, State.OK)

    def test_a_proxy_that_polls_misses_no_callbacks(self) -> None:
        """Where jobs end without callbacks, none is missed, however long none comes."""
        for expects, reasons in ((True, ["no-callbacks"]), (False, [])):
            first = Counts(time=0.0, unix=0.0, starts={"acknowledged": 10})
            now = Counts(
                time=1_000.0,
                unix=1_000.0,
                starts={"acknowledged": 90},
                oldest=950.0,
                expects_callbacks=expects,
            )
            verdict = judge(now, Past(first), Verdict(State.OK, 0.0))
            self.assertEqual([each.reason.slug for each in verdict.findings], reasons)


class StoreTests(ClusterTestCase):
    def test_store_away(self) -> None:
        """A2, X1: a node whose store went away is degraded; one that never had it is down."""
        node = self.nodes[0]
        self.assertEqual(read_verdict(node)["state"], "ok")
        self.cluster.go_away()
        verdict = read_verdict(node)
        self.assertEqual((verdict["state"], verdict["runbook"]), ("degraded", "JobproxyStoreDown"))
        self.assertIn("the store cannot be reached", json.dumps(verdict))
        self.cluster.come_back()
