"""Proofs, valid and invalid."""

import gzip
import json
import tracemalloc
import zlib
from base64 import b64encode

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.sandbox.jobs import Job
from jobproxy.sandbox.proofs import MAX_UNPACKED, BadProof, pack_proof, unpack_proof

JOB = Job(
    "4499a6e0c2ef4b98", "2015-06-29T15:34:16.850Z", "078DC91F2980650231E94E67777078D5C926B9A3"
)


cells = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=50)


jobs = st.lists(st.builds(Job, cells, cells, cells), max_size=20)


class ProofTests(SynchronousTestCase):
    """Proofs, valid and invalid."""

    @given(jobs)
    def test_packed_jobs_are_unpacked_in_order(self, made: list[Job]) -> None:
        """Jobs that were packed are unpacked, in the same order."""
        self.assertEqual(unpack_proof(pack_proof(made)), made)

    @given(jobs, st.integers(1, 80), st.sampled_from([" ", "\n", "\r\n", "\t \n"]))
    def test_white_space_is_ignored(self, made: list[Job], width: int, space: str) -> None:
        """A proof may be broken into lines anywhere."""
        proof = pack_proof(made)
        lines = [proof[start : start + width] for start in range(0, len(proof), width)]
        self.assertEqual(unpack_proof(space + space.join(lines) + space), made)

    def test_same_jobs_have_the_same_proof(self) -> None:
        """A proof does not depend on when it was packed."""
        self.assertEqual(pack_proof([JOB]), pack_proof(iter([JOB])))
        self.assertTrue(pack_proof([]).startswith("H4sIAAAAAAA"), "gzip, without a time")

    def check_bad(self, text: str, why: str) -> None:
        with self.assertRaises(BadProof) as caught:
            unpack_proof(text)
        self.assertRegex(str(caught.exception), rf"\A{why}")

    def check_bad_json(self, unpacked: bytes, why: str) -> None:
        self.check_bad(b64encode(gzip.compress(unpacked)).decode(), why)

    def test_invalid_base64_is_refused(self) -> None:
        """A proof with other characters than base64's, or of incomplete bytes, is refused."""
        proof = pack_proof([JOB])
        for text in (f"{proof}!", f"-{proof}", f"{proof}A", "A", "A=", "====", "H4sI_-=="):
            self.check_bad(text, "not base64: ")

    def test_character_outside_of_ascii_is_refused(self) -> None:
        """A proof with a character outside of ASCII is refused."""
        self.check_bad(f"{pack_proof([JOB])}é", "not ")

    def test_invalid_gzip_is_refused(self) -> None:
        """Base64 of anything but gzip is refused, and so is gzip that was changed."""
        self.check_bad(b64encode(json.dumps([]).encode()).decode(), "not gzip: ")
        packed = gzip.compress(b"[]")
        for changed in (packed[2:], packed[:10] + b"\xff" + packed[11:], packed[:-8] + b"\0" * 8):
            self.check_bad(b64encode(changed).decode(), "not gzip: ")

    def test_invalid_json_is_refused(self) -> None:
        """Gzip of anything but JSON is refused: empty, truncated or nested too deeply."""
        for unpacked in (b"", b"[", b'[["1","2","3"]', b"[] []", b"\xff\xfe\xff", b"[" * 200_000):
            self.check_bad_json(unpacked, "not JSON: ")

    def test_empty_text_is_refused(self) -> None:
        """An empty text is refused."""
        for text in ("", " \n"):
            self.check_bad(text, "not ")

    def test_truncated_gzip_is_refused(self) -> None:
        """A proof whose gzip is truncated is refused."""
        packed = gzip.compress(json.dumps([[JOB.job_id, JOB.started_at, JOB.proof]]).encode())
        for length in range(len(packed)):
            self.check_bad(b64encode(packed[:length]).decode(), "not ")

    def test_other_json_is_refused(self) -> None:
        """JSON of anything but a list of three strings each is refused."""
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
    def test_any_text_is_unpacked_or_refused(self, text: str) -> None:
        """Any text is unpacked, or refused with BadProof."""
        try:
            made = unpack_proof(text)
        except BadProof:
            return
        self.assertEqual(unpack_proof(pack_proof(made)), made)

    def test_proof_above_the_maximum_is_refused(self) -> None:
        """A proof that unpacks to more than the maximum is refused."""
        self.check_bad(b64encode(gzip.compress(b" " * MAX_UNPACKED + b"[]", 1)).decode(), "not ")

    def test_bomb_takes_no_more_memory_than_the_maximum(self) -> None:
        """A megabyte that unpacks to a thousand takes no more memory than the maximum."""
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

    def test_data_after_the_gzip_is_refused(self) -> None:
        """A proof with data after the gzip is refused."""
        self.check_bad(b64encode(gzip.compress(b"[]") + b"more").decode(), "not gzip: ")

    def test_job_outside_of_ascii_is_refused(self) -> None:
        """A job that is not ASCII, which no server makes, is refused."""
        self.check_bad_json(b'[["\\ud800","2","3"]]', r"not a list of ")
