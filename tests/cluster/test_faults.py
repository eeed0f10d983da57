"""Nodes whose store goes away, forgets, or loses what they say."""

from typing import Any

from tests.support.cluster import ClusterTestCase, job_id_of
from tests.support.job_server import Start
from tests.support.proxy import Client, result_of


class StoreAwayTests(ClusterTestCase):
    """What goes on while nobody reaches the store, and what once somebody does again."""

    def start(self, key: str | None = None, **headers: Any) -> tuple[Client, Start]:
        """Have the first node start a job."""
        client = self.nodes[0].submit(key=key, **headers)
        self.starts[-1].ack("1")
        self.cluster.settle()
        return client, self.starts[-1]

    def test_own_callbacks(self) -> None:
        """X1: jobs without a key, whose callback comes to their own node, notice nothing."""
        before, start = self.start()
        self.cluster.go_away()
        during, other = self.start()
        for client, of in ((before, start), (during, other)):
            receipt = self.nodes[0].call_back(of, result_of("1"))
            self.assertEqual(receipt.json, {"status": "accepted"})
            self.assert_result(client, result_of("1"))
        self.cluster.come_back()

    def test_own_callback_with_a_key(self) -> None:
        """X1: a keyed job's client gets its result; other nodes know it once the store is back."""
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

    def test_callbacks_of_others(self) -> None:
        """X1: another node's callback is refused, and taken when it is sent again."""
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

    def test_keys(self) -> None:
        """X1: a new key is refused, one that is known here is not; nothing is started twice."""
        client, start = self.start(key="known")
        mirrored = self.nodes[1].submit(key="known")
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
        for waiting in (client, mirrored, *known):
            self.assert_result(waiting, result_of("1"))
        self.assertEqual(len(self.starts), 1)

    def test_goes_while_the_claim_is_asked_for(self) -> None:
        """X1: a job whose claim may or may not have been made is not started, and its key free."""
        for steps in range(4):
            for loses in (True, False):
                self.cluster.set_latency(0.1)
                self.nodes[0].store.loses_questions = loses
                client = self.nodes[0].submit(key="k")
                for _ in range(steps):
                    self.clock.advance(0.1)
                self.cluster.go_away()
                self.clock.advance(2)
                self.assert_problem(client.response, 503, "store-unreachable", started="unknown")
                self.assertEqual(self.starts, [])
                self.cluster.set_latency(0)
                self.cluster.come_back()
                self.clock.advance(1)
                again = self.nodes[1].submit(key="k")
                self.cluster.settle()
                self.starts.pop().respond(result_of("1"))
                self.assert_result(again, result_of("1"))
                self.clock.advance(302)

    def test_polls(self) -> None:
        """X1: a node tells of what it knows, and refuses to tell of the rest."""
        client, start = self.start()
        job_id = job_id_of(start)
        self.nodes[1].poll(job_id)
        self.cluster.settle()
        self.cluster.go_away()
        self.assertEqual(
            [node.poll(job_id).response.status for node in self.nodes], [202, 202, 503]
        )
        self.cluster.come_back()
        self.nodes[0].call_back(start, result_of("1"))
        self.assert_result(client, result_of("1"))

    def test_orphan(self) -> None:
        """X1: a result that nobody waited for is listed everywhere once the store is back."""
        client, start = self.start()
        client.leave()
        self.cluster.go_away()
        self.nodes[0].call_back(start, result_of("1"))
        listing = self.nodes[1].operate().get("/orphans").response
        self.assert_problem(listing, 503, "store-unreachable", started="unknown")
        self.cluster.come_back()
        self.cluster.settle()
        for node in self.nodes:
            self.assertEqual(node.list_orphans(), [job_id_of(start)])

    def test_untold_watcher(self) -> None:
        """X1: who waits at another node is told once the job's own node reaches the store again."""
        _, start = self.start(key="k")
        joined = self.nodes[1].submit(key="k")
        poll = self.nodes[2].poll(job_id_of(start), Prefer="wait=20")
        self.cluster.settle()
        self.nodes[0].store.go_away()
        self.nodes[0].call_back(start, result_of("1"))
        self.cluster.settle()
        self.assertTrue(joined.is_held and poll.is_held)
        self.nodes[0].store.come_back()
        self.cluster.settle()
        self.assert_result(joined, result_of("1"))
        self.assert_result(poll, result_of("1"))

    def test_untold_end(self) -> None:
        """X1: so is who waits for a job that turned out not to be started; its key is free."""
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
    """Messages that were lost while a node could not hear."""

    def test_result(self) -> None:
        """X2: a result that came while its node could not hear is found when it hears again."""
        for is_gone in (True, False):
            client = self.nodes[0].submit()
            start = self.starts[-1]
            start.ack("1")
            if is_gone:
                self.nodes[0].store.go_away()
            receipt = self.nodes[1].call_back(start, result_of("1"))
            self.assertEqual(receipt.json, {"status": "late" if is_gone else "accepted"})
            # What was said is on its way, and is lost with the connection.
            self.nodes[0].store.go_away()
            self.cluster.settle()
            self.assertTrue(client.is_held)
            self.nodes[0].store.come_back()
            self.cluster.settle()
            self.assert_result(client, result_of("1"))
            self.assertEqual(self.nodes[1].list_orphans(), [])

    def test_orphan(self) -> None:
        """X2: an orphan that came meanwhile stays one."""
        client = self.nodes[0].submit()
        self.starts[0].ack("1")
        client.leave()
        self.nodes[0].store.go_away()
        self.nodes[1].call_back(self.starts[0], result_of("1"))
        self.nodes[0].store.come_back()
        self.cluster.settle()
        self.assertEqual(self.nodes[1].list_orphans(), [job_id_of(self.starts[0])])

    def test_watched(self) -> None:
        """X2: so is the end of another node's job that clients here wait for."""
        self.nodes[0].submit(key="k")
        self.nodes[0].submit(key="l")
        self.starts[0].ack("1")
        joined = self.nodes[1].submit(key="k")
        poll = self.nodes[1].poll(job_id_of(self.starts[0]), Prefer="wait=20")
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


