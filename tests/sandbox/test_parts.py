"""The sandbox's parts, each by itself: jobs, proofs, faults, the network and the slots."""

import gzip
import json
import os
import time
import tracemalloc
import zlib
from base64 import b64encode
from collections import Counter
from random import Random
from unittest import mock

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransportWithDisconnection
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.sandbox.faults import KINDS, Fault, Faults, read_faults
from jobproxy.sandbox.jobs import Job, Workshop
from jobproxy.sandbox.network import Connection, LatentFactory
from jobproxy.sandbox.proofs import MAX_UNPACKED, BadProof, pack_proof, unpack_proof
from jobproxy.sandbox.slots import Holding, Slots

JOB = Job(
    "4499a6e0c2ef4b98", "2015-06-29T15:34:16.850Z", "078DC91F2980650231E94E67777078D5C926B9A3"
)

cells = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=50)
jobs = st.lists(st.builds(Job, cells, cells, cells), max_size=20)


class WorkshopTests(SynchronousTestCase):
    """Jobs, and whether they are genuine."""

    def test_shapes(self) -> None:
        """Ids, start times and proofs look like the real server's."""
        workshop = Workshop(Random(1))
        for _ in range(1_000):
            job = workshop.start()
            self.assertRegex(job.job_id, r"\A[1-9a-f][0-9a-f]{0,15}\Z")
            self.assertRegex(
                job.started_at, r"\A20\d\d-[01]\d-[0-3]\dT[0-2]\d:[0-5]\d:[0-5]\d\.\d{3}Z\Z"
            )
            self.assertRegex(job.proof, r"\A[0-9A-F]{40}\Z")

    def test_ids_have_no_leading_zeros(self) -> None:
        """An id below 2**60 is shorter than 16 digits, as one in 16 is."""
        workshop = Workshop(Random(1))
        lengths = Counter(len(workshop.start().job_id) for _ in range(10_000))
        self.assertEqual(max(lengths), 16)
        self.assertLess(abs((10_000 - lengths[16]) / 10_000 - 1 / 16), 0.01)

    def test_ids_differ(self) -> None:
        """No two jobs have the same id or proof."""
        workshop = Workshop(Random(1))
        made = [workshop.start() for _ in range(1_000)]
        self.assertEqual(len({job.job_id for job in made}), 1_000)
        self.assertEqual(len({job.proof for job in made}), 1_000)

    def test_start_time(self) -> None:
        """The start time is the clock's, in UTC wherever we are, and cut to milliseconds."""
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
        workshop = Workshop(Random(1), iter([now for now, _ in moments]).__next__)
        self.assertEqual([workshop.start().started_at for _ in moments], [t for _, t in moments])

    def test_same_seed(self) -> None:
        """The same seed makes the same jobs, and another seed makes others."""

        def make(seed: int) -> list[Job]:
            workshop = Workshop(Random(seed), lambda: 1435591735.0)
            return [workshop.start() for _ in range(10)]

        self.assertEqual(make(1), make(1))
        self.assertEqual(set(make(1)) & set(make(2)), set())

    def test_genuine(self) -> None:
        """A workshop knows its own jobs again, and so does another one of the same seed."""
        workshop = Workshop(Random(1))
        made = [workshop.start() for _ in range(10)]
        self.assertTrue(all(workshop.is_genuine(job) for job in made))
        self.assertTrue(all(Workshop(Random(1)).is_genuine(job) for job in made))

    def test_not_genuine(self) -> None:
        """A job that was changed in any part, or made elsewhere, is not genuine."""
        workshop = Workshop(Random(1))
        job, other = workshop.start(), Workshop(Random(2)).start()
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
            self.assertFalse(workshop.is_genuine(changed), changed)

    def test_answers(self) -> None:
        """An ack has the id, and a result has everything, as the real server's have."""
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


