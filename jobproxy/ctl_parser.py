"""The command line of ``jobproxyctl``."""

import argparse
import os
from collections.abc import Callable
from typing import Any

import shtab

from jobproxy import __version__

DEFAULT_ADMIN = "http://127.0.0.1:8082"


def read_admin(text: str) -> str:
    """Check where the admin port is: an HTTP URL, or ``unix:`` and a path."""
    if not text.startswith(("http://", "https://", "unix:")):
        raise argparse.ArgumentTypeError(
            f"must be a URL like {DEFAULT_ADMIN}, or unix:PATH, not {text!r}"
        )
    return text


def read_seconds(text: str) -> float:
    """Return a pause between two looks, in seconds."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 3_600:
        raise argparse.ArgumentTypeError(f"must be seconds from 0.1 to 3600, not {text!r}")
    return seconds


def read_path(text: str) -> str:
    """Return the path of a store, which may also be written as for ``--store``."""
    return text.removeprefix("sqlite:").partition("?")[0] if text.startswith("sqlite:") else text


def _make_common(admin: Any, is_json: Any, *, is_local: bool) -> argparse.ArgumentParser:
    """Return a parser of the options that all commands have.

    :param admin: the default of ``--admin``; :data:`argparse.SUPPRESS`: what was given before the
        command counts.
    :param is_local: whether the commands ask no proxy.
    """
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", default=is_json, help="print JSON")
    if not is_local:
        common.add_argument(
            "--admin",
            metavar="URL",
            type=read_admin,
            default=admin,
            help="where the proxy's --admin-listen is: a URL or unix:PATH "
            f"[JOBPROXY_ADMIN; default {DEFAULT_ADMIN}]",
        )
    return common


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line, whose general options may also follow the command."""
    before = argparse.SUPPRESS
    local = _make_common(before, before, is_local=True)
    common = _make_common(before, before, is_local=False)
    admin = os.environ.get("JOBPROXY_ADMIN") or DEFAULT_ADMIN
    parser = argparse.ArgumentParser(
        prog="jobproxyctl",
        description="Show the state of a running jobproxy, or drain it.",
        parents=[_make_common(admin, False, is_local=False)],
    )
    parser.set_defaults(watch=None)
    parser.add_argument("--version", action="version", version=f"jobproxyctl {__version__}")
    shtab.add_argument_to(parser, "--print-completion", help="print the completions for a shell")
    commands = parser.add_subparsers(metavar="command", required=True)

    def add(
        to: Any, name: str, action: str, text: str, *, is_local: bool = False
    ) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = to.add_parser(
            name, help=text, description=text, parents=[local if is_local else common]
        )
        added.set_defaults(action=action)
        return added

    _add_commands(commands, add)
    return parser


def read_web_url(text: str) -> str:
    """Check that a text is an HTTP URL."""
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"must be a URL like http://host/path, not {text!r}")
    return text


def _add_commands(commands: Any, add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add all commands to the parser, each with the function ``add``."""
    status = add(commands, "status", "show_status", "show the status of the proxy")
    jobs = add(commands, "jobs", "list_jobs", "list the jobs that have not ended, the oldest first")
    jobs.add_argument(
        "--state",
        choices=["queued", "starting", "running", "unconfirmed"],
        help="list only jobs in this state",
    )
    jobs.add_argument(
        "--limit",
        type=int,
        default=100,
        metavar="N",
        help="list at most N jobs; default %(default)s",
    )
    for watched in (status, jobs):
        watched.add_argument(
            "--watch",
            type=read_seconds,
            nargs="?",
            const=2.0,
            metavar="SECONDS",
            help="show it again and again, every two seconds if none are given; end with Ctrl-C",
        )
    of_jobs = jobs.add_subparsers(metavar="command")
    show = add(of_jobs, "show", "show_job", "show what has become of a job, and when")
    show.add_argument(
        "name", metavar="NAME", help="its job id, its request id, or the job server's id of it"
    )
    orphans = commands.add_parser(
        "orphans", help="list, show or drop orphans: results that nobody waited for"
    )
    orphan_commands = orphans.add_subparsers(metavar="command", required=True)
    add(orphan_commands, "list", "list_orphans", "list the orphans, the oldest first")
    for name, action, text in (
        ("show", "show_orphan", "print the result of an orphan; it is kept"),
        ("drop", "drop_orphan", "drop an orphan"),
    ):
        add(orphan_commands, name, action, text).add_argument("job_id", metavar="JOB-ID")
    check = add(
        commands,
        "check-callback",
        "check_callback",
        "check from this machine whether callbacks reach the proxy: run it where the job server is",
        is_local=True,
    )
    check.add_argument("url", metavar="URL", type=read_web_url, help="the proxy's --callback-url")
    store = commands.add_parser("store", help="look at the file of --store sqlite:PATH")
    store_commands = store.add_subparsers(metavar="command", required=True)
    for name, action, text in (
        ("check", "check_store", "check whether the file is sound, and count what is in it"),
        ("export", "export_store", "print all that is in the file, as JSON lines"),
    ):
        added = add(store_commands, name, action, text, is_local=True)
        added.add_argument("path", metavar="PATH", type=read_path)
    _add_profile_commands(commands, add)
    drain = add(
        commands,
        "drain",
        "drain",
        "accept no new jobs, wait for the held clients, and end the process, as SIGTERM does",
    )
    drain.add_argument(
        "--no-wait", action="store_true", help="do not wait until the process has ended"
    )


def _add_profile_commands(commands: Any, add: Callable[..., argparse.ArgumentParser]) -> None:
    profile = commands.add_parser("profile", help="check or try a profile: how an API is spoken to")
    to = profile.add_subparsers(metavar="command", required=True)
    check = add(to, "check", "check_profiles", "check profiles, to the last key", is_local=True)
    check.add_argument("files", metavar="FILE", nargs="+")
    trial = add(
        to,
        "try",
        "try_profile",
        "show what a profile makes of messages in files, without a network: the start request that "
        "would be sent, what is read in an ack and a callback, and what the client would get",
        is_local=True,
    )
    trial.add_argument("file", metavar="FILE", help="the profile, or the name of a shipped one")
    trial.add_argument(
        "--request", required=True, metavar="FILE", help="the client's request, as HTTP"
    )
    trial.add_argument("--ack", metavar="FILE", help="the response to the start request")
    trial.add_argument("--callback", metavar="FILE", help="a callback")
