"""Options of the store, and of several nodes."""

import sys
from unittest import mock

from attrs import evolve

from jobproxy.app.settings import SlotScope
from tests.support.options import REQUIRED, OptionsTestCase


class StoreOptionsTests(OptionsTestCase):
    """What --store needs, and what cannot be used with it."""

    def setUp(self) -> None:
        super().setUp()
        self.secret, self.password = self.write_file(b"k" * 32), self.write_file(b"s3cret\n")
        self.required = [*REQUIRED, f"--secret-file={self.secret}"]

    def test_store_url_gets_its_password_from_a_file(self) -> None:
        """The URL comes from a flag or the environment; its password may be in a file."""
        url = "redis://redis.example/1"
        address = self.parse(*self.required, f"--store={url}")["store"].redis
        self.assertEqual((address.hosts, address.db), ((("redis.example", 6379),), 1))
        self.assertEqual(self.parse(*self.required, JOBPROXY_STORE=url)["store"].redis, address)
        whole = self.parse(
            *self.required, f"--store={url}", f"--store-password-file={self.password}"
        )
        self.assertEqual(whole["store"].redis, evolve(address, password="s3cret"))

    def test_invalid_url_is_refused_and_not_shown(self) -> None:
        """A text that is no URL of a Redis is refused, and not shown, as it may have a password."""
        self.check_refused(
            [*self.required, "--store=redis://:s3cret@host/name"],
            "--store must be memory:, sqlite:PATH, redis://[user:password@]host[:port][/db], "
            "rediss://… for TLS, or redis+sentinel://[user:password@]host[:port],…/service[/db]",
        )

    def test_cluster_needs_a_secret_file(self) -> None:
        """G6: a node that cannot verify the tokens of other nodes does not start."""
        self.check_refused(
            [*REQUIRED, "--store=redis://host"],
            "a Redis as --store needs --secret-file, the same for all nodes",
        )

    def test_cluster_needs_txredisapi(self) -> None:
        """G6: without the library for Redis the message says how to install it."""
        with mock.patch.dict(sys.modules, {"txredisapi": None}):
            self.check_refused(
                [*self.required, "--store=redis://host"],
                "a Redis as --store needs txredisapi: pip install 'jobproxy[redis]'",
            )

    def test_cluster_cannot_correlate_by_id(self) -> None:
        """G6: the id in a callback does not say which node has its job."""
        by_id = ["--correlate-by=id", "--callback-url=http://proxy.example/secret-path"]
        self.check_refused(
            [*self.required, "--store=redis://host", *by_id],
            "--correlate-by id needs --store memory:",
        )

    def test_options_of_a_cluster_need_one(self) -> None:
        """G6: an option that makes sense only with several nodes is refused without them."""
        for argument, name in (
            ("--slot-scope=cluster", "--slot-scope cluster"),
            (f"--store-password-file={self.password}", "--store-password-file"),
        ):
            self.check_refused([*self.required, argument], f"{name} needs a Redis as --store")

    def test_unreadable_password_file_is_refused(self) -> None:
        """G6: a password file that cannot be read is refused."""
        self.check_refused(
            [*self.required, "--store=redis://host", "--store-password-file=/nowhere"],
            "--store-password-file names /nowhere, which cannot be read: No such file or directory",
        )

    def test_slot_scope_is_node_or_cluster(self) -> None:
        """Slots are counted for each node or for the whole cluster."""
        for scope in SlotScope:
            arguments = ["--store=redis://host", f"--slot-scope={scope.value}"]
            self.assertIs(self.parse(*self.required, *arguments)["slot-scope"], scope)