class ProofTests(SynchronousTestCase):
    """Proofs, good and bad."""

    @given(jobs)
    def test_round_trip(self, made: list[Job]) -> None:
        """What is packed is unpacked, in the same order."""
        self.assertEqual(unpack_proof(pack_proof(made)), made)

    @given(jobs, st.integers(1, 80), st.sampled_from([" ", "\n", "\r\n", "\t \n"]))
    def test_space_does_not_count(self, made: list[Job], width: int, space: str) -> None:
        """A proof may be broken into lines anywhere."""
        proof = pack_proof(made)
        lines = [proof[start : start + width] for start in range(0, len(proof), width)]
        self.assertEqual(unpack_proof(space + space.join(lines) + space), made)

    def test_same_jobs_same_proof(self) -> None:
        """A proof tells nothing of when it was packed."""
        self.assertEqual(pack_proof([JOB]), pack_proof(iter([JOB])))
        self.assertTrue(pack_proof([]).startswith("H4sIAAAAAAA"), "gzip, without a time")

    def check_bad(self, text: str, why: str) -> None:
        with self.assertRaises(BadProof) as caught:
            unpack_proof(text)
        self.assertRegex(str(caught.exception), rf"\A{why}")

    def check_bad_json(self, unpacked: bytes, why: str) -> None:
        self.check_bad(b64encode(gzip.compress(unpacked)).decode(), why)

    def test_not_base64(self) -> None:
        """A proof of other characters than base64's, or not of whole bytes, is bad."""
        proof = pack_proof([JOB])
        for text in (f"{proof}!", f"-{proof}", f"{proof}A", "A", "A=", "====", "H4sI_-=="):
            self.check_bad(text, "not base64: ")

    def test_not_ascii(self) -> None:
        """A proof with a character outside of ASCII is bad."""
        self.check_bad(f"{pack_proof([JOB])}é", "not ")

    def test_not_gzip(self) -> None:
        """Base64 of anything but gzip is bad, and so is gzip that was changed."""
        self.check_bad(b64encode(json.dumps([]).encode()).decode(), "not gzip: ")
        packed = gzip.compress(b"[]")
        for changed in (packed[2:], packed[:10] + b"\xff" + packed[11:], packed[:-8] + b"\0" * 8):
            self.check_bad(b64encode(changed).decode(), "not gzip: ")

    def test_not_json(self) -> None:
        """Gzip of anything but JSON is bad, whether it is empty, cut short or too deep."""
        for unpacked in (b"", b"[", b'[["1","2","3"]', b"[] []", b"\xff\xfe\xff", b"[" * 200_000):
            self.check_bad_json(unpacked, "not JSON: ")

    def test_empty(self) -> None:
        """No text at all is a bad proof."""
        for text in ("", " \n"):
            self.check_bad(text, "not ")

    def test_cut_short(self) -> None:
        """A proof that lost a part of what it says is bad."""
        packed = gzip.compress(json.dumps([[JOB.job_id, JOB.started_at, JOB.proof]]).encode())
        for length in range(len(packed)):
            self.check_bad(b64encode(packed[:length]).decode(), "not ")

    def test_not_jobs(self) -> None:
        """JSON of anything but a list of three strings each is bad."""
        for unpacked in (
            b"null",
            b"{}",
            b'"123"',
            b"7",
            b"[null]",
            b'["abc"]',
            b"[[]]",
            b'[["1","2"]]',
            b'[["1","2","3","4"]]',
            b'[["1","2",3]]',
            b'[["1",null,"3"]]',
            b'[{"id":"1","startedAt":"2","proof":"3"}]',
            b'[["1","2","3"],["1","2",["3"]]]',
        ):
            self.check_bad_json(unpacked, r"not a list of \[id, startedAt, proof\]")

    @given(st.text(max_size=100) | st.binary(max_size=100).map(lambda raw: b64encode(raw).decode()))
    def test_anything(self, text: str) -> None:
        """Whatever the text, it is a proof or it is a bad one."""
        try:
            made = unpack_proof(text)
        except BadProof:
            return
        self.assertEqual(unpack_proof(pack_proof(made)), made)

    def test_too_long(self) -> None:
        """A proof that unpacks to more than the bound is bad, whatever it says."""
        self.check_bad(b64encode(gzip.compress(b" " * MAX_UNPACKED + b"[]", 1)).decode(), "not ")

    def test_bomb(self) -> None:
        """A megabyte that unpacks to a thousand of them takes no more memory than the bound."""
        packer = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
        packer.compress(b" ")
        head = packer.flush(zlib.Z_FULL_FLUSH)
        # After a full flush the same bytes are packed the same way.
        part = packer.compress(b" " * 1_000_000) + packer.flush(zlib.Z_FULL_FLUSH)
        bomb = b64encode(head + part * 1_000).decode()
        self.assertLess(len(bomb), 2_000_000)
        tracemalloc.start()
        try:
            self.check_bad(bomb, "not ")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        # It is there as bytes, and once more as a string.
        self.assertLess(peak, 2.5 * MAX_UNPACKED)

    def test_followed_by_more(self) -> None:
        """A proof with something behind it is bad."""
        self.check_bad(b64encode(gzip.compress(b"[]") + b"more").decode(), "not gzip: ")

    def test_not_ascii_cells(self) -> None:
        """A job that no server could have made, since it is not ASCII, is bad."""
        self.check_bad_json(b'[["\\ud800","2","3"]]', r"not a list of ")


