"""Nodes whose store cannot be reached, has lost everything, or lost messages."""

from typing import Any

from tests.support.clients import Client
from tests.support.cluster import ClusterTestCase
from tests.support.job_server import Start
from tests.support.proxy import result_of


class StoreAwayTests(ClusterTestCase):
    """Jobs while no node reaches the store, and once the nodes reach it again."""

    def start(self, key: str | None = None, **headers: Any) -> tuple[Client, Start]:
        """Start a job at the first node."""
        client = self.nodes[0].submit(key=key, **headers)
        self.starts[-1].ack("1")
        self.cluster.settle()
        return client, self.starts[-1]

    def test_jobs_without_a_key_need_no_store(self) -> None:
        """X1: jobs without a key, whose callback comes to their own node, need no store."""
        before, start = self.start()
        self.cluster.go_away()
        during, other = self.start()
        for client, its_start in ((before, start), (during, other)):
            receipt = self.nodes[0].call_back(its_start, result_of("1"))
            self.assertEqual(receipt.json, {"status": "accepted"})
            self.assert_result(client, result_of("1"))
        self.cluster.come_back()

    def test_result_of_a_key_reaches_other_nodes_once_the_store_is_back(self) -> None:
        """X1: a client gets the result of its key at once, other nodes once the store is back."""
        client, start = self.start(key="k")
        self.cluster.go_away()
        self.nodes[0].call_back(start, result_of("1"))
        self.assert_result(client, result_of("1"))
        self.cluster.come_back()
        self.cluster.settle()
        again = self.nodes[1].submit(key="k")
        self.cluster.settle()
        self.assert_result(again, result_of("1"), is_replayed=True)
        self.nodes[0].kill()
        self.assert_result(self.nodes[2].submit(key="k"), result_of("1"), is_replayed=True)
        self.assertEqual(len(self.starts), 1)

    def test_callback_of_another_node_is_refused_while_the_store_is_away(self) -> None:
        """X1: another node's callback is refused, and accepted when it is sent again."""
        client, start = self.start()
        self.cluster.go_away()
        response = self.nodes[1].call_back(start, result_of("1"))
        self.assert_problem(response, 503, "store-unreachable", started="yes")
        self.assertEqual(response.headers["retry-after"], "1")
        self.assertTrue(client.is_held)
        self.cluster.come_back()
        response = self.nodes[1].call_back(start, result_of("1"))
        self.assertEqual(response.json, {"status": "accepted"})
        self.cluster.settle()
        self.assert_result(client, result_of("1"))

    def test_new_key_is_refused_and_a_known_one_joins_its_job(self) -> None:
        """X1: a new key is refused, a key known here joins its job; nothing is started twice."""
        client, start = self.start(key="known")
        joined = self.nodes[1].submit(key="known")
        self.cluster.settle()
        self.cluster.go_away()
        for node in self.nodes:
            new = node.submit(key="new")
            self.assert_problem(new.response, 503, "store-unreachable", started="unknown")
            self.assertEqual(new.response.headers["retry-after"], "1")
        known = [node.submit(key="known") for node in self.nodes[:2]]
        elsewhere = self.nodes[2].submit(key="known")
        self.assert_problem(elsewhere.response, 503, "store-unreachable", started="unknown")
        self.nodes[0].call_back(start, result_of("1"))
        self.cluster.come_back()
        self.cluster.settle()
        for waiting in (client, joined, *known):
            self.assert_result(waiting, result_of("1"))
        self.assertEqual(len(self.starts), 1)

    def test_job_whose_claim_may_be_lost_is_not_started(self) -> None:
        """X1: a job whose claim may have been lost is not started, and its key is free."""
        for steps in range(4):
            for loses_requests in (True, False):
                key = f"{steps}-{loses_requests}"
                self.cluster.set_latency(0.1)
                self.nodes[0].store.loses_requests = loses_requests
                client = self.nodes[0].submit(key=key)
                for _ in range(steps):
                    self.clock.advance(0.1)
                self.cluster.go_away()
                self.clock.advance(2)
                self.assert_problem(client.response, 503, "store-unreachable", started="unknown")
                self.assertEqual(self.starts, [])
                self.cluster.set_latency(0)
                self.cluster.come_back()
                self.clock.advance(1)
                again = self.nodes[1].submit(key=key)
                self.cluster.settle()
                self.starts.pop().respond(result_of("1"))
                self.assert_result(again, result_of("1"))

    def test_polls_need_the_store_for_unknown_jobs_only(self) -> None:
        """X1: a node responds to polls of the jobs that it knows, and refuses all others."""
        client, start = self.start()
        job_id = start.job_id
        self.nodes[1].poll(job_id)
        self.cluster.settle()
        self.cluster.go_away()
        self.assertEqual(
            [node.poll(job_id).response.status for node in self.nodes], [202, 202, 503]
        )
        self.cluster.come_back()
        self.nodes[0].call_back(start, result_of("1"))
        self.assert_result(client, result_of("1"))

    def test_orphan_is_listed_everywhere_once_the_store_is_back(self) -> None:
        """X1: an orphan is listed by its own node, and by every node once the store is back."""
        client, start = self.start()
        client.leave()
        self.cluster.go_away()
        self.nodes[0].call_back(start, result_of("1"))
        for node, job_ids in ((self.nodes[0], [start.job_id]), (self.nodes[1], [])):
            listing = node.operate().get("/orphans").response.json
            self.assertEqual([each["job"] for each in listing["orphans"]], job_ids)
            self.assertIs(listing["partial"], True)
        shown = self.nodes[0].operate().get(f"/orphans/{start.job_id}").response
        self.assertEqual(shown.body, result_of("1"))
        shown = self.nodes[1].operate().get(f"/orphans/{start.job_id}").response
        self.assert_problem(shown, 503, "store-unreachable", started="unknown")
        self.cluster.come_back()
        self.cluster.settle()
        for node in self.nodes:
            self.assertEqual(node.list_orphans(), [start.job_id])

    def test_clients_elsewhere_get_the_result_once_the_store_is_back(self) -> None:
        """X1: clients at other nodes get the result once the owner reaches the store again."""
        _, start = self.start(key="k")
        joined = self.nodes[1].submit(key="k")
        poll = self.nodes[2].poll(start.job_id, Prefer="wait=20")
        self.cluster.settle()
        self.nodes[0].store.go_away()
        self.nodes[0].call_back(start, result_of("1"))
        self.cluster.settle()
        self.assertTrue(joined.is_held and poll.is_held)
        self.nodes[0].store.come_back()
        self.cluster.settle()
        self.assert_result(joined, result_of("1"))
        self.assert_result(poll, result_of("1"))

    def test_clients_elsewhere_get_the_problem_once_the_store_is_back(self) -> None:
        """X1: clients at other nodes get the problem of a job that was not started, too."""
        client = self.nodes[0].submit(key="k")
        joined = self.nodes[1].submit(key="k")
        self.cluster.settle()
        self.nodes[0].store.go_away()
        self.starts[0].respond(b"", 409)
        self.assert_problem(client.response, 409, "upstream-rejected")
        self.nodes[0].store.come_back()
        self.cluster.settle()
        self.assert_problem(joined.response, 503, "upstream-unreachable")
        again = self.nodes[2].submit(key="k")
        self.cluster.settle()
        self.starts[1].respond(result_of("1"))
        self.assert_result(again, result_of("1"))


