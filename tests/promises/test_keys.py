"""Keys: while it lives, the same Idempotency-Key never starts a second job.

All clients of an account that send the same job with the same key share one job and its result: at
one node or at several, whether they come before the ack, before the result, or until ``--retain``
seconds after it. Until ``--key-life`` the key starts nothing, whatever became of its result. The
key of a job that was certainly not started is free at once. Another job with
the same key is refused. ``tests/cluster/test_keys.py`` has more about several nodes.
"""

from http import HTTPStatus

from jobproxy.wire.tokens import LIFETIME
from tests.support.callbacks import ByIdTestCase
from tests.support.cluster import ClusterTestCase
from tests.support.keys import BODY, KeyTestCase
from tests.support.proxy import result_of


class JoinTests(KeyTestCase):
    """Clients that join a job that has not ended."""

    settings = {"starts_per_account": 1}

    def test_clients_with_the_same_key_share_one_job(self) -> None:
        """Clients with the same key get the same bytes; the job is started once."""
        first, second = self.send(), self.send()
        (start,) = self.starts
        start.ack("1")
        third = self.send()
        self.call_back(start, result_of("1"))
        for client in (first, second, third):
            self.assert_result(client)
        locations = {
            client.response.headers["content-location"] for client in (first, second, third)
        }
        self.assertEqual(len(locations), 1)
        self.assertEqual(len(self.starts), 1)

    def test_problem_of_the_start_is_sent_to_all_who_joined(self) -> None:
        """S15: when the start fails, each client gets the problem with its own request id."""
        clients = [self.send(), self.send()]
        self.starts[0].respond(b"", 409)
        problems = [self.assert_problem(c.response, 409, "upstream-rejected") for c in clients]
        self.assertEqual([problem["requestId"] for problem in problems], ["id-0", "id-1"])
        self.assertEqual(problems[0]["job"], problems[1]["job"])

    def test_key_is_the_same_with_and_without_quotes(self) -> None:
        """A key in quotes is the same as a bare one."""
        clients = [self.send(key="k-1"), self.send(key='"k-1"')]
        self.starts[0].respond(result_of("1"))
        self.assertEqual([client.response.status for client in clients], [200, 200])

    def test_each_client_has_its_own_deadline(self) -> None:
        """Each client has a deadline of its own."""
        first = self.send(Prefer="wait=5")
        self.starts[0].ack("1")
        self.clock.advance(4)
        second = self.send(Prefer="wait=5")
        self.clock.advance(1)
        self.assert_problem(first.response, 504, "wait-over", started="yes")
        self.assertTrue(second.is_held)
        self.call_back(self.starts[0], result_of("1"))
        self.assert_result(second)

    def test_queued_job_is_started_for_the_last_client(self) -> None:
        """A queued job is started for the last client; one whose wait is over gets "unknown"."""
        self.submit()
        first, second = self.send(Prefer="wait=1"), self.send()
        self.clock.advance(1)
        self.assert_problem(first.response, 504, "wait-over", started="unknown")
        self.starts[0].respond(result_of("0"))
        self.starts[1].respond(result_of("1"))
        self.assert_result(second)

    def test_client_that_repeats_its_key_after_a_504_joins(self) -> None:
        """A client that repeats its key after a 504 joins the job, which still runs."""
        first = self.send(Prefer="wait=5")
        self.starts[0].ack("1")
        self.clock.advance(5)
        self.assert_problem(first.response, 504, "wait-over", started="yes")
        again = self.send(Prefer="wait=5")
        self.assertTrue(again.is_held)
        self.call_back(self.starts[0], result_of("1"))
        self.assert_result(again)
        self.assertEqual(len(self.starts), 1)

    def test_queued_job_stays_until_its_last_client_leaves(self) -> None:
        """Q15: a queued job is removed from the queue when its last client leaves."""
        self.submit()
        first, second = self.send(), self.send()
        first.leave()
        self.starts[0].respond(result_of("0"))
        self.assertEqual(len(self.starts), 2)
        third, fourth = self.send(key="other"), self.send(key="other")
        third.leave()
        fourth.leave()
        self.starts[1].respond(result_of("1"))
        self.assert_result(second)
        self.assertEqual(len(self.starts), 2)

    def test_client_that_joined_gets_the_result_alone(self) -> None:
        """Q16: a client that joined gets the result although the first one left."""
        first, second = self.send(), self.send()
        first.leave()
        self.starts[0].ack("1")
        self.assertEqual(
            self.call_back(self.starts[0], result_of("1")).json, {"status": "accepted"}
        )
        self.assert_result(second)

    def test_client_that_comes_back_gets_the_result(self) -> None:
        """Q16: a client that left and repeats its key gets the result that came meanwhile."""
        self.send().leave()
        self.starts[0].ack("1")
        self.call_back(self.starts[0], result_of("1"))
        self.assert_result(self.send(), is_replayed=True)

    def test_each_client_has_its_own_preferences(self) -> None:
        """Q3: each client has preferences of its own."""
        held, unheld = self.send(), self.send(Prefer="respond-async")
        self.starts[0].ack("1")
        self.assertEqual(unheld.response.status, 202)
        late = self.send(b'{"account":"example","n":1,"wait":false}')
        self.assertEqual((late.response.status, late.response.body), (202, unheld.response.body))
        self.call_back(self.starts[0], result_of("1"))
        self.assert_result(held)

    def test_queued_job_goes_on_for_a_client_with_a_202(self) -> None:
        """Q3, Q15: a queued job goes on for a client that got a 202."""
        self.submit()
        first, second = self.send(), self.send(Prefer="respond-async, wait=1")
        self.clock.advance(1)
        self.assertEqual(second.response.status, 202)
        first.leave()
        self.starts[0].respond(result_of("0"))
        self.starts[1].respond(result_of("1"))
        found = self.connect().get(second.response.headers["location"]).response
        self.assertEqual(found.body, result_of("1"))