class ReadFaultsTests(SynchronousTestCase):
    """The text that says which faults there are."""

    def test_read(self) -> None:
        """Every fault has a rate; those which take time have seconds, by default their own."""
        self.assertEqual(read_faults(""), Faults({}))
        self.assertEqual(read_faults(" , ,"), Faults({}))
        self.assertEqual(
            read_faults("drop=0.01, slow=0.1:5,late=1,slow=.5:0,busy=1e-3"),
            Faults(
                {
                    "drop": Fault(0.01, 0.0),
                    "slow": Fault(0.5, 0.0),
                    "late": Fault(1.0, 35.0),
                    "busy": Fault(0.001, 1.0),
                }
            ),
        )

    @given(
        st.dictionaries(
            st.sampled_from(sorted(KINDS)),
            st.builds(Fault, st.floats(0, 1), st.floats(0, 1e300)),
        )
    )
    def test_round_trip(self, rates: dict[str, Fault]) -> None:
        """What is written as kind=rate:seconds is read."""
        text = ",".join(f"{kind}={fault.rate}:{fault.seconds}" for kind, fault in rates.items())
        self.assertEqual(read_faults(text), Faults(rates))

    def test_unknown(self) -> None:
        """A fault that there is not is refused, and those that there are are told."""
        for text in ("explode=1", "=1", "drop=1,explode", "Drop=1"):
            with self.assertRaisesRegex(
                ValueError, "has no fault '[a-zA-Z]*'; there are drop, .*, failed"
            ):
                read_faults(text)

    def test_malformed(self) -> None:
        """A rate or seconds that are no numbers are refused."""
        for text in ("drop", "drop=", "drop=x", "drop=:1", "drop=1:x", "drop=1:2:3", "drop=1=1"):
            with self.assertRaisesRegex(ValueError, "must be like drop=0.01,slow=0.1:5, not "):
                read_faults(text)

    def test_out_of_range(self) -> None:
        """A rate has to be from 0 to 1, and seconds must have an end."""
        for text in (
            "drop=1.01",
            "drop=-0.1",
            "drop=nan",
            "drop=inf",
            "slow=1:-1",
            "slow=1:inf",
            "slow=1:nan",
        ):
            with self.assertRaisesRegex(
                ValueError, f"must have rates from 0 to 1 and seconds from 0, unlike '{text}'"
            ):
                read_faults(text)

    @given(st.text("abcdeolprtuw=:,.019- ", max_size=20))
    def test_anything(self, text: str) -> None:
        """Whatever the text, it is read or refused with a ValueError."""
        try:
            faults = read_faults(text)
        except ValueError:
            return
        self.assertLessEqual(faults.rates.keys(), KINDS.keys())
        self.assertTrue(all(0 <= fault.rate <= 1 for fault in faults.rates.values()))


class DrawTests(SynchronousTestCase):
    """Which job has which faults."""

    def test_never(self) -> None:
        """A fault of rate 0 is never drawn, and neither is one that is not there."""
        faults, source = read_faults("drop=0,late=0:5"), Random(1)
        self.assertTrue(all(faults.draw(source) == {} for _ in range(1_000)))
        self.assertEqual(Faults().draw(source), {})

    def test_always(self) -> None:
        """A fault of rate 1 is always drawn, with its seconds."""
        faults, source = read_faults(",".join(f"{kind}=1" for kind in KINDS)), Random(1)
        for _ in range(1_000):
            drawn = faults.draw(source)
            self.assertEqual(drawn, faults.rates)
            self.assertEqual(drawn["late"].seconds, 35.0)

    def test_rates(self) -> None:
        """Faults are drawn at their rates, independently of each other."""
        faults, source = read_faults("drop=0.5,late=0.2"), Random(1)
        met = Counter(frozenset(faults.draw(source)) for _ in range(10_000))
        for kinds, part in (
            (frozenset(), 0.4),
            (frozenset(["drop"]), 0.4),
            (frozenset(["late"]), 0.1),
            (frozenset(["drop", "late"]), 0.1),
        ):
            self.assertLess(abs(met[kinds] / 10_000 - part), 0.015, kinds)

    def test_same_seed(self) -> None:
        """The same seed draws the same faults, and another seed draws others."""
        faults = read_faults("drop=0.5,late=0.5")

        def draw(seed: int) -> list[dict[str, Fault]]:
            source = Random(seed)
            return [faults.draw(source) for _ in range(100)]

        self.assertEqual(draw(1), draw(1))
        self.assertNotEqual(draw(1), draw(2))