class GapTests(ClusterTestCase):
    """Messages that were lost while a node could not receive."""

    def test_result_that_its_node_missed_is_found(self) -> None:
        """X2: a result that its node did not receive is found once the node receives again."""
        for is_gone in (True, False):
            client = self.nodes[0].submit()
            start = self.starts[-1]
            start.ack("1")
            if is_gone:
                self.nodes[0].store.go_away()
            receipt = self.nodes[1].call_back(start, result_of("1"))
            self.assertEqual(receipt.json, {"status": "late" if is_gone else "accepted"})
            # The message is on its way, and is lost with the connection.
            self.nodes[0].store.go_away()
            self.cluster.settle()
            self.assertTrue(client.is_held)
            self.nodes[0].store.come_back()
            self.cluster.settle()
            self.assert_result(client, result_of("1"))
            self.assertEqual(self.nodes[1].list_orphans(), [])

    def test_orphan_that_its_node_missed_stays_one(self) -> None:
        """X2: an orphan that its node did not receive stays one."""
        client = self.nodes[0].submit()
        self.starts[0].ack("1")
        client.leave()
        self.nodes[0].store.go_away()
        self.nodes[1].call_back(self.starts[0], result_of("1"))
        self.nodes[0].store.come_back()
        self.cluster.settle()
        self.assertEqual(self.nodes[1].list_orphans(), [self.starts[0].job_id])

    def test_end_of_another_nodes_job_is_found(self) -> None:
        """X2: the end of another node's job, for which clients here wait, is found."""
        self.nodes[0].submit(key="k")
        self.nodes[0].submit(key="l")
        self.starts[0].ack("1")
        joined = self.nodes[1].submit(key="k")
        poll = self.nodes[1].poll(self.starts[0].job_id, Prefer="wait=20")
        refused = self.nodes[1].submit(key="l")
        self.cluster.settle()
        self.nodes[1].store.go_away()
        self.nodes[0].call_back(self.starts[0], result_of("1"))
        self.starts[1].respond(b"", 409)
        self.cluster.settle()
        self.nodes[1].store.come_back()
        self.cluster.settle()
        self.assert_result(joined, result_of("1"))
        self.assert_result(poll, result_of("1"))
        self.assert_problem(refused.response, 503, "upstream-unreachable")


