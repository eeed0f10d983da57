"""The URL of a Redis, and the options that go with it."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.store.address import MEMORY, StoreAddress, read_address
from jobproxy.store.redis_address import RedisAddress

GOOD = {
    "redis://host": RedisAddress((("host", 6379),)),
    "redis://host/": RedisAddress((("host", 6379),)),
    "redis://127.0.0.1:7000/15": RedisAddress((("127.0.0.1", 7000),), db=15),
    "redis://[::1]:7000": RedisAddress((("::1", 7000),)),
    "redis://:s%40cret@host": RedisAddress((("host", 6379),), password="s@cret"),
    "redis://user:pa:ss@host/2": RedisAddress((("host", 6379),), 2, "user", "pa:ss"),
    "rediss://host:6380": RedisAddress((("host", 6380),), is_tls=True),
    "redis+sentinel://a,b:7,c/main": RedisAddress(
        (("a", 26_379), ("b", 7), ("c", 26_379)), service="main"
    ),
    "redis+sentinel://:secret@a/main/3": RedisAddress(
        (("a", 26_379),), 3, password="secret", service="main"
    ),
    "rediss+sentinel://a/main": RedisAddress((("a", 26_379),), is_tls=True, service="main"),
}
BAD = (
    "",
    "redis",
    "redis:",
    "redis://",
    "redis:///0",
    "memory",
    "http://host",
    "redis+cluster://host",
    "redis://host:port",
    "redis://host:70000",
    "redis://host/name",
    "redis://host/-1",
    "redis://host/0/1",
    "redis://a,b",
    "redis://host?db=1",
    "redis://host#0",
    "redis+sentinel://host",
    "redis+sentinel://a,,b/main",
    "redis+sentinel://host/main/x",
    "redis+sentinel://host/main/0/1",
)


class AddressTests(SynchronousTestCase):
    """Reading the URL."""

    def test_each_part_of_a_url_is_read(self) -> None:
        """Each part of a URL is read."""
        self.assertIs(read_address("memory:"), MEMORY)
        for text, address in GOOD.items():
            self.assertEqual(read_address(text), StoreAddress(redis=address), text)

    def test_any_other_url_is_refused_with_the_forms(self) -> None:
        """Any other URL is refused, and the error names the forms."""
        for text in BAD:
            with self.assertRaises(ValueError, msg=text) as caught:
                read_address(text)
            self.assertIn("redis://[user:password@]host", str(caught.exception))

    def test_password_is_not_shown(self) -> None:
        """Neither an error nor the repr of an address shows the password."""
        with self.assertRaises(ValueError) as caught:
            read_address("redis://user:s3cret@host/name")
        self.assertNotIn("s3cret", str(caught.exception))
        self.assertNotIn("s3cret", repr(read_address("redis://user:s3cret@host/1")))

    @given(st.text(alphabet="redis+sntl:/@,[]0159%. #?-", max_size=40))
    def test_any_text_is_read_or_refused(self, text: str) -> None:
        """Any text is read, or refused with a ValueError."""
        for candidate in (text, f"redis://{text}", f"redis+sentinel://{text}"):
            try:
                read_address(candidate)
            except ValueError as error:
                self.assertIn("must be memory:", str(error))
