"""Options of the simulated job server."""

from jobproxy.sandbox import tap as sandbox_tap
from tests.support.options import OptionsTestCase


class SimulatorOptionsTests(OptionsTestCase):
    """The options of ``twistd jobserver``."""

    def test_invalid_value_is_refused_with_its_option(self) -> None:
        """The message for an invalid value is one line."""
        count = "must be a whole number above 0, not"
        delay = "must be a number of seconds, 0 or more, not"
        kinds = (
            "drop, duplicate, early, late, reset, refused, busy, error, garbage, slow, failed, "
            "unpaid, limited, forged, unready"
        )
        example = "must be like drop=0.01,slow=0.1:5, not"
        for argument, line in (
            ("--duration=x", f"--duration {delay} 'x'"),
            ("--jitter=-1", f"--jitter {delay} '-1'"),
            ("--latency=-1", f"--latency {delay} '-1'"),
            (
                "--slots-per-account=0",
                f"--slots-per-account {count} '0'",
            ),
            ("--hold-slot=both", "--hold-slot must be request or connection, not 'both'"),
            ("--seed=x", "--seed must be a whole number, not 'x'"),
            ("--faults=gone=1", f"--faults must name a known fault, not 'gone'; there are {kinds}"),
            ("--faults=drop", f"--faults {example} 'drop'"),
            ("--faults=drop=x", f"--faults {example} 'drop=x'"),
            ("--faults=slow=1:x", f"--faults {example} 'slow=1:x'"),
            (
                "--faults=drop=2",
                "--faults must have rates from 0 to 1 and seconds from 0, not 'drop=2'",
            ),
        ):
            self.check_refused([argument], line, kind=sandbox_tap.Options)

    def test_options_that_do_not_go_together_are_refused(self) -> None:
        """What is for profiles needs one, and what is not for them is refused."""
        reason = "there is neither a callback URL in start.set nor a poll.url"
        for arguments, line in (
            (["--faults=forged=1"], "--faults forged needs --profile"),
            (
                ["--faults=refused=1", "--profile=fal"],
                "--faults refused is not possible with --profile",
            ),
            (["--webhook=http://a.example/"], "--webhook needs --profile"),
            (
                [f"--profile={self.write_profile()}"],
                f"--profile cannot be simulated: {reason}",
            ),
        ):
            self.check_refused(arguments, line, kind=sandbox_tap.Options)

    def write_profile(self) -> str:
        """Return the path of a profile without callbacks."""
        return self.write_file(b'[start]\nurl = "http://a.example/run"\n')