class Recorder(Protocol):
    """The server's end of a connection; it knows when it got what."""

    clock: Clock

    def __init__(self) -> None:
        self.got: list[tuple[float, bytes]] = []
        self.lost: list[tuple[float, type[BaseException]]] = []

    def dataReceived(self, data: bytes) -> None:
        self.got.append((self.clock.seconds(), data))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        assert reason.type is not None
        self.lost.append((self.clock.seconds(), reason.type))


class NetworkTestCase(SynchronousTestCase):
    """A connection to a recorder; when the test ends, nothing may be on its way.

    :cvar latency: seconds each way; of a power of two, so that sums are exact.
    """

    latency = 0.25

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        # Not zero, so that a moment is not taken for a time that passed.
        self.clock.advance(1000)

    def tearDown(self) -> None:
        super().tearDown()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def connect(self) -> tuple[Connection, Recorder, StringTransportWithDisconnection]:
        """Return a new connection, what is behind it, and the client's end of it."""
        server = Factory.forProtocol(Recorder)
        transport = StringTransportWithDisconnection()
        connection = LatentFactory(server, self.clock, self.latency).buildProtocol(
            transport.getPeer()
        )
        assert isinstance(connection, Connection)
        transport.protocol = connection
        recorder = connection.wrappedProtocol
        assert isinstance(recorder, Recorder)
        recorder.clock = self.clock
        connection.makeConnection(transport)
        return connection, recorder, transport

    def advance(self, latencies: float) -> None:
        self.clock.advance(latencies * self.latency)

    def at(self, latencies: float) -> float:
        """Return the moment so many latencies after the test's begin."""
        return 1000 + latencies * self.latency


