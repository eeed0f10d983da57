"""The same Idempotency-Key at several nodes: one job, and one result for all clients."""

from jobproxy.wire.tokens import LIFETIME
from tests.support.clients import Client
from tests.support.cluster import ClusterTestCase, Node
from tests.support.proxy import result_of


class SameKeyTests(ClusterTestCase):
    """Clients of several nodes that send the same job."""

    def finish(self, node: Node) -> None:
        """Acknowledge the one start that there is, and call a node back."""
        (start,) = self.starts
        start.ack("1")
        node.send_callback(start, result_of("1"))
        for _ in range(10):
            self.clock.advance(0.1)

    def test_same_key_at_all_nodes_at_once_starts_one_job(self) -> None:
        """The same key at all nodes at the same time starts one job; all clients get its result."""
        for number, caller in enumerate(self.nodes):
            self.cluster.set_latency(0.1)
            clients = [node.submit(key=f"k{number}") for node in self.nodes for _ in range(2)]
            for _ in range(10):
                self.clock.advance(0.1)
            self.assertEqual(len(self.starts), 1)
            self.cluster.set_latency(0)
            self.finish(caller)
            for client in clients:
                self.assert_result(client, result_of("1"))
            self.starts.clear()

    def test_key_joins_the_job_of_another_node(self) -> None:
        """A client that sends the key of a running job to another node joins the job there."""
        clients = [node.submit(key="k") for node in self.nodes]
        self.cluster.settle()
        clients += [node.submit(key="k") for node in self.nodes]
        self.finish(self.nodes[1])
        for client in clients:
            self.assert_result(client, result_of("1"))

    def test_result_of_a_key_is_replayed_by_every_node(self) -> None:
        """A client that sends the key of an ended job to any node gets its result again."""
        first = self.nodes[0].submit(key="k")
        self.finish(self.nodes[0])
        self.assert_result(first, result_of("1"))
        for node in self.nodes:
            client = node.submit(key="k")
            self.cluster.settle()
            self.assert_result(client, result_of("1"), is_replayed=True)
        self.assertEqual(len(self.starts), 1)

    def test_key_of_another_job_is_refused_by_every_node(self) -> None:
        """Another job with the same key is refused by every node."""
        self.nodes[0].submit(key="k")
        for node in self.nodes:
            other = node.submit(key="k", number=1)
            self.cluster.settle()
            self.assert_problem(other.response, 422, "idempotency-key-reused")
        self.finish(self.nodes[2])
        for node in self.nodes:
            other = node.submit(key="k", number=1)
            self.assert_problem(other.response, 422, "idempotency-key-reused")

    def test_one_of_different_jobs_with_one_key_is_started(self) -> None:
        """Of different jobs that are sent at once with the same key, only one is accepted."""
        self.cluster.set_latency(0.1)
        clients = [node.submit(key="k", number=n) for n, node in enumerate(self.nodes)]
        for _ in range(12):
            self.clock.advance(0.1)
        refused = [client for client in clients if not client.is_held]
        for client in refused:
            self.assert_problem(client.response, 422, "idempotency-key-reused")
        self.assertEqual(len(refused), 2)
        self.finish(self.nodes[0])
        (accepted,) = (client for client in clients if client not in refused)
        self.assert_result(accepted, result_of("1"))

    def test_key_of_another_account_is_another_key(self) -> None:
        """Keys of different accounts have nothing to do with each other."""
        self.nodes[0].submit("account 1", key="k").leave()
        self.nodes[1].submit("account 2", key="k").leave()
        self.assertEqual(len(self.starts), 2)
        for start in self.starts:
            start.ack()

    def test_key_of_a_job_that_was_not_started_is_free(self) -> None:
        """A key whose job was certainly not started is free again at every node."""
        for node in self.nodes:
            client = self.nodes[0].submit(key=f"k-{node.name}")
            self.starts[-1].respond(b"", 409)
            self.assert_problem(client.response, 409, "upstream-rejected")
            self.cluster.settle()
            again = node.submit(key=f"k-{node.name}")
            self.starts[-1].respond(result_of("1"))
            self.assert_result(again, result_of("1"))
            self.clock.advance(302)
        self.assertEqual(len(self.starts), 6)

    def test_joined_client_can_retry_a_job_that_was_not_started(self) -> None:
        """A client that joined at another node gets a problem if the job was not started."""
        self.nodes[0].submit(key="k")
        joined = self.nodes[1].submit(key="k")
        self.cluster.settle()
        self.starts[0].respond(b"", 409)
        self.cluster.settle()
        problem = self.assert_problem(joined.response, 503, "upstream-unreachable")
        self.assertEqual(joined.response.headers["retry-after"], "1")
        self.assertEqual(problem["job"], self.starts[0].job_id)
        again = self.nodes[1].submit(key="k")
        self.cluster.settle()
        self.starts[1].respond(result_of("1"))
        self.assert_result(again, result_of("1"))

    def test_key_starts_nothing_once_its_result_is_forgotten(self) -> None:
        """L8: once a result is no longer retained, its key still starts nothing, at any node."""
        self.nodes[0].submit(key="k")
        self.starts[0].ack("1")
        self.nodes[0].call_back(self.starts[0], result_of("1"))
        self.clock.advance(302)
        for node in self.nodes:
            again = node.submit(key="k")
            other = node.submit(key="k", number=1)
            self.cluster.settle()
            gone = self.assert_problem(again.response, 409, "result-gone", started="yes")
            self.assertEqual(gone["job"], self.starts[0].job_id)
            self.assert_problem(other.response, 422, "idempotency-key-reused")
        self.assertEqual(len(self.starts), 1)
        self.clock.advance(LIFETIME)
        again = self.nodes[1].submit(key="k")
        self.cluster.settle()
        self.starts[1].respond(result_of("2"))
        self.assert_result(again, result_of("2"))

    def test_key_starts_nothing_once_its_node_is_dead_and_its_result_forgotten(self) -> None:
        """L8: nor when the node that started its job is dead; the client need not wait for that."""
        self.nodes[0].submit(key="k")
        self.starts[0].respond(result_of("1"))
        self.nodes[0].kill()
        self.clock.advance(302)
        again = self.nodes[1].submit(key="k")
        self.cluster.settle()
        self.assert_problem(again.response, 409, "result-gone", started="yes")
        self.assertEqual(len(self.starts), 1)

    def test_result_that_its_own_node_has_forgotten_is_replayed_from_the_store(self) -> None:
        """L8: a result that its node had no more room for is replayed from the store."""
        self.nodes[0].submit(key="k")
        self.starts[0].respond(result_of("1"))
        record = self.nodes[0].table.find(self.starts[0].job_id)
        assert record is not None
        self.nodes[0].table.retention.move(record, None)
        self.nodes[0].table._forget(record)
        for node in self.nodes:
            again = node.submit(key="k")
            self.cluster.settle()
            self.assert_result(again, result_of("1"), is_replayed=True)
        self.assertEqual(len(self.starts), 1)

    def test_joined_client_has_a_deadline_of_its_own(self) -> None:
        """A client that joined at another node has its own deadline, and gets the job id."""
        self.nodes[0].submit(key="k")
        unknown = self.nodes[1].submit(key="k", Prefer="wait=1")
        self.cluster.settle()
        self.clock.advance(1)
        problem = self.assert_problem(unknown.response, 504, "start-unknown", started="unknown")
        self.assertEqual(problem["job"], self.starts[0].job_id)
        self.starts[0].ack("1")
        self.cluster.settle()
        known = self.nodes[1].submit(key="k", Prefer="wait=1")
        self.cluster.settle()
        self.clock.advance(1)
        problem = self.assert_problem(known.response, 504, "wait-over", started="yes")
        self.assertEqual(problem["job"], self.starts[0].job_id)
        last = self.nodes[2].submit(key="k")
        self.cluster.settle()
        self.nodes[2].call_back(self.starts[0], result_of("1"))
        self.cluster.settle()
        self.assert_result(last, result_of("1"))

    def test_respond_async_gets_the_ack_at_any_node(self) -> None:
        """A client that asks only for the ack gets it at any node, as soon as it is there."""
        clients = [node.submit(key="k", Prefer="respond-async") for node in self.nodes]
        self.cluster.settle()
        self.starts[0].ack("1")
        self.cluster.settle()
        clients += [node.submit(key="k", Prefer="respond-async") for node in self.nodes]
        self.cluster.settle()
        for client in clients:
            self.assertEqual(client.response.status, 202)
            self.assertEqual(client.response.json, {"state": "running", "id": "1"})
        self.nodes[1].call_back(self.starts[0], result_of("1"))
        self.cluster.settle()
        for client, node in zip(clients, 2 * self.nodes, strict=True):
            poll = node.poll(client.response.headers["location"].removeprefix("/jobs/"))
            self.cluster.settle()
            self.assert_result(poll, result_of("1"))

    def test_node_without_the_claim_gets_the_ack_of_the_owner(self) -> None:
        """A client of a node that did not get the claim gets the ack of the owner."""
        self.cluster.set_latency(0.1)
        clients = [node.submit(key="k", Prefer="respond-async") for node in self.nodes]
        for _ in range(10):
            self.clock.advance(0.1)
        self.starts[0].ack("1")
        for _ in range(10):
            self.clock.advance(0.1)
        for client in clients:
            self.assertEqual(client.response.status, 202)
        self.finish_running()
        self.assertEqual(self.nodes[0].list_orphans(), [])

    def finish_running(self) -> None:
        self.nodes[0].send_callback(self.starts[0], result_of("1"))
        for node in self.nodes:
            node.store.latency = 0
        self.cluster.settle()
        self.clock.advance(1)

    def test_result_is_no_orphan_when_a_joined_client_left(self) -> None:
        """A result that one client got is no orphan, although another left at another node."""
        self.cluster.set_latency(0.1)
        clients = [node.submit(key="k") for node in self.nodes]
        for _ in range(10):
            self.clock.advance(0.1)
        clients[1].leave()
        clients[2].leave()
        self.starts[0].ack("1")
        self.finish_running()
        self.assert_result(clients[0], result_of("1"))
        self.assertEqual(self.nodes[0].list_orphans(), [])


