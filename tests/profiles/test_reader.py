"""Reading profiles: what is right, and where a mistake is."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from jobproxy.profiles.fields import FIELDS
from jobproxy.profiles.keys import BadProfile
from jobproxy.profiles.reader import list_shipped, read_profile
from tests.support.profiles import SECRET, parse_profile

URL = 'url = "https://h/x"'
#: A wrong text, where the mistake is, and a part of what is said of it.
MISTAKES = (
    ("x = [", "", "is not TOML"),
    ('path = "x"', "1:9: path", "begins with /"),
    ('path = "/x/{a}/{a}"', "1:16: path", "{a} is there twice"),
    ('path = "/x/{a*}/b"', "1:17: path", "must be the last segment"),
    ('path = "/x/../y"', "1:12: path", "'..' is not a segment"),
    ('path = "/a%2Fb"', "1:10: path", "is not a segment"),
    ("path = 7", "1:8: path", "must be a text in quotes"),
    ('methods = ["post"]', "1:11: methods", "must be a method"),
    ('account = "$request.body#/a~"', "1:26: account", "~ is followed by 0 or 1"),
    ('account = "$response.body#/a"', "1:12: account", "is not known here; use $request"),
    ('account = ""', "1:11: account", "must not be empty"),
    ('acount = "x"', "1:10: acount", "did you mean account?"),
    ('correlate-by = "url"', "1:17: correlate-by", "must be token or id"),
    ('correlate-by = "id"\n[callback]\nid = ""', "3:6: callback.id", "needs the id"),
    (f"[start]\n{URL}\nulr = 1", "3:7: start.ulr", "did you mean start.url?"),
    ('[start]\nurl = "ftp://x/"', "2:8: start.url", "http:// or https://"),
    ('[start]\nurl = "https://{$request.path.h}/"', "2:7: start.url", "a fixed host"),
    ('[start]\nurl = "https://h{$request.method}"', "2:7: start.url", "a fixed host"),
    ('[start]\nurl = "https://u:p@h/"', "2:7: start.url", "neither a user"),
    ('[start]\nurl = "https://h/{$request.path.b}"', "2:19: start.url", "{b} is not in path"),
    ('[start]\nurl = "http://h:99999/x"', "2:7: start.url", "a fixed host"),
    ('[start]\nurl = "http://h:abc/x"', "2:7: start.url", "a fixed host"),
    ('[start]\nurl = "http://[::1/x"', "2:8: start.url", "is no URL"),
    ('[start]\nurl = "http://h/a b"', "2:8: start.url", "must be ASCII without spaces"),
    ('[start]\nurl = "http://h/\u00fc"', "2:8: start.url", "must be ASCII without spaces"),
    ('[start]\nurl = "http://h/\\r\\nX: y"', "2:7: start.url", "must be ASCII without spaces"),
    ('[poll]\nurl = "ftp://x"', "2:8: poll.url", "must begin with http://"),
    ('[start.set]\n"$request.body#/a" = { file = "a\\u0000b" }', "2:22: ", "null byte"),
    ("a = " + 5_000 * "[", "", "is not TOML"),
    ("[limits]\nmax-body = " + 5_000 * "9", "", "is not TOML"),
    ('[start]\nforward = ["Host"]', "2:11: start.forward", "'host' cannot be forwarded"),
    ("[start]\nbusy = [99]", "2:8: start.busy", "200 to 599"),
    ('[start]\nremove = ["$request.body"]', "2:12: start.remove", "must name a member"),
    ('[start.set]\n"$request.path.a" = 1', "2:21: start.set.$request.path.a", "must name a member"),
    ('[start.set]\n"$request.header.Host" = 1', "2:26: ", "must name a member"),
    ('[start.set]\n"$request.body#/a" = "{$x}"', "2:24: ", "'$x' is no expression"),
    ('[start.set]\n"$request.body#/a" = { file = "no" }', "2:22: ", "cannot be read: No such file"),
    ('[start.set]\n"$request.body#/a" = 2026-01-01', "2:22: ", "must not be a date"),
    ("[ack]\naccepted = { values = [1] }", "2:12: ack.accepted", "{ expression = …"),
    ('[ack]\nid-pattern = "("', "2:15: ack.id-pattern", "is no regular expression"),
    ('[ack]\nid-pattern = "a"', "2:15: ack.id-pattern", "needs a group"),
    (
        '[callback]\nsucceeded = ["A"]\nfailed = ["a"]',
        "3:10: callback.failed",
        "'a' is in succeeded",
    ),
    ('[callback]\nverify = { scheme = "md5" }', "2:22: callback.verify.scheme", "must be standard"),
    (
        '[callback]\nverify = { scheme = "hmac", secret-file = "secret" }',
        "2:10: callback.verify.header",
        "the header with the signature",
    ),
    ("[result]\nfailed-status = 700", "2:17: result.failed-status", "must be 200 to 599"),
    ("[result]\nfailed-status = 204", "2:17: result.failed-status", "which has no body"),
    ('[limits]\nhosts = ["https://x/"]', "2:9: limits.hosts", "must be hosts, like api.example"),
    ('[start.set]\n"$request.body#/a" = nan', "2:22: ", "must not be nan or inf"),
    (
        '[ack]\naccepted = { expression = "$message.payload#/a", values = [1] }',
        "2:28: ack.accepted",
        "use $response",
    ),
    (
        '[ack]\naccepted = { expression = "$statusCode", values = [[1]] }',
        "2:12: ack.accepted",
        "must have texts, numbers",
    ),
    ('path = "/a%20b"', "1:10: path", "is not a segment"),
    ("[poll]\nafter = 3", "1:1: poll", "needs a url"),
    ('[poll]\nurl = "{$message.payload#/u}"', "2:8: poll.url", "use $response"),
    ("[cancel]\nmethod = 'PUT'", "1:1: cancel", "needs a url"),
    ("[limits]\nwait = 0", "2:8: limits.wait", "a number of seconds above 0"),
    ("[limits]\nmax-body = true", "2:12: limits.max-body", "must be a whole number"),
)


class ReaderTests(SynchronousTestCase):
    """One file."""

    def test_mistake_is_named_with_its_place(self) -> None:
        """File, line, column and key are said, and what to change."""
        for text, place, words in MISTAKES:
            with self.assertRaises(BadProfile, msg=text) as caught:
                parse_profile(text)
            self.assertIn(f"api.toml:{place}", str(caught.exception))
            self.assertIn(words, str(caught.exception), text)

    def test_empty_profile_has_the_defaults(self) -> None:
        profile = parse_profile("")
        self.assertEqual(profile.path.rule, "/proxy")
        self.assertEqual(profile.account.text, "$request.body#/account")
        self.assertEqual(profile.failed_status, 200)

    def test_file_that_is_not_there_is_named_with_the_shipped_ones(self) -> None:
        with self.assertRaises(BadProfile) as caught:
            read_profile("replicat")
        self.assertIn("there is no such file; shipped profiles: assemblyai", str(caught.exception))

    def test_name_that_cannot_be_in_a_url_is_refused(self) -> None:
        for name in ("a<b>", "..", "a b", "\u00fc", "a%2fb", "x" * 65):
            with self.assertRaises(BadProfile, msg=name) as caught:
                parse_profile("", name)
            self.assertIn("must have letters, digits, - and _ only", str(caught.exception))

    def test_secret_is_in_no_text(self) -> None:
        profile = parse_profile(
            '[start.set]\n"$request.body#/s" = { file = "secret" }\n[callback]\n'
            'verify = { scheme = "standard-webhooks", secret-file = "secret" }'
        )
        self.assertNotIn(SECRET, repr(profile))

    def test_every_key_has_a_sentence(self) -> None:
        """The reference in the documents is made of them."""
        self.assertEqual(len({each.name for each in FIELDS}), len(FIELDS))
        for each in FIELDS:
            self.assertTrue(each.kind and each.default and each.meaning, each.name)


class ShippedTests(SynchronousTestCase):
    """The profiles that come with jobproxy."""

    def test_all_are_right(self) -> None:
        """With their secrets, in the folder that systemd gives them in."""
        names = list_shipped()
        self.assertEqual(len(names), 7)
        with TemporaryDirectory() as folder:
            for name in names:
                Path(folder, name).write_text(SECRET)
            with mock.patch.dict(os.environ, CREDENTIALS_DIRECTORY=folder):
                for name in names:
                    self.assertEqual(read_profile(name).name, name)