class LatencyTests(NetworkTestCase):
    """Bytes that take their time."""

    def test_first_bytes(self) -> None:
        """A client's first bytes come after three latencies: its connection took two of them."""
        connection, recorder, _ = self.connect()
        connection.dataReceived(b"a")
        self.advance(2.5)
        self.assertEqual(recorder.got, [])
        self.advance(0.5)
        self.assertEqual(recorder.got, [(self.at(3), b"a")])

    def test_later_bytes(self) -> None:
        """On a connection that has been made, a client's bytes come after one latency."""
        connection, recorder, _ = self.connect()
        connection.dataReceived(b"a")
        self.advance(3)
        connection.dataReceived(b"b")
        self.advance(0.5)
        connection.dataReceived(b"c")
        self.assertEqual(len(recorder.got), 1)
        self.advance(0.5)
        self.advance(0.5)
        self.assertEqual(recorder.got[1:], [(self.at(4), b"b"), (self.at(4.5), b"c")])

    def test_late_first_bytes(self) -> None:
        """A connection is made by itself, so it costs no time to bytes that come later."""
        connection, recorder, _ = self.connect()
        self.advance(10)
        connection.dataReceived(b"a")
        self.advance(1)
        self.assertEqual(recorder.got, [(self.at(11), b"a")])

    def test_while_it_is_made(self) -> None:
        """What a client sends while its connection is made waits for that, in order."""
        connection, recorder, _ = self.connect()
        for data in (b"a", b"b", b"c", b"d"):
            connection.dataReceived(data)
            self.advance(0.5)
        connection.dataReceived(b"e")
        self.advance(1)
        self.assertEqual(
            recorder.got, [(self.at(3), data) for data in (b"a", b"b", b"c", b"d", b"e")]
        )

    def test_answers(self) -> None:
        """An answer comes after one latency, however new the connection."""
        connection, _, transport = self.connect()
        connection.write(b"a")
        self.advance(0.5)
        connection.writeSequence([b"b", b"c"])
        self.assertEqual(transport.value(), b"")
        self.advance(0.5)
        self.assertEqual(transport.value(), b"a")
        self.advance(0.5)
        self.assertEqual(transport.value(), b"abc")

    def test_order(self) -> None:
        """Bytes stay in order, both ways, and so does a close behind them."""
        connection, recorder, transport = self.connect()
        for number in range(100):
            connection.dataReceived(b"%d" % number)
            connection.write(b"<%d>" % number)
        connection.loseConnection()
        self.advance(1)
        self.assertEqual(transport.value(), b"".join(b"<%d>" % number for number in range(100)))
        self.assertFalse(transport.connected)
        self.advance(2)
        self.assertEqual([data for _, data in recorder.got], [b"%d" % n for n in range(100)])
        self.assertEqual(recorder.lost, [(self.at(3), ConnectionDone)])

    def test_own_close(self) -> None:
        """A client sees a close one latency later, and the server that it is done another one."""
        connection, recorder, transport = self.connect()
        self.advance(2)
        connection.loseConnection()
        self.advance(0.5)
        self.assertTrue(transport.connected)
        self.advance(0.5)
        self.assertFalse(transport.connected)
        self.assertFalse(transport.disconnected, "it is not a reset")
        self.assertEqual(recorder.lost, [])
        self.advance(1)
        self.assertEqual(recorder.lost, [(self.at(4), ConnectionDone)])

    def test_reset(self) -> None:
        """A client sees a reset one latency later."""
        connection, _, transport = self.connect()
        self.advance(2)
        connection.abortConnection()
        self.assertFalse(transport.disconnected)
        self.advance(1)
        self.assertTrue(transport.disconnected)
        self.advance(1)

    def test_clients_close(self) -> None:
        """The server sees a client's close one latency later, after the client's bytes."""
        connection, recorder, transport = self.connect()
        self.advance(2)
        connection.dataReceived(b"a")
        transport.loseConnection()
        self.advance(0.5)
        self.assertEqual((recorder.got, recorder.lost), ([], []))
        self.advance(0.5)
        self.assertEqual(recorder.got, [(self.at(3), b"a")])
        self.assertEqual(recorder.lost, [(self.at(3), ConnectionDone)])

    def test_connections_are_apart(self) -> None:
        """No connection waits for another one."""
        first, slow, _ = self.connect()
        first.dataReceived(b"a")
        self.advance(2)
        second, fast, _ = self.connect()
        second.dataReceived(b"b")
        self.advance(1)
        self.assertEqual((slow.got, fast.got), ([(self.at(3), b"a")], []))
        self.advance(2)
        self.assertEqual(fast.got, [(self.at(5), b"b")])


class NoLatencyTests(NetworkTestCase):
    """A network that takes no time."""

    latency = 0.0

    def test_straight_through(self) -> None:
        """Without latency everything is passed on at once, by no clock."""
        connection, recorder, transport = self.connect()
        connection.dataReceived(b"a")
        connection.dataReceived(b"b")
        self.assertEqual([data for _, data in recorder.got], [b"a", b"b"])
        connection.write(b"c")
        connection.writeSequence([b"d", b"e"])
        self.assertEqual(transport.value(), b"cde")
        self.assertEqual(self.clock.getDelayedCalls(), [])
        connection.loseConnection()
        self.assertFalse(transport.connected)
        self.assertEqual(recorder.lost, [(1000, ConnectionDone)])

    def test_reset(self) -> None:
        """Without latency a reset is one at once."""
        connection, _, transport = self.connect()
        connection.abortConnection()
        self.assertTrue(transport.disconnected)
        self.assertFalse(transport.connected)