class EmptyStoreTests(ClusterTestCase):
    """A store that comes back empty."""

    def lose_everything(self) -> None:
        self.cluster.go_away()
        self.cluster.come_back(is_empty=True)
        self.cluster.settle()

    def test_nodes_claim_again_what_they_have_started(self) -> None:
        """X1: nodes claim again what they have started, so that nothing is started twice."""
        self.cluster.set_latency(0.1)
        clients = [node.submit(key="k") for node in self.nodes]
        for _ in range(10):
            self.clock.advance(0.1)
        self.cluster.set_latency(0)
        self.starts[0].ack("1")
        self.cluster.settle()
        owner = self.starts[0].job_id[8:16]
        self.lose_everything()
        # Nodes that only joined the job have nothing to claim, and can die.
        for node in self.nodes:
            if node.name != owner:
                node.kill()
                self.cluster.replace(node)
        new = [node for node in self.nodes if node.name != owner]
        clients = [client for client in clients if client.is_held]
        clients += [node.submit(key="k") for node in new]
        self.cluster.settle()
        self.assertEqual(len(self.starts), 1)
        new[0].call_back(self.starts[0], result_of("1"))
        self.cluster.settle()
        self.assertEqual(len(clients), 3)
        for client in clients:
            self.assert_result(client, result_of("1"))

    def test_result_that_its_node_still_retains_is_replayed(self) -> None:
        """X1: a result that its node still retains is replayed by every node."""
        self.nodes[0].submit(key="k")
        self.starts[0].respond(result_of("1"))
        self.lose_everything()
        for node in self.nodes:
            again = node.submit(key="k")
            self.cluster.settle()
            self.assert_result(again, result_of("1"), is_replayed=True)
        self.clock.advance(302)
        self.lose_everything()
        again = self.nodes[1].submit(key="k")
        self.cluster.settle()
        self.assert_problem(again.response, 409, "result-gone", started="yes")
