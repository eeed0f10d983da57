"""The options about the way to the job server: what they read, and what is wrong with others."""

from tests.support.identities import ADDRESS, authority, issue
from tests.support.options import REQUIRED, OptionsTestCase


class UpstreamOptionsTests(OptionsTestCase):
    """Files and URLs."""

    def test_right_values_are_read(self) -> None:
        mine = issue(authority(), ADDRESS)
        both = self.write_file(authority().pem + authority(1).pem)
        identity = self.write_file(mine.pem + authority().pem + mine.key_pem)
        headers = self.write_file(b"# of the API\nX-Api-Key: s3cret\n\nX-Two:  2 \n")
        options = self.parse(
            *REQUIRED,
            f"--upstream-ca={both}",
            f"--upstream-certificate={identity}",
            f"--job-server-header-file={headers}",
            "--upstream-proxy=http://us%40er:p%3Ass@proxy.example:3128",
            "--forward-header=Authorization",
            "--forward-header=X-Tenant",
            "--job-server-url=https://jobs.example/start?key=a%20b&x",
        )
        self.assertEqual(len(options["upstream-ca"]), 2)
        self.assertEqual(options["upstream-certificate"].chain, (authority().certificate,))
        expected = [(b"X-Api-Key", b"s3cret"), (b"X-Two", b"2")]
        self.assertEqual(options["job-server-header-file"], expected)
        self.assertEqual(options["forward-header"], ["authorization", "x-tenant"])
        proxy = options["upstream-proxy"]
        self.assertEqual((proxy.host, proxy.port), ("proxy.example", 3128))
        self.assertNotIn("p%3Ass", repr(proxy))
        self.assertEqual(options["job-server-url"], "https://jobs.example/start?key=a%20b&x")

    def test_wrong_values_are_refused(self) -> None:
        """What is wrong is said, and in which file."""
        nothing, key = self.write_file(b"no PEM"), self.write_file(issue(None, ADDRESS).key_pem)
        other = self.write_file(issue(None, ADDRESS).pem + issue(None, ADDRESS).key_pem)
        for text, words in (
            ("--upstream-ca=/none", "names /none, which cannot be read: No such file"),
            (f"--upstream-ca={nothing}", "which has no certificate in PEM"),
            (f"--upstream-certificate={key}", "must have a certificate and its key"),
            (f"--upstream-certificate={other}", "the key is not that of the certificate"),
            ("--upstream-proxy=https://proxy.example", "must be a URL like http://user"),
            ("--upstream-proxy=proxy.example:3128", "must be a URL like http://user"),
            ("--upstream-proxy=http://proxy.example:port", "must be a URL like http://user"),
            ("--forward-header=Host", "must not have Host, which belongs to the connection"),
            ("--forward-header=a:b", "must have the name of a header"),
            ("--job-server-url=http://a/?x#y", "must have no fragment"),
            ("--job-server-url=http://a/?x y", "must have no fragment and no spaces"),
        ):
            self.check_contains(text, words)
        for data, words in (
            (b"X-Api-Key s3cret", "line 1 must be like Name: value"),
            (b"\nX: a\x01b", "line 2 must be like Name: value"),
            (b"Content-Length: 5", "line 1 must not have Content-Length"),
        ):
            self.check_contains(f"--job-server-header-file={self.write_file(data)}", words)

    def check_contains(self, argument: str, words: str) -> None:
        message = self.find_refusal([*REQUIRED, argument])
        self.assertIn(words, message)
        self.assertNotIn("s3cret", message)