class ReplayTests(KeyTestCase):
    """Clients that send the key of a job with a result."""

    def test_result_is_replayed(self) -> None:
        """A result is replayed with Idempotent-Replayed; the job is not started again."""
        first = self.run_job()
        self.assert_result(first)
        for prefer in ("", "respond-async", "wait=5"):
            again = self.send(Prefer=prefer)
            self.assert_result(again, is_replayed=True)
            location = again.response.headers["content-location"]
            self.assertEqual(location, first.response.headers["content-location"])
        self.assertEqual(len(self.starts), 1)

    def test_key_starts_nothing_after_retain(self) -> None:
        """L8: after --retain the result is gone, but until --key-life the key starts nothing."""
        first = self.run_job()
        self.clock.advance(299)
        self.assert_result(self.send(), is_replayed=True)
        self.clock.advance(2)
        for _ in range(2):
            gone = self.assert_problem(self.send().response, 409, "result-gone", started="yes")
            location = first.response.headers["content-location"]
            self.assertEqual(location, f"/jobs/{gone['job']}")
        other = self.send(body=b'{"account":"example","n":2}')
        self.assert_problem(other.response, 422, "idempotency-key-reused")
        self.assertEqual(len(self.starts), 1)
        self.clock.advance(LIFETIME)
        self.assert_result(self.run_job())
        self.assertEqual(len(self.starts), 2)

    def test_key_of_a_dropped_orphan_starts_nothing(self) -> None:
        """L9: when the operator drops the result of a key, the key still starts nothing."""
        client = self.send()
        self.starts[0].ack("1")
        client.leave()
        self.call_back(self.starts[0], result_of("1"))
        self.operate().request(f"/orphans/{self.starts[0].job_id}", None, method="DELETE")
        self.assert_problem(self.send().response, 409, "result-gone", started="yes")
        self.assertEqual(len(self.starts), 1)

    def test_failed_job_is_replayed(self) -> None:
        """B9: a failed job has a result like any other."""
        self.send()
        self.starts[0].respond(result_of("1", "failed"))
        again = self.send()
        self.assertEqual(
            (again.response.status, again.response.body), (200, result_of("1", "failed"))
        )

    def test_wait_and_space_make_no_other_job(self) -> None:
        """Neither wait nor space between members makes it another job."""
        self.run_job()
        for body in (
            b'{"account":"example","n":1,"wait":true}',
            b' {"account":"example" ,"n":1}\n',
        ):
            self.assert_result(self.send(body), is_replayed=True)


