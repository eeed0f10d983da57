"""GET /jobs/<job_id> at any node."""

from jobproxy.wire.problems import Kind, Problem
from tests.support.clients import Client
from tests.support.cluster import ClusterTestCase
from tests.support.proxy import result_of


class PollTests(ClusterTestCase):
    """Clients that ask another node than the owner of the job."""

    def poll(self, node: int, job_id: str, **headers: str) -> Client:
        client = self.nodes[node].poll(job_id, **headers)
        self.cluster.settle()
        return client

    def submit(self) -> str:
        """Send a job as a client that does not wait, and return the job id."""
        client = self.nodes[0].submit(Prefer="respond-async")
        self.starts[-1].ack("1")
        return client.response.headers["location"].removeprefix("/jobs/")

    def test_any_node_knows_a_running_job(self) -> None:
        """Any node knows a job that runs, and its upstream id."""
        job_id = self.submit()
        for number in range(3):
            response = self.poll(number, job_id).response
            self.assertEqual(
                (response.status, response.json), (202, {"state": "running", "id": "1"})
            )
        self.nodes[0].call_back(self.starts[0], result_of("1"))
        self.cluster.settle()

    def test_any_node_knows_a_result(self) -> None:
        """Any node knows a result, also of a job whose client was held."""
        self.nodes[0].submit()
        self.starts[0].ack("1")
        self.nodes[0].call_back(self.starts[0], result_of("1"))
        for number in range(3):
            poll = self.poll(number, self.starts[0].job_id)
            self.assert_result(poll, result_of("1"))

    def test_node_polled_before_the_ack_knows_the_upstream_id_after_it(self) -> None:
        """A node that was polled before the ack knows the upstream id after it."""
        client = self.nodes[0].submit()
        job_id = self.starts[0].job_id
        self.assertEqual(self.poll(1, job_id).response.status, 202)
        self.starts[0].ack("1")
        self.cluster.settle()
        self.assertEqual(self.poll(1, job_id).response.json["id"], "1")
        self.nodes[1].call_back(self.starts[0], result_of("1"))
        self.cluster.settle()
        self.assert_result(client, result_of("1"))

    def test_poll_gets_the_result_of_a_job_that_had_failed(self) -> None:
        """A poll at another node gets the result of a job that failed after its start."""
        self.nodes[0].submit()
        job_id = self.starts[0].job_id
        poll = self.poll(1, job_id, Prefer="wait=20")
        record = self.nodes[0].table.find(job_id)
        assert record is not None
        self.nodes[0].table.fail(record, Problem(Kind.INTERNAL, "A bug.", started="unknown"))
        self.cluster.settle()
        self.nodes[0].call_back(self.starts[0], result_of("1"))
        self.cluster.settle()
        self.assert_result(poll, result_of("1"))

    def test_long_poll_gets_the_result_from_any_node(self) -> None:
        """A long poll at any node gets the result, whichever node is called back."""
        for caller in self.nodes:
            job_id = self.submit()
            polls = [self.poll(number, job_id, Prefer="wait=20") for number in range(3)]
            self.assertTrue(all(poll.is_held for poll in polls))
            caller.call_back(self.starts[-1], result_of("1"))
            self.cluster.settle()
            for poll in polls:
                self.assert_result(poll, result_of("1"))

    def test_long_poll_gets_the_state_at_its_deadline(self) -> None:
        """A long poll at another node gets the state at its deadline."""
        job_id = self.submit()
        poll = self.poll(1, job_id, Prefer="wait=3")
        self.clock.advance(3)
        self.assertEqual((poll.response.status, poll.response.json["state"]), (202, "running"))
        self.nodes[1].call_back(self.starts[0], result_of("1"))
        self.cluster.settle()
        self.assert_result(self.poll(1, job_id), result_of("1"))

    def test_job_that_was_not_started_is_not_found_elsewhere(self) -> None:
        """A job that was not started is not known to other nodes, nor after a wait for it."""
        self.nodes[0].submit()
        job_id = self.starts[0].job_id
        waiting = self.poll(1, job_id, Prefer="wait=20")
        self.starts[0].respond(b"", 409)
        self.cluster.settle()
        self.assert_problem(waiting.response, 503, "upstream-unreachable")
        self.assert_problem(self.poll(2, job_id).response, 404, "job-unknown", started="unknown")

    def test_job_id_that_nobody_made_is_not_found(self) -> None:
        """A job id that no node has made is not found."""
        self.submit()
        job_id = self.starts[0].job_id
        other = "B" if job_id.endswith("A") else "A"
        for strange in (job_id[:-1] + other, f"{job_id[:8]}nobody--{job_id[16:]}"):
            self.assert_problem(
                self.poll(1, strange).response, 404, "job-unknown", started="unknown"
            )
        self.nodes[0].call_back(self.starts[0], result_of("1"))

    def test_path_that_is_no_job_id_is_not_found_without_the_store(self) -> None:
        """A path that cannot be a job id is not found, and the store is not asked."""
        calls = dict(self.nodes[1].store.calls)
        for garbage in ("x", 39 * "x", 37 * "x", "a%2Fb", "%00" + 37 * "x", "%C3%BC" + 37 * "x"):
            response = self.poll(1, garbage).response
            self.assertEqual(response.status, 404, garbage)
        self.assertEqual(dict(self.nodes[1].store.calls), calls)

    def test_job_of_a_dead_owner_is_still_known(self) -> None:
        """B15: a job that a client got a Location for is known when its owner is dead."""
        job_id = self.submit()
        before = self.poll(2, job_id, Prefer="wait=20")
        self.nodes[0].kill()
        for number in (1, 2):
            response = self.poll(number, job_id).response
            self.assertEqual((response.status, response.json["id"]), (202, "1"))
        waiting = self.poll(1, job_id, Prefer="wait=20")
        self.nodes[2].call_back(self.starts[0], result_of("1"))
        self.cluster.settle()
        for poll in (before, waiting, self.poll(1, job_id), self.poll(2, job_id)):
            self.assert_result(poll, result_of("1"))
        self.assertEqual(self.nodes[1].list_orphans(), [])

    def test_job_past_its_deadline_is_known_when_its_owner_is_dead(self) -> None:
        """B15: a job whose client got a 504 is known when its owner is dead."""
        client = self.nodes[0].submit(Prefer="wait=5")
        self.starts[0].ack("1")
        self.clock.advance(5)
        problem = self.assert_problem(client.response, 504, "wait-over", started="yes")
        self.nodes[0].kill()
        self.assertEqual(self.poll(1, problem["job"]).response.status, 202)
        self.nodes[2].call_back(self.starts[0], result_of("1"))
        self.cluster.settle()
        self.assert_result(self.poll(1, problem["job"]), result_of("1"))

    def test_job_of_a_stopped_owner_is_not_started_again(self) -> None:
        """A job that was started is not started again when its owner stops."""
        client = self.nodes[0].submit(key="k")
        self.starts[0].ack("1")
        joined = self.nodes[1].submit(key="k")
        poll = self.poll(2, self.starts[0].job_id, Prefer="wait=20")
        self.nodes[0].gateway.drain()
        self.nodes[0].stop()
        self.assert_problem(client.response, 503, "draining", started="yes")
        self.cluster.settle()
        again = self.nodes[2].submit(key="k")
        self.cluster.settle()
        self.assertEqual(len(self.starts), 1)
        self.nodes[1].call_back(self.starts[0], result_of("1"))
        self.cluster.settle()
        for other in (joined, poll, again):
            self.assert_result(other, result_of("1"))

    def test_keys_of_queued_jobs_of_a_draining_owner_are_free(self) -> None:
        """The keys of queued jobs are free at other nodes when their owner drains."""
        clients = [self.nodes[0].submit(key=f"k{number}") for number in range(3)]
        self.nodes[0].gateway.drain()
        self.assert_problem(clients[2].response, 503, "draining")
        again = self.nodes[1].submit(key="k2")
        self.assertEqual(len(self.starts), 3)
        self.starts[2].respond(result_of("3"))
        self.assert_result(again, result_of("3"))
        self.nodes[0].stop()

    def test_result_that_comes_during_the_look_up_is_not_missed(self) -> None:
        """B15: a result that comes while a node looks for its job is not missed."""
        for steps in range(8):
            job_id = self.submit()
            self.nodes[0].kill()
            self.cluster.set_latency(0.1)
            poll = self.nodes[1].poll(job_id, Prefer="wait=20")
            for _ in range(steps):
                self.clock.advance(0.05)
            self.nodes[2].store.latency = 0
            self.nodes[2].call_back(self.starts[-1], result_of("1"))
            for _ in range(20):
                self.clock.advance(0.05)
            self.assert_result(poll, result_of("1"))
            self.cluster.set_latency(0)
            self.cluster.replace(self.nodes[0])
