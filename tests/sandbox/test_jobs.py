"""The simulator's jobs, and whether they are genuine."""

import os
import time
from collections import Counter
from random import Random
from unittest import mock

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.sandbox.jobs import Job, JobFactory

JOB = Job(
    "4499a6e0c2ef4b98", "2015-06-29T15:34:16.850Z", "078DC91F2980650231E94E67777078D5C926B9A3"
)


class JobFactoryTests(SynchronousTestCase):
    """Jobs, and whether they are genuine."""

    def test_jobs_have_the_format_of_the_real_server(self) -> None:
        """Ids, start times and proofs have the format of the real job server."""
        factory = JobFactory(Random(1))
        for _ in range(1_000):
            job = factory.make_job()
            self.assertRegex(job.job_id, r"\A[1-9a-f][0-9a-f]{0,15}\Z")
            self.assertRegex(
                job.started_at, r"\A20\d\d-[01]\d-[0-3]\dT[0-2]\d:[0-5]\d:[0-5]\d\.\d{3}Z\Z"
            )
            self.assertRegex(job.proof, r"\A[0-9A-F]{40}\Z")

    def test_ids_have_no_leading_zeros(self) -> None:
        """An id below 2**60 is shorter than 16 digits, as one in 16 is."""
        factory = JobFactory(Random(1))
        lengths = Counter(len(factory.make_job().job_id) for _ in range(10_000))
        self.assertEqual(max(lengths), 16)
        self.assertLess(abs((10_000 - lengths[16]) / 10_000 - 1 / 16), 0.01)

    def test_ids_and_proofs_are_unique(self) -> None:
        """No two jobs have the same id or proof."""
        factory = JobFactory(Random(1))
        made = [factory.make_job() for _ in range(1_000)]
        self.assertEqual(len({job.job_id for job in made}), 1_000)
        self.assertEqual(len({job.proof for job in made}), 1_000)

    def test_start_time_is_utc_in_milliseconds(self) -> None:
        """The start time is the clock's, in UTC in any time zone, cut to milliseconds."""
        self.addCleanup(time.tzset)
        zone = mock.patch.dict(os.environ, {"TZ": "EAST-9"})
        zone.start()
        self.addCleanup(zone.stop)
        time.tzset()
        moments: list[tuple[float, str]] = [
            (0.0, "1970-01-01T00:00:00.000Z"),
            (1435591735.497, "2015-06-29T15:28:55.497Z"),
            (1435591735.0625, "2015-06-29T15:28:55.062Z"),
            (1435591735.9999, "2015-06-29T15:28:55.999Z"),
        ]
        factory = JobFactory(Random(1), iter([now for now, _ in moments]).__next__)
        self.assertEqual([factory.make_job().started_at for _ in moments], [t for _, t in moments])

    def test_same_seed_makes_the_same_jobs(self) -> None:
        """The same seed makes the same jobs, and another seed makes others."""

        def make(seed: int) -> list[Job]:
            factory = JobFactory(Random(seed), lambda: 1435591735.0)
            return [factory.make_job() for _ in range(10)]

        self.assertEqual(make(1), make(1))
        self.assertEqual(set(make(1)) & set(make(2)), set())

    def test_own_jobs_are_genuine(self) -> None:
        """A factory's own jobs are genuine, also for another factory with the same seed."""
        factory = JobFactory(Random(1))
        made = [factory.make_job() for _ in range(10)]
        self.assertTrue(all(factory.is_genuine(job) for job in made))
        self.assertTrue(all(JobFactory(Random(1)).is_genuine(job) for job in made))

    def test_changed_jobs_are_not_genuine(self) -> None:
        """A job that was changed in any part, or made elsewhere, is not genuine."""
        factory = JobFactory(Random(1))
        job, other = factory.make_job(), JobFactory(Random(2)).make_job()
        for changed in (
            evolve(job, job_id=other.job_id),
            evolve(job, job_id=""),
            evolve(job, started_at="2015-06-29T15:34:16.850Z"),
            evolve(job, proof=other.proof),
            evolve(job, proof=job.proof.lower()),
            evolve(job, proof=""),
            other,
            JOB,
        ):
            self.assertFalse(factory.is_genuine(changed), changed)

    def test_ack_and_result_have_the_real_members(self) -> None:
        """An ack has the id, and a result all members, as those of the real job server."""
        self.assertEqual(JOB.ack(), {"state": "running", "id": "4499a6e0c2ef4b98"})
        self.assertEqual(
            JOB.result("completed"),
            {
                "id": "4499a6e0c2ef4b98",
                "state": "completed",
                "startedAt": "2015-06-29T15:34:16.850Z",
                "proof": "078DC91F2980650231E94E67777078D5C926B9A3",
            },
        )