class ReuseTests(KeyTestCase):
    """Keys that come with another job."""

    def test_422_when_another_job_has_the_key(self) -> None:
        """Another job with the same key is refused, before and after the first one ends."""
        self.send()
        other = b'{"account":"example","n":2}'
        self.assert_problem(self.send(other).response, 422, "idempotency-key-reused")
        self.starts[0].respond(result_of("1"))
        refused = self.send(other)
        self.assert_problem(refused.response, 422, "idempotency-key-reused")
        self.assertEqual(refused.response.reason, HTTPStatus(422).phrase)
        self.assert_result(self.send(), is_replayed=True)
        self.assertEqual(len(self.starts), 1)

    def test_accounts_have_keys_of_their_own(self) -> None:
        """The same key of another account is another key."""
        bodies = [b'{"account":"%b"}' % name for name in (b"a", b"b", b"ab")]
        clients = [self.send(body, "k") for body in bodies]
        self.assertEqual([start.body["account"] for start in self.starts], ["a", "b", "ab"])
        for number, start in enumerate(self.starts):
            start.respond(result_of(str(number)))
        for number, client in enumerate(clients):
            self.assertEqual(client.response.body, result_of(str(number)))

    def test_account_and_key_are_not_just_concatenated(self) -> None:
        """No account and key look like another pair when they are concatenated."""
        clients = [self.send(b'{"account":"a"}', "bc"), self.send(b'{"account":"ab"}', "c")]
        self.assertEqual([start.body["account"] for start in self.starts], ["a", "ab"])
        for start in self.starts:
            start.respond(result_of("1"))
        self.assertEqual([client.response.status for client in clients], [200, 200])

    def test_400_when_the_key_is_malformed(self) -> None:
        """A malformed key is refused, and nothing is started."""
        for key in ("", '""', "two words", "k" * 256, "é"):
            self.assert_problem(self.send(key=key).response, 400, "invalid-request")
        twice = self.connect().request(headers={"Idempotency-Key": "a", "idempotency-key": "b"})
        self.assert_problem(twice.response, 400, "invalid-request")
        self.assertEqual(self.starts, [])


class FreedKeyTests(KeyTestCase):
    """Keys of jobs that were not started: the next client with the key starts the job."""

    settings = {"starts_per_account": 1, "max_held": 2}

    def check_starts(self, number: int) -> None:
        """Check that the key starts a job, and that this is the start of that number."""
        again = self.send()
        self.assertEqual(len(self.starts), number)
        self.starts[-1].respond(result_of("1"))
        self.assert_result(again)
        self.assert_result(self.send(), is_replayed=True)

    def test_key_is_free_when_the_job_server_rejected_the_job(self) -> None:
        """S15: the job server rejected the job."""
        self.send()
        self.starts[0].respond(b"", 422)
        self.check_starts(2)

    def test_key_is_free_when_the_job_server_was_busy(self) -> None:
        """S17: the job server accepted no jobs of the account."""
        client = self.send(Prefer="wait=5")
        self.starts[0].respond(b"", 503, retry_after="10")
        self.assert_problem(client.response, 503, "upstream-busy")
        self.assert_problem(self.send(Prefer="wait=5").response, 503, "upstream-busy")
        self.clock.advance(10)
        self.check_starts(2)

    def test_key_is_free_when_its_client_left_the_queue(self) -> None:
        """Q15: its only client left before it was started."""
        self.submit()
        self.send().leave()
        self.starts[0].respond(result_of("0"))
        self.check_starts(2)

    def test_key_is_free_when_the_wait_ended_in_the_queue(self) -> None:
        """The wait of its client was over before it was started."""
        self.submit()
        client = self.send(Prefer="wait=1")
        self.clock.advance(1)
        self.assert_problem(client.response, 504, "wait-over")
        self.starts[0].respond(result_of("0"))
        self.check_starts(2)

    def test_key_is_free_when_its_client_could_not_be_held(self) -> None:
        """L3: its client could not be held."""
        self.submit("a")
        self.submit("b")
        self.assert_problem(self.send().response, 503, "overloaded")
        for start in self.starts:
            start.respond(result_of("0"))
        self.check_starts(3)