class WhenClosedTests(NetworkTestCase):
    """What is called once this end of a connection is closed."""

    def connect_watched(self) -> tuple[Connection, StringTransportWithDisconnection, list[float]]:
        """Return a made connection, the client's end, and the moments at which it was closed."""
        connection, _, transport = self.connect()
        self.advance(2)
        moments: list[float] = []
        connection.when_closed(lambda: moments.append(self.clock.seconds()))
        return connection, transport, moments

    def test_own_close(self) -> None:
        """The server's end is closed when it says so, before the client knows, and only once."""
        connection, _, moments = self.connect_watched()
        connection.loseConnection()
        self.assertEqual(moments, [self.at(2)])
        self.advance(1)
        self.advance(1)
        self.assertEqual(moments, [self.at(2)])

    def test_own_reset(self) -> None:
        """A reset closes this end at once as well."""
        connection, _, moments = self.connect_watched()
        connection.abortConnection()
        self.assertEqual(moments, [self.at(2)])
        self.advance(1)
        self.advance(1)
        self.assertEqual(moments, [self.at(2)])

    def test_clients_close(self) -> None:
        """When the client closes, this end is closed as soon as it knows."""
        _, transport, moments = self.connect_watched()
        transport.loseConnection()
        self.assertEqual(moments, [])
        self.advance(1)
        self.assertEqual(moments, [self.at(3)])

    def test_closed_already(self) -> None:
        """On a connection that is closed, the call is made at once."""
        connection, transport, moments = self.connect_watched()
        transport.loseConnection()
        self.advance(1)
        connection.when_closed(lambda: moments.append(0))
        self.assertEqual(moments, [self.at(3), 0])

    def test_several(self) -> None:
        """Every call is made, in the order in which they were asked for."""
        connection, _, moments = self.connect_watched()
        connection.when_closed(lambda: moments.append(1))
        connection.when_closed(lambda: moments.append(2))
        connection.loseConnection()
        self.assertEqual(moments, [self.at(2), 1, 2])
        self.advance(1)
        self.advance(1)


class SlotsTestCase(NetworkTestCase):
    """Connections that want a slot of an account; no account may be left when the test ends.

    :cvar holding: what holds a slot.
    """

    latency = 0.0
    holding: Holding = "request"

    def setUp(self) -> None:
        super().setUp()
        self.slots = self.make_slots(1)
        self.served: list[str] = []

    def tearDown(self) -> None:
        super().tearDown()
        self.assertEqual(self.slots._accounts, {})
        self.assertEqual(self.slots._holders, set())

    def make_slots(self, per_account: int) -> Slots:
        return Slots(per_account, self.holding)

    def ask(
        self, name: str, account: str = "a", connection: Connection | None = None
    ) -> Connection:
        """Ask for a slot, on a new connection by default; note the name once it is had."""
        if connection is None:
            connection, _, _ = self.connect()
        waiting = self.slots.acquire(account, connection)
        waiting.addCallback(lambda _: self.served.append(name))
        return connection


class RequestSlotsTests(SlotsTestCase):
    """Slots that are held by a request until its answer."""

    def test_one_at_a_time(self) -> None:
        """One request of an account is served at a time, first come, first served."""
        for name in ("1", "2", "3"):
            self.ask(name)
        for number in (1, 2, 3):
            self.assertEqual(self.served, ["1", "2", "3"][:number])
            self.slots.release("a")

    def test_same_connection(self) -> None:
        """A connection's next request queues like any other."""
        connection = self.ask("1")
        self.ask("2")
        self.slots.release("a")
        self.ask("3", connection=connection)
        self.assertEqual(self.served, ["1", "2"])
        self.slots.release("a")
        self.assertEqual(self.served, ["1", "2", "3"])
        self.slots.release("a")

    def test_other_accounts(self) -> None:
        """However many of an account wait, another account is served at once."""
        for name in ("1", "2", "3"):
            self.ask(name)
        self.ask("other", "b")
        self.assertEqual(self.served, ["1", "other"])
        self.slots.release("b")
        self.assertEqual(self.served, ["1", "other"])
        for _ in range(3):
            self.slots.release("a")

    def test_several_slots(self) -> None:
        """With two slots, two requests of an account are served at a time."""
        self.slots = self.make_slots(2)
        for name in ("1", "2", "3", "4"):
            self.ask(name)
        self.assertEqual(self.served, ["1", "2"])
        self.slots.release("a")
        self.assertEqual(self.served, ["1", "2", "3"])
        for _ in range(3):
            self.slots.release("a")

    def test_close_does_not_count(self) -> None:
        """A connection's close gives nothing back; the end of its request does."""
        connection = self.ask("1")
        self.ask("2")
        connection.loseConnection()
        self.assertEqual(self.served, ["1"])
        self.slots.release("a")
        self.assertEqual(self.served, ["1", "2"])
        self.slots.release("a")

    def test_gives_up(self) -> None:
        """A request that no longer waits has no place in the queue."""
        self.ask("1")
        waiting = self.slots.acquire("a", self.connect()[0])
        self.ask("3")
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.slots.release("a")
        self.assertEqual(self.served, ["1", "3"])
        self.slots.release("a")

    def test_forgets(self) -> None:
        """An account with nothing under way is not remembered."""
        for number in range(100):
            self.ask("1", f"account {number}")
        self.assertEqual(len(self.slots._accounts), 100)
        for number in range(100):
            self.slots.release(f"account {number}")
        self.assertEqual(self.slots._accounts, {})

    def test_ends_at_once(self) -> None:
        """Requests that end while they are given their slot do not nest without end."""
        self.ask("1")
        done: list[None] = []

        def end(_: None) -> None:
            done.append(None)
            self.slots.release("a")

        for _ in range(2_000):
            self.slots.acquire("a", self.connect()[0]).addCallback(end)
        self.slots.release("a")
        self.assertEqual(len(done), 2_000)