class ForgottenTests(ClusterTestCase):
    """A store that comes back without anything that it knew."""

    def forget(self) -> None:
        self.cluster.go_away()
        self.cluster.come_back(is_empty=True)
        self.cluster.settle()

    def test_claims(self) -> None:
        """X1: nodes claim again what they have started, so that nothing is started twice."""
        self.cluster.set_latency(0.1)
        clients = [node.submit(key="k") for node in self.nodes]
        for _ in range(10):
            self.clock.advance(0.1)
        self.cluster.set_latency(0)
        self.starts[0].ack("1")
        self.cluster.settle()
        owner = job_id_of(self.starts[0])[8:16]
        self.forget()
        # Who only follows has nothing to claim, and can go.
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

    def test_results(self) -> None:
        """X1: a result that its node still has is told to whoever sends its key again."""
        self.nodes[0].submit(key="k")
        self.starts[0].respond(result_of("1"))
        self.forget()
        for node in self.nodes:
            again = node.submit(key="k")
            self.cluster.settle()
            self.assert_result(again, result_of("1"), is_replayed=True)
        self.clock.advance(302)
        again = self.nodes[1].submit(key="k")
        self.cluster.settle()
        self.starts[1].respond(result_of("2"))
        self.assert_result(again, result_of("2"))


class ObservingTests(ClusterTestCase):
    """What an operator sees of the other nodes."""

    def test_ready(self) -> None:
        """X1: a node is ready once it has joined, and stays so when the store goes."""
        node = self.cluster.add_node()
        not_ready = node.operate().get("/readyz").response
        self.assertEqual(not_ready.status, 503)
        self.assertEqual(not_ready.json["reasons"], ["store-unreachable"])
        self.assertEqual(node.read_metric("jobproxy_store_up"), 0)
        node.start()
        self.assertEqual(node.operate().get("/readyz").response.status, 200)
        self.assertEqual(node.read_metric("jobproxy_store_up"), 1)
        node.store.go_away()
        self.assertEqual(node.operate().get("/readyz").response.status, 200)
        self.assertEqual(node.read_metric("jobproxy_store_up"), 0)

    def test_relays(self) -> None:
        """Callbacks of other nodes' jobs are counted by what became of them, each once."""
        node = self.nodes[1]
        self.nodes[0].submit()
        start = self.starts[0]
        start.ack("1")
        bodies = [b"{", result_of("1", "running"), result_of("1"), result_of("1")]
        for body in (*bodies, result_of("1", "failed")):
            node.call_back(start, body)
            self.cluster.settle()
        self.nodes[0].submit()
        self.starts[1].ack("1")
        self.nodes[0].kill()
        node.store.go_away()
        node.call_back(self.starts[1], result_of("1"))
        node.store.come_back()
        node.call_back(self.starts[1], result_of("1"))
        expected = {
            "progress": 1,
            "taken": 1,
            "duplicate": 1,
            "conflict": 1,
            "store-unreachable": 1,
            "orphaned": 1,
        }
        for result, count in expected.items():
            name = f'jobproxy_relays_total{{result="{result}"}}'
            self.assertEqual(node.read_metric(name), count)
        malformed = 'jobproxy_callbacks_total{result="malformed"}'
        self.assertEqual(node.read_metric(malformed), 1)

    def test_gaps(self) -> None:
        """X2: gaps and what was found after them are counted; so is what could not be told."""
        node = self.nodes[0]
        self.assertEqual(self.count(), (1, 0, 0))
        node.submit(key="k")
        self.starts[0].ack("1")
        node.submit()
        self.starts[1].ack("2")
        node.store.go_away()
        node.call_back(self.starts[0], result_of("1"))
        self.assertEqual(self.count(), (1, 0, 1))
        self.nodes[1].call_back(self.starts[1], result_of("2"))
        node.store.come_back()
        self.assertEqual(self.count(), (2, 1, 1))

    def count(self) -> tuple[float, ...]:
        names = ("store_gaps_total", "store_found_total", "unsent_total")
        return tuple(self.nodes[0].read_metric(f"jobproxy_{name}") for name in names)

    def test_calls(self) -> None:
        """X1: what the store was asked is counted by whether it could answer."""
        node = self.nodes[2]
        node.poll("A" * 38)
        ok = node.read_metric('jobproxy_store_calls_total{result="ok"}')
        self.assertGreater(ok, 0)
        node.store.go_away()
        node.poll("A" * 38)
        self.assertEqual(node.read_metric('jobproxy_store_calls_total{result="failed"}'), 1)
        self.assertEqual(node.read_metric('jobproxy_store_calls_total{result="ok"}'), ok)