class ClientCallbackTests(KeyTestCase):
    """Keys of jobs whose clients name a callback URL of their own."""

    settings = {"allow_client_callbacks": True}

    def test_422_when_the_callback_of_the_client_differs(self) -> None:
        """Q4: the same job with another callback URL of the client is another job."""
        body = b'{"account":"example","wait":false,"callback":"http://client.example/%d"}'
        self.send(body % 1)
        self.starts[0].respond(result_of("1"))
        self.assert_result(self.send(body % 1), is_replayed=True)
        self.assert_problem(self.send(body % 2).response, 422, "idempotency-key-reused")
        self.assert_problem(self.send(BODY).response, 422, "idempotency-key-reused")


class ByIdTests(ByIdTestCase, KeyTestCase):
    """Keys with ``correlate_by`` id."""

    def test_clients_with_the_same_key_share_one_job_by_id(self) -> None:
        """Clients with the same key share one job, before and after the ack and the result."""
        clients = [self.send(), self.send()]
        self.starts[0].ack("1")
        clients.append(self.send())
        self.call_back_by_id(result_of("1"))
        for client in clients:
            self.assert_result(client)
        self.assert_result(self.send(), is_replayed=True)
        self.assertEqual(len(self.starts), 1)

    def test_key_of_a_parked_callback_starts_no_second_job(self) -> None:
        """B1: a callback that waits for the ack starts no second job, and is the result of all."""
        first = self.send()
        self.call_back_by_id(result_of("1"))
        second = self.send()
        self.starts[0].ack("1")
        for client in (first, second):
            self.assert_result(client)
        self.assertEqual(len(self.starts), 1)


class ClusterTests(ClusterTestCase):
    """A key whose job is known to all nodes."""

    def check_key(self, key: str) -> None:
        """Check that the key gets the result of the one start request at all living nodes."""
        clients = [node.submit(key=key) for node in self.nodes]
        self.cluster.settle()
        (start,) = self.starts
        self.nodes[2].call_back(start, result_of("1"))
        self.cluster.settle()
        for client in clients:
            response = client.response
            self.assertEqual((response.status, response.body), (200, result_of("1")))
        # The slot of its start request is free again.
        start.ack("1")
        self.starts.clear()

    def test_key_starts_one_job_whichever_node_dies(self) -> None:
        """B15: a key starts no second job, whichever node dies, before or after ack or result."""
        for dead in range(3):
            for moment in ("starting", "running", "ended"):
                key = f"{moment}-{dead}"
                self.nodes[0].submit(key=key)
                self.nodes[1].submit(key=key)
                self.cluster.settle()
                if moment != "starting":
                    self.starts[0].ack("1")
                if moment == "ended":
                    self.nodes[1].call_back(self.starts[0], result_of("1"))
                self.nodes[dead].kill()
                self.cluster.replace(self.nodes[dead])
                self.check_key(key)

    def test_key_starts_one_job_whenever_the_store_goes(self) -> None:
        """X1: a key starts no second job, whether the store is away at the ack or at the result."""
        for moment in ("starting", "running"):
            self.nodes[0].submit(key=moment)
            if moment == "running":
                self.starts[0].ack("1")
            self.cluster.go_away()
            for node in self.nodes[1:]:
                refused = node.submit(key=moment).response
                self.assert_problem(refused, 503, "store-unreachable", started="unknown")
            if moment == "starting":
                self.starts[0].ack("1")
            self.nodes[0].call_back(self.starts[0], result_of("1"))
            self.cluster.come_back()
            self.cluster.settle()
            self.check_key(moment)
