"""Programs that tests need and that are no Python packages."""

import os
import shutil

import pytest

#: Set where everything is installed: a test that is skipped there fails.
NO_SKIPS = "TEST_NO_SKIPS"


def find_program(*names: str) -> str | None:
    """Return the path of the first of these programs that is installed."""
    return next((path for name in names if (path := shutil.which(name))), None)


def explain(package: str) -> str:
    """Return what is said where a test is skipped for want of a Debian package."""
    return f"needs {package}: apt-get install {package}"


def needs(package: str, *programs: str) -> pytest.MarkDecorator:
    """Skip a test unless one of these programs is installed.

    :param package: the Debian package that has it.
    """
    return pytest.mark.skipif(find_program(*programs) is None, reason=explain(package))


def fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Make a failure of a skipped test where nothing may be skipped."""
    is_expected_failure = hasattr(report, "wasxfail")
    if report.outcome == "skipped" and not is_expected_failure and os.environ.get(NO_SKIPS):
        report.outcome = "failed"
        report.longrepr = f"skipped although {NO_SKIPS} is set: {report.longrepr}"
