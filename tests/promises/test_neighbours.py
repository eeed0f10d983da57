"""Neighbours: no account, client or job server can stop the jobs of others.

Every queue has a limit for each account, and accounts take turns. What comes without a good token
is refused before anything is stored for it. The circuit opens only when the job server does not
respond or fails, not because it refuses the jobs of one account. A node that dies, or a store that
is away, does not stop the jobs of other nodes.
"""

import json
from typing import Any

from twisted.logger import capturedLogs

from jobproxy.jobs.retention import Bounds
from jobproxy.upstream import starts
from jobproxy.upstream.retries import OnLost
from tests.support.callbacks import ByIdTestCase, CallbackTestCase, read_log
from tests.support.clients import Client
from tests.support.cluster import ClusterTestCase
from tests.support.job_server import Start
from tests.support.proxy import ProxyTestCase, result_of


class LimitTests(ProxyTestCase):
    """How much is held and started at once."""

    settings: dict[str, Any] = {"starts_per_account": 2, "queue_per_account": 3, "max_held": 8}

    def test_starts_of_an_account_are_limited(self) -> None:
        """L1: an account has a maximum of start requests at once; more jobs wait in order."""
        for number in range(5):
            self.connect().request(body=b'{"account":"a","n":%d}' % number)
        self.assertEqual([start.body["n"] for start in self.starts], [0, 1])
        for number in range(5):
            self.starts[number].respond(result_of("1"))
        self.assertEqual([start.body["n"] for start in self.starts], [0, 1, 2, 3, 4])

    def test_429_when_account_queue_is_full(self) -> None:
        """L1: an account whose queue is full gets 429, and another account is served."""
        for _ in range(5):
            self.submit("a")
        refused = self.submit("a").response
        self.assert_problem(refused, 429, "account-queue-full")
        self.assertEqual(refused.reason, "Too Many Requests")
        self.assertEqual(refused.headers["retry-after"], "1")
        other = self.submit("b")
        self.assertEqual(self.starts[-1].body["account"], "b")
        self.starts[-1].respond(result_of("1"))
        self.assertEqual(other.response.status, 200)
        for number in (0, 1, 3, 4, 5):
            self.starts[number].respond(result_of("1"))

    def test_503_when_all_clients_are_held(self) -> None:
        """L3: over the maximum a client gets 503 at once; after a response another is held."""
        clients = [self.submit(f"account {number}") for number in range(8)]
        refused = self.submit().response
        self.assert_problem(refused, 503, "overloaded")
        self.assertEqual(refused.headers["retry-after"], "1")
        self.starts[0].respond(result_of("1"))
        self.assertEqual(clients[0].response.status, 200)
        self.assertTrue(self.submit().is_held)
        for start in self.starts[1:]:
            start.respond(result_of("1"))


class QueuedBodyTests(ProxyTestCase):
    """Jobs whose bodies are large, and that are not started yet."""

    def test_queued_bodies_are_counted_and_bounded(self) -> None:
        """L14: all bodies that wait for their start have a bound together; then there is room."""
        self.patch(starts, "MAX_KEPT", 100_000)
        body = json.dumps({"account": "a", "more": "x" * 30_000}).encode()
        clients = [self.connect().request(body=body) for _ in range(5)]
        self.assertEqual(self.proxy.probes.count_kept()["starting"], 4 * len(body))
        self.assert_problem(clients.pop().response, 503, "overloaded")
        for number in range(4):
            self.starts[number].respond(result_of(f"{number}"))
        for client in clients:
            self.assertEqual(client.response.status, 200)
        self.assertEqual(self.proxy.probes.count_kept()["starting"], 0)


class AckTests(ProxyTestCase):
    """Large acks of jobs whose clients wait."""

    def ack(self, start: Start, size: int) -> None:
        start.respond(json.dumps({"id": "1", "state": "running", "more": "x" * size}).encode())

    def test_acks_of_held_clients_are_counted_and_bounded(self) -> None:
        """L14: acks count until their jobs end, and with too many new jobs get 503."""
        self.patch(starts, "MAX_KEPT", 100_000)
        clients = [self.submit(f"account {number}") for number in range(4)]
        for start in self.starts:
            self.ack(start, 30_000)
        kept = self.proxy.probes.count_kept()
        self.assertEqual(kept["running"], 0)
        self.assertGreater(kept["acks"], 120_000)
        self.assert_problem(self.submit().response, 503, "overloaded")
        self.call_back(self.starts[0], result_of("1"))
        self.assertEqual(clients.pop(0).response.status, 200)
        clients.append(self.submit())
        self.assertTrue(clients[-1].is_held)
        for start in self.starts[1:]:
            self.call_back(start, result_of("1"))
        self.assertEqual([client.response.status for client in clients], [200] * 4)
        self.assertEqual(self.proxy.probes.count_kept()["acks"], 0)

    def test_an_ack_counts_once(self) -> None:
        """L14: the ack of a job that no client waits for counts as such, until the job ends."""
        client = self.connect()
        client.request(body=b'{"account": "a"}', headers={"Prefer": "respond-async"})
        self.ack(self.starts[0], 30_000)
        self.assertEqual(client.response.status, 202)
        kept = self.proxy.probes.count_kept()
        self.assertGreater(kept["running"], 30_000)
        self.assertEqual(kept["acks"], 0)
        self.call_back(self.starts[0], result_of("1"))
        kept = self.proxy.probes.count_kept()
        self.assertEqual((kept["running"], kept["acks"]), (0, 0))


