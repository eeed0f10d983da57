"""Settings: what the options come to."""

import re
from pathlib import Path
from typing import cast

from attrs import exceptions, fields

from jobproxy import app
from jobproxy.app.options import Options
from jobproxy.app.settings import Settings, SlotScope
from jobproxy.store.address import read_address
from jobproxy.upstream.retries import OnLost
from tests.support.options import REQUIRED, OptionsTestCase

APP = Path(app.__path__[0])


class SettingsTests(OptionsTestCase):
    def read(self, *arguments: str) -> Settings:
        """Return the settings of a command line with at least the required options."""
        return cast(Options, self.parse(*REQUIRED, *arguments)).settings()

    def test_defaults_are_those_of_the_options(self) -> None:
        """The required options alone give the same settings as the required arguments alone."""
        url = "http://jobs.example/start"
        expected = Settings(callback_url="http://proxy.example/callback", job_server_url=url)
        self.assertEqual(self.read(f"--job-server-url={url}"), expected)

    def test_each_option_is_one_setting(self) -> None:
        """Each option is a setting of the same name, but for those that only the start needs."""
        names = {attribute.name.replace("_", "-") for attribute in fields(Settings)}
        options = {option.name for option in Options.table}
        missing = options - names - {"store-password-file", "config", "check"}
        self.assertFalse(missing, f"jobproxy/app/settings.py: add fields for {missing}")
        self.assertFalse(names - options, "jobproxy/app/settings.py: fields without an option")

    def test_each_setting_is_used(self) -> None:
        """Each setting is read where the proxy is built."""
        text = "".join(path.read_text(encoding="utf-8") for path in APP.glob("*.py"))
        unused = {
            attribute.name
            for attribute in fields(Settings)
            if not re.search(rf"\bsettings\.{attribute.name}\b", text)
        }
        self.assertFalse(unused, f"jobproxy/app/build.py: nothing reads {unused} of the settings")

    def test_lists_are_tuples(self) -> None:
        """Repeated endpoints and the keys of the secret file are tuples."""
        settings = self.read("--listen=tcp:1", "--listen=tcp:2", "--admin-listen=tcp:3")
        self.assertEqual(settings.listen, ("tcp:1", "tcp:2"))
        self.assertEqual((settings.callback_listen, settings.admin_listen), ((), ("tcp:3",)))
        secret = self.write_file(b"n" * 32 + b"\n" + b"o" * 32)
        settings = self.read(f"--secret-file={secret}")
        self.assertEqual(settings.secret_file, (b"n" * 32, b"o" * 32))

    def test_password_of_the_store_is_in_its_address(self) -> None:
        """The password of the store is part of the address."""
        secret, password = self.write_file(b"k" * 32), self.write_file(b"s3cret\n")
        settings = self.read(
            "--store=redis://redis.example",
            f"--secret-file={secret}",
            f"--store-password-file={password}",
            "--slot-scope=cluster",
        )
        self.assertEqual(settings.store, read_address("redis://:s3cret@redis.example"))
        self.assertIs(settings.slot_scope, SlotScope.CLUSTER)

    def test_values_are_typed(self) -> None:
        """Values are numbers, switches and words, not text."""
        settings = self.read(
            "--wait=5", "--max-held=7", "--log-accounts", "--on-lost=restart", "--lost-after=2.5"
        )
        self.assertEqual((settings.wait, settings.max_held), (5.0, 7))
        self.assertIs(settings.log_accounts, True)
        self.assertEqual((settings.on_lost, settings.lost_after), (OnLost.RESTART, 2.5))

    def test_settings_are_frozen(self) -> None:
        """Settings cannot be changed."""
        settings = self.read()
        with self.assertRaises(exceptions.FrozenInstanceError):
            settings.wait = 1.0  # type: ignore[misc]