class QueuedTests(ClusterTestCase):
    """Keys of queued jobs, and of jobs whose owner dies."""

    settings = {"starts_per_account": 1}

    def test_job_queued_at_one_node_is_started_by_another(self) -> None:
        """A job that is queued at one node is started by another node that has a slot."""
        self.nodes[0].submit()
        first = self.nodes[0].submit(key="k")
        second = self.nodes[1].submit(key="k")
        self.assertEqual(len(self.starts), 2)
        self.starts[0].respond(result_of("0"))
        self.assertEqual(len(self.starts), 2)
        self.starts[1].ack("1")
        self.nodes[0].call_back(self.starts[1], result_of("1"))
        self.cluster.settle()
        for client in (first, second):
            self.assert_result(client, result_of("1"))
        self.assertEqual(len(self.nodes[0].limiter), 0)

    def test_queued_job_of_a_dead_node_is_started_once_elsewhere(self) -> None:
        """B15: a job that was queued at a node that died is started by another node, once."""
        self.nodes[0].submit()
        self.nodes[0].submit(key="k")
        self.nodes[0].kill()
        clients = [node.submit(key="k") for node in self.nodes[1:]]
        self.cluster.settle()
        self.assertEqual(len(self.starts), 2)
        self.starts[1].ack("1")
        self.nodes[2].call_back(self.starts[1], result_of("1"))
        self.cluster.settle()
        for client in clients:
            self.assert_result(client, result_of("1"))

    def test_started_job_of_a_dead_node_is_not_started_again(self) -> None:
        """B15: a job whose node died is not started again; the next client gets its result."""
        self.nodes[0].submit(key="k")
        before = self.nodes[1].submit(key="k")
        self.cluster.settle()
        self.starts[0].ack("1")
        self.nodes[0].kill()
        after = [node.submit(key="k") for node in self.nodes[1:]]
        self.cluster.settle()
        self.assertEqual(len(self.starts), 1)
        self.nodes[2].call_back(self.starts[0], result_of("1"))
        self.cluster.settle()
        for client in (before, *after):
            self.assert_result(client, result_of("1"))
        self.assertEqual(self.nodes[1].list_orphans(), [])

    def test_result_that_a_dead_node_did_not_read_is_replayed(self) -> None:
        """B15: a result that was sent to its node, but never read, is there for the next client."""
        self.nodes[0].submit(key="k")
        joined = self.nodes[1].submit(key="k", Prefer="wait=5")
        self.cluster.settle()
        self.starts[0].ack("1")
        self.cluster.settle()
        receipt = self.nodes[2].call_back(self.starts[0], result_of("1"))
        self.assertEqual(receipt.json, {"status": "accepted"})
        self.nodes[0].kill()
        self.clock.advance(5)
        self.assert_problem(joined.response, 504, "wait-over", started="yes")
        again = self.nodes[1].submit(key="k")
        self.cluster.settle()
        self.assert_result(again, result_of("1"), is_replayed=True)
        poll = self.nodes[1].poll(self.starts[0].job_id)
        self.assert_result(poll, result_of("1"))