class RestartedBodyTests(ProxyTestCase):
    """Jobs that are started again if they are lost."""

    settings: dict[str, Any] = {"on_lost": OnLost.RESTART, "lost_after": 5.0}

    def test_bodies_of_jobs_that_may_be_started_again_are_counted(self) -> None:
        """L14: a body that may be sent again counts until the job has ended."""
        client = self.submit("a")
        self.starts[0].ack("1")
        self.assertGreater(self.proxy.probes.count_kept()["starting"], 0)
        self.call_back(self.starts[0], result_of("1"))
        self.assertEqual(client.response.status, 200)
        self.assertEqual(self.proxy.probes.count_kept()["starting"], 0)


class TurnTests(ProxyTestCase):
    """Accounts that share all slots."""

    settings = {"starts_per_account": 2, "max_starts": 2}

    def test_accounts_take_turns(self) -> None:
        """L1: an account with one job does not wait for all jobs of another account."""
        for account in "aaaab":
            self.submit(account)
        for number in range(5):
            self.starts[number].respond(result_of("1"))
        order = "".join(start.body["account"] for start in self.starts)
        self.assertEqual(order[:2], "aa")
        self.assertIn("b", order[2:4])


class JobServerTests(ProxyTestCase):
    """A job server that treats accounts differently."""

    def check_served(self, account: str) -> None:
        """Check that a job of an account is started and gets its result."""
        client = self.submit(account)
        self.assertEqual(self.starts[-1].body["account"], account)
        self.starts[-1].respond(result_of("1"))
        self.assertEqual(client.response.body, result_of("1"))

    def test_pause_of_an_account_is_its_own(self) -> None:
        """S17: while one account is paused by Retry-After, another one is started."""
        paused = self.submit("a")
        self.starts[0].respond(b"", 429, retry_after="10")
        self.check_served("b")
        self.assertTrue(paused.is_held)
        self.clock.advance(10)
        self.starts[-1].respond(result_of("1"))
        self.assertEqual(paused.response.status, 200)

    def test_refused_account_opens_no_circuit(self) -> None:
        """S15, S16, S17, S18: however often one account is refused, another one is started."""
        for status in (400, 401, 403, 404, 409, 418, 422, 429):
            for _ in range(12):
                client = self.connect().request(
                    body=b'{"account":"a"}', headers={"Prefer": "wait=1"}
                )
                self.starts[-1].respond(b"", status)
                self.clock.advance(2)
                self.assertNotEqual(client.response.status, 200)
            self.check_served("b")

    def test_account_whose_jobs_fail_opens_no_circuit(self) -> None:
        """S28: server errors of one account open no circuit for the others."""
        for _ in range(50):
            self.submit("poison")
            self.starts[-1].respond(b"", 500)
            self.clock.advance(2)
        self.check_served("good")

    def test_lost_acks_open_no_circuit_while_callbacks_come(self) -> None:
        """S29: a job server whose acks are lost, and whose callbacks come, serves all jobs."""
        for _ in range(4):
            clients = [self.submit(f"account {number}") for number in range(50)]
            starts = self.starts[-50:]
            for start in starts:
                start.lose()
            self.clock.advance(0.5)
            for start in starts:
                self.call_back(start, result_of("1"))
            for client in clients:
                self.assertEqual(client.response.status, 200)

    def test_account_whose_starts_hang_stops_no_other(self) -> None:
        """S8: the start requests of one account that hang use no slot of another."""
        for _ in range(5):
            self.submit("a")
        for _ in range(3):
            self.check_served("b")
        for number in (0, 1, 5, 6, 7):
            self.starts[number].respond(result_of("1"))


