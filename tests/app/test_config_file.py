"""Options from a file."""

from tests.support.options import OptionsTestCase

RIGHT = b"""
callback-url = "http://proxy.example/callback"
wait = 60
retain = 1.5
listen = ["tcp:1", "tcp:2"]
log-accounts = true
"""


class ConfigFileTests(OptionsTestCase):
    """``--config``."""

    def test_each_kind_of_value_is_read(self) -> None:
        options = self.parse(f"--config={self.write_file(RIGHT)}")
        self.assertEqual((options["wait"], options["retain"]), (60.0, 1.5))
        self.assertEqual(options["listen"], ["tcp:1", "tcp:2"])
        self.assertIs(options["log-accounts"], True)

    def test_flags_and_the_environment_come_first(self) -> None:
        path = self.write_file(RIGHT)
        options = self.parse("--wait=5", JOBPROXY_CONFIG=path, JOBPROXY_RETAIN="7")
        self.assertEqual((options["wait"], options["retain"]), (5.0, 7.0))
        self.assertEqual(options["listen"], ["tcp:1", "tcp:2"])

    def test_mistake_is_named(self) -> None:
        """With the file, the name and what to change."""
        for data, words in (
            (b"wait = ", "which is not TOML: "),
            (b"a = " + 5_000 * b"[", "which is not TOML: "),
            (b"wait = " + 5_000 * b"9", "which is not TOML: "),
            (b"\xff", "which is not UTF-8"),
            (b"wiat = 5", "where wiat is not an option; did you mean wait?"),
            (b'config = "x"', "where config is not an option"),
            (b"[wait]\nx = 1", "where wait must be a text in quotes, a number"),
            (b"listen = [1]", "where listen must be a text in quotes, a number"),
        ):
            path = self.write_file(data)
            message = self.find_refusal([f"--config={path}"])
            self.assertTrue(message.startswith(f"--config names {path}, {words}"), message)
        message = self.find_refusal(
            [f"--config={self.write_file(RIGHT + b'queue-per-account = 0')}"]
        )
        self.assertIn("queue-per-account in the file of --config must be a whole number", message)
        message = self.find_refusal(["--config=/none"])
        self.assertIn("--config names /none, which cannot be read", message)