class WithdrawnTests(ClusterTestCase):
    """Jobs that their owner has not started after all."""

    settings = {"starts_per_account": 1}

    def begin(self) -> Client:
        """Return a client of a job that the job server has put off."""
        client = self.nodes[0].submit(key="k")
        self.starts.pop().respond(b"", 429, Retry_After="5")
        return client

    def check_key_is_free(self, *nodes: Node) -> None:
        for node in nodes:
            again = node.submit(key="k")
            self.cluster.settle()
            (start,) = self.starts
            start.respond(b"", 409)
            self.starts.clear()
            self.assert_problem(again.response, 409, "upstream-rejected")
            self.cluster.settle()

    def test_key_is_free_when_the_client_of_the_job_leaves(self) -> None:
        """X3: a job that was put off and whose client leaves frees its key for those who joined."""
        first = self.begin()
        joined = [node.submit(key="k") for node in self.nodes[1:]]
        self.cluster.settle()
        first.leave()
        self.cluster.settle()
        for client in joined:
            self.assert_problem(client.response, 503, "upstream-unreachable")
        self.check_key_is_free(*self.nodes[1:])

    def check_free_without_message(self, *, dies: bool) -> None:
        """Check that the key is free for those who joined, although they got no message."""
        first = self.begin()
        joined = [node.submit(key="k") for node in self.nodes[1:]]
        self.cluster.settle()
        for node in self.nodes[1:]:
            node.store.loses_messages = True
        first.leave()
        if dies:
            self.nodes[0].kill()
        self.cluster.settle()
        for node in self.nodes[1:]:
            node.store.loses_messages = False
        self.assertTrue(all(client.is_held for client in joined))
        self.check_key_is_free(*self.nodes[1:])

    def test_key_is_free_although_the_message_was_lost(self) -> None:
        """X3: also if the nodes of those who joined do not get the message."""
        self.check_free_without_message(dies=False)

    def test_key_is_free_although_its_node_died(self) -> None:
        """X3: also if the node of the job dies after that."""
        self.check_free_without_message(dies=True)

    def test_follower_ends_when_its_leader_is_withdrawn(self) -> None:
        """X3: a client whose job follows one that is withdrawn gets a problem at once."""
        self.cluster.set_latency(0.1)
        clients = [node.submit(key="k") for node in self.nodes]
        self.clock.pump([0.1] * 10)
        (start,) = self.starts
        self.starts.clear()
        start.respond(b"", 429, Retry_After="20")
        clients[0].leave()
        self.clock.pump([0.1] * 10)
        for client in clients[1:]:
            self.assert_problem(client.response, 503, "upstream-unreachable")
        self.cluster.set_latency(0)
        self.check_key_is_free(*self.nodes[1:])

    def test_nobody_watches_a_job_that_failed_and_is_forgotten(self) -> None:
        """X3: a job that others wait for follows one that gets no callback; all is forgotten."""
        first = self.nodes[1].submit(key="k")
        joined = self.nodes[0].submit(key="k")
        self.cluster.settle()
        self.starts[0].respond(b"", 429, Retry_After="1")
        self.cluster.shared.lose_data()
        again = self.nodes[2].submit(key="k")
        self.cluster.settle()
        self.clock.advance(1)
        self.starts[1].ack("1")
        for client in (first, joined, again):
            self.assertTrue(client.is_held)
            client.leave()

    def test_job_that_is_to_be_sent_again_keeps_its_key(self) -> None:
        """X3: also if the store loses all data meanwhile: no other node starts it."""
        client = self.nodes[0].submit(key="k", Prefer="wait=3")
        self.starts[0].respond(b"", 503, Retry_After="2")
        self.cluster.shared.lose_data()
        self.cluster.settle()
        other = self.nodes[1].submit(key="k")
        self.cluster.settle()
        self.assertEqual(len(self.starts), 1)
        self.clock.advance(2)
        self.starts[1].respond(result_of("1"))
        self.cluster.settle()
        self.assert_result(client, result_of("1"))
        self.assert_result(other, result_of("1"))

    def test_unknown_if_the_same_job_may_run_elsewhere(self) -> None:
        """X3: no client gets ``started: no`` while the job of its key runs at another node."""
        first = self.nodes[0].submit()
        queued = self.nodes[0].submit(key="k", Prefer="wait=1")
        self.nodes[1].submit(key="k")
        self.clock.advance(1)
        self.assert_problem(queued.response, 504, "wait-over", started="unknown")
        self.starts[0].respond(result_of("0"))
        self.assert_result(first, result_of("0"))
        self.starts[1].respond(result_of("1"))