class ResultTests(ProxyTestCase):
    """Results that are kept."""

    bounds = Bounds(number=100, size=6_000_000)

    def run_job(self, account: str, key: str, body: bytes) -> Client:
        """Return a client whose job has ended with this result."""
        job = json.dumps({"account": account}).encode()
        client = self.connect().request(body=job, headers={"Idempotency-Key": key})
        if client.is_held:
            self.starts.pop().respond(body)
        return client

    def test_results_of_others_push_out_none_of_an_account_with_few(self) -> None:
        """L8: large results of others push out no result of an account that has few."""
        large = b'{"state":"completed","id":"%s"}' % (b"x" * 60_000)
        self.run_job("victim", "k", large)
        for number in range(1_100):
            self.run_job(f"other {number % 3}", f"{number}", large)
        again = self.run_job("victim", "k", b"")
        self.assertEqual((again.response.status, again.response.body), (200, large))
        gone = self.run_job("other 0", "0", b"")
        self.assert_problem(gone.response, 409, "result-gone", started="yes")
        self.assertLessEqual(self.table.retention.retained_bytes, 6_000_000)


class ForgedCallbackTests(CallbackTestCase):
    """Callbacks without a good token."""

    def test_flood_of_forged_callbacks_changes_nothing(self) -> None:
        """B14, B6: forged callbacks change no job, are not retained, and leave few lines."""
        client, start = self.run_job()
        with capturedLogs() as events:
            for number in range(500):
                sender = self.connect().request(f"/callback/forged.{number}", b"{" * 100)
                self.assert_problem(sender.response, 404, "not-found")
                sender.leave()
        self.assertEqual(len(read_log(events).splitlines()), 10)
        self.assertNotIn("forged.", read_log(events))
        self.assertEqual(self.list_orphans(), [])
        self.assertEqual((len(self.table), self.table.retention.retained), (1, 0))
        self.assertTrue(client.is_held)
        self.call_back(start, result_of("1"))
        self.assertEqual(client.response.body, result_of("1"))


class SlowClientTests(ProxyTestCase):
    """Clients that do not read, or do not write to the end."""

    def test_client_that_does_not_read_delays_no_other(self) -> None:
        """A client that does not read its response delays no other client."""
        slow, other = self.submit("a"), self.submit("b")
        assert slow.transport.producer is not None
        slow.transport.producer.pauseProducing()
        for start in self.starts:
            start.respond(result_of("1"))
        self.assertEqual(other.response.body, result_of("1"))

    def test_half_a_request_takes_no_place(self) -> None:
        """A client that sends half a request is not held, and uses no place of others."""
        half = [self.connect() for _ in range(200)]
        for client in half:
            client.send(b"POST /proxy HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
        self.assertEqual(self.table.clients.held, 0)
        client = self.submit()
        self.starts[0].respond(result_of("1"))
        self.assertEqual(client.response.status, 200)


class ParkedTests(ByIdTestCase):
    """Callbacks with unknown ids, with ``correlate_by`` id."""

    parked_bounds = Bounds(number=3)

    def test_flood_of_unknown_ids_changes_no_known_job(self) -> None:
        """B14, L6: callbacks with unknown ids push out each other, but no job that runs."""
        client = self.submit()
        self.starts[0].ack("1")
        for number in range(100):
            self.assertEqual(self.call_back_by_id(result_of(f"x{number}")).status, 200)
        self.assertTrue(client.is_held)
        self.call_back_by_id(result_of("1"))
        self.assertEqual(client.response.body, result_of("1"))


class ClusterTests(ClusterTestCase):
    """Several nodes of which one, or the store, is gone."""

    def test_death_of_a_node_stops_no_job_of_another(self) -> None:
        """B15: when a node dies, the clients of all other nodes get their results."""
        clients = [node.submit(f"account {node.name[-1:]}") for node in self.nodes]
        for number, start in enumerate(self.starts):
            start.ack(f"{number}")
        self.nodes[0].kill()
        for number in (1, 2):
            self.nodes[3 - number].call_back(self.starts[number], result_of(f"{number}"))
            self.cluster.settle()
            self.assert_result(clients[number], result_of(f"{number}"))

    def test_keys_of_others_do_not_matter_without_a_store(self) -> None:
        """X1: while clients with keys are refused for want of the store, others are served."""
        self.cluster.go_away()
        refused = self.nodes[0].submit("account 1", key="k").response
        self.assert_problem(refused, 503, "store-unreachable", started="unknown")
        client = self.nodes[0].submit("account 2")
        self.starts[0].ack("1")
        self.nodes[0].call_back(self.starts[0], result_of("1"))
        self.assert_result(client, result_of("1"))
        self.cluster.come_back()