class ConnectionSlotsTests(SlotsTestCase):
    """Slots that are held by a connection until its end."""

    holding: Holding = "connection"

    def test_held_until_closed(self) -> None:
        """An answer gives nothing back; the connection's close does."""
        first, second, third = self.ask("1"), self.ask("2"), self.ask("3")
        self.slots.release("a")
        self.assertEqual(self.served, ["1"])
        first.loseConnection()
        self.assertEqual(self.served, ["1", "2"])
        self.slots.release("a")
        self.assertEqual(self.served, ["1", "2"])
        second.loseConnection()
        self.assertEqual(self.served, ["1", "2", "3"])
        third.loseConnection()

    def test_clients_close(self) -> None:
        """A client that closes gives its slot back as well."""
        first, _, transport = self.connect()
        self.ask("1", connection=first)
        second = self.ask("2")
        transport.loseConnection()
        self.assertEqual(self.served, ["1", "2"])
        second.loseConnection()

    def test_same_connection(self) -> None:
        """A connection that has its slot is served again and again, before any that wait."""
        first = self.ask("1")
        second = self.ask("2")
        for name in ("3", "4"):
            self.slots.release("a")
            self.ask(name, connection=first)
        self.assertEqual(self.served, ["1", "3", "4"])
        first.loseConnection()
        self.assertEqual(self.served, ["1", "3", "4", "2"])
        second.loseConnection()

    def test_other_accounts(self) -> None:
        """Accounts do not wait for each other, even on one connection, which holds both."""
        first = self.ask("1", "a")
        self.slots.release("a")
        self.ask("2", "b", connection=first)
        self.slots.release("b")
        self.assertEqual(self.served, ["1", "2"])
        others = [self.ask("3", "a"), self.ask("4", "b"), self.ask("5", "c")]
        self.assertEqual(self.served, ["1", "2", "5"])
        first.loseConnection()
        self.assertEqual(self.served, ["1", "2", "5", "3", "4"])
        for connection in others:
            connection.loseConnection()

    def test_gives_up(self) -> None:
        """A request that no longer waits has no place in the queue."""
        first = self.ask("1")
        waiting = self.slots.acquire("a", self.connect()[0])
        third = self.ask("3")
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        first.loseConnection()
        self.assertEqual(self.served, ["1", "3"])
        third.loseConnection()

    def test_closed_already(self) -> None:
        """A connection that is closed when its turn comes holds nothing."""
        first = self.ask("1")
        second = self.ask("2")
        second.loseConnection()
        third = self.ask("3")
        self.assertEqual(self.served, ["1"])
        first.loseConnection()
        self.assertIn("3", self.served)
        third.loseConnection()

    def test_forgets(self) -> None:
        """An account without a connection is not remembered."""
        connections = [self.ask("1", f"account {number}") for number in range(100)]
        for number in range(100):
            self.slots.release(f"account {number}")
        self.assertEqual(len(self.slots._accounts), 100)
        for connection in connections:
            connection.loseConnection()
        self.assertEqual(self.slots._accounts, {})

    def test_last_in_the_queue_is_closed(self) -> None:
        """A connection that is closed when its turn comes leaves nothing behind."""
        first = self.ask("1")
        self.ask("2").loseConnection()
        first.loseConnection()
        self.assertEqual(self.served, ["1", "2"])