class ClaimTests(ClusterTestCase):
    """Clients that leave, and nodes that drain, during the claim of a key."""

    def submit(self, steps: int) -> Client:
        """Send a job over a slow network as a client, and pass some steps of time."""
        self.cluster.set_latency(0.1)
        client = self.nodes[0].submit(key=f"k{steps}")
        for _ in range(steps):
            self.clock.advance(0.1)
        return client

    def test_client_that_leaves_before_the_start_frees_its_key(self) -> None:
        """B15: a client that leaves before its job is started frees its key, at any time."""
        for steps in range(4):
            self.submit(steps).leave()
            for _ in range(10):
                self.clock.advance(0.1)
            self.assertEqual(self.starts, [])
            self.assertEqual(len(self.nodes[0].limiter), 0)
            self.cluster.set_latency(0)
            again = self.nodes[1].submit(key=f"k{steps}")
            self.cluster.settle()
            self.starts.pop().respond(result_of("1"))
            self.assert_result(again, result_of("1"))

    def test_deadline_during_the_claim_ends_the_job_unstarted(self) -> None:
        """A deadline that passes while the claim is made ends the job before its start."""
        self.cluster.set_latency(0.6)
        client = self.nodes[0].submit(key="k", Prefer="wait=1")
        for _ in range(26):
            self.clock.advance(0.1)
        self.assert_problem(client.response, 504, "wait-over", started="unknown")
        self.clock.advance(2)
        self.assertEqual(self.starts, [])

    def test_draining_node_starts_no_job_with_a_new_claim(self) -> None:
        """A node that drains starts no job whose claim it has just got."""
        client = self.submit(3)
        self.nodes[0].gateway.drain()
        self.clock.pump([0.1] * 10)
        self.assert_problem(client.response, 503, "draining")
        self.cluster.set_latency(0)
        self.clock.advance(1)
        self.assertEqual(self.starts, [])
        again = self.nodes[1].submit(key="k3")
        self.cluster.settle()
        self.starts[0].respond(result_of("1"))
        self.assert_result(again, result_of("1"))
